"""zero_out and feature matching on whole photographs: data/bench/photographs.csv. Takes over an hour on two cores.

    python -m experiments photographs [--photos N]

The photos of data/photos/ are cut-outs on backgrounds; these show what the camera saw. They come from four packages of
Debian 12 (it calls apt-get download and dpkg-deb), which are fetched once, into out/packages/, and read as data. They
were chosen by eye, before any attack. GCompris cropped and sharpened those of erase.rcc, and scaled the penguin
unevenly; load_image takes the central square of each.
"""

import argparse
import functools
import io
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from struct import unpack_from

import pandas as pd
import torch
from torch import Tensor

from experiments.common import TABLES, answers, attacked, device, judged, picture, six_classes, vgg16
from experiments.packages import KEEP
from experiments.tables import Row, fill
from helpers.defence.adaptive import feature_matching_loss, minimise_loss
from helpers.defence.readouts import extract_readouts
from helpers.images import load_image
from helpers.visibility import difference
from tools.make_weights import fetched_once

GUIDE = "albatross"  # an image of data/images/
STEPS, MATCHING_STEPS = 150, 60
GCOMPRIS, LOMIRI, PALAPELI, TUXPAINT = "gcompris-qt-data", "lomiri-wallpapers-16.04", "palapeli-data", "tuxpaint-data"
PACKAGES = {  # version, sha256
    GCOMPRIS: ("3.1-2", "e9cf06ab2105529068df73085784e835d2ff03f870d2a8091f09125d40abac9f"),
    LOMIRI: ("20.04.0-2", "a99ff6a3bfe451e4cc0682ecb3cc82e71740626d59e4845ae34a0a0e45421eab"),
    PALAPELI: ("4:22.12.3-1", "69a15dce2ac25ed8708ac518cd0cee5f4eb0c70ed15da2fdb8899a19ac0ee058"),
    TUXPAINT: ("1:0.9.28-sdl2-1", "f5d0de8f9a70d2efc1241d19f26168cb8bf279f1b77abd3631e7a1a55c40e5e5"),
}
# Package, folder or collection of files in usr/share/, licence: photos. GCompris and Palapeli state the licence beside
# each photo, the others in debian/copyright.
PHOTOS = {
    (GCOMPRIS, "gcompris-qt/rcc/erase.rcc", "CC-BY-SA-4.0"): "penguin heron",
    (GCOMPRIS, "gcompris-qt/rcc/erase.rcc", "CC-BY-2.0"): "kitten",
    (GCOMPRIS, "gcompris-qt/rcc/erase.rcc", "CC0-1.0"): "kingfisher crab",
    (GCOMPRIS, "gcompris-qt/rcc/explore_world_animals.rcc", "CC0-1.0"): "bison lemur scarlet_macaw",
    (GCOMPRIS, "gcompris-qt/rcc/explore_world_animals.rcc", "public domain"): "hedgehog koala moose panda polar_bear",
    (GCOMPRIS, "gcompris-qt/rcc/explore_farm_animals.rcc", "CC0-1.0"): "duck owl",
    (GCOMPRIS, "gcompris-qt/rcc/explore_farm_animals.rcc", "public domain"): "chicken cow",
    (GCOMPRIS, "gcompris-qt/rcc/explore_monuments.rcc", "CC0-1.0"): "neuschwansteinCastle greatWallofChina",
    (GCOMPRIS, "gcompris-qt/rcc/explore_monuments.rcc", "public domain"): "statueofLiberty pontduGard",
    (GCOMPRIS, "gcompris-qt/rcc/explore_world_music.rcc", "CC-BY-2.0"): "america",
    (GCOMPRIS, "gcompris-qt/rcc/categorization.rcc", "CC0-1.0"): "windmill13",
    (GCOMPRIS, "gcompris-qt/rcc/categorization.rcc", "public domain"): "fish9 pan",
    (LOMIRI, "backgrounds", "CC-BY-4.0"): "friends_by_Aitzol_Berasategi picosdeeuropa_by_Aitzol_Berasategi "
    "Wine_by_Jakkub_Mede Picture_0B_by_freespace Picture_1A_by_freespace",
    (LOMIRI, "backgrounds", "CC0-1.0"): "seeding_by_Clements_Engelhardt",
    (PALAPELI, "palapeli/collection", "public domain"): "cincinnati-bridge citrus-fruits european-honey-bee",
    (TUXPAINT, "tuxpaint/templates", "GPL-2+"): "jellyfish lighthouse ocean_waves wool_mill_machine",
}
SOURCES = {name: source for source, names in PHOTOS.items() for name in names.split()}


@functools.cache
def archive(package: str) -> tarfile.TarFile:
    """The files of a Debian package, its hash checked before anything else of it is read."""
    version, sha256 = PACKAGES[package]

    def fetch() -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(["apt-get", "download", "-q", f"{package}={version}"], cwd=folder, check=True)
            (path,) = Path(folder).iterdir()
            return path.read_bytes()

    fetched_once(KEEP, sha256, fetch)
    unpacked = subprocess.run(["dpkg-deb", "--fsys-tarfile", KEEP / sha256], check=True, stdout=subprocess.PIPE).stdout
    return tarfile.open(fileobj=io.BytesIO(unpacked))


def collected(content: bytes) -> dict[str, bytes]:
    """The uncompressed files of a Qt resource collection (.rcc, version 3) by name."""
    tree, data, names = unpack_from(">3I", content, 8)
    files = {}
    for node in range(tree, len(content), 22):  # the tree comes last
        name, flags, _, start = unpack_from(">IHII", content, node)
        if flags == 0:  # neither a folder nor compressed
            (letters,), (size,) = unpack_from(">H", content, names + name), unpack_from(">I", content, data + start)
            text = content[names + name + 6 :][: 2 * letters].decode("utf-16-be")
            files[text] = content[data + start + 4 :][:size]
    return files


def photograph(name: str) -> Tensor:
    """A photo by its name, (1, 3, 224, 224) on the device."""
    package, folder, _ = SOURCES[name]
    packed = folder.endswith(".rcc")
    content = archive(package).extractfile(f"./usr/share/{folder}" + ("" if packed else f"/{name}.jpg")).read()
    return load_image(collected(content)[f"{name}.webp"] if packed else content).to(device())


def measure(cell: Row) -> Row:
    """Both attacks on one photo with a budget of 8/255; zero_out is judged on its PNG file.

    The cosines compare what the head reads, the features as means over positions, with those of the guide image.
    """
    name = cell["photo"]
    image, guide = photograph(name), picture(GUIDE)
    saved, steps, _ = attacked(vgg16(), f"photo-{name}", image, eps=8, steps=STEPS)
    matched = minimise_loss(vgg16(), feature_matching_loss(vgg16(), guide), image, steps=MATCHING_STEPS)
    three = torch.cat([image, matched, guide])
    cosines = torch.cosine_similarity(*extract_readouts(vgg16(), three).features.split([2, 1])).tolist()
    package, _, licence = SOURCES[name]
    row = {"package": package, "licence": licence} | judged(vgg16(), saved)
    row |= {"steps": steps, "ssim": difference(image, saved).ssim}
    row |= dict(zip(("clean answer", "matched answer", "guide's answer"), answers(six_classes(), three), strict=True))
    return row | dict(zip(("clean cosine", "matched cosine"), cosines, strict=True))


def main(options: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments photographs", description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=int, default=len(SOURCES), choices=range(1, len(SOURCES) + 1), metavar="N")
    given = parser.parse_args(options)
    names = list(SOURCES)
    chosen = [names[i * len(names) // given.photos] for i in range(given.photos)]
    fill(TABLES / "photographs.csv", [{"photo": name} for name in chosen], lambda cell: [measure(cell)])
    table = pd.read_csv(TABLES / "photographs.csv")
    print(f"exactly zero: {(table.left == 0).sum()} of {len(table)}, SSIM {table.ssim.median():.2f} (median)")
    others = table[table["clean answer"] != table["guide's answer"]]
    moved = (others["matched answer"] == others["guide's answer"]).sum()
    print(f"given the guide's answer: {moved} of {len(others)} with another one before")
