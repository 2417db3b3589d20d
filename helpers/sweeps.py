"""Many attacks, one table: settings x networks x images, resumed where it stopped from the rows of a CSV file."""

import hashlib
import inspect
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from helpers.attack import hinge, zero_out
from helpers.base import Base, Classifier
from helpers.images import check_images, difference, on_grid, to_bytes
from helpers.losses import LOSSES
from helpers.networks import embed
from helpers.runtime import progress
from helpers.tables import read_rows, table_path, write_table

Network = Base | Classifier
Source = Network | Callable[[], Network]
Settings = dict[str, Any]
Row = dict[str, str]

DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(zero_out).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY and name not in ("on_step", "batch")
}
KEY = ["network", "weights", "picture", "size", "pixels", *DEFAULTS]
RESULTS = ["left", "outputs", "margin_reached", "steps_taken", "linf", "psnr", "ssim", "norm_ratio", "variation"]
RESULTS += ["seconds", "error"]
BOOLS = [name for name, default in DEFAULTS.items() if isinstance(default, bool)]
NUMBERS = ["size", *RESULTS[:-1], *(name for name in DEFAULTS if isinstance(DEFAULTS[name], int | float))]


def grid(**axes: Any) -> list[Settings]:
    """Every combination of settings: grid(eps=[4/255, 8/255], steps=[50, 100], margin=1.0) has four cells."""
    return [dict(zip(axes, cell, strict=True)) for cell in itertools.product(*map(_options, axes.values()))]


def _options(setting: Any) -> list[Any]:
    setting = setting.tolist() if isinstance(setting, np.ndarray) else setting
    return list(setting) if isinstance(setting, list | tuple | range) else [setting]


def check_cell(settings: Settings, image: Tensor) -> Settings:
    """The settings with zero_out's defaults filled in. Raises one clear error for those it would refuse."""
    if unknown := [name for name in settings if name not in DEFAULTS]:
        raise ValueError(f"zero_out has no setting {unknown[0]!r}; it has {', '.join(DEFAULTS)}")
    loss = settings.get("loss", hinge)
    name = loss if isinstance(loss, str) else getattr(loss, "__name__", "<lambda>")
    if isinstance(loss, str) and loss not in LOSSES:
        raise ValueError(f"loss is {loss!r}; give one of {', '.join(LOSSES)}, or a function")
    if name == "<lambda>":
        raise ValueError(f"loss is {loss!r}, which has no name for the table; give a function with a name")
    if not isinstance(loss, str) and LOSSES.get(name, loss) is not loss:
        raise ValueError(f"loss is a function named {name!r} like one of LOSSES, and would get its rows; rename it")
    zero_out(_inactive(), torch.zeros(image.shape), **{**settings, "loss": hinge})  # it knows the ranges
    return {**DEFAULTS, **settings}


@lru_cache
def _inactive() -> Base:
    """A network whose pre-activations are -1e30 for every image: its attack ends at once."""
    return Base(nn.Threshold(2.0, -1e30), nn.ReLU(), size=1, name="inactive")


def text(value: object) -> str:
    """A value as the table holds it: numbers with nine digits, functions by name, NaN as an empty place."""
    if isinstance(value, Real) and not isinstance(value, Integral):
        return "" if math.isnan(value) else f"{value:.9g}"
    return str(getattr(value, "__name__", value))


@dataclass(frozen=True)
class Job:
    """One attack: an image (1, 3, H, W), a network, settings, and the columns that identify the row."""

    source: Source
    image: Tensor
    settings: Settings
    about: Row


def sweep(
    networks: Mapping[str, Source],
    images: Mapping[str, Tensor],
    cells: Sequence[Settings],
    *,
    path: str | Path | None = None,
    executor: Executor | None = None,
) -> pd.DataFrame:
    """Attack every image on every network with every cell of settings: one row each, in that order.

    networks: name -> base, classifier, or a module-level function that makes one (a worker process calls it once).
    images: name -> (1, 3, H, W) in [0, 1], on the 8-bit grid.
    cells: settings of zero_out; loss is a name in LOSSES, or a function with a name of its own.
    path: a CSV file that gets each row once it is known, and whose rows are not computed again;
        NAME.json beside it records what made them.
    executor: any concurrent.futures.Executor, such as a process pool or Dask's (default: none, one after another).
    An attack that fails is a row with its error, and the next sweep tries it again.
    Raises ValueError or TypeError for bad images or settings before any work.
    """
    path = table_path(path) if path is not None else None
    for name, image in images.items():
        _check_image(name, image)
    largest = max(images.values(), key=Tensor.numel, default=torch.zeros(1, 3, 1, 1))
    cells = [check_cell(cell, largest) for cell in cells]
    rows = {_key(row): row for row in _stored(path)} if path else {}
    weights = {network: _base(_made(source)).sha256[:12] for network, source in networks.items()}
    pixels = {name: hashlib.sha256(to_bytes(image).tobytes()).hexdigest()[:12] for name, image in images.items()}
    jobs = {}
    for (network, source), cell, (name, image) in itertools.product(networks.items(), cells, images.items()):
        values = [network, weights[network], name, image.shape[-1], pixels[name], *cell.values()]
        about = dict(zip(KEY, map(text, values), strict=True))
        jobs[_key(about)] = Job(source, image, cell, about)
    missing = [job for key, job in jobs.items() if key not in rows or rows[key]["error"]]
    for row in progress(_finished(missing, executor), "sweep", len(missing)):
        rows[_key(row)] = row
        if path:
            write_table(path, list(rows.values()), 1)
    return _frame([rows[key] for key in jobs])


def _check_image(name: str, image: Tensor) -> None:
    check_images(image, name)
    if len(image) != 1:
        raise ValueError(f"{name} holds {len(image)} images; give one under each name")
    if not on_grid(image):
        raise ValueError(f"{name} is not on the 8-bit grid; round it with to_grid, as a PNG file would")


def _key(row: Row) -> tuple[str, ...]:
    return tuple(row[name] for name in KEY)


@lru_cache(maxsize=2)
def _call(source: Callable[[], Network]) -> Network:
    return source()


def _made(source: Source) -> Network:
    return source if isinstance(source, nn.Module) else _call(source)


def _base(network: Network) -> Base:
    return network.base if isinstance(network, Classifier) else network


def _finished(jobs: Sequence[Job], executor: Executor | None) -> Iterator[Row]:
    """The row of each job as soon as it is known."""
    if executor is None:
        yield from map(_attack, jobs)
        return
    futures = {executor.submit(_attack, job): job for job in jobs}
    try:
        for future in as_completed(futures):
            error = future.exception()  # a worker died, or cannot read the job
            yield _failed(futures[future], error) if isinstance(error, Exception) else future.result()
    finally:
        for future in futures:
            future.cancel()


def _attack(job: Job) -> Row:
    try:
        return {**job.about, **_measure(_made(job.source), job.image, job.settings)}
    except Exception as error:
        return _failed(job, error)


def _failed(job: Job, error: Exception) -> Row:
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return {**job.about, **dict.fromkeys(RESULTS, ""), "error": reason}


def _measure(network: Network, image: Tensor, settings: Settings) -> Row:
    """Run one attack: the columns RESULTS. Raises KeyboardInterrupt if it was interrupted."""
    base, loss = _base(network), settings["loss"]
    start = time.perf_counter()
    result = zero_out(base, image, **{**settings, "loss": LOSSES.get(loss, loss)})
    seconds = time.perf_counter() - start
    if result.interrupted:
        raise KeyboardInterrupt  # the best so far is not the result of these settings
    clean, after = embed(base, result.original), embed(base, result.images)
    variation = float("nan")
    if isinstance(network, Classifier):
        variation = (network.probabilities(result.images)[0] - network.blank()).abs().sum().item() / 2
    change = difference(result.original, result.images)
    values = [result.nonzero[0], clean.shape[1], result.margin[0], result.steps[0], change.linf, change.psnr]
    values += [change.ssim, (after.norm() / clean.norm()).item(), variation, seconds, ""]
    return dict(zip(RESULTS, map(text, values), strict=True))


def _stored(path: Path) -> list[Row]:
    rows = read_rows(path)
    if rows and set(rows[0]) != {*KEY, *RESULTS}:
        raise ValueError(f"{path.name} has other columns than a sweep; give another path")
    return rows


def read(path: str | Path) -> pd.DataFrame:
    """The table of a sweep's CSV file, numbers as numbers; eps and step_size in units of [0, 1]."""
    return _frame(read_rows(table_path(path)))


def _frame(rows: Sequence[Row]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=None if rows else [*KEY, *RESULTS])
    for name in table.columns.intersection(NUMBERS):
        table[name] = table[name] == "True" if name in BOOLS else pd.to_numeric(table[name])
    table["error"] = table["error"].replace("", None)
    return table


def pick(table: pd.DataFrame, *, size: int = 224, **settings: Any) -> pd.DataFrame:
    """The rows with these settings (of a list: any of them), and otherwise the defaults of zero_out."""
    keep = table["size"] == size
    for name, setting in {**DEFAULTS, **settings}.items():
        keep &= table[name].map(text).isin([text(option) for option in _options(setting)])
    return table[keep]


def bisect(left_at: Callable[[int], int], most: int = 16) -> tuple[int | None, dict[int, int]]:
    """The smallest budget found that leaves no feature active, and the features left at each budget tried.

    left_at: a budget of 1 to `most`, in 1/255 -> features left.
    The budget is None when features are left even at `most`, and else an upper bound: more steps may need less.
    """
    tried = {most: left_at(most)}
    low, high = 0, most
    while not tried[high] and high - low > 1:
        middle = (low + high) // 2
        tried[middle] = left_at(middle)
        low, high = (middle, high) if tried[middle] else (low, middle)
    return (None if tried[high] else high), tried
