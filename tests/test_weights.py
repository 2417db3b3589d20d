"""Weight files: whole or refused, found in the right order, and read as Keras wrote them."""

import hashlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from helpers import networks, weights
from helpers.base import Base
from helpers.networks import vgg16
from helpers.weights import BUNDLED, VGG16_BASE, VGG16_HARDENED, WeightFile, find_file, find_or_download, load_bundled

# --- bundled files ----------------------------------------------------------------------------


def test_a_damaged_bundled_file_is_refused(tmp_path: Path) -> None:
    content = bytearray((BUNDLED / VGG16_HARDENED.name).read_bytes())
    content[-1] ^= 1  # one bit of the last weight
    (tmp_path / VGG16_HARDENED.name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{VGG16_HARDENED.name} is altered or cut short .sha256 .*get it again"):
        load_bundled(VGG16_HARDENED, tmp_path)


def test_a_missing_bundled_file_is_named_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"{VGG16_BASE.name} is missing; get the whole repository"):
        load_bundled(VGG16_BASE, tmp_path)


def test_the_base_has_the_published_statistics() -> None:
    """Of the last convolution's bias and the first layers, as published for the Oxford weights in Keras."""
    state = load_bundled(VGG16_BASE)
    bias = state["28.bias"]
    assert bias.dtype == torch.float32 and bias.shape == (512,)
    found = [bias.mean(), bias.std(unbiased=False), bias.min(), bias.max(), *state["0.bias"][:2]]
    published = [0.14986369, 0.4928213, -0.50036746, 9.431553, 0.73429835, 0.09340367]
    assert found == pytest.approx(published, rel=2**-11)  # half precision
    # The published order of channels is blue, green, red; here red is first, so blue is the last.
    assert state["0.weight"][0, 2, 0].tolist() == pytest.approx([0.42947057, 0.373467, -0.06136011], rel=2**-11)


# --- large files: the search and the download -------------------------------------------------

CONTENT = b"weights, as far as this test goes"
FILE = WeightFile("big.h5", hashlib.md5(CONTENT).hexdigest(), "http://127.0.0.1:9/big.h5")


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every place of the search in its order, none of which holds the file yet."""
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("ZERO_OUT_WEIGHTS", "~/mine")
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(weights, "KAGGLE", tmp_path / "kaggle")
    folders = ["mine", "torch/hub/checkpoints", ".keras/models"]
    for mount in ("slug", "datasets/owner/slug"):
        folders += [f"kaggle/{mount}", f"kaggle/{mount}/folder"]
    return [tmp_path / folder / FILE.name for folder in folders]


def put(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_the_search_goes_from_the_nearest_place_to_the_farthest(
    places: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_file(FILE) is None
    for path in reversed(places):
        put(path)
        assert find_or_download(FILE) == find_file(FILE) == path
    explicit = put(tmp_path / "renamed.h5")
    assert find_or_download(FILE, "~/renamed.h5") == explicit
    with pytest.raises(FileNotFoundError, match=r"nowhere\.h5"):
        find_or_download(FILE, tmp_path / "nowhere.h5")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.delenv("ZERO_OUT_WEIGHTS")
    places[1].unlink()
    other = put(tmp_path / "keras" / "models" / FILE.name)
    assert find_file(FILE) == other


def test_a_found_file_that_is_damaged_is_refused(places: list[Path]) -> None:
    path = put(places[2], CONTENT[:-1])
    with pytest.raises(ValueError, match=r"big\.h5 is altered or cut short \(md5 .*delete it"):
        find_or_download(FILE)
    assert path.is_file(), "the user's file is the user's to delete"


def test_without_the_internet_one_sentence_tells_what_to_do(places: list[Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        find_or_download(FILE)  # nothing listens on that port
    text = str(caught.value)
    assert "\n" not in text
    assert all(part in text for part in (FILE.name, "ZERO_OUT_WEIGHTS", "Internet", FILE.url))
    assert not files_below(tmp_path)


def test_only_a_whole_download_is_kept(
    places: list[Path], server: tuple[str, dict[str, bytes]], tmp_path: Path
) -> None:
    address, pages = server
    pages |= {"/big.h5": CONTENT, "/altered.h5": CONTENT[::-1], "/cut.h5": CONTENT}
    for page in ("/missing.h5", "/altered.h5", "/cut.h5"):
        with pytest.raises((FileNotFoundError, ValueError), match=r"big\.h5"):
            find_or_download(WeightFile(FILE.name, FILE.digest, address + page))
        assert not files_below(tmp_path), page
    assert find_or_download(WeightFile(FILE.name, FILE.digest, f"{address}/big.h5")) == places[1]
    assert files_below(tmp_path) == [places[1]] and places[1].read_bytes() == CONTENT


# --- the full networks, with small dense layers in place of the large -----------------------------

Layers = dict[str, tuple[np.ndarray, np.ndarray]]


def dense_layers() -> Layers:
    """Kernel and bias of each layer, as Keras orders them."""
    rng = np.random.default_rng(0)
    sizes = {"fc1": (25_088, 8), "fc2": (8, 9), "predictions": (9, 1000)}
    return {
        name: (rng.normal(size=(i, o)).astype(np.float32) / i**0.5, rng.normal(size=o).astype(np.float32))
        for name, (i, o) in sizes.items()
    }


def write_keras(path: Path, layers: Layers) -> Path:
    """An HDF5 file laid out as Keras' VGG-16: a group per layer, its attribute weight_names in bytes."""
    with h5py.File(path, "w") as file:
        for name, (kernel, bias) in layers.items():
            layer = file.create_group(name)
            layer.attrs["weight_names"] = [f"{name}_W_1:0".encode(), f"{name}_b_1:0".encode()]
            layer[f"{name}_W_1:0"], layer[f"{name}_b_1:0"] = kernel, bias
    return path


def keras_logits(layers: Layers, features: np.ndarray) -> np.ndarray:
    """What Keras computes from features (N, H, W, C), in NumPy."""
    x = features.reshape(len(features), -1)
    for name, (kernel, bias) in layers.items():
        x = x @ kernel + bias
        x = x if name == "predictions" else np.maximum(x, 0)
    return x


def known(monkeypatch: pytest.MonkeyPatch, constant: str, path: Path) -> None:
    """Let this file pass for the published one."""
    monkeypatch.setattr(weights, constant, WeightFile(path.name, hashlib.sha256(path.read_bytes()).hexdigest()))


def test_full_vgg16_from_keras_file_computes_what_keras_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vgg: Base
) -> None:
    layers = dense_layers()
    path = write_keras(tmp_path / "keras.h5", layers)
    known(monkeypatch, "KERAS_VGG16", path)
    monkeypatch.setattr(networks, "vgg16_base", lambda: vgg)
    network = vgg16("oxford", path)
    assert network.base is vgg
    features = torch.rand(1, 512, 7, 7, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = network.head(features).numpy()
    assert np.allclose(found, keras_logits(layers, features.permute(0, 2, 3, 1).numpy()), atol=1e-4)
    assert not any(p.requires_grad for p in network.parameters())
    with pytest.raises(ValueError, match="'keras'; give 'oxford' or 'torchvision'"):
        vgg16("keras")


def test_full_vgg16_from_torchvisions_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vgg: Base) -> None:
    """The same base under torchvision's names and normalisation gives torchvision's sums."""
    state = {f"features.{k}": v for k, v in load_bundled(VGG16_BASE).items()}
    layers = dense_layers()
    for place, (kernel, bias) in zip((0, 3, 6), layers.values(), strict=True):
        state[f"classifier.{place}.weight"] = torch.from_numpy(kernel).T.contiguous()
        state[f"classifier.{place}.bias"] = torch.from_numpy(bias)
    torch.save(state, tmp_path / "torchvision.pth")
    known(monkeypatch, "TORCHVISION_VGG16", tmp_path / "torchvision.pth")
    network = vgg16("torchvision", tmp_path / "torchvision.pth")
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        wanted = nn.Sequential(vgg.body, vgg.rest)((x - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1))
        assert torch.allclose(network.base.features(x), wanted, atol=1e-3 * wanted.max().item())
        logits = network.head(torch.zeros(1, 512, 7, 7)).numpy()
    assert np.allclose(logits, keras_logits(layers, np.zeros((1, 25_088), np.float32)), atol=1e-5)
