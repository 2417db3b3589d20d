"""Where a change hides, and how visible it is."""

import io
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from helpers.images import check_one, image_bytes

SIDE = 7  # pixels
LEAST, MOST = 10 / 255, 40 / 255  # the smallest and the largest weight


def local_contrast(images: Tensor) -> Tensor:
    """Pixel weights for zero_out: texture hides a change that a smooth sky shows.

    images (Tensor): (N, 3, H, W) in [0, 1].
    Returns (N, 1, H, W): the standard deviation of brightness over 7 x 7 pixels plus 10/255, at most 40/255.
    """
    around = pad(images.mean(1, keepdim=True), [SIDE // 2] * 4, mode="replicate")
    variance = avg_pool2d(around.square(), SIDE, 1) - avg_pool2d(around, SIDE, 1).square()
    return (LEAST + variance.clamp(min=0).sqrt()).clamp(max=MOST)


@dataclass(frozen=True)
class Difference:
    """How far one image is from another.

    linf (int): largest change of a value, in 1/255.
    l2 (float): length of the change, in units of [0, 1].
    psnr (float): peak signal-to-noise ratio, in dB.
    ssim (float): structural similarity, at most 1.
    ssimulacra2 (float): 100 for equal images; at 90 the change is not seen in a flicker test, at 80 not side by side,
        at 70 not without the original; at 50 it is slightly annoying, at 30 obvious.
    flip (float): mean FLIP error, 0 for equal images.

    The last two are None without their packages (the extra "visibility").
    """

    linf: int
    l2: float
    psnr: float
    ssim: float
    ssimulacra2: float | None = None
    flip: float | None = None


def difference(original: Tensor, attacked: Tensor) -> Difference:
    """Compare two images (1, 3, H, W) of one size on the 8-bit grid, of at least 7 x 7 pixels.

    PSNR and SSIM are those of scikit-image on values in [0, 1]; equal images have an infinite PSNR.
    Raises ValueError or TypeError.
    """
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity  # a second to import

    for what, image in (("original", original), ("attacked", attacked)):
        check_one(image, what)
    a, b = (image[0].detach().permute(1, 2, 0).cpu().double().numpy() for image in (original, attacked))
    ssim = structural_similarity(a, b, channel_axis=2, data_range=1)  # refuses other and small sizes
    with np.errstate(divide="ignore"):
        psnr = peak_signal_noise_ratio(a, b, data_range=1)
    gap = np.abs(a - b)
    linf, l2 = int(np.rint(gap.max() * 255)), float(np.linalg.norm(gap))
    return Difference(linf, l2, float(psnr), float(ssim), ssimulacra2(original, attacked), flip(original, attacked))


def ssimulacra2(original: Tensor, attacked: Tensor) -> float | None:
    """SSIMULACRA2 of two images (1, 3, H, W); None without its package."""
    try:
        from ssimulacra2 import compute_ssimulacra2
    except ImportError:
        return None
    return float(compute_ssimulacra2(*(io.BytesIO(image_bytes(image[0])) for image in (original, attacked))))


def flip(original: Tensor, attacked: Tensor) -> float | None:
    """Mean FLIP error of two images (1, 3, H, W), seen from 0.7 m on a screen; None without its package."""
    try:
        import flip_evaluator
    except ImportError:
        return None
    a, b = (np.ascontiguousarray(x[0].permute(1, 2, 0).cpu().numpy()) for x in (original, attacked))
    return float(flip_evaluator.evaluate(a, b, "LDR")[1])
