"""Figures of tables show every value they are given."""

import matplotlib.pyplot as plt
import pytest
from pandas import DataFrame

from helpers.charts import MARKS, dots, histograms, name_ends, roc
from helpers.plots import curves, use_style


@pytest.fixture(autouse=True)
def clean() -> None:
    plt.close("all")
    use_style()


def test_dots_draw_each_row_and_column_once() -> None:
    table = DataFrame({"clean": [36, 34], "blinded": [7, 33]}, index=["a", "b"])
    (ax,) = dots(table, "right", 42, marks={"guessing": 12}).axes
    lines = {line.get_label(): list(line.get_xdata()) for line in ax.get_lines()}
    assert lines["clean"] == [36, 34] and lines["blinded"] == [7, 33]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first row is on top
    assert "guessing" in [text.get_text() for text in ax.texts]


def test_dots_draw_given_intervals() -> None:
    table, ends = DataFrame({"caught": [0.5]}, index=["a"]), DataFrame({"low": [0.2], "high": [0.7]}, index=["a"])
    (ax,) = dots(table, "share", 1, bars={"caught": ends}).axes
    assert ax.collections[0].get_segments()[0][:, 0].tolist() == [0.2, 0.7]


def test_equal_values_do_not_hide_each_other() -> None:
    (ax,) = dots(DataFrame({"a": [1], "b": [1], "c": [1]}, index=["x"]), "", 1, connect=False).axes
    heights = [line.get_ydata()[0] for line in ax.get_lines()]
    assert heights == sorted(set(heights)) and heights[1] == 0 and heights[-1] < 0.5
    assert not ax.collections


def test_only_two_and_more_series_have_a_legend() -> None:
    for columns in (1, 2):
        (ax,) = dots(DataFrame({f"{i}": [1, 2] for i in range(columns)}), "", 2).axes
        assert (ax.get_legend() is not None) == (columns > 1)


def test_what_has_no_mark_is_not_left_out() -> None:
    """One series per mark is drawn; one more is an error that names the number, and no figure is left behind."""
    full = {f"{i}": [1.0, 2.0] for i in range(len(MARKS))}
    (ax,) = dots(DataFrame(full), "", 2, connect=False).axes
    assert len(ax.get_lines()) == len(MARKS)
    (ax,) = histograms(full, "").axes
    assert sum(patch.get_height() for patch in ax.patches) == 2 * len(MARKS)
    plt.close("all")
    with pytest.raises(ValueError, match="5 columns"):
        dots(DataFrame({**full, "more": [1, 2]}), "", 2)
    with pytest.raises(ValueError, match="5 groups"):
        histograms({**full, "more": [1, 2]}, "")
    assert not plt.get_fignums()


def test_names_stand_at_the_ends_of_their_lines_and_apart() -> None:
    figure = curves({"high": [9, 8], "low": [5, 0], "also low": [7, 0]}, "step", "left")
    (ax,) = figure.axes
    name_ends(ax)
    places = {text.get_text(): (text.xy[1], text.xyann[1]) for text in ax.texts}
    assert places == {"high": (8, 0), "low": (0, 0), "also low": (0, 12)}
    assert ax.get_legend() is None
    assert len({line.get_color() for line in ax.get_lines()}) == 3
    assert len({str(line._dash_pattern) for line in ax.get_lines()}) == 3
    with pytest.raises(ValueError, match="8 lines"):
        name_ends(curves({str(i): [1, 2] for i in range(8)}, "", "").axes[0])


def test_histograms_count_every_value_on_common_edges() -> None:
    (ax,) = histograms({"clean": [1, 2, 3], "blinded": [0, 0]}, "length", limit=0.5, title="t").axes
    assert ax.get_title() == "t" and ax.get_xlabel() == "length"
    assert sum(patch.get_height() for patch in ax.patches) == 5
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["clean", "blinded", "threshold"]


def test_roc_draws_each_line() -> None:
    (ax,) = roc({"good": ([0, 0, 1], [0, 1, 1]), "bad": ([0, 1, 1], [0, 0, 1])}).axes
    assert list(ax.get_lines()[0].get_ydata()) == [0, 1, 1] and list(ax.get_lines()[1].get_ydata()) == [0, 0, 1]
