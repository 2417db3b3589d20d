"""How visible a change is, and where it hides."""

import sys
import warnings

import numpy as np
import pytest
import torch
from nets import noise, picture
from torch import Tensor

from helpers.images import DATA, load_image, to_grid
from helpers.visibility import LEAST, MOST, difference, local_contrast


def test_difference_of_plain_images_in_closed_form() -> None:
    found = difference(picture(0.0), picture(8.0))
    assert found.linf == 8 and type(found.linf) is int
    assert found.l2 == pytest.approx(8 / 255 * (3 * 8 * 8) ** 0.5)
    assert found.psnr == pytest.approx(20 * np.log10(255 / 8), abs=1e-6)
    # SSIM of two plain images a, b: (2ab + c1) / (a^2 + b^2 + c1), here with a = 0 (Wang et al. 2004).
    c1 = 0.01**2
    assert found.ssim == pytest.approx(c1 / ((8 / 255) ** 2 + c1), abs=1e-6)


def test_difference_of_one_pixel_and_of_none() -> None:
    original = picture(100.0)
    attacked = original.clone()
    attacked[0, 1, 2, 3] = 105 / 255
    found = difference(original, attacked)
    assert found.linf == 5 and found.l2 == pytest.approx(5 / 255) and 0.5 < found.ssim < 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = difference(noise(), noise())
    assert (same.linf, same.l2, same.psnr, same.ssim) == (0, 0.0, float("inf"), 1.0)
    assert (same.ssimulacra2, same.flip) == (100, 0)


@pytest.mark.parametrize(
    "attacked, message",
    [
        (noise() * 0.999, "attacked is not on the 8-bit grid; give to_grid"),
        (noise(2), "attacked holds 2 images; give one at a time"),
        (noise(size=16), "must have the same dimensions"),
    ],
)
def test_difference_refuses_what_it_cannot_compare(attacked: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        difference(noise(), attacked)


def test_measures_without_their_package_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ssimulacra2", None)
    monkeypatch.setitem(sys.modules, "flip_evaluator", None)
    found = difference(noise(), picture(8.0))
    assert found.ssimulacra2 is None and found.flip is None and found.ssim < 1


def test_brightness_is_forgiven_sooner_than_colour() -> None:
    """Why the least visible change goes furthest along brightness: random changes of one length, two directions."""
    image = load_image(DATA / "images" / "cat.png")
    sign = torch.randn(1, 1, 224, 224, generator=torch.Generator().manual_seed(0))
    grey, colour = (
        difference(image, to_grid((image + 5 / 255 * sign * direction.view(3, 1, 1)).clamp(0, 1)))
        for direction in (torch.ones(3) / 3**0.5, torch.tensor([0, 1.0, -1.0]) / 2**0.5)
    )
    assert grey.ssimulacra2 > colour.ssimulacra2 + 10


def test_weights_of_pixels_are_larger_in_texture() -> None:
    image = picture(100.0, 100.0, size=32)
    image[:, :, :, 16:] = noise(2, size=32)[:, :, :, 16:]
    weight = local_contrast(image)
    assert weight.shape == (2, 1, 32, 32)
    assert torch.allclose(weight[..., :13], torch.tensor(LEAST), atol=1e-3)
    assert weight[..., 20:].min() > 2 * LEAST and weight.max() == torch.tensor(MOST), "bounded"
