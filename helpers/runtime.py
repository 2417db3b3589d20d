"""The machine: device, exact float32, seeds, progress and versions."""

import os
import platform
import random
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from tqdm import tqdm

T = TypeVar("T")
FRONT_ENDS = ("JPY_SESSION_NAME", "VSCODE_PID", "COLAB_RELEASE_TAG")  # variables that they set for their kernels
_lock = threading.Lock()
_inside = 0  # threads that are in full_float32 now
_before: list[Any] = []  # the switches as the first thread found them


def pick_device() -> torch.device:
    """CUDA or MPS when a real convolution runs there, else the CPU.

    A driver can report a GPU for which the installed torch has no kernels. Then is_available() is True, and the first
    operation fails, so one is tried.
    """
    candidates = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    for name in (name for name, available in candidates.items() if available):
        try:
            torch.nn.Conv2d(3, 4, 3, device=name)(torch.zeros(1, 3, 8, 8, device=name)).sum().item()
            return torch.device(name)
        except RuntimeError as error:
            print(f"{name} is there but cannot compute ({str(error).splitlines()[0]}); using the CPU")
    return torch.device("cpu")


@contextmanager
def full_float32() -> Iterator[None]:
    """Compute float32 products in float32, without TF32 or bfloat16 inside them.

    The switches belong to the whole process; the last of several threads to leave restores them.
    """
    global _inside, _before
    with _lock:
        if not _inside:
            _before = [getattr(place, name) for place, name, _ in _switches()]
            _switch_off()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                for (place, name, _), value in zip(_switches(), _before, strict=True):
                    setattr(place, name, value)


def _switches() -> list[tuple[Any, str, Any]]:
    """Where torch is told how to multiply float32: (object, attribute, its value for exact products)."""
    cuda, cudnn, mkldnn = torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn
    if not hasattr(cuda.matmul, "fp32_precision"):  # before torch 2.9
        return [(cuda.matmul, "allow_tf32", False), (cudnn, "allow_tf32", False)]
    # After torch.backends.fp32_precision has been set, reading allow_tf32 raises an error.
    places = (cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv)
    return [(place, "fp32_precision", "ieee") for place in places]


def _switch_off() -> None:
    for place, name, exact in _switches():
        setattr(place, name, exact)


def seed_everything(seed: int = 0) -> None:
    """Seed Python, NumPy and torch (all devices), and keep float32 products exact from now on."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 2.9 warns about the older switch, which other code may still read
        torch.backends.cudnn.allow_tf32 = False
    _switch_off()


def _is_tested() -> bool:
    return any(os.environ.get(name) for name in ("CI", "PYTEST_VERSION"))


def progress(items: Iterable[T], text: str, total: int | None = None) -> Iterable[T]:
    """The items, with a progress bar on stderr in a terminal or a live notebook.

    The bar is plain text: a widget would stay in a saved notebook and break its page on GitHub.
    text: shown before the bar.
    total: number of items. (Default: their length)
    """
    kaggle = os.environ.get("KAGGLE_KERNEL_RUN_TYPE") == "Interactive"
    shown = sys.stderr.isatty() or kaggle or any(name in os.environ for name in FRONT_ENDS)
    return tqdm(items, desc=text, total=total, leave=False, disable=_is_tested() or not shown, ncols=80)


def text_checker(as_printed: bool = True) -> Callable[..., None]:
    """A function check(claim, what, value) that compares a notebook's text with its results.

    as_printed: whether the settings are those that the text was written for. (Default: True)
    A claim that fails prints one line; under CI and in tests it raises AssertionError if as_printed.
    """

    def check(claim: object, what: str, value: object = "something else") -> None:
        line = f"The text says: {what}. This run gives: {value}."
        if not claim and as_printed and _is_tested():
            raise AssertionError(line)
        if not claim:
            print(line)

    return check


def machine(device: torch.device | None = None) -> dict[str, object]:
    """What computes: GPU or instruction set, versions, threads. device: its subject. (Default: pick_device())"""
    device = device or pick_device()
    name = f"{device.type}, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    return {"device": name, **versions, "threads": torch.get_num_threads()}


def environment() -> str:
    """The machine and versions in one line, for cells whose output is not compared."""
    return ", ".join(f"{name} {value}" for name, value in machine().items())
