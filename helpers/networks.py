"""The networks of the notebooks, each a base and a head, and transfer learning.

timm and scikit-learn are imported where they are used: each takes a second or more.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from helpers import weights as files
from helpers.base import Base, Classifier, best_labels
from helpers.images import check_images
from helpers.runtime import progress
from helpers.splitting import Method, split, split_scores

CAFFE_MEAN = (123.68 / 255, 116.779 / 255, 103.939 / 255)  # of the Oxford networks, RGB
CAFFE_STD = (1 / 255, 1 / 255, 1 / 255)

__all__ = [
    "Base", "Classifier", "best_labels", "efficientnet_lite0", "embed", "from_module", "from_timm",
    "train_head", "vgg16", "vgg16_base",
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


POOL_ENDS = {"pool3": 17, "pool4": 24, "pool5": 31}  # where each pooling ends in vgg_layers


def vgg16_base(until: str = "pool5") -> Base:
    """The convolutional base of VGG-16 with the Oxford weights (bundled): 25,088 features.

    until: the last layer, "pool3", "pool4" or "pool5". (Default: "pool5", the whole base)
    """
    layers = vgg_layers()
    layers.load_state_dict(files.load_bundled(files.VGG16_BASE))
    layers = layers[: POOL_ENDS[until]]
    name = "vgg16 (Oxford)" if until == "pool5" else f"vgg16 (Oxford) until {until}"
    return Base(layers[:-2], layers[-2:], mean=CAFFE_MEAN, std=CAFFE_STD, name=name, sha256=files.VGG16_BASE.digest)


def class_names(count: int = 1000) -> list[str]:
    """The names of the 1000 ImageNet classes, each by its first synonym; for another count, numbers."""
    if count != 1000:
        return [str(i) for i in range(count)]
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    return [info.index_to_description(i).split(",")[0] for i in range(count)]


def vgg16(weights: str = "oxford", path: str | Path | None = None) -> Classifier:
    """The full VGG-16 with its ImageNet head, read from a large file that is found in a cache or downloaded.

    weights: "oxford" (bundled base, dense layers from Keras' 553 MB file) or "torchvision" (trained again: other
    features, another blank prediction). (Default: "oxford")
    path: the file. (Default: searched in ZERO_OUT_WEIGHTS, torch's and Keras' caches, Kaggle's inputs)
    Raises ValueError or FileNotFoundError with the remedy.
    """
    if weights == "oxford":
        dense = files.keras_head(files.find_or_download(files.KERAS_VGG16, path))
        return Classifier(vgg16_base(), dense_head(dense), class_names())
    if weights != "torchvision":
        raise ValueError(f"weights is {weights!r}; give 'oxford' or 'torchvision'")
    file = files.find_or_download(files.TORCHVISION_VGG16, path)
    state = torch.load(file, map_location="cpu", weights_only=True)
    dense = {name: state.pop(name) for name in list(state) if name.startswith("classifier")}
    layers = vgg_layers()
    layers.load_state_dict({name.removeprefix("features."): tensor for name, tensor in state.items()})
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    base = Base(layers[:29], layers[29:], mean=mean, std=std, name="vgg16 (torchvision)")
    return Classifier(base, dense_head(dense), class_names())


def dense_head(state: dict[str, Tensor]) -> nn.Sequential:
    """VGG's head from the weight and bias of each dense layer, in order (dropout does nothing in eval mode)."""
    head = nn.Sequential(nn.Flatten())
    tensors = list(state.values())
    for weight, bias in zip(tensors[::2], tensors[1::2], strict=True):
        linear = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0])
        linear.load_state_dict({"weight": weight, "bias": bias})
        head += nn.Sequential(linear, nn.ReLU())
    return head[:-1]


def from_timm(name: str, *, pretrained: bool = False, seed: int = 0, **settings: object) -> Classifier:
    """Any network that timm knows, split at its last activation.

    name: as in timm.list_models(), or on the Hugging Face Hub ("timm/...", "hf-hub:...").
    pretrained: download trained weights; False gives random ones, for trying. (Default: False)
    seed: of the random weights. (Default: 0)
    settings: of timm.create_model; img_size is the side of the images, in pixels.
    Features that do not end in an activation (but in a LayerNorm, for example) are their own pre-activations, and
    threshold is None. Raises ValueError for what timm cannot make.
    """
    import timm

    name = f"hf-hub:{name}" if name.startswith("timm/") else name
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        try:
            model = timm.create_model(name, pretrained=pretrained, **settings).eval()
            config = model.pretrained_cfg
            size = settings.get("img_size", config["input_size"][-1])
            base = split(model, model.forward_features, mean=config["mean"], std=config["std"], size=size, name=name)
        except Exception as error:  # the Hub and the models raise errors of many kinds
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ValueError(
                f"timm cannot make {name!r} with {settings} ({reason}); names are in timm.list_models(), and trained "
                "weights need the Internet"
            ) from error
    return Classifier(base, Method(model.forward_head, model), class_names(model.num_classes))


def efficientnet_lite0() -> Classifier:
    """EfficientNet-Lite0 with its 1000 ImageNet classes (bundled); ends in a ReLU6: 62,720 features."""
    import timm

    model = timm.create_model("tf_efficientnet_lite0").eval()
    model.load_state_dict(files.load_bundled(files.EFFICIENTNET_LITE0))
    # (x * 255 - 127) / 128 is what these weights were trained with; timm's default, ImageNet's mean and deviation,
    # takes a fifth from the probability of the albatross.
    about = {"name": "efficientnet_lite0", "sha256": files.EFFICIENTNET_LITE0.digest}
    base = split(model, model.forward_features, mean=127 / 255, std=128 / 255, **about)
    return Classifier(base, Method(model.forward_head, model), class_names())


def from_module(
    model: nn.Module,
    layer: str | None = None,
    *,
    mean: float | Sequence[float],
    std: float | Sequence[float],
    size: int = 224,
    labels: Sequence[str] | None = None,
) -> Classifier:
    """Your own network: any module that takes images and returns scores (N, K). It is copied; yours stays unchanged.

    layer: dotted name in model.named_modules() of the activation to zero. (Default: the last that runs)
    mean, std: the normalisation that you apply before the network, three numbers or one, in units of [0, 1]; it moves
    inside the network. Give 0 and 1 for a network that normalises by itself.
    size: side of the images, in pixels. (Default: 224)
    labels: K names. (Default: ImageNet's for K = 1000, else numbers)
    Raises TypeError or ValueError, with the remedy, for what cannot be split there.
    """
    base, head, count = split_scores(model, layer, mean=mean, std=std, size=size)
    labels = class_names(count) if labels is None else labels
    if len(labels) != count:
        raise ValueError(f"{len(labels)} labels for {count} scores; give one for each")
    return Classifier(base, head, labels)


@torch.no_grad()
def embed(base: Base, images: Tensor, batch: int = 16) -> Tensor:
    """Features of many images, flat: (N, 25,088) for VGG-16, on the CPU.

    images: (N, 3, H, W) in [0, 1], on any device.
    batch: images per forward pass. (Default: 16)
    """
    check_images(images)
    pieces = progress(images.split(batch), "features of images: batch")
    return torch.cat([base.features(piece.to(base.mean.device)).flatten(1).cpu() for piece in pieces])


def train_head(
    base: Base, images: Tensor, labels: Sequence[str], *, c: float = 10.0, features: Tensor | None = None
) -> Classifier:
    """Transfer learning: train a linear head (logistic regression) on the frozen base.

    Maps are averaged over positions first; flat features are used directly.
    images: (N, 3, H, W) in [0, 1].
    labels: N names, of two classes or more.
    c: inverse regularisation, see heads.fit_head. (Default: 10)
    features: embed(base, images), or its means over positions (N, channels). (Default: computed)
    Raises ValueError if the numbers of images and labels differ, for a single class, or for features of another shape.
    """
    from helpers.heads import average_over_positions, fit_head, with_head

    pool = average_over_positions(base)
    features = embed(base, images) if features is None else features
    if features.shape[1] != base.feature_shape[0]:
        features = pool(features.unflatten(1, base.feature_shape))
    return with_head(base, fit_head(features, labels, c))
