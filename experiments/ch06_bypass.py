"""Attacks of notebook 06 that know the defence: data/defences/. Takes some hours on two cores.

    python -m experiments ch06_bypass    # continues where it was stopped

The loss was tried on photos of the training split. Run `ch05` before and `readouts` after it.
"""

from collections.abc import Callable, Sequence
from functools import partial

import pandas as pd
import torch
from torch import Tensor

from experiments.ch05_defence import FOLDER, attack_photos
from experiments.common import picture, vgg16
from experiments.readouts import test_split
from experiments.tables import Row, fill
from helpers.defence.adaptive import TRANSFORMS, feature_matching_loss, minimise_loss, zero_out_loss
from helpers.defence.detectors import Detectors, max_cosine, spatial_statistics
from helpers.defence.filters import filtered, shrink_and_pad
from helpers.defence.readers import probe, ridge
from helpers.defence.readouts import extract_readouts, stored_readouts, unit_length
from helpers.heads import fit_head
from helpers.images import load_folder, load_photos, out_folder
from helpers.networks import embed

# The guide image. Of those in data/images/ it is the only one that each head of notebook 05 classifies correctly and
# whose feature norm and distance to the training photos are ordinary.
DONOR, OTHER, KNOWN = "albatross", "coffee", 119  # two more guides: another image, a training photo
STEPS, ZERO_STEPS, PLAIN_STEPS = 120, 200, 75  # through filters: feature matching, zero-out; without: feature matching
MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "moved by 1 pixel": lambda x: x.roll(1, 3),
    "crop of 208 pixels": lambda x: x[..., 8:216, 8:216],
    "mirrored": lambda x: x.flip(3),
}


class Defender:
    """The training photos, and the head and detectors that the attacks must pass."""

    def __init__(self) -> None:
        readout = stored_readouts("train")["no filter"]
        self.train, self.labels = load_photos("train")
        self.head, self.known = fit_head(readout.features, self.labels), unit_length(readout.features)
        self.detectors = Detectors(readout, self.labels, self.head)

    def answers(self, images: Tensor) -> list[str]:
        return self.head.predict(extract_readouts(vgg16(), images).features.numpy()).tolist()


def through_filters(loss: Callable[[Tensor], Tensor], steps: int, _: int, image: Tensor) -> Tensor:
    return minimise_loss(vgg16(), loss, image, transforms=TRANSFORMS, steps=steps)


def sanity(defender: Defender, images: Tensor, cell: Row) -> pd.DataFrame:
    """How close to the guide image a budget and a number of steps come: one row per photo."""
    loss = feature_matching_loss(vgg16(), picture(DONOR))
    moved = minimise_loss(vgg16(), loss, images, eps=cell["eps"] / 255, steps=cell["steps"])
    with torch.no_grad():
        losses = [loss(x).item() for x in moved.split(1)]
    return pd.DataFrame({"photo": range(len(moved)), "loss": losses, "answer": defender.answers(moved)})


def donors(defender: Defender, images: Tensor, cell: Row) -> pd.DataFrame:
    """Feature matching without filters: one row per filter and photo.

    max_cosine: the largest one to a training photo. target: the prediction for the guide image.
    """
    known = defender.train[KNOWN : KNOWN + 1]
    donor = known if cell["donor"] == "training photo" else picture(cell["donor"])
    loss = feature_matching_loss(vgg16(), donor)
    moved = torch.cat([minimise_loss(vgg16(), loss, x, steps=PLAIN_STEPS) for x in images.split(1)]).cpu()
    tables = []
    for name, x in filtered(moved):
        features = extract_readouts(vgg16(), x).features
        table = pd.DataFrame({"target": defender.answers(donor)[0], "transform": name, "photo": range(len(x))})
        table["answer"] = defender.head.predict(features.numpy())
        tables.append(table.assign(max_cosine=(unit_length(features) @ defender.known.T).amax(1)))
    return pd.concat(tables)


def matched(
    defender: Defender, images: Tensor, name: str, places: Tensor | None, match_active: bool, _: Row
) -> pd.DataFrame:
    """Each photo matched through filters to its guide image: one row per photo, with answers, scores and max_cosine.

    name: of the folder in out/ that holds the images, so that a stopped run continues.
    places: of the guide images among the photos; None matches all photos to DONOR.
    match_active: also match the share of active features, and add spatial_statistics.
    """
    given = picture(DONOR).expand_as(images) if places is None else images[places]

    def attack(number: int, image: Tensor) -> Tensor:
        loss = feature_matching_loss(vgg16(), given[number : number + 1], match_active=match_active)
        return through_filters(loss, STEPS, number, image)

    moved = attack_photos(out_folder() / name, images, attack)
    readouts = {transform: extract_readouts(vgg16(), x) for transform, x in filtered(moved)}
    table = pd.DataFrame({"photo": range(len(moved))} | ({} if places is None else {"donor": places}))
    for transform, readout in readouts.items():
        table[transform] = defender.head.predict(readout.features.numpy())
    table = table.join(defender.detectors.scores(readouts)).assign(max_cosine=max_cosine(readouts["no filter"]))
    if match_active:
        table = table.join(spatial_statistics(vgg16(), embed(vgg16(), moved), embed(vgg16(), defender.train)))
    return table


def every_position(features: Tensor, known: Tensor) -> pd.DataFrame:
    """spatial_statistics of features (N, 25,088), and raw_distance: the mean distance to the five nearest of known."""
    raw = torch.cdist(features, known).topk(5, largest=False).values.mean(1)
    return spatial_statistics(vgg16(), features, known).assign(raw_distance=raw)


def spatial(defender: Defender, groups: dict[str, tuple[Tensor, list[str]]], _: Row) -> pd.DataFrame:
    """What all 25,088 features reveal about clean and matched photos: one row per photo.

    linear, ridge: predictions of heads that were trained on the training photos.
    probe: predictions that are cross-validated within the group.
    """
    known, tables = embed(vgg16(), defender.train), []
    linear, other = fit_head(known, defender.labels), ridge().fit(known.double().numpy(), defender.labels)
    for group, (images, labels) in groups.items():
        x = embed(vgg16(), images)
        table = pd.DataFrame({"group": group, "photo": range(len(x))}).join(every_position(x, known))
        table["linear"], table["ridge"] = linear.predict(x.numpy()), other.predict(x.numpy())
        unit = x / x.norm(dim=1).mean()  # the unit in which fit_head trains
        tables.append(table.assign(probe=probe(unit, labels, head=linear)))
    return pd.concat(tables)


def sizes(defender: Defender, images: Tensor, cell: Row) -> pd.DataFrame:
    """Predictions for matched photos of a random size at a random place."""
    answers = defender.answers(shrink_and_pad(images, seed=cell["seed"]))
    return pd.DataFrame({"photo": range(len(images)), "answer": answers})


def nonzero(groups: dict[str, Tensor], cell: Row) -> pd.DataFrame:
    """Active features after each filter and each move: one row per transform and photo."""
    images = groups[cell["attack"]]
    views = dict(filtered(images)) | {name: move(images) for name, move in MOVES.items()}
    counts = pd.DataFrame({name: vgg16().verdict(x)[0].tolist() for name, x in views.items()})
    rows = counts.rename_axis("photo").reset_index().melt("photo", var_name="transform", value_name="nonzero")
    return rows[["transform", "photo", "nonzero"]]


def main(options: Sequence[str] = ()) -> None:
    defender, (calibration, photos), labels = Defender(), test_split(), load_photos("test")[1]
    few, away = photos[::9], torch.arange(len(photos)).roll(len(photos) // 2)
    matching, silence = feature_matching_loss(vgg16(), picture(DONOR)), zero_out_loss(vgg16())
    stored = attack_photos(FOLDER / "matched", photos, partial(through_filters, matching, STEPS))
    zeroed = attack_photos(FOLDER / "zero_filtered", few, partial(through_filters, silence, ZERO_STEPS))

    groups = {"zero-out": load_folder(FOLDER / "zero")[::9], "through filters": zeroed}
    halves = {"calibration": (calibration, labels[::2]), "clean": (photos, labels[1::2])}
    halves |= {"matched": (stored, labels[1::2])}
    budgets = [(0, 0), (8, 10), (8, 20), *((eps, 40) for eps in (2, 4, 8, 16)), (255, 80)]
    fill(FOLDER / "nonzero.csv", [{"attack": name} for name in groups], partial(nonzero, groups))
    fill(FOLDER / "sizes.csv", [{"seed": seed} for seed in range(10)], partial(sizes, defender, stored))
    cells = [{"eps": eps, "steps": steps} for eps, steps in budgets]
    fill(FOLDER / "sanity.csv", cells, partial(sanity, defender, photos[::7]))
    cells = [{"donor": name} for name in (DONOR, OTHER, "training photo")]
    fill(FOLDER / "donors.csv", cells, partial(donors, defender, few))
    fill(FOLDER / "spatial.csv", [{}], partial(spatial, defender, halves))
    kinds = {"own_donors": (away, False), "matched_active": (None, True), "own_donors_active": (away, True)}
    for name, (places, active) in kinds.items():
        fill(FOLDER / f"{name}.csv", [{}], partial(matched, defender, photos, name, places, active))
