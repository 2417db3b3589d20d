"""Keep what a network gave for a set of pictures, so that notebooks need not compute it again.

Only heads, probes and detectors read from here. An attack and a certificate never do: they run the network.
"""

import contextlib
import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from helpers.base import Base
from helpers.images import out_folder, write_file


@lru_cache
def _code() -> bytes:
    """A hash of all helpers: when one of them changes, nothing kept before is used."""
    content = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    return hashlib.sha256(content).digest()


def _place(key: str) -> Path:
    return out_folder() / "kept" / f"{key[:32]}.safetensors"


def kept(base: Base, images: Tensor, what: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What compute() gives, or gave before for the same pictures, network, weights, code and version of torch.

    images: (N, 3, H, W); what: names the computation and its settings. Results are in out/kept/ as
    safetensors; a damaged file is made again, and where none can be written, none is.
    """
    key = hashlib.sha256(_code())
    key.update(f"{base.name} {base.sha256} {what} {torch.__version__} {tuple(images.shape)}".encode())
    key.update(f"{base.feature_shape} {base!r}".encode())  # equal weights may stand in layers of other strides
    key.update(images.detach().cpu().contiguous().numpy().tobytes())
    with contextlib.suppress(OSError, SafetensorError):
        return load_file(_place(key.hexdigest()))
    result = compute()
    with contextlib.suppress(OSError):
        write_file(_place(key.hexdigest()), save({name: tensor.contiguous() for name, tensor in result.items()}))
    return result
