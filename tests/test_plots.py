"""Figures of images and feature maps show what they are given, and reach the notebook as one image with a text."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from nets import noise, picture
from PIL import Image

from helpers import plots
from helpers.plots import (
    amplification,
    before_after,
    channel_mosaic,
    contrast,
    feature_maps,
    images_with_predictions,
    pictures,
    show,
)

SIX = ("bird", "flower", "food", "insect", "mammal", "vehicle")
BEFORE = [("bird", 0.9), ("food", 0.06), ("flower", 0.04)]
AFTER = [("food", 0.5), ("flower", 0.3), ("bird", 0.2)]


@pytest.fixture(autouse=True)
def style() -> None:
    plt.close("all")
    plots.use_style()


def rendered(figure: Figure) -> np.ndarray:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=plots.DPI)
    return np.asarray(Image.open(content).convert("RGB"))


def window(page: np.ndarray, left: int, top: int, side: int) -> np.ndarray:
    return page[top : top + side, left : left + side]


def titles(figure: Figure) -> list[str]:
    return [ax.get_title() for ax in figure.axes if ax.get_title()]


def labels(figure: Figure) -> list[list[str]]:
    """The classes of each panel of bars, from top to bottom."""
    return [[text.get_text().split()[0] for text in ax.texts] for ax in figure.axes if ax.patches and ax.texts]


def bytes_of(image: torch.Tensor) -> np.ndarray:
    return (image[0] * 255).round().byte().permute(1, 2, 0).numpy()


def test_a_figure_is_displayed_once_with_its_text_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    monkeypatch.setattr(plots, "display", lambda content, **settings: shown.append((content, settings["metadata"])))
    show(pictures(noise(2), ["one", "two"]), "Two images of noise.")
    ((content, metadata),) = shown
    assert content["text/plain"] == metadata["image/png"]["alt"] == "Two images of noise."
    assert Image.open(io.BytesIO(content["image/png"])).format == "PNG" and not plt.get_fignums()


def test_only_a_large_photo_becomes_a_jpeg_close_to_its_pixels() -> None:
    level = np.random.default_rng(0).integers(100, 108, (700, 700, 3), dtype=np.uint8)
    small, large = Image.fromarray(level[:99]), Image.fromarray(level)
    assert plots.compress(small)[0] == "image/png"
    kind, content = plots.compress(large)
    assert kind == "image/jpeg" and len(content) < 1_000_000
    assert np.abs(np.asarray(Image.open(io.BytesIO(content)), int) - level).mean() < 3


@pytest.mark.parametrize("bars", [(), (BEFORE, AFTER)], ids=["images", "bars"])
def test_images_before_and_after_are_shown_pixel_by_pixel(bars: tuple) -> None:
    original, attacked = noise(seed=1, size=224), noise(seed=2, size=224)
    page = rendered(before_after(original, attacked, *bars))
    assert np.array_equal(window(page, 0, 26, 224), bytes_of(original))
    assert np.array_equal(window(page, 480, 26, 224), bytes_of(attacked))
    assert page.shape[1] <= 1100


def test_the_zoom_shows_each_pixel_as_four_by_four() -> None:
    original, attacked = noise(seed=1, size=224), noise(seed=2, size=224)
    page = rendered(before_after(original, attacked, BEFORE, AFTER, zoom=(20, 30)))
    for left, image in ((0, original), (656, attacked)):
        cut = bytes_of(image)[30:130, 20:120]
        assert np.array_equal(window(page, left, 276, 400), cut.repeat(4, 0).repeat(4, 1))


def test_the_change_is_drawn_around_grey_and_names_its_factor() -> None:
    figure = before_after(picture(100.0), picture(108.0))
    assert titles(figure) == ["change x 10", "original", "attacked"]
    assert rendered(figure)[100, 400].tolist() == pytest.approx([127.5 + 80] * 3, abs=1)


@pytest.mark.parametrize("level, factor", [(0, 50), (1, 50), (4, 30), (8, 10), (16, 5), (64, 2), (255, 1)])
def test_a_change_is_amplified_as_far_as_it_stays_visible(level: int, factor: int) -> None:
    assert amplification(torch.tensor([0.0, -level / 255])) == factor


def test_the_same_classes_have_the_same_order_in_all_panels() -> None:
    order = ["bird", "food", "flower"]
    assert labels(images_with_predictions([noise()[0], None], [BEFORE, AFTER], "ab")) == [order, order]
    assert labels(before_after(noise(), noise(), BEFORE, AFTER))[-2:] == [order, order]
    other = [("tub", 0.2)]
    assert labels(images_with_predictions(list(noise(2)), [AFTER, other], "ab"))[1] == ["tub"]


@pytest.mark.parametrize("count, columns", [(3, 2), (6, 3), (3, 4)])
def test_labels_do_not_run_into_bars(count: int, columns: int) -> None:
    prediction = [(name, 0.9 / (i + 1)) for i, name in enumerate(SIX[:count])]
    figure = images_with_predictions(list(noise(columns, size=224)), [prediction] * columns, SIX[:columns], columns)
    figure.draw_without_rendering()
    for ax in figure.axes[1::2]:
        texts, bars = ([item.get_window_extent() for item in items] for items in (ax.texts, ax.patches))
        assert all(text.y1 <= bar.y0 + 1 for text, bar in zip(texts[1:], bars[:-1], strict=True))


def test_tiny_probabilities_are_seen_beside_chance() -> None:
    figure = images_with_predictions([noise()[0]], [[("bucket", 0.0045), ("tub", 0.0044)]], ["x"], chance=0.001)
    bar = figure.axes[1].patches[0].get_window_extent()
    assert bar.width > 0.3 * figure.axes[1].get_window_extent().width
    assert "(chance)" in figure.axes[1].get_xticklabels()[0].get_text()


@pytest.mark.parametrize("count, columns", [(1, 6), (7, 3)])
def test_every_image_has_its_place_and_title(count: int, columns: int) -> None:
    names = [f"image {i}" for i in range(count)]
    figure = pictures(noise(count), names, columns)
    assert titles(figure) == names and len({ax.get_position().p0.tobytes() for ax in figure.axes}) == count


def test_rows_of_feature_maps_share_one_scale_and_may_have_any_length() -> None:
    figure = feature_maps({"before": torch.arange(12.0).view(3, 2, 2), "zeroed": torch.zeros(1, 2, 2)}, "abc")
    images = [image for ax in figure.axes for image in ax.images]
    assert len(images) == 4 and {image.get_clim() for image in images} == {(0, 11)}
    assert titles(figure) == ["a", "b", "c"]


@pytest.mark.parametrize("draw", [feature_maps, channel_mosaic])
def test_zeroed_maps_can_be_drawn(draw: object) -> None:
    assert rendered(draw({"zeroed": torch.zeros(3, 4, 4)})).size


def test_a_mosaic_has_a_tile_for_each_channel() -> None:
    maps = torch.arange(5.0).view(5, 1, 1).expand(5, 2, 2)
    (tiles,) = channel_mosaic({"pool5": maps}, across=3).axes[0].images
    corners = tiles.get_array()[1::3, 1::3]
    assert corners.ravel()[:5].tolist() == [0, 1, 2, 3, 4]


def test_contrast_keeps_zero_in_the_middle() -> None:
    assert contrast(torch.tensor([-250.0, 0.0, 125.0])).tolist() == pytest.approx([0, 0.5, 0.75])
    assert contrast(torch.zeros(2)).tolist() == [0.5, 0.5]


def test_figures_leave_their_tensors_alone() -> None:
    original, attacked = noise(seed=1).requires_grad_(), noise(seed=2)
    copies = original.clone(), attacked.clone()
    before_after(original, attacked)
    assert torch.equal(original, copies[0]) and torch.equal(attacked, copies[1])
