"""Three tables of ch07_limits: other arithmetic, other networks, other last layers."""

import copy
import functools
from collections.abc import Callable

import pandas as pd
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

from experiments.common import answers, lite0, photos, six_classes, speckle, vgg16
from experiments.tables import Row
from helpers.attack import hinge, zero_out
from helpers.base import Base, count_nonzero
from helpers.defence.filters import jpeg
from helpers.images import DATA, load_folder, to_grid
from helpers.networks import embed, from_timm


@functools.cache
def zeroed() -> Tensor:
    """The photos of data/defences/zero: every second photo of the test split."""
    return load_folder(DATA / "defences" / "zero").to(photos("test")[0].device)


# --- other arithmetic, and small changes of the saved image ------------------------------------------


def in_pieces(base: Base, images: Tensor, size: int = 1) -> Tensor:
    return torch.cat([base.pre_activations(piece) for piece in images.split(size)])


def two_threads(base: Base, images: Tensor) -> Tensor:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        return in_pieces(base, images)
    finally:
        torch.set_num_threads(before)


def bfloat16(base: Base, images: Tensor) -> Tensor:
    """Pre-activations as bfloat16 hardware computes them: weights, inputs and outputs are rounded, sums are float32."""
    body, outputs = copy.deepcopy(base.body).bfloat16().float(), []
    for image in images.split(1):
        x = (image - base.mean) / base.std
        for layer in body:
            x = layer(x.bfloat16().float())
        outputs.append(x.bfloat16().float())
    return torch.cat(outputs)


def other_layout(base: Base, images: Tensor) -> Tensor:
    return in_pieces(copy.deepcopy(base).to(memory_format=torch.contiguous_format), images.contiguous())


CONDITIONS: dict[str, Callable[[Base, Tensor], Tensor]] = {
    "float32": in_pieces,
    "float32, 2 threads": two_threads,
    "float32, batches of 8": lambda base, x: in_pieces(base, x, 8),
    "float32, channels-last images": lambda base, x: in_pieces(base, x.to(memory_format=torch.channels_last)),
    "float32, contiguous weights": other_layout,
    "float64": lambda base, x: in_pieces(copy.deepcopy(base).double(), x[:6].double()),  # slow
    "bfloat16": bfloat16,
    "noise of 1 level": lambda base, x: in_pieces(base, to_grid((x + speckle(x.shape, 1)).clamp(0, 1))),
    "JPEG 95": lambda base, x: in_pieces(base, jpeg(x, quality=95)),
    "shift by 1 pixel": lambda base, x: in_pieces(base, vision.pad(x, [1, 0, 0, 0], padding_mode="edge")[..., :-1]),
}


@functools.cache
@torch.no_grad()
def plain() -> Tensor:
    """Pre-activations in float32, one photo at a time; the other conditions are compared with them."""
    return in_pieces(vgg16(), zeroed()[::3])


@torch.no_grad()
def robust_rows(cell: Row) -> pd.DataFrame:
    """Features left in every third zeroed photo. difference: the largest one between a pre-activation and float32's."""
    z = CONDITIONS[cell["condition"]](vgg16(), zeroed()[::3])
    before = plain()[: len(z)]
    table = pd.DataFrame({"photo": range(0, 3 * len(z), 3), "left": count_nonzero(vgg16().rest(z)).tolist()})
    table["margin"] = vgg16().margin_reached(before).tolist()
    table["difference"] = (z.double() - before.double()).abs().flatten(1).amax(1).tolist()
    return table.assign(ratio=table.margin / table.difference.where(table.difference > 0))


# --- another network ---------------------------------------------------------------------------------


def transfer_rows(cell: Row) -> pd.DataFrame:
    """Features and predictions of another network for a photo: clean, with noise of the same size, and zeroed."""
    places, attacked = zeroed_on(cell["made on"])
    clean, classifier = photos("test")[0][places], None
    if cell["given to"] != "vgg16 until pool4":
        classifier = lite0() if cell["given to"] == "efficientnet_lite0" else six_classes()
    base = classifier.base if classifier else vgg16("pool4")
    kinds = {"clean": clean, "noise": to_grid((clean + speckle(clean.shape, 8)).clamp(0, 1)), "zeroed": attacked}
    norms, first, tables = embed(base, clean).norm(dim=1), answers(classifier, clean) if classifier else None, []
    for kind, images in kinds.items():
        features = embed(base, images)
        table = pd.DataFrame({"photo": places, "image": kind, "active share": features.ne(0).float().mean(1)})
        table["norm to clean"] = features.norm(dim=1) / norms
        table["answer"] = answers(classifier, images) if classifier else None
        table["answer stays"] = (table.answer == first).astype(int) if classifier else None
        tables.append(table)
    return pd.concat(tables)


@functools.cache
def zeroed_on(network: str) -> tuple[list[int], Tensor]:
    """The places of ten test photos, and these photos, zeroed on a network."""
    zero = [i for i, n in enumerate(vgg16().verdict(zeroed())[0].tolist()) if n == 0]
    chosen = [zero[i * len(zero) // 10] for i in range(10)]
    places = [2 * i + 1 for i in chosen]
    if network == "vgg16":
        return places, zeroed()[chosen]
    return places, zero_out(lite0().base, photos("test")[0][places], margin=0.3, steps=100).completed().images


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
ACTIVE = 0.1  # share of features that stay active in the clean photo with a lowered bias, as in a trained network


def network(name: str, weights: str, image: Tensor) -> Base:
    """The network of a row. A random one has biases of 0, and half of its features are active."""
    if weights == "bundled":
        return lite0().base
    # By default timm starts the last layer of each block of a ResNet at zero, which no trained one is.
    base = from_timm(name, **({"zero_init_last": False} if "resnet" in name else {})).base.to(image.device)
    if weights == "random, last bias lowered":
        with torch.no_grad():
            z = base.pre_activations(image)
        by = z.quantile(1 - ACTIVE, interpolation="higher").item() - base.flat_below()
        base.body.register_forward_hook(lambda _module, _inputs, output: output - by)
    return base


def network_row(cell: Row) -> list[Row]:
    """One photo on one network, with the hinge if features can be zero, else with the squared features."""
    image = photos("test")[0][1:2]
    base = network(cell["network"], cell["weights"], image)
    with torch.no_grad():
        z = base.pre_activations(image)
        features = base.rest(z)
    settings = {"eps": cell["eps"] / 255, "steps": 40, "margin": 0.1 * z.std().item()}
    loss = hinge if base.threshold is not None else lambda z, margin: z**2
    result = zero_out(base, image, loss=loss, **settings).completed()
    row = {
        "ends in": ENDINGS[cell["network"]],
        "threshold": "none" if base.threshold is None else base.threshold,
        "outputs": result.outputs,
        "active when clean": int(count_nonzero(features)),
        "left": result.nonzero[0],
        "steps": result.steps[0],
        "norm to clean": (embed(base, result.images).norm() / features.norm().cpu()).item(),
    }
    return [row]


LITE0 = "efficientnet_lite0"
PAIRS = [("vgg16", "vgg16"), ("vgg16", LITE0), ("vgg16", "vgg16 until pool4"), (LITE0, LITE0), (LITE0, "vgg16")]
NETWORKS = (
    [(name, "random") for name in ENDINGS]
    + [(name, "random, last bias lowered") for name in list(ENDINGS)[:4]]
    + [("tf_efficientnet_lite0", "bundled")]
)
CELLS: dict[str, list[Row]] = {
    "robust": [{"condition": condition} for condition in CONDITIONS],
    "transfer": [{"made on": made, "given to": given} for made, given in PAIRS],
    "networks": [{"network": name, "weights": w, "eps": eps} for name, w in NETWORKS for eps in (8, 255)],
}
MAKERS = {"robust": robust_rows, "transfer": transfer_rows, "networks": network_row}
