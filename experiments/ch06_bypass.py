"""Attacks of notebook 06 that know the defence, data/defences/: some hours on two cores.

    python -m experiments ch06_bypass    # goes on where it was stopped

The loss was tried on photos of the training split. Run `ch05` before and `readouts` after it.
"""

from collections.abc import Callable, Sequence
from functools import partial

import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from experiments.ch05_defence import FOLDER, attack_photos
from experiments.readouts import test_split
from experiments.tables import fill
from helpers.base import Base
from helpers.defence.adaptive import TRANSFORMS, feature_matching_loss, minimise_loss, zero_out_loss
from helpers.defence.detectors import Detectors, max_cosine, spatial_statistics
from helpers.defence.filters import filtered, shrink_and_pad
from helpers.defence.readers import probe, ridge
from helpers.defence.readouts import extract_readouts, stored_readouts, unit_length
from helpers.heads import fit_head
from helpers.images import DATA, load_folder, load_image, load_photos, out_folder
from helpers.networks import embed, vgg16_base
from helpers.runtime import pick_device

# Of the images in data/images/ the only one that each reader of notebook 05 names rightly and whose feature norm and
# distance to the training photos are ordinary.
DONOR, OTHER, KNOWN = "albatross", "coffee", 119  # and two more donors: another image, and a training photo
STEPS, ZERO_STEPS, PLAIN_STEPS = 120, 200, 75  # through filters: feature matching, zero-out; without: feature matching
MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "moved by 1 pixel": lambda x: x.roll(1, 3),
    "crop of 208 pixels": lambda x: x[..., 8:216, 8:216],
    "mirrored": lambda x: x.flip(3),
}
Rows = list[dict[str, object]]


class Defender:
    """The base, the training photos, and the head and detectors that are to be met."""

    def __init__(self, base: Base) -> None:
        readout = stored_readouts("train")["no filter"]
        self.base, (self.train, self.labels) = base, load_photos("train")
        self.head: LogisticRegression = fit_head(readout.features, self.labels)
        self.detectors, self.known = Detectors(readout, self.labels, self.head), unit_length(readout.features)

    def answers(self, images: Tensor) -> list[str]:
        return self.head.predict(extract_readouts(self.base, images).features.numpy()).tolist()


def picture(name: str) -> Tensor:
    return load_image(DATA / "images" / f"{name}.png")


def sanity(defender: Defender, images: Tensor, cell: dict[str, int]) -> Rows:
    """How near the donor feature matching comes with a budget and a number of steps: one row per photo."""
    loss = feature_matching_loss(defender.base, picture(DONOR))
    moved = minimise_loss(defender.base, loss, images, eps=cell["eps"] / 255, steps=cell["steps"])
    with torch.no_grad():
        losses = [loss(x).item() for x in moved.split(1)]
    answers = defender.answers(moved)
    return [{"photo": i, "loss": x, "answer": a} for i, (x, a) in enumerate(zip(losses, answers, strict=True))]


def donors(defender: Defender, images: Tensor, cell: dict[str, str]) -> Rows:
    """Feature matching without filters: one row per filter and photo.

    max_cosine: to a training photo; target: what the head says to the donor.
    """
    known = defender.train[KNOWN : KNOWN + 1]
    donor = known if cell["donor"] == "training photo" else picture(cell["donor"])
    loss = feature_matching_loss(defender.base, donor)
    moved = torch.cat([minimise_loss(defender.base, loss, x, steps=PLAIN_STEPS) for x in images.split(1)]).cpu()
    target, rows = defender.answers(donor)[0], []
    for name, x in filtered(moved):
        features = extract_readouts(defender.base, x).features
        cosines = (unit_length(features) @ defender.known.T).amax(1).tolist()
        for i, answer in enumerate(defender.head.predict(features.numpy())):
            rows.append({"target": target, "transform": name, "photo": i, "answer": answer, "max_cosine": cosines[i]})
    return rows


def matched(
    defender: Defender, images: Tensor, places: Tensor | None, match_active: bool, name: str, _: object
) -> Rows:
    """Each photo matched through filters to its donor: one row per photo, with answers, scores and max_cosine.

    places: of its donor among the photos (None: all to DONOR). match_active: match the share of active features, too,
    and add spatial_statistics. The images wait in out/, so that a stopped run goes on.
    """
    base = defender.base
    given = picture(DONOR).expand_as(images) if places is None else images[places]

    def attack(number: int, image: Tensor) -> Tensor:
        loss = feature_matching_loss(base, given[number : number + 1], match_active=match_active)
        return minimise_loss(base, loss, image, transforms=TRANSFORMS, steps=STEPS)

    moved = attack_photos(out_folder() / name, images, attack)
    readouts = {transform: extract_readouts(base, x) for transform, x in filtered(moved)}
    table = pd.DataFrame({"photo": range(len(moved))} | ({} if places is None else {"donor": places.numpy()}))
    for transform, readout in readouts.items():
        table[transform] = defender.head.predict(readout.features.numpy())
    table = table.join(defender.detectors.scores(readouts))
    table["max_cosine"] = max_cosine(readouts["no filter"]).numpy()
    if match_active:
        table = table.join(spatial_statistics(base, embed(base, moved), embed(base, defender.train)))
    return table.to_dict("records")


def spatial(defender: Defender, groups: dict[str, tuple[Tensor, list[str]]], _: object) -> Rows:
    """What all 25,088 features tell of clean and matched photos: one row per photo.

    linear, ridge: heads trained on the training photos; probe: cross-validated within the group; raw_distance: mean
    to the five nearest training photos.
    """
    base, known, rows = defender.base, embed(defender.base, defender.train), []
    linear, other = fit_head(known, defender.labels), ridge().fit(known.double().numpy(), defender.labels)
    for group, (images, labels) in groups.items():
        x = embed(base, images)
        table = spatial_statistics(base, x, known)
        table["raw_distance"] = torch.cdist(x, known).topk(5, largest=False).values.mean(1).numpy()
        table["linear"], table["ridge"] = linear.predict(x.numpy()), other.predict(x.numpy())
        table["probe"] = probe(x, labels, head=linear)
        rows += [{"group": group, "photo": i, **row} for i, row in enumerate(table.to_dict("records"))]
    return rows


def sizes(defender: Defender, images: Tensor, cell: dict[str, int]) -> Rows:
    """What the head says to matched photos in a random size at a random place."""
    answers = defender.answers(shrink_and_pad(images, seed=cell["seed"]))
    return [{"photo": i, "answer": answer} for i, answer in enumerate(answers)]


def nonzero(base: Base, groups: dict[str, Tensor], cell: dict[str, str]) -> Rows:
    """Non-zero features behind each filter and after each move: one row per transform and photo."""
    images, rows = groups[cell["attack"]], []
    for name, x in [*filtered(images), *((name, move(images)) for name, move in MOVES.items())]:
        counts = base.verdict(x)[0].tolist()
        rows += [{"transform": name, "photo": i, "nonzero": n} for i, n in enumerate(counts)]
    return rows


def main(options: Sequence[str] = ()) -> None:
    base = vgg16_base().to(pick_device())
    defender, (calibration, photos) = Defender(base), test_split()
    few, labels = photos[::9], load_photos("test")[1]
    loss, silence = feature_matching_loss(base, picture(DONOR)), zero_out_loss(base)
    through = partial(minimise_loss, base, transforms=TRANSFORMS)
    stored = attack_photos(FOLDER / "matched", photos, lambda _, x: through(loss, x, steps=STEPS))
    zeroed = attack_photos(FOLDER / "zero_filtered", few, lambda _, x: through(silence, x, steps=ZERO_STEPS))

    groups = {"zero-out": load_folder(FOLDER / "zero")[::9], "through filters": zeroed}
    fill(FOLDER / "nonzero.csv", [{"attack": name} for name in groups], partial(nonzero, base, groups))
    fill(FOLDER / "sizes.csv", [{"seed": seed} for seed in range(10)], partial(sizes, defender, stored))
    budgets = [(0, 0), (8, 10), (8, 20), *((eps, 40) for eps in (2, 4, 8, 16)), (255, 80)]
    cells = [{"eps": eps, "steps": steps} for eps, steps in budgets]
    fill(FOLDER / "sanity.csv", cells, partial(sanity, defender, photos[::7]))
    names = (DONOR, OTHER, "training photo")
    fill(FOLDER / "donors.csv", [{"donor": name} for name in names], partial(donors, defender, few))
    halves = {"calibration": (calibration, labels[::2])}
    halves |= {"clean": (photos, labels[1::2]), "matched": (stored, labels[1::2])}
    fill(FOLDER / "spatial.csv", [{}], partial(spatial, defender, halves))
    away = torch.arange(len(photos)).roll(len(photos) // 2)
    for name, places, active in [
        ("own_donors", away, False), ("matched_active", None, True), ("own_donors_active", away, True)
    ]:  # fmt: skip
        fill(FOLDER / f"{name}.csv", [{}], partial(matched, defender, photos, places, active, name))
