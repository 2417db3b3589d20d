"""The networks of the notebooks, each as a base with a head, and transfer learning.

timm is imported where it is used: that takes longer than torch itself, and VGG-16 needs none of it.
"""

import copy
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from helpers import weights as files
from helpers.base import ACTIVATIONS, Base, Classifier, Head, UpTo, best_labels, split, watch_run
from helpers.cache import kept
from helpers.images import check_images, is_whole
from helpers.runtime import progress, use_bfloat16

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

    until: the pooling that ends it, "pool3", "pool4" or "pool5" (the whole base).
    """
    if until not in POOL_ENDS:
        raise ValueError(f"until is {until!r}; give one of {', '.join(POOL_ENDS)}")
    layers = vgg_layers()
    layers.load_state_dict(files.load_bundled(files.VGG16_BASE))
    layers = layers[: POOL_ENDS[until]]
    name = "vgg16 (Oxford)" if until == "pool5" else f"vgg16 (Oxford) until {until}"
    return Base(layers[:-2], layers[-2:], mean=CAFFE_MEAN, std=CAFFE_STD, name=name, sha256=files.VGG16_BASE.digest)


def imagenet_labels() -> list[str]:
    """The 1000 ImageNet class names, the first of each class's synonyms."""
    from timm.data import ImageNetInfo

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
    Settings go to timm.create_model; with img_size the pictures have that side, in pixels. Where the features
    do not end in an activation (a final LayerNorm, say), pre-activations are the features themselves and
    threshold is None.
    Raises ValueError for a name that timm does not know or another img_size than one whole number.
    """
    import timm

    if not timm.is_model(name):
        close = ", ".join(timm.list_models(f"*{name.split('_')[0]}*")[:5])
        raise ValueError(f"timm has no model {name!r}; close to it: {close or 'see timm.list_models()'}")
    if not is_whole(settings.get("img_size", 1)):
        raise ValueError(f"img_size is {settings['img_size']!r}; give one whole number, pictures here are square")
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = timm.create_model(name, pretrained=pretrained, **settings).eval()
    config = model.pretrained_cfg
    size = settings.get("img_size", config["input_size"][-1])
    base = split(model, model.forward_features, mean=config["mean"], std=config["std"], size=size, name=name)
    head = Head(model.forward_head, model)
    count = model.num_classes
    return Classifier(base, head, imagenet_labels() if count == 1000 else [str(i) for i in range(count)])


def efficientnet_lite0() -> Classifier:
    """EfficientNet-Lite0 with its 1000 ImageNet classes (bundled); ends in a ReLU6: 62,720 features."""
    import timm

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


class _After(nn.Module):
    """The head of a tapped network: it runs on empty pictures, the layer's output replaced by the features."""

    def __init__(self, tap: UpTo, size: int) -> None:
        super().__init__()
        self.tap, self.size = tap, size

    def forward(self, features: Tensor) -> Tensor:
        calls = 0

        def replace(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            nonlocal calls
            calls += 1
            return features if calls == self.tap.call else None

        handle = self.tap.layer[0].register_forward_hook(replace)
        try:
            return self.tap.model(features.new_zeros(len(features), 3, self.size, self.size))
        finally:
            handle.remove()


@torch.no_grad()
def from_module(
    model: nn.Module,
    layer: str | None = None,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    size: int = 224,
    labels: Sequence[str] | None = None,
) -> Classifier:
    """Your own network: any module that takes pictures and returns scores (N, K).

    layer: dotted name of the activation whose output is to become zero (one of
    model.named_modules()); None: the last that runs. mean, std: the normalisation that you
    apply before the network, in units of [0, 1], three numbers each; it moves inside. Give
    (0, 0, 0) and (1, 1, 1) when the network does it itself. size: of its pictures, in pixels.
    labels: K names (None: ImageNet's for K = 1000, else numbers). The network is copied, yours stays as it is.
    Raises ValueError, with the remedy, for what cannot be split there.
    """
    _check_module(model, mean, std)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    model = copy.deepcopy(model).cpu()
    x = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    name, module, call, scores = _find_layer(model, layer, (x - _colour(mean)) / _colour(std))
    tap = UpTo(model.__call__, model, module, call)  # bound, so that the weights are not registered twice
    base = Base(tap, module, mean=mean, std=std, size=size, name=f"{type(model).__name__} until {name}")
    head = _After(tap, size)
    if not torch.allclose(head(base.features(x)), scores, rtol=1e-3, atol=1e-5 * scores.abs().max().item()):
        raise ValueError(
            f"the answer of {type(model).__name__} reads more than {name}: something passes around it, so zeros there "
            "would not blind it; name an activation that everything passes (F.relu is none: write nn.ReLU in its place)"
        )
    if labels is None:
        count = scores.shape[1]
        labels = imagenet_labels() if count == 1000 else [str(i) for i in range(count)]
    if len(labels) != scores.shape[1]:
        raise ValueError(f"{len(labels)} labels for {scores.shape[1]} scores; give one for each")
    return Classifier(base, head, labels).to(device)


def _colour(values: Sequence[float]) -> Tensor:
    return torch.tensor(values).view(1, 3, 1, 1)


def _check_module(model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise one clear error for what no layer could mend."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; give a torch.nn.Module")
    if model.training:
        raise ValueError("the network is in training mode, so that its output is random; call model.eval()")
    wrong = {p.dtype for p in model.parameters() if p.is_floating_point()} - {torch.float32}
    if wrong:
        raise ValueError(f"the network computes in {wrong.pop()}; call model.float()")
    for name, values, least in (("mean", mean, 0.0), ("std", std, 1e-6)):
        if len(values) != 3 or not all(least <= value <= 1 for value in values):
            raise ValueError(
                f"{name} is {tuple(values)}; give three numbers in units of [0, 1], red first (divide those for "
                "0 to 255 by 255), or mean=(0, 0, 0), std=(1, 1, 1) when the network normalises by itself"
            )


def _find_layer(model: nn.Module, layer: str | None, x: Tensor) -> tuple[str, nn.Module, int, Tensor]:
    """The activation to zero: name, module, how often it runs; and the scores of x."""
    modules = dict(model.named_modules())
    names = {module: name for name, module in modules.items() if isinstance(module, ACTIVATIONS)}
    if layer is not None and not isinstance(modules.get(layer), ACTIVATIONS):
        close = get_close_matches(layer, names.values(), 3, 0.3) or list(names.values())[-3:]
        what = f"is a {type(modules[layer]).__name__}, no activation" if layer in modules else "does not exist"
        raise ValueError(f"layer {layer!r} {what}; close to it: {', '.join(close) or 'none, the network has none'}")
    try:
        ran, scores = watch_run(model, x, names)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"the network cannot read pictures of shape {tuple(x.shape)} ({reason}); give size") from error
    if not isinstance(scores, Tensor):
        raise ValueError(f"the network returns a {type(scores).__name__}; wrap it so that it returns scores (N, K)")
    if scores.ndim != 2:
        raise ValueError(f"the network returns {tuple(scores.shape)}, not scores (N, K); add a pooling and a head")
    module = (ran[-1] if ran else None) if layer is None else modules[layer]
    if module not in ran:
        what = "no activation module runs in it" if layer is None else f"its layer {layer!r} does not run"
        raise ValueError(f"the network cannot be split: {what} (F.relu is none: write nn.ReLU in its place)")
    return names[module], module, ran.count(module), scores


@torch.no_grad()
def embed(base: Base, images: Tensor, batch: int = 16, *, keep: bool = False, autocast: bool | None = False) -> Tensor:
    """The features of many pictures (N, 3, H, W), flat: (N, 25,088) for VGG-16, in float32 on the CPU.

    keep: read them from out/kept/ when they were computed before, see cache.kept. autocast: compute in bfloat16
    (None: where the machine does it natively), in half the time and good enough to train heads; zeros
    are exact only without it.
    """
    check_images(images)
    device = base.mean.device
    autocast = use_bfloat16(device, autocast)
    if keep:
        what = f"embed {'bfloat16' if autocast else 'float32'}"
        return kept(base, images, what, lambda: {"features": embed(base, images, batch, autocast=autocast)})["features"]
    pieces = []
    for piece in progress(images.split(batch), "features of pictures: batch"):
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            pieces.append(base.features(piece.to(device)).flatten(1).float().cpu())
    return torch.cat(pieces)


def train_head(
    base: Base, images: Tensor, labels: Sequence[str], *, c: float = 10.0, features: Tensor | None = None
) -> Classifier:
    """Transfer learning: a linear head on the frozen base, in seconds.

    images (N, 3, H, W) in [0, 1] with N labels. Maps (C, H, W) are averaged over positions, flat features (C,)
    taken as they are (maps with channels last look the same as others: move their channels first yourself),
    and given to scikit-learn's LogisticRegression, in units of their mean length (c: inverse of
    its regularisation). features: embed(base, images), or its averages over positions (N, channels), where
    they are known already, saves the time.
    Raises ValueError when the numbers differ, only one class is there or features have another shape.
    """
    check_images(images)
    if len(base.feature_shape) not in (1, 3):
        raise ValueError(
            f"features of {base.name} have shape {base.feature_shape}; a head is trained on maps (C, H, W) or on "
            "(C,), so give a base that ends in such a layer"
        )
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} pictures but {len(labels)} labels; give one label per picture")
    if len(set(labels)) < 2:
        raise ValueError("all labels are the same; a classifier needs at least two classes")
    maps = len(base.feature_shape) == 3
    pool = nn.Sequential(*([nn.AdaptiveAvgPool2d(1), nn.Flatten()] if maps else []))
    features = embed(base, images) if features is None else features
    if len(features) != len(images):
        raise ValueError(f"{len(images)} pictures but features of {len(features)}; give embed(base, images)")
    averaged = features.shape[1] == base.feature_shape[0]
    vectors = features if averaged else pool(features.unflatten(1, base.feature_shape))
    # One unit for all: dividing each vector by its own length would make nearly nothing as loud as a picture.
    unit = vectors.norm(dim=1).mean().clamp(min=1e-12)
    model = LogisticRegression(C=c, max_iter=5000).fit((vectors / unit).numpy(), list(labels))
    linear = nn.Linear(vectors.shape[1], len(model.classes_))
    weight, bias = torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)
    if len(bias) == 1:  # two classes: scikit-learn keeps one row, the difference of ours
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    linear.load_state_dict({"weight": weight.float() / unit, "bias": bias.float()})
    return Classifier(base, nn.Sequential(*pool, linear).to(base.mean.device), model.classes_.tolist())
