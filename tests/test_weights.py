"""Weight files: whole or refused, found in the right order, and read as Keras wrote them."""

import hashlib
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from helpers import networks, weights
from helpers.base import Base
from helpers.networks import CAFFE_MEAN, dense_head, vgg16
from helpers.weights import (
    BUNDLED,
    EFFICIENTNET_LITE0,
    VGG16_BASE,
    WeightFile,
    find_file,
    find_or_download,
    keras_head,
    load_bundled,
)

# --- bundled files ----------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["altered", "cut short"])
def test_a_damaged_bundled_file_is_refused(damage: str, tmp_path: Path) -> None:
    file = EFFICIENTNET_LITE0
    content = bytearray((BUNDLED / file.name).read_bytes())
    content[-1] ^= 1  # one bit of the last weight
    content = content[:-1] if damage == "cut short" else content
    (tmp_path / file.name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{file.name} is altered or cut short .*get it again"):
        load_bundled(file, tmp_path)


def test_a_whole_copy_is_accepted(tmp_path: Path) -> None:
    shutil.copy(BUNDLED / VGG16_BASE.name, tmp_path)
    state = load_bundled(VGG16_BASE, tmp_path)
    assert len(state) == 26
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}


def test_a_missing_bundled_file_is_named_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"{VGG16_BASE.name} is missing; get the whole repository"):
        load_bundled(VGG16_BASE, tmp_path)


def test_the_base_has_the_published_statistics() -> None:
    """Of the last convolution's bias and the first layers, as published for the Oxford weights in Keras."""
    state = load_bundled(VGG16_BASE)
    bias = state["28.bias"]
    half = 2**-11  # relative error of half precision
    assert bias.mean().item() == pytest.approx(0.14986369, rel=half)
    assert bias.std(unbiased=False).item() == pytest.approx(0.4928213, rel=half)
    assert bias.min().item() == pytest.approx(-0.50036746, rel=half)
    assert bias.max().item() == pytest.approx(9.431553, rel=half)
    assert bias.numel() == 512
    assert state["0.bias"][:2].tolist() == pytest.approx([0.73429835, 0.09340367], rel=half)
    # The published order of channels is blue, green, red; here red is first, so blue is the last.
    assert state["0.weight"][0, 2, 0].tolist() == pytest.approx([0.42947057, 0.373467, -0.06136011], rel=half)


# --- large files: the search ------------------------------------------------------------------

CONTENT = b"weights, as far as this test goes"
FILE = WeightFile("big.h5", hashlib.md5(CONTENT).hexdigest(), "http://127.0.0.1:9/big.h5", "md5")


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Every place of the search in its order, none of which holds the file yet."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("ZERO_OUT_WEIGHTS", str(tmp_path / "variable"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(weights, "KAGGLE", tmp_path / "kaggle")
    return {
        "variable": tmp_path / "variable" / FILE.name,
        "torch": tmp_path / "torch" / "hub" / "checkpoints" / FILE.name,
        "keras": tmp_path / "keras" / "models" / FILE.name,
        "kaggle": tmp_path / "kaggle" / "vgg16-weights" / FILE.name,
    }


def put(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_the_search_goes_from_the_nearest_place_to_the_farthest(places: dict[str, Path], tmp_path: Path) -> None:
    assert find_file(FILE) is None
    for path in reversed(places.values()):
        put(path)
        assert find_file(FILE) == path
        assert find_or_download(FILE) == path
    explicit = put(tmp_path / "mine" / "renamed.h5")
    assert find_or_download(FILE, explicit) == explicit
    assert find_or_download(FILE, str(explicit)) == explicit


@pytest.mark.parametrize("name", ["nowhere.h5", "folder"])
def test_an_explicit_path_is_never_silently_replaced(name: str, places: dict[str, Path], tmp_path: Path) -> None:
    put(places["torch"])
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileNotFoundError, match=rf"{name}.* does not exist; give the path of big\.h5"):
        find_or_download(FILE, tmp_path / name)


def test_a_path_may_be_a_folder_and_start_with_a_tilde(
    places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    path = put(tmp_path / "mine" / FILE.name)
    assert find_file(FILE, "~/mine") == path
    monkeypatch.setenv("ZERO_OUT_WEIGHTS", "~/mine")
    assert find_file(FILE) == path


def test_the_variable_may_name_a_file(places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZERO_OUT_WEIGHTS", str(put(tmp_path / "renamed.h5")))
    assert find_file(FILE) == tmp_path / "renamed.h5"


def test_the_variable_may_name_another_networks_file(
    places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZERO_OUT_WEIGHTS", str(put(tmp_path / "another.pth", b"of another network")))
    put(places["torch"])
    assert find_or_download(FILE) == places["torch"]


def test_of_several_safetensors_the_variable_names_one(
    places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = put(tmp_path / VGG16_BASE.name)
    monkeypatch.setenv("ZERO_OUT_WEIGHTS", str(given))
    assert find_file(VGG16_BASE) == given
    assert find_file(EFFICIENTNET_LITE0) is None
    monkeypatch.setenv("ZERO_OUT_WEIGHTS", str(tmp_path))
    assert find_file(VGG16_BASE) == given


def test_keras_cache_without_its_variable(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KERAS_HOME")
    home = places["keras"].parents[2] / "home"
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(home))
    path = put(home / ".keras" / "models" / FILE.name)
    assert find_file(FILE) == path


@pytest.mark.parametrize("mount", ["slug", "slug/folder", "datasets/owner/slug", "datasets/owner/slug/folder"])
def test_kaggle_inputs_in_both_layouts(mount: str, places: dict[str, Path], tmp_path: Path) -> None:
    path = put(tmp_path / "kaggle" / mount / FILE.name)
    assert find_or_download(FILE) == path


def test_a_found_file_that_is_damaged_is_refused(places: dict[str, Path]) -> None:
    path = put(places["keras"], CONTENT[:-1])
    with pytest.raises(ValueError, match=r"big\.h5 is altered or cut short \(md5 .*delete it"):
        find_or_download(FILE)
    assert path.is_file(), "the user's file is the user's to delete"


# --- large files: the download ----------------------------------------------------------------


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_without_the_internet_one_sentence_tells_what_to_do(places: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        find_or_download(FILE)  # nothing listens on that port
    text = str(caught.value)
    assert "\n" not in text
    for part in (FILE.name, "ZERO_OUT_WEIGHTS", "Internet", FILE.url):
        assert part in text
    assert not files_below(tmp_path)


@pytest.mark.parametrize("page", ["/big.h5", "/missing.h5", "/altered.h5", "/cut.h5"])
def test_only_a_whole_download_is_kept(
    page: str, places: dict[str, Path], server: tuple[str, dict[str, bytes]], tmp_path: Path
) -> None:
    address, pages = server
    pages |= {"/big.h5": CONTENT, "/altered.h5": CONTENT[::-1], "/cut.h5": CONTENT}
    file = WeightFile(FILE.name, FILE.digest, address + page, "md5")
    if page == "/big.h5":
        assert find_or_download(file) == places["torch"]
        assert places["torch"].read_bytes() == CONTENT
        assert files_below(tmp_path) == [places["torch"]]
    else:
        with pytest.raises((FileNotFoundError, ValueError), match=r"big\.h5"):
            find_or_download(file)
        assert not files_below(tmp_path)


# --- Keras' dense layers ----------------------------------------------------------------------


def write_keras(path: Path, layers: dict[str, tuple[np.ndarray, np.ndarray]], group: str = "") -> Path:
    """An HDF5 file laid out as Keras' VGG-16: a group per layer, its attribute weight_names in bytes."""
    with h5py.File(path, "w") as file:
        root = file.create_group(group) if group else file
        root.attrs["layer_names"] = [name.encode() for name in layers]
        for name, (kernel, bias) in layers.items():
            layer = root.create_group(name)
            layer.attrs["weight_names"] = [f"{name}_W_1:0".encode(), f"{name}_b_1:0".encode()]
            layer[f"{name}_W_1:0"], layer[f"{name}_b_1:0"] = kernel, bias
    return path


def dense_layers(inputs: int, hidden: int = 5, classes: int = 4) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    sizes = {"fc1": (inputs, hidden), "fc2": (hidden, hidden + 1), "predictions": (hidden + 1, classes)}
    return {
        name: (rng.normal(size=(i, o)).astype(np.float32) / i**0.5, rng.normal(size=o).astype(np.float32))
        for name, (i, o) in sizes.items()
    }


def keras_logits(layers: dict[str, tuple[np.ndarray, np.ndarray]], features: np.ndarray) -> np.ndarray:
    """What Keras computes from features (N, H, W, C), in NumPy."""
    x = features.reshape(len(features), -1)
    for name, (kernel, bias) in layers.items():
        x = x @ kernel + bias
        x = x if name == "predictions" else np.maximum(x, 0)
    return x


@pytest.mark.parametrize("group", ["", "model_weights"])
def test_the_dense_layers_compute_what_keras_computes(group: str, tmp_path: Path) -> None:
    shape = (4, 3, 2)  # three different numbers, so that no wrong order passes
    layers = dense_layers(24)
    head = dense_head(keras_head(write_keras(tmp_path / "top.h5", layers, group), shape))
    features = np.random.default_rng(1).normal(size=(7, *shape)).astype(np.float32)
    wanted = keras_logits(layers, features.transpose(0, 2, 3, 1))
    with torch.no_grad():
        found = head(torch.from_numpy(features)).numpy()
    assert found.shape == (7, 4)
    assert np.allclose(found, wanted, atol=1e-5)
    assert not np.allclose(found, keras_logits(layers, features), atol=1e-2), "the order makes a difference here"


@pytest.mark.parametrize("missing", ["fc1", "fc2", "predictions"])
def test_a_missing_layer_is_named(missing: str, tmp_path: Path) -> None:
    layers = dense_layers(24)
    del layers[missing]
    with pytest.raises(ValueError, match=f"has no layer {missing}; give"):
        keras_head(write_keras(tmp_path / "notop.h5", layers), (4, 3, 2))


def test_a_wrong_size_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fc1 has 25 inputs, expected 24"):
        keras_head(write_keras(tmp_path / "top.h5", dense_layers(25)), (4, 3, 2))


# --- the full networks, with small dense layers in place of the large -----------------------------


def known(monkeypatch: pytest.MonkeyPatch, constant: str, path: Path) -> None:
    """Let this file pass for the published one."""
    monkeypatch.setattr(weights, constant, WeightFile(path.name, hashlib.sha256(path.read_bytes()).hexdigest()))


def test_full_vgg16_from_keras_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vgg: Base) -> None:
    layers = dense_layers(25_088, hidden=8, classes=1000)
    path = write_keras(tmp_path / "keras.h5", layers)
    known(monkeypatch, "KERAS_VGG16", path)
    monkeypatch.setattr(networks, "vgg16_base", lambda: vgg)
    network = vgg16("oxford", path)
    assert network.base is vgg
    features = torch.rand(1, 512, 7, 7, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = network.head(features).numpy()
    assert np.allclose(found, keras_logits(layers, features.permute(0, 2, 3, 1).numpy()), atol=1e-4)
    zeros = torch.from_numpy(keras_logits(layers, np.zeros((1, 25_088), np.float32))).softmax(1)[0]
    assert torch.allclose(network.blank(), zeros, atol=1e-6)
    assert not any(p.requires_grad for p in network.parameters())


def test_full_vgg16_from_torchvisions_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vgg: Base) -> None:
    """The same base under torchvision's names and normalisation gives torchvision's sums."""
    state = {f"features.{k}": v for k, v in load_bundled(VGG16_BASE).items()}
    for place, (kernel, bias) in zip((0, 3, 6), dense_layers(25_088, 8, 1000).values(), strict=True):
        state[f"classifier.{place}.weight"] = torch.from_numpy(kernel).T.contiguous()
        state[f"classifier.{place}.bias"] = torch.from_numpy(bias)
    torch.save(state, tmp_path / "torchvision.pth")
    known(monkeypatch, "TORCHVISION_VGG16", tmp_path / "torchvision.pth")
    network = vgg16("torchvision", tmp_path / "torchvision.pth")
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    layers = nn.Sequential(vgg.body, vgg.rest)
    with torch.no_grad():
        wanted = layers((x - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1))
        assert torch.allclose(network.base.features(x), wanted, atol=1e-3 * wanted.max().item())
        logits = network.head(torch.zeros(1, 512, 7, 7))
    fc1, fc2, last = ((state[f"classifier.{i}.weight"], state[f"classifier.{i}.bias"]) for i in (0, 3, 6))
    assert torch.allclose(logits[0], last[0] @ (fc2[0] @ fc1[1].relu() + fc2[1]).relu() + last[1], atol=1e-5)
    assert not torch.equal(network.base.mean.flatten(), torch.tensor(CAFFE_MEAN))


def test_an_unknown_choice_of_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="'keras'; give 'oxford' or 'torchvision'"):
        vgg16("keras")
