"""Many attacks, one table: settings x networks x images. A CSV file holds the rows, and a sweep resumes from it."""

import hashlib
import inspect
import io
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, as_completed
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pandas.api.types import is_list_like
from torch import Tensor, nn

from helpers import tables
from helpers.attack import zero_out
from helpers.base import Base, Classifier
from helpers.images import check_one, to_bytes
from helpers.losses import LOSSES
from helpers.runtime import progress
from helpers.tables import read_rows, table_path, write_table
from helpers.visibility import difference

Network = Base | Classifier
Source = Network | Callable[[], Network]
Settings = dict[str, Any]
Row = dict[str, str]
Job = tuple[Source, Tensor, Settings, Row]  # the row holds the columns KEY

NO_COLUMN = ("on_step", "batch", "pixel_weight")  # a table cannot hold them, or they do not change its numbers
DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(zero_out).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY and name not in NO_COLUMN
}
KEY = ["network", "weights", "picture", "size", "pixels", *DEFAULTS]
text = partial(tables.text, digits=9)
RESULTS = ["left", "outputs", "margin_reached", "steps_taken", "linf", "psnr", "ssim", "norm_ratio", "variation"]
RESULTS += ["seconds", "error"]
WORDS = ["network", "weights", "picture", "pixels", "norm", "loss", "precision", "error"]  # columns that hold text


def grid(**axes: Any) -> list[Settings]:
    """Every combination of settings: grid(eps=[4/255, 8/255], steps=[50, 100], margin=1.0) has four cells."""
    return [dict(zip(axes, cell, strict=True)) for cell in itertools.product(*map(_options, axes.values()))]


def _options(setting: Any) -> list[Any]:
    return list(setting) if is_list_like(setting) else [setting]


def sweep(
    networks: Mapping[str, Source],
    images: Mapping[str, Tensor],
    cells: Sequence[Settings],
    *,
    path: str | Path | None = None,
    executor: Executor | None = None,
) -> pd.DataFrame:
    """Attack each image on each network with each cell of settings: one row each, in that order.

    networks: name -> a base, a classifier, or a module-level function that makes one (each worker calls it once).
    images: name -> (1, 3, H, W) in [0, 1], on the 8-bit grid.
    cells: settings of zero_out; loss is a name in LOSSES, or a function with a name of its own.
    path: a CSV file that gets each row when it is known; its rows are not computed again, and NAME.json records what
        made them. (Default: no file)
    executor: any concurrent.futures.Executor, such as a process pool or Dask's. (Default: one attack after another)
    An attack that fails is a row with its error, and the next sweep tries it again.
    Raises ValueError or TypeError for bad images or settings before any work.
    """
    path = table_path(path) if path is not None else None
    for name, image in images.items():
        check_one(image, name)
    cells = [_check_cell({**DEFAULTS, **cell}, {image.shape for image in images.values()}) for cell in cells]
    rows = {_key(row): row for row in _stored(path)} if path else {}
    jobs = {_key(job[-1]): job for job in _jobs(networks, images, cells)}
    missing = [job for key, job in jobs.items() if key not in rows or rows[key]["error"]]
    for row in progress(_finished(missing, executor), "sweep", len(missing)):
        new = _key(row) not in rows
        rows[_key(row)] = row
        if path:
            write_table(path, list(rows.values()), int(new))
    return _frame([rows[key] for key in jobs])


def _check_cell(cell: Settings, shapes: set[torch.Size]) -> Settings:
    """The settings with their loss as a function. Raises an error for those that zero_out would refuse."""
    if unknown := [name for name in cell if name not in DEFAULTS]:
        raise ValueError(f"zero_out has no setting {unknown[0]!r}; it has {', '.join(DEFAULTS)}")
    loss = LOSSES.get(cell["loss"], cell["loss"])
    name = getattr(loss, "__name__", "<lambda>")
    if name == "<lambda>" or LOSSES.get(name, loss) is not loss:
        raise ValueError(f"loss is {loss!r}; give one of {', '.join(LOSSES)}, or a function with a name of its own")
    tiny = Base(nn.Identity(), nn.ReLU(), size=1)
    for shape in shapes:
        zero_out(tiny, torch.zeros(shape), **{**cell, "loss": loss}, on_step=_stop)
    return {**cell, "loss": loss}


def _stop(*_: object) -> None:
    """End an attack at its first step; by then its settings are checked."""
    raise KeyboardInterrupt


def _jobs(networks: Mapping[str, Source], images: Mapping[str, Tensor], cells: Sequence[Settings]) -> Iterator[Job]:
    """The attacks, each with the columns that identify its row."""
    pixels = {name: hashlib.sha256(to_bytes(image).tobytes()).hexdigest()[:12] for name, image in images.items()}
    for network, source in networks.items():
        weights = _made(source)[1].sha256[:12]
        for cell, (name, image) in itertools.product(cells, images.items()):
            values = network, weights, name, image.shape[-1], pixels[name], *cell.values()
            yield source, image, cell, dict(zip(KEY, map(text, values), strict=True))


def _key(row: Row) -> tuple[str, ...]:
    return tuple(row[name] for name in KEY)


@lru_cache(maxsize=2)
def _call(source: Callable[[], Network]) -> Network:
    return source()


def _made(source: Source) -> tuple[Network, Base]:
    network = source if isinstance(source, nn.Module) else _call(source)
    return network, network.base if isinstance(network, Classifier) else network


def _finished(jobs: Sequence[Job], executor: Executor | None) -> Iterator[Row]:
    """The row of each job, as soon as it is known."""
    if executor is None:
        for *job, about in jobs:
            yield _row(about, partial(_measure, *job))
        return
    futures = {executor.submit(_measure, *job): about for *job, about in jobs}
    try:
        for future in as_completed(futures):
            yield _row(futures[future], future.result)
    finally:
        for future in futures:
            future.cancel()


def _row(about: Row, measure: Callable[[], Row]) -> Row:
    """What was measured, or why the attack or its worker failed."""
    try:
        return {**about, **measure()}
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return {**about, **dict.fromkeys(RESULTS, ""), "error": reason}


@torch.no_grad()
def _measure(source: Source, image: Tensor, settings: Settings) -> Row:
    """Run one attack and return the columns RESULTS. Raises KeyboardInterrupt if it was interrupted."""
    network, base = _made(source)
    start = time.perf_counter()
    result = zero_out(base, image, **settings).completed()
    seconds = time.perf_counter() - start
    change = difference(result.original, result.images)
    clean, after = base.features(result.original), base.features(result.images)
    variation = None
    if network is not base:
        variation = (network.probabilities(result.images)[0] - network.blank()).abs().sum().item() / 2
    values = [result.nonzero[0], result.outputs, result.margin[0], result.steps[0], change.linf, change.psnr]
    values += [change.ssim, (after.norm() / clean.norm()).item(), variation, seconds, ""]
    return dict(zip(RESULTS, map(text, values), strict=True))


def _stored(path: Path) -> list[Row]:
    rows = read_rows(path)
    if rows and set(rows[0]) != {*KEY, *RESULTS}:
        raise ValueError(f"{path.name} has other columns than a sweep; give another path")
    return rows


def read(path: str | Path) -> pd.DataFrame:
    """The table of a sweep's CSV file, numbers as numbers; eps and step_size in units of [0, 1]."""
    return _frame(_stored(table_path(path)))


def _frame(rows: Sequence[Row]) -> pd.DataFrame:
    content = pd.DataFrame(rows, columns=[*KEY, *RESULTS]).to_csv(index=False)
    types = dict.fromkeys(WORDS, str)  # so that an image named "001" or "NA" keeps its name
    return pd.read_csv(io.StringIO(content), dtype=types, keep_default_na=False, na_values=[""])


def pick(table: pd.DataFrame, *, size: int = 224, **settings: Any) -> pd.DataFrame:
    """The rows with these settings (or with any of a list), and with zero_out's defaults for all others."""
    keep = table["size"] == size
    for name, setting in {**DEFAULTS, **settings}.items():
        keep &= table[name].map(text).isin([text(option) for option in _options(setting)])
    return table[keep]


def bisect(left_at: Callable[[int], int], most: int = 16) -> tuple[int | None, dict[int, int]]:
    """The smallest budget found that leaves no feature active, and the features left at each budget tried.

    left_at: returns the features left at a budget of 1 to `most`, in 1/255.
    most: the largest budget to try. (Default: 16)
    The budget is None if features are left even at `most`. Otherwise it is an upper bound: with more steps, a smaller
    one may do.
    """
    tried = {most: left_at(most)}
    low, high = 0, most
    while not tried[high] and high - low > 1:
        middle = (low + high) // 2
        tried[middle] = left_at(middle)
        low, high = (middle, high) if tried[middle] else (low, middle)
    return (None if tried[high] else high), tried
