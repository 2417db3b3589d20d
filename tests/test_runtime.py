"""Device, seed and progress."""

import random
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers import runtime
from helpers.runtime import claims, environment, full_float32, pick_device, progress, seed_everything, watched


@pytest.fixture
def pretend_gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A driver that reports a GPU; returns the devices on which a convolution is asked for."""
    asked: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)

    def convolution(*_: int, device: str) -> object:
        asked.append(device)
        raise RuntimeError("no kernel image is available for execution on the device\nlong explanation")

    monkeypatch.setattr(torch.nn, "Conv2d", convolution)
    return asked


def test_a_gpu_that_cannot_compute_is_passed_over(pretend_gpu: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert pick_device() == torch.device("cpu")
    assert pretend_gpu == ["cuda"], "a real convolution was tried"
    output = capsys.readouterr().out
    assert output.count("\n") == 1 and "no kernel image" in output and "using the CPU" in output


def test_mps_is_tried_after_a_failing_gpu(pretend_gpu: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device() == torch.device("cpu")
    assert pretend_gpu == ["cuda", "mps"]


def test_a_gpu_that_computes_is_taken(pretend_gpu: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn, "Conv2d", lambda *_, device: lambda x: x)
    monkeypatch.setattr(runtime.torch, "zeros", lambda *size, device: torch.ones(size))
    assert pick_device() == torch.device("cuda")


def test_without_a_gpu_nothing_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device() == torch.device("cpu")
    assert capsys.readouterr() == ("", "")


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), torch.rand(()).item()


def test_one_seed_fixes_all_three_generators() -> None:
    seed_everything(5)
    first = draws()
    assert first != draws()
    seed_everything(5)
    assert draws() == first
    seed_everything(6)
    assert all(a != b for a, b in zip(draws(), first, strict=True))


def test_float32_products_are_exact_after_seeding() -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    seed_everything()
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("look_on", [False, True])
def test_progress_yields_everything_in_order(look_on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "watched", lambda: look_on)
    assert list(progress(range(7), "items")) == list(range(7))
    assert list(progress(iter("abc"), "letters", total=3)) == ["a", "b", "c"]
    assert list(progress([], "nothing")) == []


def test_progress_is_silent_when_nobody_looks_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert not watched(), "a test is not a person"
    list(progress(range(3), "items"))
    assert capsys.readouterr() == ("", "")


def shown(text: str) -> str:
    """What a terminal line shows after this text, in which a return goes back to its start."""
    line: list[str] = []
    for piece in text.split("\r"):
        line[: len(piece)] = piece
    return "".join(line).rstrip()


def test_progress_shows_one_line_and_wipes_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runtime, "watched", lambda: True)
    clock = iter([0.0, *range(100, 100_000, 100)])  # the seconds left go from four digits to three
    monkeypatch.setattr(runtime, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    seen, text = [], ""
    for _ in progress(range(20), "steps"):
        output = capsys.readouterr()
        assert output.out == ""
        text += output.err
        seen.append(shown(text))
    assert seen[0] == "steps 0/20"
    assert seen[1] == "steps 1/20, 1900 s left"
    assert seen[19] == "steps 19/20, 100 s left", "no letters of a longer line are left behind"
    assert shown(text + capsys.readouterr().err) == "" and "\n" not in text


@pytest.mark.parametrize(
    "variables, expected",
    [
        ({}, False),
        ({"JPY_SESSION_NAME": "a.ipynb"}, True),
        ({"COLAB_RELEASE_TAG": "x"}, True),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Interactive"}, True),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Batch"}, False),
        ({"JPY_SESSION_NAME": "a.ipynb", "CI": "true"}, False),
        ({"JPY_SESSION_NAME": "a.ipynb", "PYTEST_VERSION": "9"}, False),
    ],
)
def test_who_is_looking_on(variables: dict[str, str], expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "os", SimpleNamespace(environ=variables))
    monkeypatch.setattr(runtime, "sys", SimpleNamespace(stderr=SimpleNamespace(isatty=lambda: False)))
    assert watched() is expected


def test_environment_is_one_line_with_versions() -> None:
    text = environment()
    assert "\n" not in text
    assert torch.__version__ in text and "device" in text


def test_a_claim_holds_or_fails_with_the_settings_of_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    expect = claims(True)
    expect(np.True_)
    with pytest.raises(AssertionError, match="differs from what the text"):
        expect(0 > 1)
    assert capsys.readouterr().out == ""


def test_with_other_settings_a_failing_claim_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    expect = claims(False)
    for claim in (True, False, False):
        expect(claim)
    assert capsys.readouterr().out.count("With your settings") == 1


@pytest.fixture
def rounding() -> Iterator[Callable[[], list[bool]]]:
    """Tells which products may be rounded; before the test all of them."""
    products = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [product.allow_tf32 for product in products]
    for product in products:
        product.allow_tf32 = True
    yield lambda: [product.allow_tf32 for product in products]
    for product, allowed in zip(products, before, strict=True):
        product.allow_tf32 = allowed


def test_float32_is_full_inside_and_as_before_after(rounding: Callable[[], list[bool]]) -> None:
    with pytest.raises(KeyboardInterrupt), full_float32():
        assert not any(rounding())
        raise KeyboardInterrupt
    assert all(rounding())


def test_float32_is_full_until_the_last_of_several_has_left(rounding: Callable[[], list[bool]]) -> None:
    first, second = full_float32(), full_float32()  # as two threads enter and leave
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not any(rounding())
    second.__exit__(None, None, None)
    assert all(rounding())
