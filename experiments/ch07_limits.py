"""How far the attack carries, data/bench/: `universal` `l2` `resist` `positions` `robust` `transfer` `networks`.

For notebook 07 and its appendices. universal: one pattern for all images. l2: a budget on the norm of the whole change.
resist: which units stay active at a small budget. positions: where they lie. robust: zeroed images in other arithmetic
and after small changes. transfer: zeroed images given to another network. networks: other last layers, random weights.
Without a name all seven are made. Settings were chosen on photos of the train split; the tables are on the test split.
"""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from experiments import ch07_others
from experiments.common import OUT, TABLES, answers, attacked, evenly, judged, photos_at, six_classes, speckle, vgg16
from experiments.tables import Row, fill
from experiments.universal import add, universal
from helpers.attack import hinge, zero_out
from helpers.base import count_nonzero
from helpers.images import from_levels, load_image, save_png, to_grid
from helpers.networks import embed
from helpers.visibility import difference

UNIVERSAL = {"steps": 48, "batch": 4}
L2_STEPS, RESIST_STEPS, POSITION_STEPS, ALONE_STEPS = 400, 150, 60, 5
PATTERNS = [("pattern", 16, 16), ("pattern", 1, 16), ("pattern", 4, 16), ("pattern", 16, 10), ("pattern", 126, 16)]
CELLS: dict[str, list[Row]] = {
    "universal": [
        {"kind": kind, "photos": number, "eps": eps}
        for kind, number, eps in [("none", 0, 0), ("noise", 0, 16), ("noise", 0, 10), *PATTERNS]
    ],
    # bird, food, mammal; `bench` attacks them, too
    "l2": [{"photo": i, "norm": norm, "eps": 8} for norm in ("linf", "l2") for i in (3, 31, 45)],
    "resist": [
        {"eps": eps, "photo": i, "asked": asked}
        for i in range(3, 84, 14)
        for eps, asked in [(4, "all"), (4, "border"), (4, "inside"), (2, "all")]
    ],
    "positions": [{"eps": 2, "photo": i} for i in range(3, 84, 14)],
}


def universal_row(cell: Row) -> list[Row]:
    """The effect of a pattern on 42 photos of the test split and on the photos that it was made from."""
    pattern, (images, labels) = pattern_of(cell), evenly("test", 42)
    features = embed(vgg16(), add(images, pattern))
    left, said = count_nonzero(features), pd.Series(answers(six_classes(), add(images, pattern)))
    row = {
        "steps": UNIVERSAL["steps"] if cell["kind"] == "pattern" else None,
        "tested on": len(images),
        "exactly zero": int((left == 0).sum()),
        "active share": left.float().mean().item() / features.shape[1],
        "norm": features.norm(dim=1).mean().item(),
        "right": (said == labels).mean(),
        "most frequent answer": said.mode()[0],
        "its share": said.value_counts(normalize=True).max(),
        "own photos zero": None,
        "own active share": None,
    }
    if cell["photos"]:
        own = count_nonzero(embed(vgg16(), add(evenly("train", cell["photos"])[0], pattern)))
        row["own photos zero"] = int((own == 0).sum())
        row["own active share"] = own.float().mean().item() / features.shape[1]
    return [row]


def pattern_of(cell: Row) -> Tensor:
    """The pattern of a row (1, 3, 224, 224), read from its file if there is one: a PNG holds the pattern + 128."""
    if cell["kind"] != "pattern":
        return speckle((1, 3, 224, 224), cell["eps"])
    # Notebook 07 shows the one of 126 photos, so it is stored.
    path = (TABLES if cell["photos"] == 126 else OUT) / f"universal_{cell['photos']}_{cell['eps']}.png"
    if not path.exists():
        made = universal(vgg16(), evenly("train", cell["photos"])[0], eps=cell["eps"] / 255, **UNIVERSAL)
        save_png(to_grid(made + 128 / 255), path)
    return from_levels((load_image(path) * 255).round() - 128)


def l2_row(cell: Row) -> list[Row]:
    """One attack on one photo. eps: of linf in 1/255, of l2 in units of [0, 1]."""
    ((name, image),) = photos_at([cell["photo"]]).items()
    if cell["norm"] == "linf":
        changed, taken, _ = attacked(vgg16(), name, image, eps=cell["eps"], steps=L2_STEPS)
    else:
        result = zero_out(vgg16(), image, eps=cell["eps"], norm="l2", steps=L2_STEPS).completed()
        changed, (taken,) = result.images, result.steps
    row = {"label": name.split("-")[0]} | judged(vgg16(), changed) | {"steps": taken, "at most": L2_STEPS}
    change = difference(image, changed)
    return [row | {name: getattr(change, name) for name in ("l2", "linf", "psnr", "ssim")}]


@torch.no_grad()
def units(image: Tensor) -> Tensor:
    """The pre-activations (512, 14, 14) of one image."""
    return vgg16().pre_activations(image)[0]


def last_image(image: Tensor, eps: float, steps: int, asked: Tensor) -> Tensor:
    """The image after `steps` steps against some units. asked: 1 for these, (14, 14) or (512, 14, 14)."""
    seen: list[Tensor] = []  # zero_out returns the image with the fewest features, not the last one

    def loss(z: Tensor, margin: float) -> Tensor:
        return hinge(z, margin) * asked

    zero_out(vgg16(), image, eps=eps, steps=steps, loss=loss, on_step=lambda _, x, __: seen.append(x)).completed()
    return seen[-1]


def resist_row(cell: Row) -> list[Row]:
    """Which units stay active if all, border or inside ones are optimised, and the strongest one optimised alone."""
    ((name, image),), eps = photos_at([cell["photo"]]).items(), cell["eps"] / 255
    border = torch.ones(14, 14, device=image.device)  # the 52 outermost of the 14 x 14 positions
    border[1:-1, 1:-1] = 0
    asked = {"all": torch.ones_like(border), "border": border, "inside": 1 - border}[cell["asked"]]
    clean, after = units(image), units(last_image(image, eps, RESIST_STEPS, asked))
    strongest = torch.unravel_index(after.argmax(), after.shape)
    only = torch.zeros_like(after)
    only[strongest] = 1
    alone = units(last_image(image, eps, ALONE_STEPS, only)) if clean[strongest] > 0 else clean
    counts = {
        "border": (after > 0) * border,
        "inside": (after > 0) * (1 - border),
        "border clean": (clean > 0) * border,
        "inside clean": (clean > 0) * (1 - border),
        "left and active when clean": (after > 0) & (clean > 0),
    }
    left = int(count_nonzero(vgg16().rest(after[None])))
    row = {"label": name.split("-")[0], "steps": RESIST_STEPS, "left": left}
    row |= {kind: int(x.sum()) for kind, x in counts.items()}
    row |= {axis: int(place) for axis, place in zip(("channel", "row", "column"), strongest, strict=True)}
    return [
        row | {"clean": clean[strongest].item(), "after": after[strongest].item(), "alone": alone[strongest].item()}
    ]


def position_rows(cell: Row) -> pd.DataFrame:
    """Per position: its active units, of 512, in the clean photo and in the attacked one; left: features of all."""
    ((name, image),) = photos_at([cell["photo"]]).items()
    after, steps, _ = attacked(vgg16(), name, image, eps=cell["eps"], steps=POSITION_STEPS)
    (left,), _ = vgg16().verdict(after)
    table = pd.DataFrame([divmod(place, 14) for place in range(14 * 14)], columns=["row", "column"])
    table["clean"], table["attacked"] = ((units(x) > 0).sum(0).flatten().tolist() for x in (image, after))
    return table.assign(label=name.split("-")[0], steps=steps, left=left.item())


MAKERS = {"universal": universal_row, "l2": l2_row, "resist": resist_row, "positions": position_rows}


def main(options: Sequence[str] = ()) -> None:
    cells, makers = CELLS | ch07_others.CELLS, MAKERS | ch07_others.MAKERS
    if unknown := set(options) - set(makers):
        raise SystemExit(f"no table {unknown.pop()!r}; give some of {', '.join(makers)}")
    for name in options or makers:
        fill(TABLES / f"{name}.csv", cells[name], makers[name])
