"""Tune the hardened base of notebook 06 and attack it: some hours on two cores.

    python tools/make_hardened.py          # goes on where it was stopped, photo by photo

Tuned on the photos of the training split; attacked on every third of the test photos of notebooks 05 and 06.
Writes data/weights/vgg16_hardened.safetensors (and prints its sha256, for helpers/weights.py),
data/defences/hardened.csv, one row per base, attack and photo, and hardened_eps.csv, the budgets of the sanity list.
"""

import hashlib
import sys
from collections.abc import Callable

import pandas as pd
import torch
from safetensors.torch import load, save
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from helpers.attack import zero_out
from helpers.base import Base
from helpers.bypass import like, steer
from helpers.defences import READERS, fit_head, look
from helpers.harden import harden, tuned
from helpers.images import DATA, load_folder, load_image, load_photos, write_file
from helpers.networks import vgg16_base
from helpers.weights import BUNDLED, VGG16_HARDENED

TABLE = DATA / "defences" / "hardened.csv"
BUDGETS = DATA / "defences" / "hardened_eps.csv"
DONOR = DATA / "images" / "albatross.png"  # as in make_defences.py
STEPS = 60  # of constant-out against the hardened base
HEADS = ("as it was", "unit length", "under the ReLU", "several depths")  # of READERS


def train(base: Base, images: Tensor) -> dict[str, Tensor]:
    """The tuned scales and shifts, read back where the file exists."""
    path = BUNDLED / VGG16_HARDENED.name
    if not path.exists():
        state = harden(base, images, on_epoch=lambda i, d: print(f"epoch {i}: mean distance {d:.4f}", flush=True))
        write_file(path, save(state))
        print(f"{path.name}: sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}")
    return load(path.read_bytes())


def measure(base: Base, heads: dict[str, LogisticRegression], before: Tensor, after: Tensor) -> dict[str, object]:
    """One photo (1, 3, H, W) before and after an attack: what is left, and what each head of notebook 05 says."""
    seen, now = (look(base, images, autocast=False) for images in (before, after))
    with torch.no_grad():
        left = int(base.features(after).count_nonzero())
    answers = {name: head.predict(READERS[name](now).numpy())[0] for name, head in heads.items()}
    return {"left": left, "length": (now.length / seen.length).item()} | answers


def budgets(base: Base, images: Tensor) -> pd.DataFrame:
    """Outputs left after zero-out with growing budgets: one row per budget and photo."""
    rows = []
    for eps in (0, 8, 32, 255):
        found = zero_out(base, images, eps=eps / 255, steps=150 if eps else 0)
        rows += [{"eps": eps, "photo": i, "left": n} for i, n in enumerate(found.nonzero)]
        print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def main() -> int:
    base = vgg16_base()
    train_images, train_labels = load_photos("train")
    test, labels = load_photos("test")
    photos, names = test[1::2][::3], labels[1::2][::3]
    stored = load_folder(DATA / "defences" / "zero")[::3]  # the same call on the base as it was
    alike = load_folder(DATA / "defences" / "alike")[::3]  # 120 steps through filters
    donor = load_image(DONOR)
    bases = {"as it was": base, "hardened": tuned(base, train(base, train_images), "vgg16 (hardened)")}
    rows = pd.read_csv(TABLE).to_dict("records") if TABLE.exists() else []
    done = {(row["base"], row["attack"], row["photo"]) for row in rows}
    attacks: dict[str, Callable[[Base, int], Tensor]] = {
        "none": lambda one, i: photos[i : i + 1],
        "zero-out of the base as it was": lambda one, i: stored[i : i + 1],
        "zero-out": lambda one, i: zero_out(one, photos[i : i + 1]).images,
        "constant-out": lambda one, i: (
            alike[i : i + 1] if one is base else steer(one, like(one, donor), photos[i : i + 1], steps=STEPS)
        ),
    }
    for title, one in bases.items():
        seen = look(one, train_images, keep=True, autocast=False)
        heads = {name: fit_head(READERS[name](seen), train_labels) for name in HEADS}
        for attack, run in attacks.items():
            if (title, attack) == ("as it was", "zero-out"):
                continue  # is the one before
            for i in range(len(photos)):
                if (title, attack, i) in done:
                    continue
                row = {"base": title, "attack": attack, "photo": i, "truth": names[i]}
                rows.append(row | measure(one, heads, photos[i : i + 1], run(one, i)))
                content = pd.DataFrame(rows).to_csv(index=False, float_format=lambda v: f"{v:.6g}", lineterminator="\n")
                write_file(TABLE, content.encode())
                print(rows[-1], flush=True)
    if not BUDGETS.exists():
        table = budgets(bases["hardened"], photos[::7])
        write_file(BUDGETS, table.to_csv(index=False, lineterminator="\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
