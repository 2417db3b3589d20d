"""How far the attack carries, for notebook 07, data/bench/: `universal` `l2` `resist` `robust` `transfer` `networks`.

universal: one pattern for all images. l2: a budget on the norm of the whole change. resist: which units stay active at
a small budget. robust: zeroed images in other arithmetic and after small changes. transfer: zeroed images given to
another network. networks: other last layers, random weights. Without a name all six are made. Settings were chosen on
photos of the train split; the tables are on the test split.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from experiments.ch07_others import networks_table, robust_table, transfer_table
from experiments.common import OUT, TABLES, answers, attacked, evenly, photos, six_classes, speckle, vgg16
from experiments.tables import Row, completed, fill
from helpers.attack import hinge, zero_out
from helpers.base import count_nonzero
from helpers.images import difference, load_image, save_png, to_grid
from helpers.networks import embed

SIX = range(3, 84, 14)  # photos of the test split

# --- one pattern for all images ----------------------------------------------------------------------

UNIVERSAL_STEPS, UNIVERSAL_BATCH = 48, 4


def universal_table() -> None:
    cells = [("none", 0, 0), ("noise", 0, 16), ("noise", 0, 10)]
    cells += [("pattern", 16, 16), ("pattern", 1, 16), ("pattern", 4, 16), ("pattern", 16, 10), ("pattern", 126, 16)]
    named = [dict(zip(("kind", "photos", "eps"), cell, strict=True)) for cell in cells]
    fill(TABLES / "universal.csv", named, universal_row)


def universal_row(cell: Row) -> list[Row]:
    """What a pattern does to 42 photos of the test split, and to those that it was made on."""
    pattern, classifier = pattern_of(cell), six_classes()
    images, labels = evenly("test", 42)
    changed = to_grid((images + pattern).clamp(0, 1))
    features = embed(vgg16(), changed)
    said = answers(classifier, changed)
    (answer, times), *_ = Counter(said).most_common(1)
    left, own = count_nonzero(features), None
    if cell["photos"]:
        own = count_nonzero(embed(vgg16(), to_grid((evenly("train", cell["photos"])[0] + pattern).clamp(0, 1))))
    return [
        {
            "steps": UNIVERSAL_STEPS if cell["kind"] == "pattern" else None,
            "tested on": len(images),
            "exactly zero": int((left == 0).sum()),
            "active share": left.float().mean().item() / features.shape[1],
            "norm": features.norm(dim=1).mean().item(),
            "right": sum(a == b for a, b in zip(said, labels, strict=True)) / len(labels),
            "most frequent answer": answer,
            "its share": times / len(labels),
            "own photos zero": None if own is None else int((own == 0).sum()),
            "own active share": None if own is None else own.float().mean().item() / features.shape[1],
        }
    ]


def pattern_of(cell: Row) -> Tensor:
    """The pattern of a row (1, 3, 224, 224), from its file where there is one: a PNG holds the pattern + 128."""
    count, eps = cell["photos"], cell["eps"]
    if cell["kind"] != "pattern":
        return speckle((1, 3, 224, 224), eps)
    # Notebook 07 shows the one of 126 photos, so it is stored.
    path = (TABLES if count == 126 else OUT) / f"universal_{count}_{eps}.png"
    if not path.exists():
        from helpers.universal import universal

        images, _ = evenly("train", count)
        pattern = universal(vgg16(), images, eps=eps / 255, steps=UNIVERSAL_STEPS, batch=UNIVERSAL_BATCH)
        save_png(to_grid(pattern + 128 / 255), path)
    return ((load_image(path) * 255 - 128).round() / 255).to(photos("test")[0].device)


# --- a budget on the norm of the change --------------------------------------------------------------

L2_STEPS = 400
L2_PHOTOS = (3, 31, 45)  # bird, food, mammal; `bench` attacks them, too


def l2_table() -> None:
    cells = [{"photo": i, "norm": norm, "eps": 8} for norm in ("linf", "l2") for i in L2_PHOTOS]
    fill(TABLES / "l2.csv", cells, l2_row)


def l2_row(cell: Row) -> list[Row]:
    """One attack on one photo; eps of linf in grey levels."""
    images, labels = photos("test")
    image, label = images[cell["photo"]][None], labels[cell["photo"]]
    if cell["norm"] == "linf":
        changed, taken, _ = attacked(vgg16(), f"{label}-{cell['photo']}", image, eps=cell["eps"], steps=L2_STEPS)
    else:
        result = completed(zero_out(vgg16(), image, eps=cell["eps"], norm="l2", steps=L2_STEPS))
        changed, (taken,) = result.images, result.steps
    (left,), (margin,) = (values.tolist() for values in vgg16().verdict(changed))
    change = difference(image, changed)
    return [
        {
            "label": label,
            "left": left,
            "margin": margin,
            "steps": taken,
            "at most": L2_STEPS,
            "l2": change.l2,
            "linf": change.linf,
            "psnr": change.psnr,
            "ssim": change.ssim,
        }
    ]


# --- where a small budget fails ----------------------------------------------------------------------

RESIST_STEPS, ALONE_STEPS = 150, 5


def resist_table() -> None:
    runs = [(4, "all"), (4, "border"), (4, "inside"), (2, "all")]
    cells = [{"eps": eps, "photo": i, "asked": asked} for i in SIX for eps, asked in runs]
    fill(TABLES / "resist.csv", cells, resist_row)


def resist_row(cell: Row, steps: int = RESIST_STEPS) -> list[Row]:
    """Which units stay active when all, those at the border or those inside were asked for, and the strongest alone."""
    images, labels = photos("test")
    image, eps = images[cell["photo"]][None], cell["eps"] / 255
    masks = {"all": torch.ones_like(border()), "border": border(), "inside": 1 - border()}
    clean, after = units(image), units(last_image(image, eps, steps, masks[cell["asked"]]))
    strongest = channel, row, column = tuple(int(i) for i in torch.unravel_index(after.argmax(), after.shape))
    only = torch.zeros_like(after)
    only[strongest] = 1
    alone = units(last_image(image, eps, ALONE_STEPS, only)) if clean[strongest] > 0 else clean
    return [
        {
            "label": labels[cell["photo"]],
            "steps": steps,
            "left": int(count_nonzero(vgg16().rest(after[None]))),
            "border": int(((after > 0) * border()).sum()),
            "inside": int(((after > 0) * (1 - border())).sum()),
            "border clean": int(((clean > 0) * border()).sum()),
            "inside clean": int(((clean > 0) * (1 - border())).sum()),
            "left and active when clean": int(((after > 0) & (clean > 0)).sum()),
            "channel": channel,
            "row": row,
            "column": column,
            "clean": clean[strongest].item(),
            "after": after[strongest].item(),
            "alone": alone[strongest].item(),
        }
    ]


def border() -> Tensor:
    """1 at the 52 outermost of the 14 x 14 positions of VGG-16's last layer, 0 inside."""
    mask = torch.ones(14, 14, device=photos("test")[0].device)
    mask[1:-1, 1:-1] = 0
    return mask


@torch.no_grad()
def units(image: Tensor) -> Tensor:
    """The pre-activations (512, 14, 14) of one image."""
    return vgg16().pre_activations(image)[0]


def last_image(image: Tensor, eps: float, steps: int, asked: Tensor) -> Tensor:
    """The image after so many steps against some units; asked: 1 for those, (14, 14) or (512, 14, 14)."""
    seen: list[Tensor] = []  # the result is the image with the fewest features of all units, not the last one

    def loss(z: Tensor, margin: float) -> Tensor:
        return hinge(z, margin) * asked

    def keep(step: int, images: Tensor, left: Tensor) -> None:
        seen[:] = [images]

    completed(zero_out(vgg16(), image, eps=eps, steps=steps, loss=loss, on_step=keep))
    return seen[-1]


MAKERS: dict[str, Callable[[], None]] = {
    "robust": robust_table,
    "transfer": transfer_table,
    "networks": networks_table,
    "universal": universal_table,
    "l2": l2_table,
    "resist": resist_table,
}


def main(options: Sequence[str] = ()) -> None:
    if unknown := set(options) - set(MAKERS):
        raise SystemExit(f"no table {unknown.pop()!r}; give some of {', '.join(MAKERS)}")
    for name in options or MAKERS:
        MAKERS[name]()
