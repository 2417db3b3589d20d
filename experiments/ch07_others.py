"""Three tables of ch07_limits: other arithmetic, other networks, other last layers."""

import copy
import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as vision

from experiments.common import TABLES, answers, lite0, photos, six_classes, speckle, vgg16
from experiments.tables import Row, completed, fill
from helpers.attack import hinge, zero_out
from helpers.base import Base, count_nonzero
from helpers.defence.filters import jpeg
from helpers.images import DATA, load_folder, to_grid
from helpers.networks import embed, from_timm

# --- other arithmetic, and small changes of the saved image ------------------------------------------


def one_by_one(base: Base, images: Tensor, size: int = 1) -> Tensor:
    return torch.cat([base.pre_activations(piece) for piece in images.split(size)])


def two_threads(base: Base, images: Tensor) -> Tensor:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        return one_by_one(base, images)
    finally:
        torch.set_num_threads(before)


def bfloat16(base: Base, images: Tensor) -> Tensor:
    """What hardware with bfloat16 computes: weights, inputs and outputs of a layer rounded, sums in float32."""
    body, outputs = copy.deepcopy(base.body).bfloat16().float(), []
    for image in images.split(1):
        x = (image - base.mean) / base.std
        for layer in body:
            x = layer(x.bfloat16().float())
        outputs.append(x.bfloat16().float())
    return torch.cat(outputs)


def other_layout(base: Base, images: Tensor) -> Tensor:
    return one_by_one(copy.deepcopy(base).to(memory_format=torch.contiguous_format), images.contiguous())


def float64(base: Base, images: Tensor) -> Tensor:
    return one_by_one(copy.deepcopy(base).double(), images[:6].double())  # slow


CONDITIONS: dict[str, Callable[[Base, Tensor], Tensor]] = {
    "float32": one_by_one,
    "float32, 2 threads": two_threads,
    "float32, batches of 8": lambda base, x: one_by_one(base, x, 8),
    "float32, channels-last images": lambda base, x: one_by_one(base, x.to(memory_format=torch.channels_last)),
    "float32, contiguous weights": other_layout,
    "float64": float64,
    "bfloat16": bfloat16,
    "noise of 1 level": lambda base, x: one_by_one(base, to_grid((x + speckle(x.shape, 1)).clamp(0, 1))),
    "JPEG 95": lambda base, x: one_by_one(base, jpeg(x, quality=95)),
    "shift by 1 pixel": lambda base, x: one_by_one(base, vision.pad(x, [1, 0, 0, 0], padding_mode="edge")[..., :-1]),
}


def robust_table() -> None:
    fill(TABLES / "robust.csv", [{"condition": condition} for condition in CONDITIONS], robust_rows)


@torch.no_grad()
def robust_rows(cell: Row) -> list[Row]:
    """Features left of every third zeroed photo; difference: the largest one of a pre-activation from float32's."""
    z = CONDITIONS[cell["condition"]](vgg16(), zeroed()[::3])
    before = plain()[: len(z)]
    left = count_nonzero(vgg16().rest(z)).tolist()
    margins = vgg16().margin_reached(before).tolist()
    gaps = (z.double() - before.double()).abs().flatten(1).amax(1).tolist()
    return [
        {"photo": 3 * i, "left": n, "margin": margin, "difference": gap, "ratio": margin / gap if gap else None}
        for i, (n, margin, gap) in enumerate(zip(left, margins, gaps, strict=True))
    ]


@functools.cache
def zeroed() -> Tensor:
    """The photos of data/defences/zero, checked to be within 8 grey levels of every second test photo."""
    clean = photos("test")[0][1::2]
    images = load_folder(DATA / "defences" / "zero").to(clean.device)
    change = ((images - clean) * 255).round().abs().max()
    if change > 8:
        raise ValueError(f"data/defences/zero differs from its photos by {change:.0f} grey levels; make it again")
    return images


@functools.cache
def plain() -> Tensor:
    """Pre-activations in float32, one photo at a time: what all else is compared with."""
    with torch.no_grad():
        return one_by_one(vgg16(), zeroed()[::3])


# --- another network ---------------------------------------------------------------------------------


def transfer_table() -> None:
    pairs = [("vgg16", "vgg16"), ("vgg16", "efficientnet_lite0"), ("vgg16", "vgg16 until pool4")]
    pairs += [("efficientnet_lite0", "efficientnet_lite0"), ("efficientnet_lite0", "vgg16")]
    fill(TABLES / "transfer.csv", [{"made on": made, "given to": given} for made, given in pairs], transfer_rows)


def transfer_rows(cell: Row) -> list[Row]:
    """What another network makes of a photo: clean, with noise of the same size, and zeroed."""
    places, attacked = zeroed_on(cell["made on"])
    clean, classifier = photos("test")[0][places], None
    if cell["given to"] != "vgg16 until pool4":
        classifier = lite0() if cell["given to"] == "efficientnet_lite0" else six_classes()
    base = classifier.base if classifier else vgg16("pool4")
    kinds = {"clean": clean, "noise": to_grid((clean + speckle(clean.shape, 8)).clamp(0, 1)), "zeroed": attacked}
    norms, first = embed(base, clean).norm(dim=1), answers(classifier, clean) if classifier else []
    rows = []
    for kind, images in kinds.items():
        features = embed(base, images)
        said = answers(classifier, images) if classifier else [None] * len(images)
        for n, place in enumerate(places):
            rows.append(
                {
                    "photo": place,
                    "image": kind,
                    "active share": features[n].ne(0).float().mean().item(),
                    "norm to clean": (features[n].norm() / norms[n]).item(),
                    "answer": said[n],
                    "answer stays": int(said[n] == first[n]) if classifier else None,
                }
            )
    return rows


@functools.cache
def zeroed_on(network: str) -> tuple[list[int], Tensor]:
    """Ten places among the test photos, and these photos zeroed on a network."""
    zero = [i for i, n in enumerate(vgg16().verdict(zeroed())[0].tolist()) if n == 0]
    chosen = [zero[i * len(zero) // 10] for i in range(10)]
    places = [2 * i + 1 for i in chosen]
    if network == "vgg16":
        return places, zeroed()[chosen]
    return places, completed(zero_out(lite0().base, photos("test")[0][places], margin=0.3, steps=100)).images


# --- other last layers, random weights ---------------------------------------------------------------

ENDINGS = {  # what the features end in
    "vgg11": "ReLU",
    "resnet18": "sum, then ReLU",
    "tf_efficientnet_lite0": "ReLU6",
    "mobilenetv3_small_050": "Hardswish",
    "efficientnet_b0": "SiLU",
    "convnext_atto": "sum, no activation",
    "vit_tiny_patch16_224": "LayerNorm",
}
ACTIVE = 0.1  # share of features that a lowered last bias leaves active in the clean photo, as in a trained network


class Lowered(nn.Module):
    """A body whose last bias is lower by so much."""

    def __init__(self, body: nn.Module, by: float) -> None:
        super().__init__()
        self.body, self.by = body, by

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) - self.by


def networks_table() -> None:
    pairs = [(name, "random") for name in ENDINGS]
    pairs += [(name, "random, last bias lowered") for name in list(ENDINGS)[:4]]
    pairs += [("tf_efficientnet_lite0", "bundled")]
    cells = [{"network": name, "weights": weights, "eps": eps} for name, weights in pairs for eps in (8, 255)]
    fill(TABLES / "networks.csv", cells, network_row)


def network_row(cell: Row, steps: int = 40) -> list[Row]:
    """One photo on one network: the hinge where features can be zero, else the squared outputs."""
    image = photos("test")[0][1:2]
    base = network(cell["network"], cell["weights"], image)
    with torch.no_grad():
        z = base.pre_activations(image)
        features = base.rest(z)
    settings = {"eps": cell["eps"] / 255, "steps": steps, "margin": 0.1 * z.std().item()}
    loss = hinge if base.threshold is not None else lambda z, margin: z**2
    result = completed(zero_out(base, image, loss=loss, **settings))
    return [
        {
            "ends in": ENDINGS[cell["network"]],
            "threshold": "none" if base.threshold is None else base.threshold,
            "outputs": result.outputs,
            "active when clean": int(count_nonzero(features)),
            "left": result.nonzero[0],
            "steps": result.steps[0],
            "norm to clean": (embed(base, result.images).norm() / features.norm().cpu()).item(),
        }
    ]


def network(name: str, weights: str, image: Tensor) -> Base:
    """The network of a row; a random one starts with biases of 0, and half of its features are active."""
    if weights == "bundled":
        return lite0().base
    # Else timm starts the last block of each ResNet at zero, which no trained one is.
    base = from_timm(name, **({"zero_init_last": False} if "resnet" in name else {})).base.to(image.device)
    if weights == "random":
        return base
    with torch.no_grad():
        z = base.pre_activations(image)
    by = z.flatten().kthvalue(round((1 - ACTIVE) * z.numel())).values.item() - base.threshold
    mean, std = base.mean.flatten().tolist(), base.std.flatten().tolist()
    return Base(Lowered(base.body, by), base.rest, mean=mean, std=std, name=name)
