"""Make data/hero.png from the comparison picture that notebook 02 writes: run `make demo` first.

All colours are kept, since a smaller palette would hide the very change that the picture shows.
"""

import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from PIL import Image

from helpers.images import DATA, out_folder, write_file


def main(path: Path = DATA / "hero.png") -> int:
    source = out_folder() / "comparison.png"
    if not source.exists():
        raise SystemExit(f"there is no {source}; run make demo first")
    content = io.BytesIO()
    Image.open(source).convert("RGB").save(content, format="png", optimize=True)
    write_file(path, content.getvalue())
    print(f"{path.name}: {len(content.getvalue()) / 1e3:.0f} kB; now run tools/describe_data.py")
    return 0


if __name__ == "__main__":
    sys.exit(main())
