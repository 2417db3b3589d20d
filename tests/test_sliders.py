"""What sliders and the laboratory show, and that using them changes it; no browser needed."""

import io
import json
import types
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

import ipywidgets as widgets
import matplotlib.pyplot as plt
import pytest
import torch
from nets import encoded, lowering, picture
from PIL import Image
from torch import nn

from helpers import sliders
from helpers.base import Classifier
from helpers.images import load_image

VIEW = "application/vnd.jupyter.widget-view+json"


def grey(level: int) -> bytes:
    return encoded(Image.new("RGB", (8, 8), (level, level, level)))


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What is displayed."""
    seen: list[dict] = []
    monkeypatch.setattr(sliders, "display", lambda content, **_: seen.append(content))
    return seen


@pytest.fixture
def made() -> Iterator[Callable[[type], list]]:
    """All widgets of a kind that were made, in order."""
    seen: list[widgets.Widget] = []
    widgets.Widget.on_widget_constructed(seen.append)
    yield lambda kind: [widget for widget in seen if isinstance(widget, kind)]
    widgets.Widget.on_widget_constructed(None)


def test_a_slider_changes_the_image(shown: list, made: Callable) -> None:
    frames = {(step, name): grey(10 * step + "ab".index(name)) for step in (0, 2, 4) for name in "ab"}
    choices = {"step": [0, 2, 4], "name": "ab"}
    sliders.browse(choices, lambda step, name: frames[step, name], alt="Greys", start={"step": 2})
    (image,), (step, name), (play,) = map(made, (widgets.Image, widgets.SelectionSlider, widgets.Play))
    seen = [bytes(image.value)]
    step.value = 4
    seen.append(bytes(image.value))
    name.value = "b"
    step.index = 0  # what Play sets
    seen.append(bytes(image.value))
    assert seen == [frames[2, "a"], frames[4, "a"], frames[0, "b"]]
    assert (play.min, play.value, play.max) == (0, 1, 2)


def test_a_page_without_a_kernel_shows_the_first_image_or_a_still(shown: list) -> None:
    figure = plt.figure(figsize=(3, 2))
    for still in (None, figure):
        sliders.browse({"step": [10, 20]}, lambda step: grey(step), alt="Greys", still=still)
    first, second = (Image.open(io.BytesIO(content["image/png"])) for content in shown)
    assert first.size == (8, 8) and first.getpixel((4, 4)) == (10, 10, 10) and second.size == (300, 200)
    assert shown[0]["text/plain"] == "Greys" and VIEW in shown[0]


@pytest.mark.parametrize(("answers", "verdict"), [("llr", "3 of 3 right"), ("rrr", "1 of 3 right")])
def test_a_blind_test_counts_the_right_answers(answers: str, verdict: str, shown: list, made: Callable) -> None:
    pairs, names = [grey(level) for level in (10, 20, 30)], {"l": "left", "r": "right"}
    sliders.blind_test(pairs, ["left", "left", "right"], alt="Greys", still=plt.figure(figsize=(3, 2)))
    (image,), (words,), buttons = map(made, (widgets.Image, widgets.HTML, widgets.Button))
    by_name = {button.description: button for button in buttons}
    for number, (pair, answer) in enumerate(zip(pairs, answers, strict=True), 1):
        assert bytes(image.value) == pair and f"Pair {number} of 3" in words.value and by_name["next"].disabled
        by_name["left"].click()
        by_name[names[answer]].click()  # the last click counts
        assert f"your answer is {names[answer]}" in words.value and not by_name["next"].disabled
        by_name["next"].click()
    assert verdict in words.value and all(button.disabled for button in buttons)
    share = {"3": "12.5%", "1": "87.5%"}[verdict[0]]
    assert share in words.value and "image/png" in shown[0] and VIEW in shown[0]


def upload_of(name: str, content: bytes, version: int) -> object:
    """What a FileUpload's value is after a file was chosen, in ipywidgets 7 and 8."""
    if version == 7:
        return {name: {"metadata": {"name": name}, "content": content}}
    return ({"name": name, "type": "image/png", "size": len(content), "content": memoryview(content)},)


@pytest.mark.parametrize("version", [7, 8])
def test_an_uploaded_file_is_read_in_both_versions(version: int) -> None:
    button = types.SimpleNamespace(value=upload_of("me.png", b"pixels", version))
    assert sliders.uploaded(button) == ("me.png", b"pixels")


def test_the_laboratory_runs_saves_and_shows_errors(shown: list, made: Callable, tmp_path: Path) -> None:
    """Its network has features that are zero when no red level is above 90."""
    net = Classifier(lowering(), nn.Sequential(nn.Flatten(), nn.Linear(64, 6)), "abcdef")
    first = sliders.trial(net, picture(96.0), steps=60, margin=1.0)
    assert first.certificate.zero and Image.open(io.BytesIO(first.picture)).width > 600

    def run(eps: float, on_step: Callable) -> sliders.Trial:
        return sliders.trial(net, picture(120.0), eps=eps, steps=20, on_step=on_step)

    stored = "stored: {eps}".format
    sliders.laboratory({"eps": [4 / 255, -1.0]}, run, first, folder=tmp_path, alt="A test", stored=stored)
    (menu,), (go, keep), (image,), (words,) = map(made, (widgets.Dropdown, widgets.Button, widgets.Image, widgets.HTML))
    assert bytes(image.value) == first.picture and str(first.certificate)[:20] in words.value
    go.click()
    assert bytes(image.value) != first.picture and "not" in words.value and not go.disabled
    keep.click()
    assert "saved: laboratory.png and laboratory.json" in words.value
    saved = load_image(tmp_path / "laboratory.png", size=8)
    assert torch.equal(saved, run(4 / 255, lambda *_: None).result.images)
    assert not json.loads((tmp_path / "laboratory.json").read_text(encoding="utf-8"))["zero"]
    menu.value = -1.0
    assert words.value == "<pre>stored: -1.0</pre>"
    go.click()
    assert "ValueError: eps is -1.0" in words.value and not go.disabled


def test_the_laboratory_runs_on_an_uploaded_file(shown: list, made: Callable, tmp_path: Path) -> None:
    given = []

    def run(image: object, on_step: object) -> None:
        given.append(image)
        raise ValueError("seen")

    first = sliders.Trial(grey(0), None, None)
    sliders.laboratory({"image": ["cat"]}, run, first, folder=tmp_path, alt="A cat", upload="image")
    (menu,), (button,), (go, _) = map(made, (widgets.Dropdown, widgets.FileUpload, widgets.Button))
    for name, content in {"me.png": b"one", "you.png": b"two"}.items():
        choose(button, name, content)
        assert menu.value == content and menu.label == name
        go.click()
    menu.value = "cat"
    go.click()
    assert given == [b"one", b"two", "cat"]
    assert [label for label, _ in menu.options] == ["cat", "you.png"], "the last file replaces the one before"


def choose(button: widgets.FileUpload, name: str, content: bytes) -> None:
    """Choose a file, in the version that is installed."""
    if isinstance(button.value, dict):  # ipywidgets 7, where only the browser may write it
        button.set_trait("value", upload_of(name, content, 7))
    else:
        (entry,) = upload_of(name, content, 8)
        button.value = ({**entry, "last_modified": datetime.now(timezone.utc)},)
