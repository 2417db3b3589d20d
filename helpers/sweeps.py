"""Many attacks, one table: settings x networks x pictures, kept row by row in a CSV file.

A sweep that was interrupted goes on where it stopped, since rows that the file holds are not
computed again. Any concurrent.futures.Executor does the work: threads, processes, Dask, MPI.
"""

import copy
import csv
import hashlib
import inspect
import io
import itertools
import json
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from helpers.attack import hinge, zero_out
from helpers.images import check_images, check_number, difference, to_bytes, write_file
from helpers.networks import Base, Classifier, embed
from helpers.runtime import native_bfloat16, progress

Network = Base | Classifier
Source = Network | Callable[[], Network]
Settings = dict[str, Any]
Row = dict[str, str]
RESULTS = [  # room: margin reached; taken: steps taken; variation: total, to the blank prediction
    *("left", "outputs", "room", "taken", "linf", "psnr", "ssim"),
    *("norm_ratio", "variation", "seconds", "weights", "error"),
]


def squared_hinge(z: Tensor, margin: float) -> Tensor:
    """The hinge, squared: large pre-activations count for more."""
    return torch.relu(z + margin).square()


def total(z: Tensor, margin: float) -> Tensor:
    """The outputs themselves; their sum is made small."""
    return torch.relu(z)


def squared(z: Tensor, margin: float) -> Tensor:
    """The outputs, squared."""
    return torch.relu(z).square()


def norm(z: Tensor, margin: float) -> Tensor:
    """The length of the vector of outputs (PhotoGuard's encoder attack aimed at zero, Salman et al. 2023)."""
    return torch.linalg.vector_norm(torch.relu(z), dim=tuple(range(1, z.ndim)), keepdim=True)


def log_norm(z: Tensor, margin: float) -> Tensor:
    """The logarithm of that length, the part of FDA that silences units (Ganeshan et al. 2019)."""
    return torch.log(norm(z, margin) + 1e-12)


def dispersion(z: Tensor, margin: float) -> Tensor:
    """The standard deviation of the outputs (Dispersion Reduction, Lu et al. 2020)."""
    return torch.relu(z).std(dim=tuple(range(1, z.ndim)), keepdim=True)


LOSSES = {loss.__name__: loss for loss in (hinge, squared_hinge, total, squared, norm, log_norm, dispersion)}
DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(zero_out).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY and name != "on_step"
}
COLUMNS = ["network", "picture", "size", "pixels", *DEFAULTS, *RESULTS]
KEY = COLUMNS[: -len(RESULTS)]


def grid(**axes: Any) -> list[Settings]:
    """Every combination of the settings of zero_out; what is no list (see options) stays fixed.

    grid(eps=[4/255, 8/255], steps=[50, 100], margin=1.0) has four cells.
    """
    values = map(options, axes.values())
    return [dict(zip(axes, combination, strict=True)) for combination in itertools.product(*values)]


def options(setting: Any) -> list[Any]:
    """The values that a list, tuple, range or NumPy array offers; anything else is the only one."""
    setting = setting.tolist() if isinstance(setting, np.ndarray) else setting
    return list(setting) if isinstance(setting, list | tuple | range) else [setting]


@dataclass(frozen=True)
class Job:
    """Pictures of one size (N, 3, H, W), with one network and one cell of the grid: one batch."""

    network: str
    source: Source
    names: tuple[str, ...]
    images: Tensor
    settings: Settings

    def about(self, place: int) -> Row:
        """What identifies one picture's row."""
        image = self.images[place]
        pixels = hashlib.sha256(to_bytes(image).tobytes()).hexdigest()[:12]
        row = {"network": self.network, "picture": self.names[place], "size": image.shape[-1], "pixels": pixels}
        return {name: text(value) for name, value in {**row, **self.settings}.items()}

    def part(self, places: Sequence[int]) -> "Job":
        names = tuple(self.names[i] for i in places)
        return Job(self.network, self.source, names, self.images[list(places)], self.settings)


def sweep(
    networks: Mapping[str, Source],
    pictures: Mapping[str, Tensor],
    cells: Sequence[Settings],
    *,
    path: str | Path | None = None,
    executor: Executor | None = None,
    batch: int = 8,
) -> pd.DataFrame:
    """Attack every picture on every network with every cell of settings: one row each, in that order.

    networks: name -> base, classifier, or a module-level function that makes one (with a pool of
    processes each worker then loads it once). pictures: name -> (1, 3, H, W) in [0, 1]. cells:
    settings of zero_out, see grid; loss may be a name in LOSSES, or a function of yours, which the
    table knows by its name alone: rename it when you change it. path: a CSV file that gets each
    row as soon as it is known, and whose rows are not computed again; beside it a JSON file with
    versions. Rows of a base whose weights have changed since are computed again (not where a
    function makes the network: its name is trusted; nor for a new head, which only changes the
    column variation). executor: does the work (default: here). batch: pictures of one size at a time.

    A cell that fails is recorded in the column error, and tried again by the next sweep.
    seconds are a batch's divided by its pictures. Raises ValueError for unknown settings.
    """
    store = Store(path)
    jobs: list[Job] = []
    wanted: dict[tuple[str, ...], None] = {}
    weights = {name: weights_of(source) for name, source in networks.items()}
    for (name, source), settings in itertools.product(networks.items(), map(complete, cells)):
        for same_size in by_size(pictures):
            job = Job(name, source, tuple(same_size), torch.cat([pictures[p] for p in same_size]), settings)
            keys = [key_of(job.about(i)) for i in range(len(same_size))]
            missing = [i for i, key in enumerate(keys) if key not in wanted and not store.holds(key, weights[name])]
            wanted.update(dict.fromkeys(keys))
            jobs += [job.part(missing[i : i + batch]) for i in range(0, len(missing), batch)]
    for rows in progress(finished(jobs, executor), "sweep: batch", len(jobs)):
        store.add(rows)
    return store.table(wanted)


def by_size(pictures: Mapping[str, Tensor]) -> list[list[str]]:
    """The names of the pictures, those of one shape together."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, image in pictures.items():
        check_images(image, name)
        if len(image) != 1:
            raise ValueError(f"{name} holds {len(image)} pictures; give one under each name")
        groups.setdefault(tuple(image.shape), []).append(name)
    return list(groups.values())


def complete(settings: Settings) -> Settings:
    """Settings with the defaults of zero_out filled in, numbers of the kind of the default, and the loss by name."""
    if unknown := [name for name in settings if name not in DEFAULTS]:
        raise ValueError(f"zero_out has no setting {unknown[0]!r}; it has {', '.join(DEFAULTS)}")
    full = {**DEFAULTS, **settings}
    for name in (name for name, default in DEFAULTS.items() if isinstance(default, float)):
        check_number(name, full[name])
        full[name] = float(full[name])
    check_loss(full["loss"])
    return full


def check_loss(loss: object) -> None:
    """Raise one clear error for a loss that the table could not tell from others by its name."""
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise ValueError(f"loss is {loss!r}; give one of {', '.join(LOSSES)}, or a function")
        return
    name = getattr(loss, "__name__", None)
    if name in (None, "<lambda>"):
        what = f"a {type(loss).__name__}" if name is None else "a lambda"
        raise ValueError(f"loss is {what}, which has no name for the table; give a function with a name")
    if LOSSES.get(name, loss) is not loss:
        raise ValueError(f"loss is a function named {name!r} like one of LOSSES, and would get its rows; rename it")


def text(value: object) -> str:
    """A value as the file holds it: nine digits, functions by name."""
    return f"{value:.9g}" if isinstance(value, float) else str(getattr(value, "__name__", value))


def key_of(row: Mapping[str, str]) -> tuple[str, ...]:
    """What tells one row from another: the network, the picture and the settings."""
    return tuple(row[name] for name in KEY)


def finished(jobs: Sequence[Job], executor: Executor | None) -> Iterator[list[Row]]:
    """The rows of each job as soon as they are known."""
    if executor is None:
        yield from map(attack, jobs)
        return
    futures = {executor.submit(attack, job): job for job in jobs}
    try:
        for future in as_completed(futures):
            error = future.exception()
            yield future.result() if error is None else failures(futures[future], error)
    finally:
        for future in futures:
            future.cancel()


def attack(job: Job) -> list[Row]:
    """One row per picture of a job. After a failure its pictures are tried one by one."""
    try:
        return rows_of(job)
    except Exception as error:
        if len(job.names) == 1:
            return failures(job, error)
        return [row for place in range(len(job.names)) for row in attack(job.part([place]))]


def failures(job: Job, error: BaseException) -> list[Row]:
    """Rows that say why there is no result."""
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return [{**job.about(place), "error": reason} for place in range(len(job.names))]


_THREAD = threading.local()


def load(source: Callable[[], Network]) -> Network:
    """A network, made once in each thread of each process, which keeps the last four it used."""
    if not hasattr(_THREAD, "made"):
        _THREAD.made = lru_cache(maxsize=4)(lambda source: source())
    return _THREAD.made(source)


def own(source: Source) -> Network:
    """The network for this thread alone: bases that stop half-way with a hook cannot be shared."""
    if not isinstance(source, torch.nn.Module):
        return load(source)
    return source if threading.current_thread() is threading.main_thread() else copy.deepcopy(source)


def base_of(network: Network) -> Base:
    """What is attacked: the network itself, or that of a classifier."""
    return network.base if isinstance(network, Classifier) else network


def weights_of(source: Source) -> str | None:
    """The weights of a base as the table names them; None for a function that has yet to make it."""
    return base_of(source).sha256[:12] if isinstance(source, torch.nn.Module) else None


def rows_of(job: Job) -> list[Row]:
    """Run the attack of one job and measure its pictures."""
    network = own(job.source)
    base = base_of(network)
    loss = job.settings["loss"]
    start = time.perf_counter()
    result = zero_out(base, job.images, **{**job.settings, "loss": LOSSES[loss] if isinstance(loss, str) else loss})
    seconds = (time.perf_counter() - start) / len(job.names)
    steps = job.settings["steps"]
    if any(n and taken < steps for n, taken in zip(result.nonzero, result.steps, strict=True)):
        raise KeyboardInterrupt  # zero_out hands back what it has; a table must not hold it as a result
    clean = embed(base, job.images)
    ratio = embed(base, result.images).norm(dim=1) / clean.norm(dim=1)
    variation = [float("nan")] * len(job.names)
    if isinstance(network, Classifier):
        variation = ((network.probabilities(result.images) - network.blank()).abs().sum(1) / 2).tolist()
    weights = weights_of(base)
    rows = []
    for i in range(len(job.names)):
        change = difference(result.original[i : i + 1].cpu(), result.images[i : i + 1].cpu())
        values = (
            result.nonzero[i], clean.shape[1], result.margin[i], result.steps[i], change.linf, change.psnr,
            change.ssim, ratio[i].item(), variation[i], seconds, weights, "",
        )  # fmt: skip
        rows.append({**job.about(i), **{k: text(v) for k, v in zip(RESULTS, values, strict=True)}})
    return rows


class Store:
    """The rows known so far: in memory, and in a CSV file that is never half-written."""

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = None if path is None else Path(path)
        self.rows: dict[tuple[str, ...], Row] = {}
        self.failed: dict[tuple[str, ...], Row] = {}
        if self.path is not None and self.path.exists():
            with open(self.path, newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                if reader.fieldnames != COLUMNS:
                    raise ValueError(f"{self.path.name} has other columns than a sweep; give another path")
                self._sort_in(list(reader))

    def holds(self, key: tuple[str, ...], weights: str | None) -> bool:
        """Whether the row is known. One of other weights is forgotten (None: any weights will do)."""
        if key in self.rows and weights not in (None, self.rows[key]["weights"]):
            del self.rows[key]
        return key in self.rows

    def _sort_in(self, rows: Sequence[Row]) -> None:
        for row in rows:
            key = key_of(row)
            self.failed.pop(key, None)
            (self.failed if row.get("error") else self.rows)[key] = row

    def add(self, rows: Sequence[Row]) -> None:
        """Keep rows, in the file too; beside it a JSON file tells what computed them."""
        self._sort_in(rows)
        if self.path is not None:
            write_file(self.path, self._csv([*self.rows.values(), *self.failed.values()]).encode())
            versions = {"python": platform.python_version(), "torch": torch.__version__}
            versions |= {"processor": platform.machine(), "threads": torch.get_num_threads()}
            versions |= {"bfloat16": native_bfloat16(torch.device("cpu"))}
            versions |= {"seeds": sorted({row["seed"] for row in self.rows.values()}), "rows": len(self.rows)}
            write_file(self.path.with_suffix(".json"), (json.dumps(versions, indent=2) + "\n").encode())

    def _csv(self, rows: Sequence[Row]) -> str:
        stream = io.StringIO()
        writer = csv.DictWriter(stream, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return stream.getvalue()

    def table(self, keys: Mapping[tuple[str, ...], None]) -> pd.DataFrame:
        """The rows with these keys, in their order."""
        return read(io.StringIO(self._csv([self.rows.get(key) or self.failed[key] for key in keys])))


def read(file: str | Path | io.StringIO) -> pd.DataFrame:
    """The table of a sweep's CSV file, with numbers as numbers; eps and step_size in units of [0, 1]."""
    return pd.read_csv(file, dtype={"pixels": str, "weights": str, "error": str})


def pick(table: pd.DataFrame, *, size: int = 224, **settings: Any) -> pd.DataFrame:
    """The rows of a table with these settings (of a list, see options: any) and otherwise the defaults of zero_out."""
    keep = table["size"] == size
    for name, setting in {**DEFAULTS, **settings}.items():
        wanted = {text(complete({name: option})[name]) for option in options(setting)}
        # pandas reads None as an empty place.
        keep &= table[name].map(lambda value: text(None if pd.isna(value) else value)).isin(wanted)
    return table[keep]


def bisect(left_at: Callable[[int], int], most: int = 16) -> tuple[int | None, dict[int, int]]:
    """The smallest budget found at which nothing is left, in 1/255, and what was left at each one tried.

    left_at: a budget of 1 to `most` -> outputs left. None when something is left even at `most`.
    """
    tried = {most: left_at(most)}
    low, high = 0, most
    while not tried[high] and high - low > 1:
        middle = (low + high) // 2
        tried[middle] = left_at(middle)
        low, high = (middle, high) if tried[middle] else (low, middle)
    return (None if tried[high] else high), tried


def smallest_budget(base: Base, image: Tensor, *, most: int = 16, **settings: Any) -> tuple[int | None, dict[int, int]]:
    """Bisection over whole grey levels: the smallest budget at which this attack zeroed the picture.

    An upper bound of the smallest budget that suffices: another attack, or more steps, may need
    less. image (1, 3, H, W). settings go to zero_out. Returns as bisect does.
    """
    return bisect(lambda budget: zero_out(base, image, eps=budget / 255, **settings).nonzero[0], most)


__all__ = ["LOSSES", "bisect", "grid", "pick", "read", "smallest_budget", "sweep"]
