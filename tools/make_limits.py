"""How far the attack carries, as tables in data/bench/: hours on a busy machine, some ten minutes on an idle core.

    python tools/make_limits.py [universal] [l2] [resist] [robust] [transfer] [networks]  # goes on where it stopped

universal: one pattern for all pictures. l2: a budget on the length of the change. resist: where a small budget
fails. robust: blinded pictures on other arithmetic and after small changes. transfer: blinded pictures given to
another network. networks: other endings, random weights. Settings were chosen on photos of the train split; the
tables are on the test split.
"""

import csv
import functools
import io
import sys
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as vision

from helpers.attack import hinge, zero_out
from helpers.base import Base, Classifier
from helpers.certificate import count_nonzero, nonzero_and_margin
from helpers.defences import jpeg
from helpers.images import DATA, difference, load_folder, load_image, load_photos, save_png, to_grid, write_file
from helpers.networks import efficientnet_lite0, embed, from_timm, train_head, vgg16_base
from helpers.universal import add, universal

FOLDER = DATA / "bench"
OUT = DATA.parent / "out" / "bench"
Row = dict[str, object]


def text(value: object) -> str:
    """A value as it stands in a table, the same when it is read again."""
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def fill(name: str, cells: list[Row], make: Callable[[Row], list[Row]]) -> None:
    """Make the rows of each cell that data/bench/name.csv does not hold, and write the table after each."""
    path = FOLDER / f"{name}.csv"
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))) if path.exists() else []
    for cell in cells:
        key = {column: text(value) for column, value in cell.items()}
        if any(key.items() <= row.items() for row in rows):
            continue
        rows += [{column: text(value) for column, value in {**cell, **row}.items()} for row in make(cell)]
        content = io.StringIO()
        writer = csv.DictWriter(content, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_file(path, content.getvalue().encode())
        print(name, rows[-1], flush=True)


@functools.cache
def vgg16() -> Base:
    return vgg16_base()


@functools.cache
def lite0() -> Classifier:
    return efficientnet_lite0()


@functools.cache
def six_classes() -> Classifier:
    """A head for the six classes of the photos, trained on the train split."""
    return train_head(vgg16(), *load_photos("train"))


@functools.cache
def photos(split: str) -> tuple[Tensor, list[str]]:
    return load_photos(split)


def evenly(split: str, count: int) -> tuple[Tensor, list[str]]:
    """That many photos of a split and their labels, taken at even distances."""
    images, labels = photos(split)
    places = [i * len(images) // count for i in range(count)]
    return images[places], [labels[i] for i in places]


def speckle(shape: tuple[int, ...], levels: int) -> Tensor:
    """Random noise: every value is plus or minus so many grey levels."""
    sign = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return sign * levels / 255


# --- one pattern for all pictures --------------------------------------------------------------------

UNIVERSAL_STEPS, UNIVERSAL_BATCH = 48, 4


def pattern_of(cell: Row) -> Tensor:
    """The pattern of a row, from its file where there is one: a PNG holds the pattern + 128."""
    count, eps = cell["photos"], cell["eps"]
    if cell["kind"] == "none":
        return torch.zeros(1, 3, 224, 224)
    if cell["kind"] == "noise":
        return speckle((1, 3, 224, 224), eps)
    # Only the pattern that notebook 07 shows is worth its place among the data.
    path = (FOLDER if count == 126 else OUT) / f"universal_{count}_{eps}.png"
    if not path.exists():
        images, _ = evenly("train", count)
        pattern = universal(vgg16(), images, eps=eps / 255, steps=UNIVERSAL_STEPS, batch=UNIVERSAL_BATCH)
        save_png(to_grid(pattern + 128 / 255), path)
    return (load_image(path) * 255 - 128).round() / 255


def universal_row(cell: Row) -> list[Row]:
    """What a pattern does to 42 photos of the test split, and to those that it was made on."""
    pattern, head = pattern_of(cell), six_classes().head
    images, labels = evenly("test", 42)
    features = embed(vgg16(), add(images, pattern))
    scores = head(features.unflatten(1, vgg16().feature_shape))
    answers = [six_classes().labels[i] for i in scores.argmax(1).tolist()]
    (answer, times), *_ = Counter(answers).most_common(1)
    left = count_nonzero(features)
    own_zero, own_awake = "", ""
    if cell["photos"]:
        own = count_nonzero(embed(vgg16(), add(evenly("train", cell["photos"])[0], pattern)))
        own_zero, own_awake = int((own == 0).sum()), own.float().mean().item() / features.shape[1]
    return [
        {
            "steps": UNIVERSAL_STEPS if cell["kind"] == "pattern" else "", "tested on": len(images),
            "exactly zero": int((left == 0).sum()), "outputs awake": left.float().mean().item() / features.shape[1],
            "length": features.norm(dim=1).mean().item(),
            "right": sum(a == b for a, b in zip(answers, labels, strict=True)) / len(labels),
            "most frequent answer": answer, "its share": times / len(labels),
            "own photos zero": own_zero, "own outputs awake": own_awake,
        }
    ]  # fmt: skip


def universal_table() -> None:
    cells = [("none", 0, 0), ("noise", 0, 16), ("noise", 0, 10)]
    cells += [("pattern", 16, 16), ("pattern", 1, 16), ("pattern", 4, 16), ("pattern", 16, 10), ("pattern", 126, 16)]
    fill("universal", [dict(zip(("kind", "photos", "eps"), cell, strict=True)) for cell in cells], universal_row)


# --- a budget on the length of the change ------------------------------------------------------------

L2_STEPS = 150
# With length 6, 60 steps of first size 16/255 left fewer outputs in each of three train photos than 64/255.
L2_STEP_SIZE = 16 / 255


def l2_row(cell: Row) -> list[Row]:
    """One attack on one photo, or the stored one at 8/255 of the same photo; eps of linf in grey levels."""
    place, norm = cell["photo"], cell["norm"]
    image = photos("test")[0][place][None]
    if (norm, cell["eps"]) == ("linf", 8):
        made_by, attacked, steps = "data/defences/zero", blinded()[place // 2][None], ""
    else:
        eps = cell["eps"] if norm == "l2" else cell["eps"] / 255
        result = zero_out(vgg16(), image, eps=eps, norm=norm, steps=L2_STEPS, step_size=L2_STEP_SIZE)
        made_by, attacked, steps = "this run", result.images, result.steps[0]
    (left,), (margin,) = (values.tolist() for values in nonzero_and_margin(vgg16(), attacked))
    change = difference(image, attacked)
    return [
        {
            "label": photos("test")[1][place], "left": left, "margin": margin, "steps": steps, "at most": L2_STEPS,
            "l2": change.l2, "linf": change.linf, "psnr": change.psnr, "ssim": change.ssim, "made by": made_by,
        }
    ]  # fmt: skip


def l2_table() -> None:
    budgets = [("linf", 8), ("l2", 8), ("linf", 255), ("l2", 6), ("linf", 6)]
    cells = [{"photo": i, "norm": norm, "eps": eps} for norm, eps in budgets for i in range(3, 84, 14)]
    fill("l2", cells, l2_row)


# --- where a small budget fails ----------------------------------------------------------------------

RESIST_STEPS, ALONE_STEPS = 150, 5


def ring() -> Tensor:
    """1 at the 52 outermost of the 14 x 14 positions of VGG-16's last layer, 0 inside."""
    mask = torch.ones(14, 14)
    mask[1:-1, 1:-1] = 0
    return mask


def last_picture(image: Tensor, eps: float, steps: int, asked: Tensor) -> Tensor:
    """The picture after so many steps that silence only some units; asked: 1 for those, (H, W) or (C, H, W)."""
    seen: list[Tensor] = []  # not the result, which would be the picture with the fewest outputs of all units
    zero_out(
        vgg16(), image, eps=eps, steps=steps, loss=lambda z, margin: hinge(z, margin) * asked,
        on_step=lambda step, images, left: seen.append(images),
    )  # fmt: skip
    return seen[-1]


@torch.no_grad()
def units(image: Tensor) -> Tensor:
    """The pre-activations (512, 14, 14) of one picture."""
    return vgg16().pre_activations(image)[0]


def awake(z: Tensor) -> tuple[int, int]:
    """How many units (512, 14, 14) are above zero at the border, and how many inside."""
    border, inside = ((z > 0) * mask for mask in (ring(), 1 - ring()))
    return int(border.sum()), int(inside.sum())


def resist_row(cell: Row) -> list[Row]:
    """Which units are left when all, those at the border or those inside were asked for, and the strongest alone."""
    image, eps = photos("test")[0][cell["photo"]][None], cell["eps"] / 255
    masks = {"all": torch.ones(14, 14), "border": ring(), "inside": 1 - ring()}
    clean, after = units(image), units(last_picture(image, eps, RESIST_STEPS, masks[cell["asked"]]))
    strongest = channel, row, column = tuple(int(i) for i in torch.unravel_index(after.argmax(), after.shape))
    only = torch.zeros_like(after)
    only[strongest] = 1
    alone = units(last_picture(image, eps, ALONE_STEPS, only))
    (border, inside), (border_before, inside_before) = awake(after), awake(clean)
    left = count_nonzero(vgg16().rest(after[None]))
    return [
        {
            "label": photos("test")[1][cell["photo"]], "steps": RESIST_STEPS, "left": int(left),
            "border": border, "inside": inside, "border clean": border_before, "inside clean": inside_before,
            "left and awake when clean": int(((after > 0) & (clean > 0)).sum()),
            "channel": channel, "row": row, "column": column, "clean": clean[strongest].item(),
            "after": after[strongest].item(), "alone": alone[strongest].item(),
        }
    ]  # fmt: skip


def resist_table() -> None:
    runs = [(4, "all"), (4, "border"), (4, "inside"), (2, "all")]
    fill(
        "resist",
        [{"eps": eps, "photo": i, "asked": asked} for i in range(3, 84, 14) for eps, asked in runs],
        resist_row,
    )


# --- other arithmetic, and small changes of the saved picture ----------------------------------------


def one_by_one(base: Base, images: Tensor, size: int = 1) -> Tensor:
    return torch.cat([base.pre_activations(piece) for piece in images.split(size)])


def two_threads(base: Base, images: Tensor) -> Tensor:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        return one_by_one(base, images)
    finally:
        torch.set_num_threads(before)


def other_layout(base: Base, images: Tensor) -> Tensor:
    try:
        return one_by_one(base.to(memory_format=torch.contiguous_format), images.contiguous())
    finally:
        base.to(memory_format=torch.channels_last)


def bfloat16(base: Base, images: Tensor) -> Tensor:
    with torch.autocast(images.device.type, torch.bfloat16):
        return one_by_one(base, images).float()


def float64(base: Base, images: Tensor) -> Tensor:
    return one_by_one(vgg16_base().double(), images[:FEW].double())


def shifted(images: Tensor) -> Tensor:
    """One pixel to the right; the first column stands twice."""
    return vision.pad(images, [1, 0, 0, 0], padding_mode="edge")[..., :-1]


FEW = 6  # photos in float64, which is slow
CONDITIONS: dict[str, Callable[[Base, Tensor], Tensor]] = {
    "float32": one_by_one,
    "float32, 2 threads": two_threads,
    "float32, batches of 8": lambda base, x: one_by_one(base, x, 8),
    "float32, channels-last pictures": lambda base, x: one_by_one(base, x.to(memory_format=torch.channels_last)),
    "float32, contiguous weights": other_layout,
    "float64": float64,
    "bfloat16 autocast": bfloat16,
    "noise of 1 level": lambda base, x: one_by_one(base, to_grid((x + speckle(x.shape, 1)).clamp(0, 1))),
    "JPEG 95": lambda base, x: one_by_one(base, jpeg(x, quality=95)),
    "shift by 1 pixel": lambda base, x: one_by_one(base, shifted(x)),
}


@functools.cache
def blinded() -> Tensor:
    """The photos of data/defences/zero, checked to be within 8 grey levels of every second test photo."""
    images = load_folder(DATA / "defences" / "zero")
    change = ((images - photos("test")[0][1::2]) * 255).round().abs().max()
    assert change <= 8, f"data/defences/zero differs from its photos by {change:.0f} levels"
    return images


@functools.cache
def plain() -> Tensor:
    """Pre-activations in float32, one photo at a time, on one thread: what all else is compared with."""
    with torch.no_grad():
        return one_by_one(vgg16(), blinded())


@torch.no_grad()
def robust_rows(cell: Row) -> list[Row]:
    """Outputs left of each blinded photo; difference: the largest one of a pre-activation against float32."""
    z = CONDITIONS[cell["condition"]](vgg16(), blinded())
    before = plain()[: len(z)]
    left = count_nonzero(vgg16().rest(z)).tolist()
    margins = (-before.flatten(1).amax(1)).tolist()
    gaps = (z.double() - before.double()).abs().flatten(1).amax(1).tolist()
    return [
        {"photo": i, "left": n, "margin": margin, "difference": gap, "ratio": margin / gap if gap else ""}
        for i, (n, margin, gap) in enumerate(zip(left, margins, gaps, strict=True))
    ]


def robust_table() -> None:
    fill("robust", [{"condition": condition} for condition in CONDITIONS], robust_rows)


# --- another network ---------------------------------------------------------------------------------


@functools.cache
def blinded_on(network: str) -> tuple[list[int], Tensor]:
    """Ten places among the test photos, and these photos blinded on a network."""
    zero = [i for i, n in enumerate(nonzero_and_margin(vgg16(), blinded())[0].tolist()) if n == 0]
    chosen = [zero[i * len(zero) // 10] for i in range(10)]
    places = [2 * i + 1 for i in chosen]
    if network == "vgg16":
        return places, blinded()[chosen]
    return places, zero_out(lite0().base, photos("test")[0][places], margin=0.3, steps=100).images


def transfer_rows(cell: Row) -> list[Row]:
    """Clean, with noise of the same size, and blinded: what another network makes of the photo."""
    places, images = blinded_on(cell["made on"])
    clean, base, classifier = photos("test")[0][places], vgg16(), None
    if cell["given to"] == "efficientnet_lite0":
        base, classifier = lite0().base, lite0()
    elif cell["given to"] == "vgg16":
        classifier = six_classes()
    else:
        base = vgg16_base("pool4")
    kinds = {"clean": clean, "noise": to_grid((clean + speckle(clean.shape, 8)).clamp(0, 1)), "blinded": images}
    rows, first = [], {}
    for kind, pictures in kinds.items():
        features = embed(base, pictures)
        scores = classifier.head(features.unflatten(1, base.feature_shape)) if classifier else None
        for n, (place, own) in enumerate(zip(places, features, strict=True)):
            answer = classifier.labels[scores[n].argmax()] if classifier else ""
            clean_length, clean_answer = first.setdefault(place, (own.norm().item(), answer))
            rows.append(
                {
                    "photo": place, "picture": kind, "outputs awake": own.ne(0).float().mean().item(),
                    "length to clean": own.norm().item() / clean_length, "answer": answer,
                    "answer stays": int(answer == clean_answer) if classifier else "",
                }
            )  # fmt: skip
    return rows


def transfer_table() -> None:
    pairs = [("vgg16", "vgg16"), ("vgg16", "efficientnet_lite0"), ("vgg16", "vgg16 until pool4")]
    pairs += [("efficientnet_lite0", "efficientnet_lite0"), ("efficientnet_lite0", "vgg16")]
    fill("transfer", [{"made on": made, "given to": given} for made, given in pairs], transfer_rows)


# --- other endings, random weights -------------------------------------------------------------------

ENDINGS = {  # what the features end in, and why they can or cannot be zero
    "vgg11": ("ReLU", "a ReLU gives exactly 0 for all pre-activations at or below 0"),
    "resnet18": ("sum, then ReLU", "the ReLU stands after the sum, so the sum has to go below 0"),
    "tf_efficientnet_lite0": ("ReLU6", "a ReLU6 is flat below 0, as a ReLU"),
    "mobilenetv3_small_050": ("Hardswish", "a Hardswish is flat below -3 and not 0 between: it is further to go"),
    "efficientnet_b0": ("SiLU", "a SiLU has no flat part: it is 0 at one point and comes near far below"),
    "convnext_atto": ("sum, no activation", "a sum has no flat part: each output would have to hit 0 by itself"),
    "vit_tiny_patch16_224": ("LayerNorm", "a LayerNorm gives its outputs the same length, whatever comes in"),
}
AWAKE = 0.1  # share of outputs that a lowered last bias leaves awake in the clean photo, as in a trained network


class Lowered(nn.Module):
    """A body whose last bias is lower by so much."""

    def __init__(self, body: nn.Module, by: float) -> None:
        super().__init__()
        self.body, self.by = body, by

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) - self.by


def network(name: str, weights: str, image: Tensor) -> Base:
    """The network of a row; a random one starts with biases of 0, and half of its outputs are awake."""
    if weights == "bundled":
        return lite0().base
    # Else timm starts the last block of each ResNet at zero, which no trained one is.
    base = from_timm(name, **({"zero_init_last": False} if "resnet" in name else {})).base
    if weights == "random":
        return base
    with torch.no_grad():
        z = base.pre_activations(image)
    by = z.flatten().kthvalue(round((1 - AWAKE) * z.numel())).values.item() - base.threshold
    mean, std = base.mean.flatten().tolist(), base.std.flatten().tolist()
    return Base(Lowered(base.body, by), base.rest, mean=mean, std=std, name=name)


def network_row(cell: Row) -> list[Row]:
    """One photo on one network: the hinge where it can be, else the clear error and the squared features."""
    image, said = photos("test")[0][1:2], ""
    base = network(cell["network"], cell["weights"], image)
    with torch.no_grad():
        z = base.pre_activations(image)
        features = base.rest(z)
    settings = {"eps": cell["eps"] / 255, "steps": 40, "margin": 0.1 * z.std().item()}
    try:
        result = zero_out(base, image, **settings)
    except ValueError as error:
        said = str(error)
        result = zero_out(base, image, loss=lambda z, margin: z**2, **settings)
    ratio = (embed(base, result.images).norm() / features.norm()).item()
    ends, why = ENDINGS[cell["network"]]
    return [
        {
            "ends in": ends, "threshold": "none" if base.threshold is None else base.threshold,
            "outputs": result.outputs, "awake when clean": int(count_nonzero(features)), "left": result.nonzero[0],
            "steps": result.steps[0], "length to clean": ratio, "said": said, "why": why,
        }
    ]  # fmt: skip


def networks_table() -> None:
    cells = [(name, "random") for name in ENDINGS]
    cells += [(name, "random, last bias lowered") for name in list(ENDINGS)[:4]]
    cells += [("tf_efficientnet_lite0", "bundled")]
    fill(
        "networks",
        [{"network": name, "weights": weights, "eps": eps} for name, weights in cells for eps in (8, 255)],
        network_row,
    )


TABLES = {
    "robust": robust_table, "transfer": transfer_table, "networks": networks_table,
    "universal": universal_table, "l2": l2_table, "resist": resist_table,
}  # fmt: skip


def main() -> int:
    torch.set_num_threads(1)
    for name in sys.argv[1:] or TABLES:
        if name not in TABLES:
            raise SystemExit(f"no table {name!r}; give some of {', '.join(TABLES)}")
        TABLES[name]()
    return 0


if __name__ == "__main__":
    sys.exit(main())
