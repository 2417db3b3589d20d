"""An attacker who knows the whole defence, term by term: data/defences/pipeline.csv. Takes three hours on one core.

    python -m experiments ch06_pipeline    # continues where it was stopped, photo by photo

Photos of the test split, 8/255: every third of 42 after all attacks, and all of them after ON_ALL. Two attacks on the
head come first: a cross-entropy attack (APGD, Croce & Hein 2020, from torchattacks, pip install ".[peers]") and one
that matches the guide's logits. Then feature matching, with more terms of the loss in each row: the last layer; several
layers; detectors and all positions; filters and random sizes. Each photo has a guide image of its own, another test
photo. All have 40 gradient steps, the last one 80, for its filters take turns. The attacker tries its result at five
random sizes; if most answers are right, a second guide image follows. pipeline_memory.csv has how much the photos of
the last attack resemble each other. The weights of the terms were tried on photos of the train split.
"""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

import pandas as pd
import torch
from torch import Tensor

from experiments.ch05_defence import FOLDER, attack_photos
from experiments.ch06_bypass import Defender, every_position
from experiments.common import vgg16
from experiments.readouts import test_split
from experiments.tables import Row, fill
from helpers.base import Classifier
from helpers.defence.adaptive import ImageLoss, identity, minimise_loss, relative_distance, straight_through
from helpers.defence.detectors import max_cosine
from helpers.defence.filters import Transform, blur, filtered, jpeg, shrink_and_pad, smaller
from helpers.defence.readouts import Readout, channel_means, extract_readouts, stored_readouts
from helpers.heads import with_head
from helpers.images import load_photos, out_folder, to_grid
from helpers.networks import embed

EPS, STEPS = 8 / 255, 40
ROOM = 1.0  # standard deviations from the clean mean that a score may lie without a penalty
SIZES = range(100, 110)  # seeds of random sizes: five of the defender, five with which the attacker tries the result
ATTACKS = ("none", "cross-entropy", "logits", "last layer", "several layers", "detectors", "filters")
ON_ALL = ("none", "logits", "filters")  # on all photos; the others on every third
SECOND = "second guide"  # "filters" once more, with another guide image


class SoftScores:
    """The attacker's copy of the detectors, with gradients: how unusual an image is."""

    def __init__(self, defender: Defender) -> None:
        self.defender = defender
        usual = [stored_readouts(name)["no filter"] for name in ("calibration", "clean")]
        scores = torch.cat([self.scores(readout) for readout in usual])  # (84, 9)
        self.mean, self.std = scores.mean(0), scores.std(0)

    def scores(self, readout: Readout) -> Tensor:
        """(N, 9): nine of the eleven scores of Detectors. Feature squeezing and copies of photos are left out."""
        scores = self.defender.detectors.without_filters(readout)
        del scores["copy of a photo"]
        scores["nearest neighbours"] = scores["nearest neighbours"].square()  # a line in the cosine
        return torch.stack([*scores.values()], 1).float()

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
        place, linear = base.rest(z), soft.defender.detectors.linear
        logits = linear(target.features.double())

    def loss(x: Tensor) -> Tensor:
        readout, z = on_cpu(*channel_means(base, x))
        if attack == "logits":
            return relative_distance(linear(readout.features.double()), logits)
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


class Attacked:
    """The test photos after each attack. Images of the longest, "filters", are kept in out/pipeline."""

    def __init__(self, soft: SoftScores) -> None:
        self.soft, self.photos, self.labels = soft, test_split()[1], load_photos("test")[1][1::2]
        self.kept = attack_photos(out_folder() / "pipeline", self.photos, lambda i, _: self.new("filters", i))

    def guide(self, attack: str, photo: int) -> int:
        """The place of the guide image among the photos; it is of another class."""
        return (photo + len(self.photos) // (3 if attack == SECOND else 2)) % len(self.photos)

    def new(self, attack: str, photo: int) -> Tensor:
        image, guide = (self.photos[i : i + 1] for i in (photo, self.guide(attack, photo)))
        kind = "filters" if attack == SECOND else attack
        return changed(kind, self.soft, image, guide, self.labels[photo])

    def __call__(self, attack: str, photo: int) -> Tensor:
        """One image (1, 3, 224, 224) after an attack."""
        return self.kept[photo : photo + 1] if attack == "filters" else self.new(attack, photo)


def measure(attacked: Attacked, known: Tensor, cell: Row) -> list[Row]:
    """What the defender sees: answers, scores, the distance over all positions, and answers at random sizes."""
    defender, image, guide = attacked.soft.defender, attacked(**cell), attacked.guide(**cell)
    readouts = {name: extract_readouts(vgg16(), x) for name, x in filtered(image)}
    sizes = torch.cat([shrink_and_pad(image, seed=seed) for seed in SIZES])
    row = {"donor": guide, "truth": attacked.labels[cell["photo"]]}
    row["guide"] = defender.answers(attacked.photos[guide : guide + 1])[0]
    row |= {name: defender.head.predict(readout.features.numpy())[0] for name, readout in readouts.items()}
    row["sizes"] = " ".join(defender.answers(sizes))
    scores = defender.detectors.scores(readouts).iloc[0].to_dict()
    return [row | scores | every_position(embed(vgg16(), image), known).iloc[0].to_dict()]


def undone(row: Mapping[str, str]) -> bool:
    """Whether most of the attacker's own five sizes give the right answer after the attack through filters."""
    tried = row["sizes"].split()[5:]
    return row["attack"] == "filters" and Counter(tried).most_common(1)[0][0] == row["truth"]


def memory(attacked: Attacked, _: Row) -> pd.DataFrame:
    """The largest cosine of each photo to another, all after the attack through filters."""
    cosines = max_cosine(extract_readouts(vgg16(), attacked.kept))
    return pd.DataFrame({"photo": range(len(cosines)), "max_cosine": cosines})


def main(options: Sequence[str] = ()) -> None:
    defender = Defender()
    attacked, known = Attacked(SoftScores(defender)), embed(vgg16(), defender.train)
    count, path = len(attacked.photos), FOLDER / "pipeline.csv"
    cells = [{"attack": attack, "photo": i} for i in range(0, count, 3) for attack in ATTACKS]
    cells += [{"attack": attack, "photo": i} for i in range(count) if i % 3 for attack in ON_ALL]
    rows = fill(path, cells, partial(measure, attacked, known))
    again = [{"attack": SECOND, "photo": int(row["photo"])} for row in rows if undone(row)]
    fill(path, again, partial(measure, attacked, known))
    fill(FOLDER / "pipeline_memory.csv", [{}], partial(memory, attacked))
