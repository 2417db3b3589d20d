"""Attack the photos of notebooks 05 and 06, data/defences/: about an hour and three quarters on two cores.

    python tools/make_defences.py          # goes on where it was stopped

Every second photo of the test split is attacked (the others calibrate detectors). The loss was
tried on photos of the training split; the views are the filters that restored most in notebook 05.
Pictures are lossless WebP: a fifth smaller than PNG, the same pixels. What notebook 06 reads from
tables, because it takes long, is made here too.
"""

import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from helpers.attack import zero_out
from helpers.base import Base
from helpers.bypass import VIEWS, like, silent, steer
from helpers.defences import READERS, fit_head, look, shrink_and_pad, views
from helpers.detectors import Detectors, every_place, most_alike
from helpers.images import DATA, load_folder, load_image, load_photos, to_bytes, write_file
from helpers.networks import embed, vgg16_base

FOLDER = DATA / "defences"
# Of the pictures in data/images/ the only one that each reader of notebook 05 names rightly and that is as long
# and as near to the training photos as detectors that look at one view ask for.
DONOR = DATA / "images" / "albatross.png"
OTHER, KNOWN = "coffee", 119  # donors of other classes: one more of data/images/, and one of the training photos
STEPS, ZERO_STEPS = 120, 200  # of constant-out and of zero-out, both through filters
PLAIN = 75  # of constant-out without filters; with them, every second of 120 steps is without
MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "moved by 1 pixel": lambda x: x.roll(1, 3),
    "crop of 208 pixels": lambda x: x[..., 8:216, 8:216],
    "mirrored": lambda x: x.flip(3),
}


def save_webp(image: Tensor, path: Path) -> None:
    """Write one picture (1, 3, H, W) on the 8-bit grid as lossless WebP; raise OSError if a pixel differs."""
    pixels = to_bytes(image[0]).transpose(1, 2, 0)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="WEBP", lossless=True, quality=100, method=6)
    write_file(path, content.getvalue())
    if not torch.equal(load_image(path), image.cpu()):
        raise OSError(f"{path} does not read back as it was written")


def attack_all(name: str, images: Tensor, attack: Callable[[Tensor], Tensor]) -> Tensor:
    """Attack pictures one by one into data/defences/name/; what is there already stays. Returns all."""
    for number, image in enumerate(images.split(1)):
        path = FOLDER / name / f"{number:02d}.webp"
        if not path.exists():
            save_webp(attack(image), path)
            print(path, flush=True)
    return load_folder(FOLDER / name)


def write_table(name: str, make: Callable[[], pd.DataFrame]) -> None:
    """Write data/defences/name, unless it is there."""
    if not (FOLDER / name).exists():
        content = make().to_csv(index=False, float_format=lambda x: f"{x:.6g}", lineterminator="\n")
        write_file(FOLDER / name, content.encode())
        print(name, flush=True)


def answers(base: Base, head: LogisticRegression, images: Tensor) -> list[str]:
    return head.predict(look(base, images, autocast=False).features.numpy()).tolist()


def sanity(base: Base, head: LogisticRegression, images: Tensor, donor: Tensor) -> pd.DataFrame:
    """How near the donor pictures come, for growing budgets and growing numbers of steps: one row each."""
    loss, rows = like(base, donor), []
    cells = [(0, 0), (8, 10), (8, 20), *((eps, 40) for eps in (2, 4, 8, 16)), (255, 80)]
    for eps, steps in cells:
        changed = steer(base, loss, images, eps=eps / 255, steps=steps)
        said = answers(base, head, changed)
        with torch.no_grad():
            losses = [loss(x).item() for x in changed.split(1)]
        for i, (x, answer) in enumerate(zip(losses, said, strict=True)):
            rows.append({"eps": eps, "steps": steps, "photo": i, "loss": x, "answer": answer})
        print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def steered(base: Base, head: LogisticRegression, images: Tensor, donor: Tensor) -> pd.DataFrame:
    """Pictures steered to a donor without filters in the loop: one row per view and picture.

    nearest: the largest cosine of the features to one training photo; target: what the head says to the donor.
    """
    loss = like(base, donor)
    moved = torch.cat([steer(base, loss, x, steps=PLAIN) for x in images.split(1)])
    unit = READERS["unit length"]
    known = unit(look(base, load_photos("train")[0], keep=True, autocast=False))
    target, rows = answers(base, head, donor)[0], []
    for view, x in views(moved):
        seen = look(base, x, autocast=False)
        said = head.predict(seen.features.numpy())
        nearest = (unit(seen) @ known.T).amax(1).tolist()
        for i, (answer, cosine) in enumerate(zip(said, nearest, strict=True)):
            rows.append({"target": target, "view": view, "photo": i, "answer": answer, "nearest": cosine})
    print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def donors(base: Base, head: LogisticRegression, images: Tensor) -> pd.DataFrame:
    """The same few pictures steered to donors of several classes, the last one a photo that the defender has."""
    pictures = {name: load_image(DATA / "images" / f"{name}.png") for name in (DONOR.stem, OTHER)}
    pictures["training photo"] = load_photos("train")[0][KNOWN][None]
    tables = [steered(base, head, images, donor).assign(donor=name) for name, donor in pictures.items()]
    return pd.concat(tables)[["donor", *tables[0].columns[:-1]]]


def towards(
    donors: Tensor,
    base: Base,
    head: LogisticRegression,
    images: Tensor,
    train: Tensor,
    labels: Sequence[str],
    awake: bool = False,
) -> pd.DataFrame:
    """Each picture steered through filters to its donor (N, 3, H, W): one row each.

    train: the training photos with their labels. Columns: photo, the answers behind each view, the score of each
    detector, and alike, the largest cosine to another of the steered pictures. awake: steered to the donor's share
    of outputs awake, too; then with the numbers of every_place.
    """
    found = []
    for image, donor in zip(images.split(1), donors.split(1), strict=True):
        found.append(steer(base, like(base, donor, awake=awake), image, views=VIEWS, steps=STEPS))
        print("steered to its donor:", len(found), flush=True)
    moved = torch.cat(found)
    seen = {view: look(base, x, autocast=False) for view, x in views(moved)}
    said = {view: head.predict(reading.features.numpy()) for view, reading in seen.items()}
    scores = Detectors(look(base, train, keep=True, autocast=False), labels, head).scores(seen)
    scores["alike"] = most_alike(seen["no filter"]).numpy()
    parts = [pd.DataFrame({"photo": range(len(images)), **said}), scores]
    if awake:
        parts.append(every_place(base, embed(base, moved), embed(base, train, keep=True)))
    return pd.concat(parts, axis=1)


def own_donors(
    base: Base, head: LogisticRegression, images: Tensor, train: Tensor, labels: Sequence[str], awake: bool = False
) -> pd.DataFrame:
    """Each picture steered to a donor of its own, the clean one half the set away (column donor); see towards."""
    places = torch.arange(len(images)).roll(len(images) // 2)
    table = towards(images[places], base, head, images, train, labels, awake)
    table.insert(1, "donor", places)
    return table


def sizes(base: Base, head: LogisticRegression, images: Tensor, number: int = 10) -> pd.DataFrame:
    """What the head says to each picture in random sizes at random places: one row per draw and picture."""
    rows = []
    for seed in range(number):
        said = answers(base, head, shrink_and_pad(images, seed=seed))
        rows += [{"seed": seed, "photo": i, "answer": answer} for i, answer in enumerate(said)]
    return pd.DataFrame(rows)


@torch.no_grad()
def left(base: Base, groups: dict[str, Tensor]) -> pd.DataFrame:
    """Outputs that are not 0.0 behind each filter and after each move: one row per group, view and picture."""
    rows = []
    for group, images in groups.items():
        for view, x in [*views(images), *((name, move(images)) for name, move in MOVES.items())]:
            counts = [int(base.features(one).count_nonzero()) for one in x.split(1)]
            rows += [{"attack": group, "view": view, "photo": i, "left": n} for i, n in enumerate(counts)]
    return pd.DataFrame(rows)


def main() -> int:
    base = vgg16_base()
    test, _ = load_photos("test")
    calibration, photos = test[::2], test[1::2]
    donor, few = load_image(DONOR), photos[::9]
    train, labels = load_photos("train")
    head = fit_head(look(base, train, keep=True, autocast=False).features, labels)
    zeroed = attack_all("zero", photos, lambda x: zero_out(base, x).images)
    attack_all("zero_calibration", calibration[::4], lambda x: zero_out(base, x).images)
    proof = attack_all("zero_filtered", few, lambda x: steer(base, silent(base), x, views=VIEWS, steps=ZERO_STEPS))
    alike = attack_all("alike", photos, lambda x: steer(base, like(base, donor), x, views=VIEWS, steps=STEPS))
    write_table("left.csv", lambda: left(base, {"as in notebook 02": zeroed[::9], "through filters": proof}))
    write_table("sizes.csv", lambda: sizes(base, head, alike))
    write_table("sanity.csv", lambda: sanity(base, head, photos[::7], donor))
    write_table("donors.csv", lambda: donors(base, head, few))
    given = (base, head, photos, train, labels)
    write_table("own_donors.csv", lambda: own_donors(*given))
    write_table("awake.csv", lambda: towards(donor.expand_as(photos), *given, awake=True))
    write_table("own_donors_awake.csv", lambda: own_donors(*given, awake=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
