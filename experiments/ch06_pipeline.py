"""An attacker who knows the whole defence, term by term: data/defences/pipeline.csv. Takes about an hour on one core.

    python -m experiments ch06_pipeline    # continues where it was stopped, photo by photo

Every third test photo, 8/255. Two attacks on the head come first: a cross-entropy attack (APGD, Croce & Hein 2020, from
torchattacks, pip install ".[peers]") and one that matches the guide's logits. Then feature matching, with more terms of
the loss in each row: the last layer; several layers; detectors and all positions; filters and random sizes. Each photo
has a guide image of its own, another test photo. All have 40 gradient steps, the last one 80, for its filters take
turns. The weights of the terms were tried on photos of the train split.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from experiments.ch05_defence import FOLDER
from experiments.ch06_bypass import Defender, every_position
from experiments.common import vgg16
from experiments.readouts import test_split
from experiments.tables import Row, fill
from helpers.base import Classifier
from helpers.defence.adaptive import ImageLoss, identity, minimise_loss, relative_distance, straight_through
from helpers.defence.detectors import NEIGHBOURS
from helpers.defence.filters import Transform, blur, filtered, jpeg, shrink_and_pad, smaller
from helpers.defence.readouts import Readout, channel_means, extract_readouts, stored_readouts, unit_length
from helpers.heads import as_linear, with_head
from helpers.images import load_photos, to_grid
from helpers.networks import embed

EPS, STEPS = 8 / 255, 40
ROOM = 1.0  # standard deviations from the clean mean that a score may lie without a penalty
SIZES = range(100, 110)  # seeds of the defender's random sizes; the attacker's are others
ATTACKS = ("none", "cross-entropy", "logits", "last layer", "several layers", "detectors", "filters")


class SoftScores:
    """The attacker's copy of the detectors, with gradients: how unusual an image is."""

    def __init__(self, defender: Defender) -> None:
        self.defender, self.linear = defender, as_linear(defender.head)
        usual = [stored_readouts(name)["no filter"] for name in ("calibration", "clean")]
        scores = torch.cat([self.scores(readout) for readout in usual])  # (84, 9)
        self.mean, self.std = scores.mean(0), scores.std(0)

    def scores(self, readout: Readout) -> Tensor:
        """(N, 9): nine of the eleven scores of Detectors. Feature squeezing and copies of photos are left out."""
        plain, known = readout.features, self.defender.detectors
        logits = self.linear(plain)
        p = logits.softmax(1)
        raw = torch.cdist(plain, known.clean.features).topk(NEIGHBOURS, largest=False).values.mean(1)
        cosine = (unit_length(plain) @ unit_length(known.clean.features).T).topk(NEIGHBOURS).values[:, -1]
        far = known.features.distance(plain), known.pre_activation.distance(readout.pre_activation)
        entropy, energy = torch.special.entr(p).sum(1), -logits.logsumexp(1)
        rows = -p.amax(1), entropy, -logits.amax(1), energy, -readout.feature_norm, *far, raw, -cosine
        return torch.stack([row.float() for row in rows], 1)

    def penalty(self, readout: Readout) -> Tensor:
        """How far the scores lie outside the usual range, squared and summed: (N,)."""
        z = (self.scores(readout) - self.mean) / self.std
        return torch.relu(z.abs() - ROOM).square().sum(1)


def on_cpu(readout: Readout, z: Tensor) -> tuple[Readout, Tensor]:
    """Both on the CPU, where the detectors are."""
    return Readout(**{name: part.cpu() for name, part in vars(readout).items()}), z.cpu()


def loss_of(attack: str, soft: SoftScores, guide: Tensor) -> ImageLoss:
    """The loss of one of ATTACKS on images that a filter may have made smaller."""
    base = vgg16()
    with torch.no_grad():
        target, z = on_cpu(*channel_means(base, guide.to(base.mean.device)))
        place, logits = base.rest(z), soft.linear(target.features)

    def loss(x: Tensor) -> Tensor:
        readout, z = on_cpu(*channel_means(base, x))
        if attack == "logits":
            return relative_distance(soft.linear(readout.features), logits)
        if attack == "last layer":
            return relative_distance(readout.features, target.features)
        pairs = zip(vars(readout).values(), vars(target).values(), strict=True)
        total = sum(relative_distance(part.reshape(len(x), -1), goal.reshape(1, -1)) for part, goal in pairs)
        if attack == "several layers":
            return total
        features = base.rest(z)
        if features.shape == place.shape:  # not for a smaller image
            total = total + 0.25 * relative_distance(features, place)
        return total + 0.1 * soft.penalty(readout)

    return loss


def views() -> list[Transform]:
    """Filters in turn; every third step draws a new size and place (EOT, Athalye, Engstrom et al. 2018)."""
    seeds = itertools.count()

    def random_size(x: Tensor) -> Tensor:
        return shrink_and_pad(x, seed=next(seeds))

    kinds = identity, blur, random_size, identity, smaller, random_size, identity, straight_through(jpeg), random_size
    return list(kinds)


def cross_entropy(classifier: Classifier, image: Tensor, truth: str, *, eps: float = EPS, steps: int = STEPS) -> Tensor:
    """APGD away from the right class."""
    import torchattacks

    attack = torchattacks.APGD(classifier, eps=eps, steps=steps, n_restarts=1, loss="ce", seed=0)
    return to_grid(attack(image, torch.tensor([classifier.labels.index(truth)])))


def changed(attack: str, soft: SoftScores, image: Tensor, guide: Tensor, truth: str) -> Tensor:
    """One image after one of ATTACKS, on the 8-bit grid."""
    if attack == "none":
        return image
    if attack == "cross-entropy":
        return cross_entropy(with_head(vgg16(), soft.defender.head), image, truth)
    settings = {"transforms": views(), "steps": 2 * STEPS} if attack == "filters" else {"steps": STEPS}
    return minimise_loss(vgg16(), loss_of(attack, soft, guide), image, eps=EPS, **settings)


def measure(soft: SoftScores, photos: Tensor, labels: Sequence[str], known: Tensor, cell: Row) -> list[Row]:
    """What the defender sees: answers, scores, the distance over all positions, and answers at random sizes."""
    defender, i = soft.defender, cell["photo"]
    guide = (i + len(photos) // 2) % len(photos)
    image = changed(cell["attack"], soft, photos[i : i + 1], photos[guide : guide + 1], labels[i])
    readouts = {name: extract_readouts(vgg16(), x) for name, x in filtered(image)}
    sizes = torch.cat([shrink_and_pad(image, seed=seed) for seed in SIZES])
    row = {"donor": guide, "truth": labels[i], "guide": defender.answers(photos[guide : guide + 1])[0]}
    row |= {name: defender.head.predict(readout.features.numpy())[0] for name, readout in readouts.items()}
    row["sizes"] = " ".join(defender.answers(sizes))
    scores = defender.detectors.scores(readouts).iloc[0].to_dict()
    return [row | scores | every_position(embed(vgg16(), image), known).iloc[0].to_dict()]


def main(options: Sequence[str] = ()) -> None:
    defender, photos, labels = Defender(), test_split()[1], load_photos("test")[1][1::2]
    soft, known = SoftScores(defender), embed(vgg16(), defender.train)
    cells = [{"attack": attack, "photo": i} for i in range(0, len(photos), 3) for attack in ATTACKS]
    fill(FOLDER / "pipeline.csv", cells, lambda cell: measure(soft, photos, labels, known, cell))
