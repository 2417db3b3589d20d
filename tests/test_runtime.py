"""Device, exact float32, seed, progress and the text checker."""

import random
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from helpers import runtime
from helpers.runtime import environment, full_float32, pick_device, progress, seed_everything
from helpers.runtime import text_checker as checker


def test_a_gpu_that_cannot_compute_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def convolution(*_: int, device: str) -> object:
        asked.append(device)
        raise RuntimeError("no kernel image is available for execution on the device\nlong explanation")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.nn, "Conv2d", convolution)
    assert pick_device() == torch.device("cpu") and asked == ["cuda", "mps"]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and "no kernel image" in lines[0] and "using the CPU" in lines[0]


def test_one_seed_fixes_all_three_generators() -> None:
    def draws() -> tuple[float, float, float]:
        seed_everything(5)
        return random.random(), float(np.random.rand()), torch.rand(()).item()

    assert draws() == draws()


@pytest.fixture
def rounding() -> Iterator[None]:
    """As after torch.backends.fp32_precision = "tf32", or allow_tf32 before torch 2.9."""
    newer = hasattr(torch.backends.cuda.matmul, "fp32_precision")
    before = [getattr(place, name) for place, name, _ in runtime._switches()]
    if newer:
        torch.backends.fp32_precision = "tf32"
    for place, name, _ in runtime._switches():
        setattr(place, name, "tf32" if newer else True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    if newer:
        torch.backends.fp32_precision = "none"
    for (place, name, _), value in zip(runtime._switches(), before, strict=True):
        setattr(place, name, value)


def exact() -> set[bool]:
    return {getattr(place, name) == value for place, name, value in runtime._switches()}


def test_float32_products_are_exact_after_seeding(rounding: None) -> None:
    seed_everything()
    assert exact() == {True}
    assert not torch.backends.cudnn.allow_tf32, "which other code may read"


def test_float32_is_full_until_the_last_of_several_has_left(rounding: None) -> None:
    first, second = full_float32(), full_float32()  # as two threads enter and leave
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert exact() == {True}
    second.__exit__(None, None, None)
    assert exact() == {False}


def test_the_switches_are_restored_after_an_interruption(rounding: None) -> None:
    with pytest.raises(KeyboardInterrupt), full_float32():
        raise KeyboardInterrupt
    assert exact() == {False}


@pytest.mark.parametrize(
    "variables, shown",
    [
        ({}, False),
        ({"JPY_SESSION_NAME": "a.ipynb"}, True),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Interactive"}, True),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Batch"}, False),
        ({"JPY_SESSION_NAME": "a.ipynb", "CI": "true"}, False),
    ],
)
def test_progress_yields_everything_and_shows_a_bar_where_somebody_looks_on(
    variables: dict[str, str], shown: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("CI", "PYTEST_VERSION", "KAGGLE_KERNEL_RUN_TYPE", *runtime.FRONT_ENDS):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert list(progress(iter("abc"), "letters", total=3)) == ["a", "b", "c"]
    output = capsys.readouterr()
    assert output.out == "" and ("letters" in output.err) == shown and "\n" not in output.err


def test_environment_is_one_line_with_versions_and_instruction_set() -> None:
    text = environment()
    assert "\n" not in text and torch.__version__ in text
    assert torch.cuda.is_available() or torch.backends.cpu.get_cpu_capability() in text


@pytest.mark.parametrize("tested, as_printed", [(True, True), (True, False), (False, True)])
def test_a_failing_claim_raises_in_tests_only_and_else_prints_one_line(
    tested: bool, as_printed: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runtime, "_is_tested", lambda: tested)
    check = checker(as_printed)
    check(np.True_, "every feature is zero", 0)
    if tested and as_printed:
        with pytest.raises(AssertionError, match=r"every feature is zero.*12"):
            check(False, "every feature is zero", 12)
    else:
        check(False, "every feature is zero", 12)
        assert capsys.readouterr().out == "The text says: every feature is zero. This run gives: 12.\n"
