"""The machine: device, seed, progress and versions."""

import os
import platform
import random
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch

T = TypeVar("T")
PRODUCTS = (torch.backends.cuda.matmul, torch.backends.cudnn)  # whose factors GPUs may round (TF32)
_LOCK = threading.Lock()
_INSIDE: list[list[bool]] = []  # for each that is in full_float32 now: the switches as the first one found them


def pick_device() -> torch.device:
    """CUDA or MPS when a real convolution runs there, else the CPU.

    A driver can report a GPU for which the installed torch has no kernels (a P100 with
    current wheels): is_available() is True and the first operation fails. So try one.
    """
    candidates = [("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())]
    for name, available in candidates:
        if available:
            try:
                torch.nn.Conv2d(3, 4, 3, device=name)(torch.zeros(1, 3, 8, 8, device=name)).sum().item()
                return torch.device(name)
            except RuntimeError as error:
                print(f"{name} is there but cannot compute ({str(error).splitlines()[0]}); using the CPU")
    return torch.device("cpu")


def native_bfloat16(device: torch.device) -> bool:
    """Whether the machine computes bfloat16 natively, about twice as fast as float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return device.type == "cpu" and probe is not None and probe()


def use_bfloat16(device: torch.device, choice: bool | None) -> bool:
    """The choice; for None, whether the machine computes bfloat16 natively."""
    return native_bfloat16(device) if choice is None else choice


@contextmanager
def full_float32() -> Iterator[None]:
    """Inside, products of float32 are computed in float32 on GPUs too, which else may round their factors (TF32).

    The switches are those of the whole program: of several threads the last one to leave sets them back.
    """
    with _LOCK:
        _INSIDE.append(_INSIDE[0] if _INSIDE else [product.allow_tf32 for product in PRODUCTS])
        _switch([False] * len(PRODUCTS))
    try:
        yield
    finally:
        with _LOCK:
            before = _INSIDE.pop()
            if not _INSIDE:
                _switch(before)


def _switch(allowed: list[bool]) -> None:
    for product, rounds in zip(PRODUCTS, allowed, strict=True):
        product.allow_tf32 = rounds


def seed_everything(seed: int = 0) -> None:
    """Seed Python, NumPy and torch (all devices), and keep float32 products exact on GPUs."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    _switch([False] * len(PRODUCTS))


def watched() -> bool:
    """Whether a person looks on: a terminal or a live notebook, not CI, nbconvert or a test."""
    if os.environ.get("CI") or os.environ.get("PYTEST_VERSION") or "PYTEST_CURRENT_TEST" in os.environ:
        return False
    live = ("JPY_SESSION_NAME", "VSCODE_PID", "COLAB_RELEASE_TAG")  # set for kernels that a front end starts
    kaggle = os.environ.get("KAGGLE_KERNEL_RUN_TYPE") == "Interactive"
    return sys.stderr.isatty() or kaggle or any(name in os.environ for name in live)


def progress(items: Iterable[T], text: str, total: int | None = None) -> Iterator[T]:
    """Yield items; show one line "text 3/20, 12 s left" while a person looks on, and wipe it at the end.

    Plain text, since a widget bar would stay in a saved notebook and break its page on GitHub.
    """
    total = len(items) if total is None else total  # type: ignore[arg-type]
    show, start, width = watched(), time.monotonic(), 0
    for done, item in enumerate(items):
        if show:
            left = f", {(time.monotonic() - start) / done * (total - done):.0f} s left" if done else ""
            line = f"{text} {done}/{total}{left}"
            print("\r" + line.ljust(width), end="", file=sys.stderr, flush=True)
            width = len(line)
        yield item
    if show:
        print("\r" + " " * width + "\r", end="", file=sys.stderr, flush=True)


def claims(as_printed: bool) -> Callable[[object], None]:
    """The `expect` of a notebook: expect(claim) fails when the page says what is not so.

    as_printed: whether all settings are those that the text was written for. With others a claim may fail,
    and the notebook goes on: expect then says so once.
    """
    told = False

    def expect(claim: object) -> None:
        nonlocal told
        if as_printed and not claim:
            raise AssertionError("the output differs from what the text of this page says, with its own settings")
        if not claim and not told:
            print("With your settings the result differs from what the text says.")
            told = True

    return expect


def environment() -> str:
    """One line on the machine and versions: for cells whose output is not compared."""
    parts = [f"Python {platform.python_version()}", f"torch {torch.__version__}"]
    return ", ".join([*parts, f"{torch.get_num_threads()} threads", f"device {pick_device()}"])
