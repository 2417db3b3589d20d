"""Check a zeroed file without the code of this project: plain PyTorch, and the VGG-16 of torchvision.

python tools/check_with_torch.py data/blind/cat.png

The exit status is 0 when all 25,088 features are exactly zero, and 1 when one is not.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file

WEIGHTS = Path(__file__).resolve().parents[1] / "data" / "weights" / "vgg16_base_oxford.safetensors"


@torch.no_grad()
def main(path: str) -> int:
    with torch.device("meta"):  # makes no random weights
        base = torchvision.models.vgg16(weights=None).features.eval()
    base.load_state_dict({name: tensor.float() for name, tensor in load_file(WEIGHTS).items()}, assign=True)
    pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).float()  # (224, 224, 3), 0 to 255
    x = (pixels - torch.tensor([123.68, 116.779, 103.939])).permute(2, 0, 1)[None]  # (1, 3, 224, 224)
    z = base[:29](x)  # (1, 512, 14, 14): the output of conv5_3, before its ReLU
    features = base[29:](z.clone())  # (1, 512, 7, 7); this ReLU works in place
    active = int((features != 0).sum())
    print(f"{path}: {active:,} of {features.numel():,} features are not zero, highest pre-activation {z.max():.2f}")
    return int(active > 0)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    sys.exit(main(sys.argv[1]))
