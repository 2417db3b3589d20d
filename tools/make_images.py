"""Make data/images/ and data/photos/ from packages with a free licence.

Debian packages (qabcs-data, mate-backgrounds, tuxpaint-stamps-default) and the wheel of scikit-image are unpacked,
never installed. Needs Debian or Ubuntu (it calls apt-get download and dpkg-deb).
"""

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageFilter

DATA = Path(__file__).resolve().parents[1] / "data"
SIZE = 224
SEED = 16
DEBIAN = {  # package: version, sha256
    "qabcs-data": ("1.0.2-6", "3484da4cf258e6f3a39a1fc99bbfcaddfd679cff96a8fa792f261ab0a2bf9d86"),
    "mate-backgrounds": ("1.26.0-1", "7bf4c2209f34b4f61ba6d24c8b58c28b361e82e4b943aae6d42c030169af9e04"),
    "tuxpaint-stamps-default": ("2022.06.04-1", "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34"),
}
SKIMAGE = "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af"  # of the wheel for Python 3.11 on Linux
STAMPS = "usr/share/tuxpaint/stamps"
MATE = "usr/share/backgrounds/mate"

# The classes of data/photos/ and their folders of cut-outs. Cartoons, toys, silhouettes, mirrored twins, parts and
# cut-outs below 60 pixels are left out.
CLASSES = {
    "bird": ["animals/birds"],
    "flower": ["plants/flowers"],
    "food": ["food/fruit", "food/nuts", "food/spices", "food/vegetables", "plants/mushrooms"],
    "mammal": ["animals/mammals"],
    "object": ["hobbies", "household"],
    "vehicle": ["military/vehicles", "vehicles"],
}
LEFT_OUT = (
    *("cartoon", "toys", "mirror", "plastic", "hedgehog", "echidna", "cats/lion.png", "arttools", "7spoke"),
    *("wheel_tractor", "sedan_police", "household/cylinder", "rubberduck", "household/dishes/glass"),
)
LARGEST = 60  # cut-outs per class
TEST_SHARE = 0.4
# Backgrounds for the cut-outs, without objects of the classes.
NATURE = ("Aqua", "Blinds", "Dune", "GreenMeadow", "RainDrops", "Storm", "TwoWings", "Wood")
BACKGROUNDS = [f"{MATE}/nature/{name}.jpg" for name in NATURE] + [f"{MATE}/abstract/Elephants.jpg"]
BACKGROUNDS += [f"skimage/data/{name}.png" for name in ("brick", "grass", "gravel")]
# Single images: source, and the crop box in shares of width and height.
PICTURES = {
    "astronaut": ("skimage/data/astronaut.png", (0.0, 0.0, 1.0, 1.0)),
    "cat": ("skimage/data/chelsea.png", (0.12, 0.0, 0.78, 1.0)),
    "coffee": ("skimage/data/coffee.png", (0.25, 0.0, 0.92, 1.0)),
    "yellow_flower": (f"{MATE}/nature/YellowFlower.jpg", (0.37, 0.0, 1.0, 1.0)),
    "dune": (f"{MATE}/nature/Dune.jpg", (0.3, 0.0, 0.925, 1.0)),
    "ladybird": (f"{MATE}/nature/LadyBird.jpg", (0.5, 0.2, 0.9, 0.84)),
    "rocket": ("skimage/data/rocket.jpg", (0.17, 0.0, 0.84, 1.0)),
}


def unpack(root: Path) -> None:
    """Download the four packages into a folder, check them, and unpack them there."""
    names = [f"{name}={version}" for name, (version, _) in DEBIAN.items()]
    subprocess.run(["apt-get", "download", "-q", *names], cwd=root, check=True)
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:"]
    platform = ["--platform", "manylinux_2_28_x86_64", "--python-version", "3.11", "scikit-image==0.26.0"]
    subprocess.run([*pip, *platform], cwd=root, check=True)
    known = {SKIMAGE, *(sha256 for _, sha256 in DEBIAN.values())}
    if known != {hashlib.sha256(path.read_bytes()).hexdigest() for path in root.iterdir()}:
        raise SystemExit("a package has another sha256 than expected")
    for path in [*root.glob("*.deb"), *root.glob("*.whl")]:
        unpacker = ["dpkg-deb", "-x", path, root] if path.suffix == ".deb" else ["unzip", "-q", path, "-d", root]
        subprocess.run(unpacker, check=True)


def albatross(root: Path) -> Image.Image:
    """The rendered waved albatross of qABCs over a synthetic sky and sea."""
    rng = np.random.default_rng(SEED)
    y = np.linspace(0, 1, SIZE)[:, None, None]
    sky = np.array([120, 165, 210]) * (1 - y) + np.array([190, 215, 235]) * y
    clouds = 0.3 * smooth_noise(rng, 40) * np.clip(1.2 - 1.6 * y, 0, 1)
    picture = sky * (1 - clouds) + 250 * clouds
    horizon = int(SIZE * 0.74)
    rows = np.arange(horizon, SIZE)
    depth = ((rows - horizon) / (SIZE - horizon))[:, None, None]
    waves = np.stack([np.sin(np.arange(SIZE) / (3 + 14 * d[0, 0]) + 9 * d[0, 0] + rng.uniform(0, 6)) for d in depth])
    sea = np.array([86, 132, 160]) * (1 - depth) + np.array([30, 82, 118]) * depth
    picture[horizon:] = sea + 9 * waves[:, :, None] * depth + 10 * (smooth_noise(rng, 5)[horizon:] - 0.5)
    canvas = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).convert("RGBA")
    bird = Image.open(root / "usr/share/qabcs/abcs/all/pics/animals/albatross.png").convert("RGBA")
    bird = bird.crop(bird.getbbox())
    width = 250  # cuts off the wing tips, so that the head is large enough to recognise an albatross
    bird = bird.resize((width, round(width * bird.height / bird.width)), Image.Resampling.LANCZOS)
    bird = bird.crop(((width - SIZE) // 2, 0, (width + SIZE) // 2, bird.height))
    canvas.alpha_composite(bird, (0, 34))
    return canvas.convert("RGB")


def smooth_noise(rng: np.random.Generator, radius: int) -> np.ndarray:
    """Blurred noise in [0, 1], shape (SIZE, SIZE, 1)."""
    noise = Image.fromarray(rng.integers(0, 256, (SIZE, SIZE), dtype=np.uint8))
    blurred = np.asarray(noise.filter(ImageFilter.GaussianBlur(radius)), dtype=float)
    return ((blurred - blurred.min()) / (np.ptp(blurred) or 1))[:, :, None]


def square(root: Path, source: str, box: tuple[float, ...]) -> Image.Image:
    picture = Image.open(root / source).convert("RGB")
    w, h = picture.size
    left, top, right, bottom = box[0] * w, box[1] * h, box[2] * w, box[3] * h
    side = min(right - left, bottom - top)
    corner = (round((left + right - side) / 2), round((top + bottom - side) / 2))
    picture = picture.crop((*corner, round(corner[0] + side), round(corner[1] + side)))
    return picture.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def cut_outs(root: Path) -> dict[str, list[Path]]:
    """The paths of the cut-outs of each class, in a fixed random order."""
    rng = np.random.default_rng(SEED)
    chosen = {}
    for name, folders in CLASSES.items():
        paths = sorted(p for f in folders for p in (root / STAMPS / f).rglob("*.png"))
        paths = [p for p in paths if not any(word in str(p.relative_to(root)) for word in LEFT_OUT)]
        paths = [p for p in paths if max(Image.open(p).size) >= 60]
        chosen[name] = [paths[i] for i in rng.permutation(len(paths))][:LARGEST]
    return chosen


def compose(root: Path, path: Path, rng: np.random.Generator) -> tuple[Image.Image, str]:
    """One cut-out on a random crop of a random background."""
    source = BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
    background = Image.open(root / source).convert("RGB")
    side = int(min(background.size) * rng.uniform(0.45, 0.95))
    x, y = (int(rng.integers(0, n - side + 1)) for n in background.size)
    canvas = background.crop((x, y, x + side, y + side)).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    figure = Image.open(path).convert("RGBA")
    figure = figure.crop(figure.getchannel("A").getbbox())
    scale = rng.uniform(0.62, 0.92) * SIZE / max(figure.size)
    size = tuple(max(1, round(n * scale)) for n in figure.size)
    figure = figure.resize(size, Image.Resampling.LANCZOS)
    place = tuple(int(rng.integers(0, SIZE - n + 1)) for n in size)
    canvas = canvas.convert("RGBA")
    canvas.alpha_composite(figure, place)
    return canvas.convert("RGB"), Path(source).name


def photos(root: Path) -> None:
    """The transfer learning set with its fixed split, and index.csv."""
    rng = np.random.default_rng(SEED)
    rows = []
    for label, paths in cut_outs(root).items():
        tests = round(TEST_SHARE * len(paths))
        for i, path in enumerate(paths):
            picture, background = compose(root, path, rng)
            split = "test" if i < tests else "train"
            file = f"{split}/{label}/{path.stem.lower()}.jpg"
            (DATA / "photos" / file).parent.mkdir(parents=True, exist_ok=True)
            picture.save(DATA / "photos" / file, quality=92, subsampling=0)
            stamp = path.relative_to(root / STAMPS).as_posix()
            rows.append({"file": file, "label": label, "split": split, "cut_out": stamp, "background": background})
    table = pd.DataFrame(rows).sort_values(["split", "file"])
    table.to_csv(DATA / "photos" / "index.csv", index=False, lineterminator="\n")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        unpack(root)
        albatross(root).save(DATA / "images" / "albatross.png", optimize=True)
        for name, (source, box) in PICTURES.items():
            square(root, source, box).save(DATA / "images" / f"{name}.png", optimize=True)
        photos(root)


if __name__ == "__main__":
    main()
