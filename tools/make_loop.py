"""Make data/loop.gif: VGG-16 going blind on the albatross, step by step. Takes about two minutes.

Each frame: the image so far, its change amplified, and what a head for six classes says of it; below them the number of
features left. Every number is that of the step that is shown. The attack is the least visible change.
"""

import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib

matplotlib.use("Agg")
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from helpers.attack import zero_out
from helpers.images import DATA, load_image, load_photos, write_file
from helpers.networks import Classifier, train_head, vgg16_base
from helpers.plots import ATTACKED, CLEAN, bars_on, encode, image_on, panels, use_style

STEPS = 100  # of the attack: half of its default, after which the change shrinks little
FIRST, BETWEEN, AFTER = 5, 6, 3  # frames: the first steps, on the way to zero, and zeroed
FACTOR = 4  # of the change, as in data/hero.png
SIDE, BARS = 224, 190  # pixels: of an image, of the bars beside it
Frame = tuple[int, Tensor, int]  # step, image (3, H, W), features left


def choose(seen: list[Frame]) -> list[Frame]:
    """The first steps, in which the answer changes, steps on the way to zero, and zeroed images up to the last one."""
    counts = [left for _, _, left in seen]
    zero = [place for place, left in enumerate(counts) if left == 0]
    levels = torch.linspace(np.log(counts[FIRST]), 0, BETWEEN).exp().tolist()  # the count falls by a like factor
    way = [next(place for place, left in enumerate(counts) if left <= level + 0.5) for level in levels]
    after = [zero[round(i * (len(zero) - 1) / AFTER)] for i in range(AFTER + 1)]
    return [seen[place] for place in sorted({*range(FIRST), *way, *after})]


def draw(frame: Frame, original: Tensor, classifier: Classifier) -> Image.Image:
    """One frame as a picture."""
    step, image, left = frame
    says = classifier.probabilities(image[None])[0].tolist()
    first, second, bars = panels([(SIDE, SIDE), (SIDE, SIDE), (BARS, SIDE)], below=44)
    image_on(first, image, f"step {step}")
    image_on(second, 0.5 + FACTOR * (image - original), f"change x {FACTOR}")
    bars_on(bars, list(zip(classifier.labels, says, strict=True)), "what the network says")
    weight, colour = ("normal", CLEAN) if left else ("bold", ATTACKED)
    text = f"features left: {left:,} of 25,088"
    first.figure.text(0.5, 0.04, text, ha="center", fontsize=13, weight=weight, color=colour)
    return Image.open(io.BytesIO(encode(first.figure))).convert("RGB")


def animate(pictures: list[Image.Image], times: list[int]) -> bytes:
    """An endless GIF; each frame has the 256 colours that suit it best. times: of each frame, in milliseconds."""
    frames = [picture.quantize(256, kmeans=2, dither=Image.Dither.NONE) for picture in pictures]
    content = io.BytesIO()
    frames[0].save(content, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0, disposal=1)
    return content.getvalue()


def main() -> None:
    use_style()
    base, image = vgg16_base(), load_image(DATA / "images" / "albatross.png")
    classifier = train_head(base, *load_photos("train"))
    seen: list[Frame] = []

    def watch(step: int, x: Tensor, left: Tensor) -> None:
        seen.append((step, x[0].clone(), int(left[0])))

    result = zero_out(base, image, eps=None, steps=STEPS, on_step=watch)
    if result.nonzero != [0]:
        raise SystemExit(f"{result}: not exactly zero, so there is no loop to show")
    chosen = choose(seen)
    times = [1500 if step == 0 else 700 if step < FIRST else 450 for step, _, _ in chosen]
    times[-1] = 3000
    write_file(DATA / "loop.gif", animate([draw(frame, image[0], classifier) for frame in chosen], times))


if __name__ == "__main__":
    main()
