"""What each layer does: its output, its statistics, and both while an attack runs.

Hooks return clones, so a later in-place operation cannot change what was recorded.
"""

from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import pandas as pd
import torch
from torch import Tensor, nn

from helpers.base import ACTIVATIONS, Base
from helpers.images import check_images

POOLINGS = (nn.MaxPool2d, nn.AvgPool2d)


def layers(base: Base) -> dict[str, nn.Module]:
    """Every activation and every pooling that runs on the way to the features, in order of depth.

    Chains like VGG-16 get the names of Simonyan & Zisserman (2015): conv1_1, ... conv5_3 (each the ReLU after that
    convolution) and pool1, ... pool5. Other networks keep the names that torch gives their modules.
    """
    named = {
        name.removeprefix("body.model."): module
        for name, module in base.named_modules()
        if isinstance(module, (*ACTIVATIONS, *POOLINGS))
    }
    if isinstance(base.body, nn.Sequential) and isinstance(base.rest, nn.Sequential):
        named = dict(_by_block(named.values()))
    probe = torch.zeros_like(base.mean).expand(1, 3, base.size, base.size)
    return {name: named[name] for name in _run(base, probe, named)}


def _by_block(modules: Iterable[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """Names by block and place, for the activations and poolings of a chain."""
    block, place = 1, 0
    for module in modules:
        if isinstance(module, POOLINGS):
            yield f"pool{block}", module
            block, place = block + 1, 0
        else:
            place += 1
            yield f"conv{block}_{place}", module


def record(base: Base, images: Tensor) -> dict[str, Tensor]:
    """The outputs of layers(base) for images, as name -> (N, C, h, w) on the base's device.

    images: (N, 3, H, W) in [0, 1], on any device.
    """
    check_images(images)
    return _run(base, images, layers(base))


@torch.no_grad()
def _run(base: Base, images: Tensor, watched: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """The outputs of the modules that run in one forward pass, in that order; for several runs, the last."""
    outputs: dict[str, Tensor] = {}

    def note(name: str, _: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        outputs[name] = output.clone()

    with ExitStack() as hooks:
        for name, module in watched.items():
            hooks.enter_context(module.register_forward_hook(partial(note, name)))
        base.features(images.to(base.mean.device))
    return outputs


@torch.no_grad()
def layer_table(recorded: Mapping[str, Tensor], clean: Mapping[str, Tensor] | None = None) -> pd.DataFrame:
    """A table with one row per layer, averaged over images.

    recorded: what `record` returns.
    clean: the same for the clean images; adds the column cosine. (Default: none)
    Returns the columns units (per image), active (share of units that are not 0), mean, norm (l2) and cosine (to the
    output for the clean image: 1 for the same pattern, 0 for no common active unit).
    """
    rows = {}
    for name, output in recorded.items():
        flat = output.flatten(1)  # (N, units)
        rows[name] = {
            "units": flat.shape[1],
            "active": output.count_nonzero().item() / output.numel(),
            "mean": output.mean().item(),
            "norm": torch.linalg.vector_norm(flat, dim=1).mean().item(),
        }
        if clean is not None:
            rows[name]["cosine"] = torch.cosine_similarity(flat, clean[name].flatten(1)).mean().item()
    return pd.DataFrame.from_dict(rows, orient="index").astype({"units": int})


def strongest(output: Tensor, count: int) -> list[int]:
    """The `count` channels of a layer's output (1, C, h, w) with the largest means, the largest first."""
    return output[0].mean((1, 2)).topk(min(count, output.shape[1])).indices.tolist()


@dataclass
class LayerRecorder:
    """Records every layer while an attack runs: zero_out(..., on_step=LayerRecorder(base)).

    at: the steps to record; step 0 and the step that reaches zero are always recorded. (Default: all)
    keep: how many channels of each layer to keep as maps, those that are strongest for the clean image. (Default: 0)
    After the attack there is one entry per recorded step in steps, in images, each (N, 3, H, W), in tables, each a
    layer_table, and in maps[name], each (keep, h, w) for the first image, in half precision.
    channels[name]: the numbers of the channels in these maps.
    """

    base: Base
    at: Container[int] | None = None
    keep: int = 0
    steps: list[int] = field(default_factory=list)
    images: list[Tensor] = field(default_factory=list, repr=False)
    tables: list[pd.DataFrame] = field(default_factory=list, repr=False)
    channels: dict[str, list[int]] = field(default_factory=dict, repr=False)
    maps: dict[str, list[Tensor]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._layers = layers(self.base)
        self._clean: dict[str, Tensor] = {}

    def _listed(self, step: int) -> bool:
        return self.at is None or step == 0 or step in self.at

    def __call__(self, step: int, images: Tensor, nonzero: Tensor) -> None:
        if not self._listed(step) and nonzero.any():
            return
        if self.steps and not self._listed(self.steps[-1]):  # at zero, but not the end: only the last such step stays
            for entries in (self.steps, self.images, self.tables, *self.maps.values()):
                entries.pop()
        now = _run(self.base, images, self._layers)
        if not self._clean:
            self._clean = now
            self.channels = {name: strongest(output, self.keep) for name, output in now.items() if output.ndim == 4}
        self.steps.append(step)
        self.images.append(images)
        self.tables.append(layer_table(now, self._clean))
        for name, places in self.channels.items():
            self.maps.setdefault(name, []).append(now[name][0, places].half().cpu())

    def over_steps(self, column: str) -> pd.DataFrame:
        """One column of all tables: a row per layer, a column per recorded step."""
        return pd.DataFrame({step: table[column] for step, table in zip(self.steps, self.tables, strict=True)})
