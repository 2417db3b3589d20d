"""Attack the photos of notebooks 05 and 06, data/defences/: some forty minutes on two cores.

    python tools/make_defences.py          # goes on where it was stopped

Every second photo of the test split is attacked (the others calibrate detectors). The loss was
tried on photos of the training split; the views are the filters that restored most in notebook 05.
Pictures are lossless WebP: a fifth smaller than PNG, the same pixels.
"""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from helpers.attack import zero_out
from helpers.base import Base
from helpers.bypass import VIEWS, like, silent, steer
from helpers.images import DATA, load_image, load_photos, write_file
from helpers.networks import vgg16_base

FOLDER = DATA / "defences"
DONOR = 119  # of the training photos: a vehicle
STEPS = 200


def save_webp(image: Tensor, path: Path) -> None:
    """Write one picture (1, 3, H, W) on the 8-bit grid as lossless WebP; raise OSError if a pixel differs."""
    pixels = (image[0] * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="WEBP", lossless=True, quality=100, method=6)
    write_file(path, content.getvalue())
    if not torch.equal(load_image(path), image.cpu()):
        raise OSError(f"{path} does not read back as it was written")


def attack_all(name: str, images: Tensor, attack: Callable[[Tensor], Tensor]) -> None:
    """Attack pictures one by one into data/defences/name/; what is there already stays."""
    for number, image in enumerate(images.split(1)):
        path = FOLDER / name / f"{number:02d}.webp"
        if not path.exists():
            save_webp(attack(image), path)
            print(path.relative_to(DATA), flush=True)


def sanity(base: Base, images: Tensor, donor: Tensor) -> pd.DataFrame:
    """How near the donor pictures come, for growing budgets and growing numbers of steps: one row each."""
    loss, rows = like(base, donor), []
    cells = [(eps, 60) for eps in (0, 2, 4, 8, 16, 32, 255)] + [(8, steps) for steps in (0, 15, 30, 120)]
    for eps, steps in cells:
        changed = steer(base, loss, images, eps=eps / 255, steps=steps)
        with torch.no_grad():
            rows += [{"eps": eps, "steps": steps, "photo": i, "loss": x} for i, x in enumerate(loss(changed).tolist())]
        print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def main() -> int:
    base = vgg16_base()
    test, _ = load_photos("test")
    calibration, photos = test[::2], test[1::2]
    donor = load_photos("train")[0][DONOR : DONOR + 1]
    few = photos[::9]
    attack_all("zero", photos, lambda x: zero_out(base, x).images)
    attack_all("zero_calibration", calibration[::4], lambda x: zero_out(base, x).images)
    attack_all("alike", photos, lambda x: steer(base, like(base, donor), x, views=VIEWS, steps=STEPS))
    # Half of the steps above are on pictures without a filter; as many here.
    attack_all("alike_unfiltered", few, lambda x: steer(base, like(base, donor), x, steps=STEPS // 2))
    attack_all("zero_filtered", few, lambda x: steer(base, silent(base), x, views=VIEWS, steps=STEPS))
    path = FOLDER / "sanity.csv"
    if not path.exists():
        table = sanity(base, photos[::21], donor)
        write_file(path, table.to_csv(index=False, float_format=lambda x: f"{x:.6g}", lineterminator="\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
