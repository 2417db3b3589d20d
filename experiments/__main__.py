"""Run one experiment: python -m experiments NAME [options]. Without a name, list them."""

import importlib
import sys
from pathlib import Path

from helpers.runtime import seed_everything


def experiments() -> dict[str, str]:
    """The first line of the docstring of each file here that has a main(options), by name."""
    files = sorted(Path(__file__).parent.glob("[a-z]*.py"))
    texts = {path.stem: path.read_text(encoding="utf-8") for path in files}
    return {name: text.split('"""')[1].split("\n")[0] for name, text in texts.items() if "\ndef main(" in text}


def main(arguments: list[str]) -> None:
    """Call main(options) of the experiment whose name starts with the first argument."""
    known = experiments()
    if not arguments or arguments[0] in ("-h", "--help"):
        print("\n".join(f"{name:14} {line}" for name, line in known.items()))
        return
    name, *options = arguments
    chosen = [other for other in known if other.startswith(name)]
    if len(chosen) != 1:
        raise SystemExit(f"{name!r} names {len(chosen)} experiments; give one of {', '.join(known)}")
    seed_everything(0)
    importlib.import_module(f"experiments.{chosen[0]}").main(options)


if __name__ == "__main__":
    main(sys.argv[1:])
