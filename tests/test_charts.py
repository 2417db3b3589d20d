"""Figures of numbers and feature maps show every value they are given."""

import pytest
import torch
from matplotlib.axes import Axes
from pandas import DataFrame

from helpers import plots
from helpers.charts import channel_mosaic, curves, dot_plot, feature_maps, heat_map, label_line_ends, strip_plot
from helpers.defence.charts import chain, histograms, roc_curves

pytestmark = pytest.mark.usefixtures("style")


def ticks(ax: Axes, axis: str = "y") -> list[str]:
    ax.figure.draw_without_rendering()
    return [label.get_text() for label in getattr(ax, f"get_{axis}ticklabels")()]


def test_curves_draw_each_entry_with_its_name() -> None:
    (ax,) = curves({"a": [5, 3, 0], "b": [4, 4, 4]}, "step", "active features").axes
    assert [line.get_ydata().tolist() for line in ax.lines] == [[5, 3, 0], [4, 4, 4]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    assert len({str(line._dash_pattern) for line in ax.lines}) == 2, "told apart without colours, too"


@pytest.mark.parametrize("high, inside", [(12, ["0", "1", "2", "5", "10"]), (3000, ["0", "1", "10", "100", "1,000"])])
def test_a_logarithmic_axis_has_plain_numbers_and_a_place_for_zero(high: int, inside: list[str]) -> None:
    labels = ticks(curves({"a": [high, 0]}, "step", "active features", log=True).axes[0])
    assert [label for label in labels if 0 <= float(label.replace(",", "")) <= high] == inside


def test_a_concept_has_one_colour_in_every_figure() -> None:
    pair = {"clean": [1.0, 2.0], "attacked": [0.0, 3.0]}
    (line, dot), (clean, attacked) = (
        [item.get_color() for item in figure.axes[0].lines]
        for figure in (curves(pair, "", ""), dot_plot(DataFrame(pair), "", 3))
    )
    assert (line, dot) == (clean, attacked) == (plots.CLEAN, plots.ATTACKED)


def test_names_are_at_the_ends_of_their_lines_and_apart() -> None:
    (ax,) = curves({"high": [9, 8], "low": [5, 0], "also low": [7, 0]}, "step", "active").axes
    label_line_ends(ax)
    places = {text.get_text(): (text.xy[1], text.xyann[1]) for text in ax.texts}
    assert places == {"high": (8, 0), "low": (0, 0), "also low": (0, 12)} and ax.get_legend() is None


def test_a_small_table_carries_its_numbers_and_a_large_one_a_scale() -> None:
    small = heat_map(DataFrame([[0, 3000], [5, 0]], index=[15, 30]), "step size", "steps")
    assert [text.get_text() for text in small.axes[0].texts] == ["0", "3,000", "5", "0"] and len(small.axes) == 1
    large = heat_map(DataFrame([[0.5] * 70]), "step", centre=1, high=1.5)
    assert large.axes[0].images[0].norm(1) == 0.5 and len(large.axes) == 2


def test_a_strip_plot_joins_the_medians_of_numbers_and_not_of_names() -> None:
    panels = {"budget": {1: [90, 70], 2: [5, 9], 16: [0, 9, 0]}, "loss": {"b": [9, 7], "a": [1, 1]}}
    left, right = strip_plot(panels, "active features").axes
    assert left.lines[0].get_ydata().tolist() == [80, 7, 0] and left.lines[0].get_linestyle() == "-"
    assert right.lines[0].get_ydata().tolist() == [8, 1] and right.lines[0].get_linestyle() == "None"
    assert [sorted(dots.get_ydata()) for dots in left.lines[1:]] == [[70, 90], [5, 9], [0, 0, 9]]
    assert ticks(right, "x") == ["b", "a"]


def test_a_strip_plot_can_be_to_scale_and_show_small_shares() -> None:
    (ax,) = strip_plot({"budget": {1: [14], 16: [0.02]}}, "%", to_scale=True, least=0.01, xlabel="k").axes
    assert ax.lines[0].get_xdata().tolist() == [1, 16] and ax.get_xlabel() == "k"
    assert {"0", "0.01", "0.1", "1", "10"} <= set(ticks(ax))


def test_a_dot_plot_has_each_value_beside_its_interval_and_the_marks() -> None:
    table, ends = DataFrame({"a": [36, 34], "b": [36, 3]}, index=["x", "y"]), DataFrame([[30, 40], [29, 39]])
    (ax,) = dot_plot(table, "correct", 42, marks={"chance": 7}, intervals={"a": ends}).axes
    values = {line.get_label(): list(line.get_xdata()) for line in ax.lines}
    assert values["a"] == [36, 34] and values["b"] == [36, 3]
    assert ax.lines[0].get_ydata()[0] < ax.lines[1].get_ydata()[0], "equal values do not hide each other"
    assert [segment[:, 0].tolist() for segment in ax.collections[0].get_segments()] == [[30, 40], [29, 39]]
    assert ticks(ax) == ["x", "y"] and ax.texts[0].get_text() == "chance"


def test_histograms_count_every_value() -> None:
    (ax,) = histograms({"clean": [1, 2, 3], "zeroed": [0, 0]}, "norm", threshold=0.5).axes
    assert sum(patch.get_height() for patch in ax.patches) == 5
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["clean", "zeroed", "threshold"]


def test_receiver_operating_curves_name_their_area() -> None:
    clean, attacked = DataFrame({"norm": [0, 1], "other": [0, 1]}), DataFrame({"norm": [2, 3], "other": [0, 1]})
    (ax,) = roc_curves(clean, attacked, ["norm", "other"]).axes
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["norm, AUROC 1.00", "other, AUROC 0.50", "chance"]


def test_a_chain_has_an_arrow_between_boxes_and_a_cross_where_a_defence_is_bypassed() -> None:
    stages, notes = ["image", "filter", "head"], {"filter": "blur", "head": "norm"}
    (ax,) = chain(stages, attacks={"image": "changed"}, defences=notes, bypassed=["head"]).axes
    texts = {text.get_text(): text for text in ax.texts}
    assert texts.keys() == {*stages, "", "changed", "blur", "norm"}, "the arrows between boxes carry no text"
    colours = [texts[name].get_color() for name in ("changed", "blur", "norm")]
    assert colours == [plots.ATTACKED, plots.CLEAN, plots.RANDOM]
    assert [line.get_xdata()[0] for line in ax.lines] == [2]


def test_rows_of_feature_maps_share_one_scale() -> None:
    figure = feature_maps({"before": torch.arange(12.0).view(3, 2, 2), "zeroed": torch.zeros(3, 2, 2)}, "abc")
    images = [image for ax in figure.axes for image in ax.images]
    assert len(images) == 6 and {image.get_clim() for image in images} == {(0, 11)}
    assert [ax.get_title() for ax in figure.axes[:4]] == ["a", "b", "c", ""]


@pytest.mark.parametrize("draw", [feature_maps, channel_mosaic])
def test_zeroed_maps_can_be_drawn(draw: object) -> None:
    assert plots.encode(draw({"zeroed": torch.zeros(3, 4, 4)}))


def test_a_mosaic_has_a_tile_for_each_channel() -> None:
    maps = torch.arange(5.0).view(5, 1, 1).expand(5, 2, 2)
    (tiles,) = channel_mosaic({"pool5": maps}, across=3).axes[0].images
    assert tiles.get_array()[1::3, 1::3].ravel()[:5].tolist() == [0, 1, 2, 3, 4]
