"""The sliders' plain functions, and that moving a slider changes the picture; no browser needed."""

import io
import time
import types
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from helpers import sliders
from helpers.images import DATA, load_image


def size_of(content: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(content)).size


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[dict, dict]]]:
    """What browse displays: pairs of data and metadata."""
    seen: list[tuple[dict, dict]] = []
    monkeypatch.setattr(
        sliders, "display", lambda data, raw=False, metadata=None: seen.append((data, metadata)) or [raw] == [True]
    )
    yield seen


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[widgets.Widget]]:
    """All widgets that browse makes, in order."""
    seen: list[widgets.Widget] = []
    widgets.Widget.on_widget_constructed(seen.append)
    yield seen
    widgets.Widget.on_widget_constructed(None)


def test_encode_takes_figures_tensors_and_pictures() -> None:
    figure, _ = plt.subplots(figsize=(2, 1), dpi=100)
    assert size_of(sliders.encode(figure)) == (200, 100)
    assert not plt.fignum_exists(figure.number)
    image = torch.rand(3, 8, 6)
    back = torch.from_numpy(np.array(Image.open(io.BytesIO(sliders.encode(image)))))
    assert torch.equal(back, (image * 255).round().byte().movedim(0, -1))
    assert size_of(sliders.encode(Image.new("RGB", (5, 4)), "jpeg")) == (5, 4)


def test_frames_are_made_once_and_a_still_is_small() -> None:
    made = sliders.frames([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)], "jpeg")
    assert len(made) == 2 and made[0] != made[1]
    photo = sliders.encode(load_image(DATA / "images" / "albatross.png"))
    kind, content = sliders.as_still(photo)
    still = Image.open(io.BytesIO(content))
    assert kind == "image/jpeg" and still.format == "JPEG" and still.size == (224, 224)
    assert len(content) < len(photo)
    gap = np.abs(np.asarray(still, int) - np.asarray(Image.open(io.BytesIO(photo)), int))
    assert gap.mean() < 1.2 and (gap.max(2) > 8).mean() < 0.02, "closer to the picture than the attack"


def test_a_still_of_a_drawing_is_a_png_of_few_colours() -> None:
    figure, ax = plt.subplots(figsize=(4, 3), dpi=100)
    ax.plot([3, 1, 2], label="a line")
    ax.legend()
    for picture in (figure, sliders.map_picture({"a": torch.rand(9, 9)}, 1.0)):
        kind, content = sliders.as_still(sliders.encode(picture))
        assert kind == "image/png" and Image.open(io.BytesIO(content)).mode == "P"


def test_maps_share_one_colour_scale() -> None:
    dark, bright = torch.zeros(2, 2), torch.full((2, 2), 5.0)
    sheet = sliders.map_picture({"a": dark, "b": bright}, high=5.0, side=40)
    assert sheet.size == (100 + sliders.BAR, 64)
    left, right = sheet.getpixel((20, 40)), sheet.getpixel((70, 40))
    assert left == (68, 1, 84) and right == (253, 231, 36)  # viridis from end to end
    assert sheet.getpixel((105, 24)) == right and sheet.getpixel((105, 63)) == left, "the scale, 0 below"
    again = sliders.map_picture({"a": dark, "b": dark}, high=0.0, side=40)  # an empty layer is no error
    assert again.getpixel((20, 40)) == again.getpixel((70, 40)) == left


def test_browse_shows_a_widget_with_its_still(shown: list, made: list) -> None:
    pictures = {(step, name): sliders.encode(torch.full((3, 8, 8), step / 4)) for step in (0, 2, 4) for name in "ab"}
    sliders.browse(
        {"step": [0, 2, 4], "name": "ab"},
        lambda step, name: pictures[step, name],
        alt="Squares of grey",
        start={"step": 2},
    )
    data, metadata = shown[0]
    assert data["text/plain"] == "Squares of grey" == metadata["image/png"]["alt"]
    assert data["image/png"] == sliders.as_still(pictures[2, "a"])[1]
    assert "application/vnd.jupyter.widget-view+json" in data
    image = next(w for w in made if isinstance(w, widgets.Image))
    step, name = (w for w in made if isinstance(w, widgets.SelectionSlider))
    assert bytes(image.value) == pictures[2, "a"]
    step.value = 4
    assert bytes(image.value) == pictures[4, "a"]
    name.value = "b"
    step.index = 0  # what Play sets
    assert bytes(image.value) == pictures[0, "b"]
    play = next(w for w in made if isinstance(w, widgets.Play))
    assert (play.min, play.value, play.max) == (0, 1, 2)


def test_a_still_can_show_all_choices_at_once(shown: list, made: list) -> None:
    figure, _ = plt.subplots(figsize=(3, 2), dpi=100)
    one = sliders.encode(Image.new("RGB", (8, 8)))
    sliders.browse({"step": [1, 2]}, lambda step: one, alt="All of them", still=figure)
    assert size_of(shown[0][0]["image/png"]) == (300, 200)
    assert bytes(next(w for w in made if isinstance(w, widgets.Image)).value) == one


def test_a_move_over_feature_maps_answers_at_once() -> None:
    maps = {name: torch.rand(224, 224) for name in "abc"}
    times = []
    for _ in range(5):
        start = time.perf_counter()
        sliders.encode(sliders.map_picture(maps, 1.0))
        times.append(time.perf_counter() - start)
    assert min(times) < 0.25  # about 30 ms alone; room for a busy machine


def test_bad_input_is_one_clear_error() -> None:
    with pytest.raises(ValueError, match="layer has no values"):
        sliders.browse({"layer": []}, lambda layer: b"", alt="")


def upload_of(name: str, content: bytes, version: int) -> object:
    """What a FileUpload's value is after a file was chosen, in ipywidgets 7 and 8."""
    if version == 7:
        return {name: {"metadata": {"name": name}, "content": content}}
    return ({"name": name, "type": "image/png", "size": len(content), "content": memoryview(content)},)


@pytest.mark.parametrize("version", [7, 8])
def test_an_uploaded_file_is_read_in_both_versions(version: int) -> None:
    button = types.SimpleNamespace(value=upload_of("me.png", b"pixels", version))
    assert sliders.uploaded(button) == ("me.png", b"pixels")
    button.value = {} if version == 7 else ()
    assert sliders.uploaded(button) is None


def test_the_button_for_a_file_has_a_line_for_viewers_without_a_kernel(shown: list) -> None:
    button = sliders.choose_file()
    (data, _) = shown[0]
    assert "button to upload" in data["text/plain"]
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == button.model_id
    assert sliders.uploaded(button) is None


def test_the_laboratory_runs_on_an_uploaded_file(shown: list, made: list, tmp_path: Path) -> None:
    given = []

    def run(picture: object, on_step: object) -> None:
        given.append(picture)
        raise ValueError("seen")

    first = sliders.Trial(sliders.encode(Image.new("RGB", (8, 8))), "nothing yet", None, None)
    sliders.laboratory({"picture": ["cat"]}, run, first, folder=tmp_path, alt="A cat", upload="picture")
    (menu,) = (w for w in made if isinstance(w, widgets.Dropdown))
    (button,) = (w for w in made if isinstance(w, widgets.FileUpload))
    go = next(w for w in made if isinstance(w, widgets.Button) and w.description == "Run")
    for name, content in {"me.png": b"one", "you.png": b"two"}.items():
        set_value(button, name, content)
        assert menu.value == content and menu.label == name
        go.click()
    menu.value = "cat"
    go.click()
    assert given == [b"one", b"two", "cat"], "the last file takes the place of the one before"
    assert len(menu.options) == 2


def set_value(button: widgets.FileUpload, name: str, content: bytes) -> None:
    """Choose a file, in the version that is installed."""
    if isinstance(button.value, dict):  # ipywidgets 7, where only the browser may write it
        return button.set_trait("value", upload_of(name, content, 7))
    entry = {"name": name, "type": "image/png", "size": len(content), "content": content}
    entry["last_modified"] = datetime.now(timezone.utc)
    button.value = (entry,)
