"""Figures of images and predictions show what they are given, and reach the notebook as one image with a text."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from nets import encoded, noise, picture
from PIL import Image

from helpers import plots
from helpers.plots import before_after, contrast, images_with_predictions, pictures, show

BEFORE = [("bird", 0.9), ("food", 0.06), ("flower", 0.04)]
AFTER = [("food", 0.5), ("flower", 0.3), ("bird", 0.2)]


pytestmark = pytest.mark.usefixtures("style")


def rendered(figure: Figure) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(plots.encode(figure))).convert("RGB"))


def pixels_in(page: np.ndarray, ax: Axes) -> np.ndarray:
    """What a page shows inside of these axes."""
    left, bottom, right, top = ax.get_window_extent().extents.round().astype(int)
    return page[len(page) - top : len(page) - bottom, left:right]


def classes(ax: Axes) -> list[str]:
    """The classes of a panel of bars, from top to bottom."""
    return [text.get_text().split()[0] for text in ax.texts]


def test_a_figure_is_displayed_with_its_text_and_a_caption_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    monkeypatch.setattr(plots, "display", lambda content, **settings: shown.append((content, settings)))
    show(pictures(noise(2), ["one", "two"]), "Two images of noise.")
    (content, settings), (caption, _) = shown
    assert content["text/plain"] == settings["metadata"]["image/png"]["alt"] == "Two images of noise."
    assert Image.open(io.BytesIO(content["image/png"])).format == "PNG" and not plt.get_fignums()
    assert caption.data == "*Two images of noise.*"


def test_a_large_photo_becomes_a_jpeg_close_to_its_pixels() -> None:
    level = np.random.default_rng(0).integers(100, 108, (700, 700, 3), dtype=np.uint8)
    png = encoded(level)
    content, _ = plots.described(png, "Grey noise")
    small = content["image/jpeg"]
    assert len(small) < len(png) and content["text/plain"] == "Grey noise"
    assert np.abs(np.asarray(Image.open(io.BytesIO(small)), int) - level).mean() < 3


def test_pixels_are_shown_as_they_are() -> None:
    """Whole magnifications: what is read off the page is what is in the file."""
    images = noise(7, size=112)
    figures = {
        "before and after": (before_after(images[:1], images[6:]), [0, 2], [0, 6]),
        "with bars": (before_after(images[:1], images[6:], BEFORE, AFTER), [0, 2], [0, 6]),
        "two rows": (pictures(images, "abcdefg", 5), range(7), range(7)),
        "beside bars": (images_with_predictions(list(images), [AFTER] * 7, "abcdefg", 3), range(0, 14, 2), range(7)),
    }
    for name, (figure, panels, shown) in figures.items():
        page = rendered(figure)
        assert page.shape[1] <= 1102, name
        for panel, i in zip(panels, shown, strict=True):
            level = (images[i] * 255).round().byte().permute(1, 2, 0).numpy()
            drawn = pixels_in(page, figure.axes[panel])
            factor = len(drawn) // 112
            assert np.array_equal(drawn, level.repeat(factor, 0).repeat(factor, 1)), (name, panel)


@pytest.mark.parametrize("level, factor", [(0, 50), (4, 30), (8, 10), (16, 5), (255, 1)])
def test_a_change_is_drawn_around_grey_as_large_as_it_stays_visible(level: int, factor: int) -> None:
    figure = before_after(picture(255.0), picture(255.0 - level))
    assert figure.axes[1].get_title() == f"change x {factor}"
    shown = pixels_in(rendered(figure), figure.axes[1])[9, 9].tolist()
    assert shown == pytest.approx([max(127.5 - factor * level, 0)] * 3, abs=1)


def test_the_same_classes_have_the_same_order_in_all_panels() -> None:
    _, first, _, second = images_with_predictions([noise()[0], None], [BEFORE, AFTER], "ab").axes
    assert classes(first) == classes(second) == ["bird", "food", "flower"]
    *_, first, second = before_after(noise(), noise(), BEFORE, AFTER).axes
    assert classes(first) == classes(second) == ["bird", "food", "flower"]
    assert classes(images_with_predictions(list(noise(2)), [AFTER, [("tub", 0.2)]], "ab").axes[3]) == ["tub"]


def test_names_of_classes_stay_beside_their_image_and_above_their_bars() -> None:
    prediction = [("American egret, great white heron, Egretta albus", 0.9 / (i + 1)) for i in range(5)]
    ax = images_with_predictions(list(noise(4, size=224)), [prediction] * 4, "abcd", 4).axes[1]
    ax.figure.draw_without_rendering()
    panel = ax.get_window_extent()
    texts, bars = ([item.get_window_extent() for item in items] for items in (ax.texts, ax.patches))
    assert all(text.x1 <= panel.x1 + plots.GAP for text in texts)
    assert all(text.y1 <= bar.y0 + 1 for text, bar in zip(texts[1:], bars[:-1], strict=True))


def test_tiny_probabilities_are_seen_beside_chance() -> None:
    tiny = [("bucket", 0.0045), ("tub", 0.0044)]
    ax = before_after(noise(), noise(), tiny, tiny, chance=0.001).axes[3]
    assert ax.patches[0].get_window_extent().width > 0.3 * ax.get_window_extent().width
    assert "(chance)" in ax.get_xticklabels()[0].get_text()


def test_contrast_keeps_zero_in_the_middle() -> None:
    assert contrast(torch.tensor([-250.0, 0.0, 125.0])).tolist() == pytest.approx([0, 0.5, 0.75])
    assert contrast(torch.zeros(2)).tolist() == [0.5, 0.5]
