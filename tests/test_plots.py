"""Figures show what they are given, on one scale, and reach the notebook as one picture with a text."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from nets import noise, picture, ramp
from pandas import DataFrame
from PIL import Image

from helpers import plots
from helpers.images import DATA, load_image
from helpers.plots import (
    amplification,
    bars_on,
    contrast,
    curves,
    feature_maps,
    heat_map,
    pictures,
    show,
    spread,
    strip,
    use_style,
)

BEFORE = [("albatross", 0.98), ("gull", 0.01), ("goose", 0.004)]
AFTER = [("bucket", 0.0045), ("tub", 0.0044), ("hat", 0.0041)]


@pytest.fixture(autouse=True)
def clean() -> None:
    plt.close("all")
    plt.rcdefaults()
    use_style()


def titles(figure: Figure) -> list[str]:
    return [ax.get_title() for ax in figure.axes]


def drawn(figure: Figure) -> Image.Image:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return Image.open(content)


def test_show_displays_one_png_with_its_text_and_closes_the_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    monkeypatch.setattr(plots, "display", lambda *given, **settings: shown.append((given, settings)))
    show(curves({"a": [1, 2]}, "step", "outputs"), "A line that rises.")
    ((content,), settings) = shown[0]
    assert len(shown) == 1 and set(content) == {"image/png", "text/plain"}
    assert content["text/plain"] == settings["metadata"]["image/png"]["alt"] == "A line that rises."
    assert settings["raw"] is True
    with Image.open(io.BytesIO(content["image/png"])) as image:
        assert image.format == "PNG" and image.width == pytest.approx(600, abs=60)  # 6 inches, 100 dpi
        assert image.convert("RGB").getpixel((1, 1)) == (255, 255, 255)
    assert plt.get_fignums() == []


def test_a_picture_is_shown_closer_than_the_budget_of_the_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a JPEG: 256 colours would be off by up to 69 levels on the albatross, and by more than 8 in 4 % of pixels."""
    shown = []
    monkeypatch.setattr(plots, "display", lambda *given, **settings: shown.append((given, settings)))
    animals = [load_image(DATA / f"images/{name}.png")[0] for name in ("albatross", "cat")]
    figure = plots.answers(animals, [BEFORE, AFTER], ["one", "two"])
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # else a second drawing differs a little
    full = np.asarray(drawn(figure).convert("RGB"), int)
    show(figure, "Two animals and what a network says.")
    ((content,), settings) = shown[0]
    assert set(content) == {"image/jpeg", "text/plain"}
    assert settings["metadata"]["image/jpeg"]["alt"] == "Two animals and what a network says."
    with Image.open(io.BytesIO(content["image/jpeg"])) as image:
        assert image.format == "JPEG" and image.layer[0][1:3] == image.layer[1][1:3], "no colour subsampling"
        gap = np.abs(np.asarray(image.convert("RGB"), int) - full)
    assert gap.mean() < 1.5 and (gap.max(2) > 8).mean() < 0.06
    assert plt.get_fignums() == []


def test_the_architecture_names_its_layers_and_every_number_of_channels() -> None:
    kinds = [
        ("picture", 3, 8),
        ("Conv2d", 4, 8),
        ("Conv2d", 4, 8),
        ("MaxPool2d", 4, 4),
        ("Conv2d", 6, 4),
        ("MaxPool2d", 6, 2),
    ]
    (ax,) = plots.architecture([(kind, (channels, side, side)) for kind, channels, side in kinds]).axes
    texts = [text.get_text() for text in ax.texts]
    assert [text for text in texts if " x " not in text] == [
        "picture", "conv1_1", "conv1_2", "pool1", "conv2_1", "pool2",
    ]  # fmt: skip
    assert [text.split()[-1] for text in texts if " x " in text] == ["3", "4", "6", "6"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["picture", "convolution", "pooling"]


def test_figures_leave_their_tensors_alones_on_a_colour_map_are_no_picture() -> None:
    assert plots.holds_photo(pictures([picture(9.0)[0]], ["grey"]))
    assert not plots.holds_photo(feature_maps({"maps": torch.rand(2, 4, 4)}))
    assert not plots.holds_photo(curves({"a": [1, 2]}, "step", "outputs"))


@pytest.mark.parametrize("level, factor", [(1, 50), (2, 50), (4, 30), (8, 10), (16, 5), (32, 3), (64, 2), (255, 1)])
def test_a_change_is_amplified_as_far_as_it_stays_visible(level: int, factor: int) -> None:
    assert amplification(torch.tensor([0.0, -level / 255])) == factor


def test_no_change_is_amplified_without_a_division_by_zero() -> None:
    assert amplification(torch.zeros(3)) == 50


def test_the_strip_shows_the_change_around_grey_and_names_its_factor() -> None:
    original, attacked = picture(100.0), picture(108.0)
    figure = strip(original, attacked, BEFORE, AFTER)
    assert titles(figure) == ["original", "what it says", "change x 10", "attacked", "what it says now"]
    images = [ax.images[0].get_array() for ax in figure.axes if ax.images]
    for image, value in zip(images, (100 / 255, 0.5 + 10 * 8 / 255, 108 / 255), strict=True):
        assert image.shape == (8, 8, 3) and np.allclose(image, value, atol=1e-6)
    assert not any(ax.get_xticks().size for ax in figure.axes if ax.images), "no ticks on pictures"
    assert titles(strip(original, attacked)) == ["original", "change x 10", "attacked"]
    drawn(figure)


def test_bars_are_as_long_as_the_probabilities() -> None:
    _, ax = plt.subplots()
    bars_on(ax, BEFORE, "what it says")
    assert [bar.get_width() for bar in ax.patches] == [0.98, 0.01, 0.004]
    assert [text.get_text().split() for text in ax.texts] == [
        ["albatross", "0.98"], ["gull", "0.01"], ["goose", "0.004"],
    ]  # fmt: skip
    assert ax.get_xlim() == (0, 1), "so that bars of several panels can be compared"
    top, bottom = ax.patches[0].get_y(), ax.patches[-1].get_y()
    assert ax.transData.transform((0, top))[1] > ax.transData.transform((0, bottom))[1], "the best is on top"


@pytest.mark.parametrize("number, columns", [(1, 6), (6, 6), (7, 3)])
def test_pictures_all_have_their_place_and_title(number: int, columns: int) -> None:
    figure = pictures(noise(number), [f"photo {i}" for i in range(number)], columns)
    assert sum(bool(ax.images) for ax in figure.axes) == number
    assert [title for title in titles(figure) if title] == [f"photo {i}" for i in range(number)]
    assert not any(ax.axison for ax in figure.axes if not ax.images)
    drawn(figure)


def test_few_pictures_leave_no_blank_canvas() -> None:
    two, four = pictures(noise(2), "ab", 4), pictures(noise(4), "abcd", 4)
    assert two.get_figwidth() == four.get_figwidth() / 2 and two.get_figheight() == four.get_figheight()
    assert len(two.axes) == 2


@pytest.mark.parametrize("number, columns", [(5, 4), (6, 3), (3, 2)])
def test_labels_do_not_run_into_the_bar_above(number: int, columns: int) -> None:
    prediction = [(f"class {i}", 0.9 / (i + 1)) for i in range(number)]
    figure = plots.answers(list(noise(columns)), [prediction] * columns, ["title"] * columns, columns)
    figure.draw_without_rendering()
    for ax in figure.axes[1::2]:
        labels = [text.get_window_extent() for text in ax.texts]
        bars = [bar.get_window_extent() for bar in ax.patches]
        assert all(label.y1 <= bar.y0 + 1 for label, bar in zip(labels[1:], bars[:-1], strict=True))
        assert all(label.y0 >= bar.y1 - 1 for label, bar in zip(labels, bars, strict=True))


def test_feature_maps_share_one_scale() -> None:
    maps = {"before": torch.arange(8.0).view(2, 2, 2), "after": torch.zeros(2, 2, 2)}
    figure = feature_maps(maps, ["map 0", "map 1"])
    limits = {ax.images[0].get_clim() for ax in figure.axes if ax.images}
    assert limits == {(0, 7)}
    assert [ax.get_ylabel() for ax in figure.axes if ax.get_ylabel()] == ["before", "after"]
    assert [title for title in titles(figure) if title] == ["map 0", "map 1"]
    drawn(figure)


def test_rows_of_feature_maps_may_have_any_length() -> None:
    figure = feature_maps({"one": torch.zeros(1, 2, 2), "three": torch.ones(3, 2, 2)}, titles=["a", "b", "c"])
    *panels, bar = figure.axes
    assert [len(ax.images) for ax in panels] == [1, 0, 0, 1, 1, 1]
    assert [ax.axison for ax in panels] == [True, False, False, True, True, True]
    assert [ax.get_title() for ax in panels[:3]] == ["a", "b", "c"]
    assert all(image.get_clim() == (0, 1) for ax in panels for image in ax.images) and bar.get_ylim() == (0, 1)


def test_feature_maps_that_are_all_zero_can_be_drawn() -> None:
    drawn(feature_maps({"blind": torch.zeros(3, 4, 4)}))


@pytest.mark.parametrize("count", [3, 13, 21, 26])
def test_counted_steps_have_whole_numbers_below_them(count: int) -> None:
    figure = curves({"a": range(count)}, "step", "outputs")
    assert all(tick == round(tick) for tick in figure.axes[0].get_xticks())
    plt.close(figure)


def test_curves_draw_the_given_values() -> None:
    figure = curves({"a": [5, 3, 0], "b": [4, 4, 4]}, "step", "outputs left", log=True, title="two runs")
    (ax,) = figure.axes
    assert [line.get_ydata().tolist() for line in ax.lines] == [[5, 3, 0], [4, 4, 4]]
    assert [line.get_xdata().tolist() for line in ax.lines] == [[0, 1, 2]] * 2
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("step", "outputs left", "two runs")
    assert ax.get_yscale() == "symlog", "zero has no place on a plain logarithmic axis"
    assert ax.get_ylim()[0] == 0
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    assert len({line.get_linestyle() for line in ax.lines}) == 2, "told apart without colours, too"
    drawn(figure)


def test_ticks_of_counts_are_plain_numbers() -> None:
    def ticks(high: float) -> list[str]:
        figure = curves({"a": [high, 0]}, "step", "outputs left", log=True)
        figure.draw_without_rendering()
        return [label.get_text() for label in figure.axes[0].get_yticklabels()]

    assert ticks(4) == ["0", "1", "2", "5"], "a dot at 4 can be read"
    assert ticks(12) == ["0", "1", "2", "5", "10", "20"]
    assert ticks(3000) == ["0", "1", "10", "100", "1,000"]


def test_stairs_have_no_slopes() -> None:
    figure = curves({"a": [0, 0.5, 1]}, "budget", "share", stairs=True)
    assert figure.axes[0].lines[0].get_drawstyle() == "steps-post"


def test_a_spread_joins_values_in_an_order_and_only_those() -> None:
    values = {1: [90, 70], 2: [5, 9], 16: [0, 0]}
    line, *dots = spread({"budget": values}, "outputs left", xlabel="grey levels").axes[0].lines
    assert line.get_ydata().tolist() == [80, 7, 0] and line.get_linestyle() == "-"
    assert [sorted(dot.get_ydata()) for dot in dots] == [sorted(numbers) for numbers in values.values()]
    names = {"b": [9, 7], "a": [1, 1], "c": [0, 4]}
    (ax,) = spread({"loss": names}, "outputs left", ordered=False).axes
    assert ax.lines[0].get_linestyle() == "None" and ax.lines[0].get_ydata().tolist() == [1, 2, 8]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "c", "b"]


def test_single_panels_of_a_spread_can_be_left_unjoined_in_their_order() -> None:
    names = {"b": [9, 7], "a": [1, 1]}
    left, right = spread({"seed": names, "budget": {1: [9], 2: [5]}}, "outputs left", unjoined={"seed"}).axes
    assert left.lines[0].get_linestyle() == "None" and right.lines[0].get_linestyle() == "-"
    assert [label.get_text() for label in left.get_xticklabels()] == ["b", "a"]


def test_a_spread_can_place_numbers_where_they_lie_and_name_its_axes() -> None:
    panels = {"small": {1: [9], 2: [5], 16: [0]}, "large": {4: [7], 8: [0]}}
    left, right = spread(panels, "outputs left", even=False, xlabel={"large": "budget"}).axes
    assert left.lines[0].get_xdata().tolist() == [1, 2, 16]
    assert (left.get_xlabel(), right.get_xlabel()) == ("", "budget")


def test_a_spread_tells_a_small_share_from_zero() -> None:
    figure = spread({"layer": {"pool4": [14.0], "pool5": [0.02, 0.0]}}, "% of outputs", least=0.01)
    figure.draw_without_rendering()
    (ax,) = figure.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0", "0.01", "0.1", "1", "10"]
    zero, small = (ax.transData.transform((0, value))[1] for value in (0, 0.02))
    assert small - zero > 10, "pixels"


def test_a_heat_map_can_be_centred_on_a_value() -> None:
    table = DataFrame({"0": [1.0, 0.2], "1": [1.4, 0.0]}, index=["conv", "pool"])
    (image,) = heat_map(table, "step", cmap="PuOr", high=1.5, centre=1).axes[0].images
    assert isinstance(image.norm, TwoSlopeNorm) and image.norm(1.0) == 0.5
    assert heat_map(table, "step").axes[0].images[0].get_clim() == (0, 1)


def test_a_single_curve_needs_no_legend() -> None:
    figure = curves({"a": [1, 2]}, "eps", "share", x=[4, 8])
    assert figure.axes[0].lines[0].get_xdata().tolist() == [4, 8]
    assert figure.axes[0].get_legend() is None


@pytest.mark.parametrize("scale", [1e-3, 1.0, 250.0])
def test_contrast_keeps_zero_in_the_middle_and_fills_the_scale(scale: float) -> None:
    change = scale * torch.tensor([-1.0, 0.0, 0.5])
    assert contrast(change).tolist() == pytest.approx([0, 0.5, 0.75])
    assert contrast(torch.zeros(2)).tolist() == [0.5, 0.5]


def test_figures_leave_their_tensors_alone() -> None:
    original, attacked = ramp(), noise()
    before = original.clone(), attacked.clone()
    strip(original.requires_grad_(), attacked)
    assert torch.equal(original, before[0]) and torch.equal(attacked, before[1])


def test_there_is_a_style_also_for_older_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    """petroff10 came with 3.10; the older colour-blind-safe style stands in."""
    monkeypatch.setattr(plt.style, "available", [name for name in plt.style.available if name != "petroff10"])
    use_style()
    assert plt.rcParams["figure.facecolor"] == "white"
