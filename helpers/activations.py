"""What each layer does: its outputs, their statistics, and both while an attack runs.

Hooks hand out detached clones: a later in-place operation cannot change what was recorded.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd
import torch
from torch import Tensor, nn

from helpers.base import ACTIVATIONS, Base, watch_run
from helpers.images import check_images

POOLINGS = (nn.MaxPool2d, nn.AvgPool2d)


def layers(base: Base) -> dict[str, nn.Module]:
    """The layers worth watching, in order of depth: every activation and every pooling.

    VGG-16: conv1_1 ... conv5_3 (each the ReLU behind that convolution) and pool1 ... pool5.
    Other networks: their activations and poolings under the name that torch gives them.
    Only layers that run on the way to the features are listed.
    """
    if all(isinstance(part, nn.Sequential) for part in (base.body, base.rest)):
        named = _by_block([*base.body, *base.rest])
    else:
        named = {name.removeprefix("body.model."): module for name, module in base.named_modules()}
    named = {name: module for name, module in named.items() if isinstance(module, (*ACTIVATIONS, *POOLINGS))}
    with torch.no_grad():
        ran, _ = watch_run(base.features, torch.zeros(1, 3, base.size, base.size).to(base.mean), named.values())
    names = {module: name for name, module in named.items()}
    return {names[module]: module for module in dict.fromkeys(ran)}


def _by_block(modules: Sequence[nn.Module]) -> dict[str, nn.Module]:
    """Name a chain of convolutions, activations and poolings as Simonyan & Zisserman (2015) do."""
    named: dict[str, nn.Module] = {}
    block, place = 1, 0
    for module in modules:
        if isinstance(module, POOLINGS):
            named[f"pool{block}"] = module
            block, place = block + 1, 0
        elif isinstance(module, ACTIVATIONS):
            place += 1
            named[f"conv{block}_{place}"] = module
    return named


@torch.no_grad()
def record(
    base: Base, images: Tensor, names: Sequence[str] | Mapping[str, nn.Module] = (), *, before: bool = False
) -> dict[str, Tensor]:
    """What the named layers (default: all of `layers`) put out for pictures (N, 3, H, W): name -> (N, C, h, w).

    before: what goes into the layer instead, for an activation the pre-activations. Tensors
    are detached clones. A layer that runs several times is recorded at its last run. Raises
    KeyError for a name that is not in layers(base), whose answer may be given as names.
    """
    check_images(images)
    known = names if isinstance(names, Mapping) else layers(base)
    if unknown := [name for name in names if name not in known]:
        raise KeyError(f"no layer {unknown[0]!r}; {base.name} has {', '.join(known)}")
    noted: dict[str, Tensor] = {}

    def note(name: str, tensor: Tensor) -> None:
        noted[name] = tensor.detach().clone()

    hooks = []
    for name in names or known:
        if before:
            hook = known[name].register_forward_pre_hook(lambda _, inputs, name=name: note(name, inputs[0]))
        else:
            hook = known[name].register_forward_hook(lambda _, inputs, output, name=name: note(name, output))
        hooks.append(hook)
    try:
        base.features(images.to(base.mean.device))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: noted[name] for name in names or known}


@torch.no_grad()
def layer_table(recorded: Mapping[str, Tensor], clean: Mapping[str, Tensor] | None = None) -> pd.DataFrame:
    """One row per layer of a `record`: units of one picture, active (share that is not 0), mean, norm (L2).

    With the record of the clean picture also `alike`: the cosine between both outputs (1: the
    same pattern, 0: nothing in common, or nothing at all). Means over pictures.
    """
    rows = {}
    for name, output in recorded.items():
        flat = _rows(output)
        norm = torch.linalg.vector_norm(flat, dim=1)
        rows[name] = {
            "units": flat.shape[1],
            "active": output.count_nonzero().item() / output.numel(),
            "mean": output.mean().item(),
            "norm": norm.mean().item(),
        }
        if clean is not None:
            other = _rows(clean[name])
            both = norm * torch.linalg.vector_norm(other, dim=1)
            rows[name]["alike"] = (torch.linalg.vecdot(flat, other) / both.clamp(min=1e-12)).mean().item()
    return pd.DataFrame.from_dict(rows, orient="index").astype({"units": int})


def _rows(output: Tensor) -> Tensor:
    """One row of numbers per picture; channels last, as they lie in memory, so nothing is copied."""
    return output.movedim(1, -1).flatten(1)


def strongest(output: Tensor, count: int) -> list[int]:
    """The channels of one picture's layer (1, C, h, w) with the largest mean, the largest first."""
    return output[0].mean((1, 2)).topk(min(count, output.shape[1])).indices.tolist()


@dataclass
class Watch:
    """Notes what every layer does while an attack runs: zero_out(..., on_step=Watch(base)).

    at: the steps to note (None: all); step 0 and the step that ends at zero are noted in any case.
    keep: how many channels of each layer to keep as maps, the strongest of the clean picture.
    Afterwards: steps, the noted ones; images, one (N, 3, H, W) per noted step; tables, one
    layer_table per noted step. channels[name]: the numbers of the kept channels; maps[name]:
    one half-precision (keep, h, w) per noted step. Maps are of the first picture.
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
        self._extra = False  # whether the last note stands outside `at`

    def __call__(self, step: int, images: Tensor, nonzero: Tensor) -> None:
        extra = self.at is not None and step not in self.at and step > 0
        if extra and nonzero.any():
            return
        if self._extra:  # zero, but not the end yet: only the last such step is worth keeping
            for notes in (self.steps, self.images, self.tables, *self.maps.values()):
                notes.pop()
        self._extra = extra
        now = record(self.base, images, self._layers)
        if not self._clean:
            self._clean = now
            self.channels = {name: strongest(output, self.keep) for name, output in now.items() if output.ndim == 4}
        self.steps.append(step)
        self.images.append(images)
        self.tables.append(layer_table(now, self._clean))
        for name, places in self.channels.items():
            self.maps.setdefault(name, []).append(now[name][0, places].half().cpu())

    def over_steps(self, column: str) -> pd.DataFrame:
        """One column of all tables side by side: a row per layer, a column per noted step."""
        return pd.DataFrame({step: table[column] for step, table in zip(self.steps, self.tables, strict=True)})
