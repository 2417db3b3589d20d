"""Make data/loop.gif: VGG-16 going blind on the albatross, step by step. Takes about a minute.

Each frame: the picture so far, its change amplified, and what a head for six classes says of it; below
them the count of outputs that are not zero. Every number is that of the step that is shown.
"""

import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from helpers.attack import zero_out
from helpers.images import DATA, load_image, load_photos, write_file
from helpers.networks import Classifier, train_head, vgg16_base
from helpers.plots import ATTACKED, THRESHOLD, amplification, image_on, use_style

EPS = 8 / 255
STEPS = 150  # the helper's own limit; the README's table allows 400 at this budget
FRAMES = 16  # at most; the first and the last are held
COLOURS, WHITE, GREY = 200, (255, 255, 255), (127, 127, 127)
INCHES = (5.6, 2.35)  # 560 pixels wide
Frame = tuple[int, Tensor, int]  # step, picture (3, H, W), outputs left


def choose(seen: list[Frame]) -> list[Frame]:
    """The first steps, in which the prediction changes, then steps between which the count falls by a like factor."""
    counts = torch.tensor([max(left, 0.5) for _, _, left in seen]).log()
    wanted = torch.linspace(counts[0].item(), counts[-1].item(), FRAMES)
    places = {int((counts <= level + 1e-6).nonzero()[0]) for level in wanted}
    return [seen[place] for place in sorted({0, 1, 2, *places, len(seen) - 1})]


def draw(frame: Frame, original: Tensor, classifier: Classifier, factor: int) -> Image.Image:
    """One frame as a picture."""
    step, image, left = frame
    says = classifier.probabilities(image[None])[0].tolist()
    figure, (first, second, bars) = plt.subplots(1, 3, figsize=INCHES, width_ratios=(1, 1, 0.95))
    image_on(first, image, f"step {step}")
    image_on(second, 0.5 + factor * (image - original), f"change x {factor}")
    best = max(says)
    bars.barh(range(len(says)), says, color=[THRESHOLD if p == best else "#a1a1aa" for p in says], height=0.6)
    bars.set(title="what it says", xlim=(0, 1), xticks=[0, 1], yticks=range(len(says)), yticklabels=classifier.labels)
    bars.tick_params(axis="y", length=0)
    bars.invert_yaxis()
    weight, colour = ("normal", THRESHOLD) if left else ("bold", ATTACKED)
    figure.supxlabel(f"outputs that are not zero: {left:,} of 25,088", fontsize=11, weight=weight, color=colour)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    plt.close(figure)
    return Image.open(content).convert("RGB")


def animate(pictures: list[Image.Image]) -> bytes:
    """An endless GIF in one palette, with the ground exactly white and no change exactly grey."""
    sheet = np.concatenate([np.asarray(pictures[place]) for place in (0, len(pictures) // 2, -1)])
    palette = Image.fromarray(sheet).quantize(COLOURS, dither=Image.Dither.NONE)
    palette.putpalette([*palette.getpalette()[: 3 * COLOURS], *WHITE, *GREY])
    frames = []
    for picture in pictures:
        frame, pixels = picture.quantize(palette=palette, dither=Image.Dither.NONE), np.asarray(picture)
        for place, colour in ((COLOURS, WHITE), (COLOURS + 1, GREY)):  # Pillow's search for the nearest is coarse
            frame.paste(place, mask=Image.fromarray((np.abs(pixels - np.int16(colour)) <= 1).all(2)))
        frames.append(frame)
    times = [1500, *[350] * (len(frames) - 2), 3000]  # milliseconds
    content = io.BytesIO()
    frames[0].save(content, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0, optimize=True)
    return content.getvalue()


def main() -> None:
    use_style()
    base, image = vgg16_base(), load_image(DATA / "images" / "albatross.png")
    classifier = train_head(base, *load_photos("train"))
    seen: list[Frame] = []

    def watch(step: int, x: Tensor, left: Tensor) -> None:
        seen.append((step, x[0].clone(), int(left[0])))

    result = zero_out(base, image, eps=EPS, steps=STEPS, on_step=watch)
    if result.nonzero != [0]:
        raise SystemExit(f"{result}: not exactly zero, so there is no loop to show")
    factor = amplification(seen[-1][1] - image)
    write_file(DATA / "loop.gif", animate([draw(frame, image[0], classifier, factor) for frame in choose(seen)]))


if __name__ == "__main__":
    main()
