"""The command line: python -m helpers zero PHOTO OUT.png, python -m helpers certify FILE."""

import argparse
import sys
from argparse import Namespace
from pathlib import Path

from tqdm import tqdm

from helpers.attack import zero_out
from helpers.certificate import Certificate, certify
from helpers.decode import user_path
from helpers.images import load_image, png_path, save_png
from helpers.networks import efficientnet_lite0, vgg16_base
from helpers.runtime import pick_device

NETWORKS = {"vgg16": vgg16_base, "efficientnet_lite0": lambda: efficientnet_lite0().base}


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0 if every feature is zero, 1 if not, 2 for an error."""
    given = parser().parse_args(arguments)
    try:
        certificate = given.run(given)
        if given.json:
            certificate.save(given.json)
    except (OSError, ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(certificate)
    return 0 if certificate.zero else 1


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(prog="python -m helpers")
    commands = result.add_subparsers(required=True)
    command = commands.add_parser("certify", help="verify a saved PNG file")
    command.add_argument("file", type=Path)
    command.add_argument("--original", type=Path, help="the clean image, for the size of the change")
    command.set_defaults(run=lambda given: certify(NETWORKS[given.network](), given.file, given.original))
    command = commands.add_parser("zero", help="attack an image, save it as PNG and verify the file")
    command.add_argument("photo", help="a path or a URL")
    command.add_argument("out", type=Path, help="the PNG file to write")
    command.add_argument("--eps", type=float, default=8, help="largest change of a pixel in 1/255 (default: 8)")
    command.add_argument("--least-visible", action="store_true", help="no budget: the change that is hardest to see")
    command.add_argument("--steps", type=int, help="gradient steps at most (default: 400, least visible: 200)")
    command.set_defaults(run=run_zero)
    for command in commands.choices.values():
        command.add_argument("--network", choices=NETWORKS, default="vgg16")
        command.add_argument("--json", type=Path, help="also write the certificate to this file")
    return result


def run_zero(given: Namespace) -> Certificate:
    """Attack the central square of the photo. OUT is only ever replaced by a whole file."""
    out, photo = png_path(given.out), user_path(given.photo)
    if out.exists() and photo.exists() and out.samefile(photo):
        raise ValueError(f"{out} is the photo itself; give another file to write")
    base = NETWORKS[given.network]().to(pick_device())
    image = load_image(given.photo, base.size)
    eps = None if given.least_visible else given.eps / 255
    steps = given.steps if given.steps is not None else 200 if given.least_visible else 400
    with tqdm(total=steps, leave=False, disable=None) as bar:  # None: only in a terminal
        result = zero_out(base, image, eps=eps, steps=steps, on_step=lambda *_: bar.update())
    if result.interrupted:
        raise RuntimeError(f"stopped; {out} was not written")
    return certify(base, save_png(result.images, out), image)


if __name__ == "__main__":
    sys.exit(main())
