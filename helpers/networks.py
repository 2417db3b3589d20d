"""The networks of the notebooks, each as a base with a head, and transfer learning."""

from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from sklearn.linear_model import LogisticRegression
from timm.data import ImageNetInfo
from torch import Tensor, nn

from helpers import weights as files
from helpers.base import Base, Classifier, Head, best_labels, split
from helpers.images import check_images
from helpers.runtime import progress

CAFFE_MEAN = (123.68 / 255, 116.779 / 255, 103.939 / 255)  # of the Oxford networks, RGB
CAFFE_STD = (1 / 255, 1 / 255, 1 / 255)

__all__ = [
    "Base", "Classifier", "best_labels", "efficientnet_lite0", "embed", "from_timm", "train_head",
    "vgg16", "vgg16_base",
]  # fmt: skip


def vgg_layers() -> nn.Sequential:
    """The convolutional part of VGG-16 (Simonyan & Zisserman 2015), numbered as in torchvision."""
    layers: list[nn.Module] = []
    channels = 3
    for block in ([64] * 2, [128] * 2, [256] * 3, [512] * 3, [512] * 3):
        for width in block:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


POOLS = {"pool3": 17, "pool4": 24, "pool5": 31}  # where each pooling ends in vgg_layers


def vgg16_base(until: str = "pool5") -> Base:
    """The convolutional base of VGG-16 with the Oxford weights (bundled): 25,088 features.

    until: the pooling that ends it, "pool3", "pool4" or "pool5" (the whole base).
    """
    if until not in POOLS:
        raise ValueError(f"until is {until!r}; give one of {', '.join(POOLS)}")
    layers = vgg_layers()
    layers.load_state_dict(files.load_bundled(files.VGG16_BASE))
    layers = layers[: POOLS[until]]
    name = "vgg16 (Oxford)" if until == "pool5" else f"vgg16 (Oxford) until {until}"
    return Base(layers[:-2], layers[-2:], mean=CAFFE_MEAN, std=CAFFE_STD, name=name, sha256=files.VGG16_BASE.digest)


def imagenet_labels() -> list[str]:
    """The 1000 ImageNet class names, the first of each class's synonyms."""
    info = ImageNetInfo()
    return [info.index_to_description(i).split(",")[0] for i in range(1000)]


def vgg16(weights: str = "oxford", path: str | Path | None = None) -> Classifier:
    """The full VGG-16 with its ImageNet head; a large file, found in caches or downloaded.

    weights: "oxford" (bundled base, dense layers from Keras' 553 MB file) or "torchvision"
    (trained anew: other features, other blank prediction). Search order of the file: path,
    ZERO_OUT_WEIGHTS, torch's and Keras' caches, Kaggle inputs, download. Raises ValueError
    or FileNotFoundError with the remedy.
    """
    if weights == "oxford":
        base = vgg16_base()
        dense = files.keras_head(files.find_or_download(files.KERAS_VGG16, path))
    elif weights == "torchvision":
        file = files.find_or_download(files.TORCHVISION_VGG16, path)
        state = torch.load(file, map_location="cpu", weights_only=True)
        layers = vgg_layers()
        layers.load_state_dict({k.removeprefix("features."): v for k, v in state.items() if k.startswith("features")})
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        base = Base(layers[:29], layers[29:], mean=mean, std=std, name="vgg16 (torchvision)")
        names = {"0": "fc1", "3": "fc2", "6": "predictions"}
        dense = {f"{names[k.split('.')[1]]}.{k.split('.')[2]}": v for k, v in state.items() if "classifier" in k}
    else:
        raise ValueError(f"weights is {weights!r}; give 'oxford' or 'torchvision'")
    return Classifier(base, dense_head(dense), imagenet_labels())


def dense_head(state: dict[str, Tensor]) -> nn.Sequential:
    """VGG's head from the weights of fc1, fc2 and predictions (dropout does nothing when testing)."""
    head = nn.Sequential(nn.Flatten())
    for name in ("fc1", "fc2", "predictions"):
        outputs, inputs = state[f"{name}.weight"].shape
        linear = nn.utils.skip_init(nn.Linear, inputs, outputs)
        linear.load_state_dict({"weight": state[f"{name}.weight"], "bias": state[f"{name}.bias"]})
        head.append(linear)
        if name != "predictions":
            head.append(nn.ReLU())
    return head


def from_timm(name: str, *, pretrained: bool = False, seed: int = 0, **settings: object) -> Classifier:
    """Any network that timm knows, split at its last activation.

    pretrained=False gives random weights (fixed by seed): good for trying, not a classifier.
    Settings go to timm.create_model. Where the features do not end in an activation (a final
    LayerNorm, say), pre-activations are the features themselves and threshold is None.
    Raises ValueError for a name that timm does not know.
    """
    if not timm.is_model(name):
        close = ", ".join(timm.list_models(f"*{name.split('_')[0]}*")[:5])
        raise ValueError(f"timm has no model {name!r}; close to it: {close or 'see timm.list_models()'}")
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = timm.create_model(name, pretrained=pretrained, **settings).eval()
    config = model.pretrained_cfg
    base = split(
        model, model.forward_features, mean=config["mean"], std=config["std"], size=config["input_size"][-1], name=name
    )
    head = Head(model.forward_head, model)
    count = model.num_classes
    return Classifier(base, head, imagenet_labels() if count == 1000 else [str(i) for i in range(count)])


def efficientnet_lite0() -> Classifier:
    """EfficientNet-Lite0 with its 1000 ImageNet classes (bundled); ends in a ReLU6: 62,720 features."""
    model = timm.create_model("tf_efficientnet_lite0")
    model.load_state_dict(files.load_bundled(files.EFFICIENTNET_LITE0), strict=False)
    # (x * 255 - 127) / 128 is what these weights were trained with; ImageNet's mean and
    # deviation, timm's default, cost a fifth of the albatross.
    base = split(
        model.eval(),
        model.forward_features,
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
        name="efficientnet_lite0",
        sha256=files.EFFICIENTNET_LITE0.digest,
    )
    return Classifier(base, Head(model.forward_head, model), imagenet_labels())


@torch.no_grad()
def embed(base: Base, images: Tensor, batch: int = 16) -> Tensor:
    """The features of many pictures (N, 3, H, W), flat: (N, 25,088) for VGG-16, on the CPU."""
    check_images(images)
    pieces = progress(images.split(batch), "features of pictures: batch")
    return torch.cat([base.features(piece.to(base.mean.device)).flatten(1).cpu() for piece in pieces])


def train_head(base: Base, images: Tensor, labels: Sequence[str], *, c: float = 10.0, seed: int = 0) -> Classifier:
    """Transfer learning: a linear head on the frozen base, in seconds.

    images (N, 3, H, W) in [0, 1] with N labels. The features are averaged over positions
    and given to scikit-learn's LogisticRegression, in units of their mean length (c: inverse of
    its regularisation). Raises ValueError when the numbers differ or only one class is there.
    """
    check_images(images)
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} pictures but {len(labels)} labels; give one label per picture")
    if len(set(labels)) < 2:
        raise ValueError("all labels are the same; a classifier needs at least two classes")
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    vectors = pool(embed(base, images).unflatten(1, base.feature_shape))
    # One unit for all: dividing each vector by its own length would make nearly nothing as loud as a picture.
    unit = vectors.norm(dim=1).mean().clamp(min=1e-12)
    model = LogisticRegression(C=c, max_iter=5000, random_state=seed).fit((vectors / unit).numpy(), list(labels))
    linear = nn.Linear(vectors.shape[1], len(model.classes_))
    weight, bias = torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)
    if len(bias) == 1:  # two classes: scikit-learn keeps one row, the difference of ours
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    linear.load_state_dict({"weight": weight.float() / unit, "bias": bias.float()})
    return Classifier(base, nn.Sequential(*pool, linear).to(base.mean.device), model.classes_.tolist())
