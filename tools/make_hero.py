"""Make data/hero.png from the comparison picture that notebook 02 writes: run `make demo` first.

All colours are kept, since a smaller palette would hide the very change that the picture shows.
"""

from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]

Image.open(ROOT / "out" / "comparison.png").convert("RGB").save(ROOT / "data" / "hero.png", optimize=True)
