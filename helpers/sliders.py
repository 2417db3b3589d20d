"""Sliders over images that are there already, and a laboratory that runs attacks.

A slider calls a plain function that returns the bytes of an image. Only widgets that ipywidgets 7.7.1 (Colab) and 8
share are used; pages that no kernel runs show a still.
"""

import html
import io
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ipywidgets as widgets
import matplotlib.pyplot as plt
from IPython.display import display
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from helpers.attack import Result, zero_out
from helpers.certificate import Certificate, certify
from helpers.charts import curves
from helpers.images import save_png
from helpers.networks import Classifier
from helpers.plots import DPI, before_after, compress


def encode(figure: Figure) -> bytes:
    """The bytes of a figure as PNG; the figure is closed."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI)
    plt.close(figure)
    return stream.getvalue()


def browse(
    choices: Mapping[str, Sequence],
    picture: Callable[..., bytes],
    *,
    alt: str,
    start: Mapping[str, object] | None = None,
    interval: int = 250,
    still: Figure | None = None,
) -> None:
    """Show one slider per entry of choices and the image they choose; the first slider has a Play button.

    picture: called with one value per entry, by name; returns the bytes of a PNG or JPEG image.
    alt: one sentence for those who do not see the image.
    start: the values at the beginning. (Default: the first ones)
    interval: milliseconds between the images while playing. (Default: 250)
    still: what pages without a kernel show. (Default: the image at the beginning)
    """
    if empty := [name for name, values in choices.items() if not len(values)]:
        raise ValueError(f"{empty[0]} has no values to choose from; give at least one")
    begin = {name: values[0] for name, values in choices.items()} | dict(start or {})
    sliders = {
        name: widgets.SelectionSlider(options=list(values), value=begin[name], description=name)
        for name, values in choices.items()
    }
    image = widgets.Image(value=picture(**begin))

    def update(_: object) -> None:
        image.value = picture(**_values(sliders))

    for slider in sliders.values():
        slider.observe(update, names="value")
    first, *others = sliders.values()
    play = widgets.Play(value=first.index, min=0, max=len(first.options) - 1, interval=interval)
    widgets.jslink((play, "value"), (first, "index"))
    page = widgets.VBox([widgets.HBox([play, first]), *others, image])
    present(page, alt, bytes(image.value) if still is None else encode(still))


def _values(menus: Mapping[str, widgets.Widget]) -> dict[str, object]:
    return {name: menu.value for name, menu in menus.items()}


def present(page: widgets.Widget, alt: str, still: bytes | None = None) -> None:
    """Display a widget; pages without a kernel show the still image or, where there is none, the text."""
    view = {"version_major": 2, "version_minor": 0, "model_id": page.model_id}
    content: dict[str, object] = {"application/vnd.jupyter.widget-view+json": view, "text/plain": alt}
    described = {}
    if still is not None:
        kind, small = compress(Image.open(io.BytesIO(still)))
        content[kind], described = small, {kind: {"alt": alt}}
    display(content, raw=True, metadata=described)


@dataclass(frozen=True)
class Trial:
    """One attack as the laboratory shows it: an image (PNG bytes), the result, and the certificate of its file."""

    picture: bytes
    result: Result
    certificate: Certificate

    def save(self, folder: Path) -> str:
        """Write the attacked image as PNG and its certificate as JSON; return their names."""
        png = save_png(self.result.images, folder / "laboratory.png")
        return f"{png.name} and {self.certificate.save(png.with_suffix('.json')).name}"


def trial(classifier: Classifier, image: Tensor, **settings: object) -> Trial:
    """Attack one image (1, 3, H, W) on the classifier's device; draw and certify what comes out.

    settings: any of zero_out.
    """
    result = zero_out(classifier.base, image, **settings)
    with tempfile.TemporaryDirectory() as folder:
        certificate = certify(classifier.base, save_png(result.images, Path(folder) / "laboratory.png"), image)
    before, after = (classifier.predict(x)[0] for x in (result.original, result.images))
    chance = 1 / len(classifier.labels)
    counts = {"attacked": [float(count) for count in result.history[0]]}
    figures = (
        before_after(result.original, result.images, before, after, chance=chance),
        curves(counts, "step", "active features", log=True),
    )
    return Trial(_stack([encode(figure) for figure in figures]), result, certificate)


def _stack(images: Sequence[bytes]) -> bytes:
    """Images below each other, as PNG."""
    parts = [Image.open(io.BytesIO(content)) for content in images]
    sheet = Image.new("RGB", (max(part.width for part in parts), sum(part.height for part in parts)), "white")
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height
    stream = io.BytesIO()
    sheet.save(stream, format="png")
    return stream.getvalue()


def laboratory(
    choices: Mapping[str, Sequence],
    run: Callable[..., Trial],
    first: Trial,
    *,
    folder: Path,
    alt: str,
    stored: Callable[..., str] | None = None,
    start: Mapping[str, object] | None = None,
    upload: str | None = None,
) -> None:
    """Show one menu per entry of choices, buttons Run and Save, and image and verdict of the last trial.

    run: called with one value per menu, by name, and on_step; errors are shown on the page.
    first: the trial that is shown until something was run.
    folder: where Save writes.
    alt: one sentence for those who do not see the image.
    stored: called with the values after each change of a menu; returns a line of text.
    start: the values at the beginning. (Default: the first ones)
    upload: a menu that gets an Upload button; an uploaded file becomes its last entry, with the bytes as value.
    """
    begin = {name: values[0] for name, values in choices.items()} | dict(start or {})
    menus = {
        name: widgets.Dropdown(options=[(str(value), value) for value in values], value=begin[name], description=name)
        for name, values in choices.items()
    }
    go, keep = widgets.Button(description="Run", button_style="primary"), widgets.Button(description="Save")
    image, words, last = widgets.Image(value=first.picture), widgets.HTML(), [first]
    buttons = [go, keep]

    def say(line: object) -> None:
        words.value = f"<pre>{html.escape(str(line))}</pre>"

    def press_run(_: object) -> None:
        go.disabled = keep.disabled = True
        say("loading the network ...")
        try:
            last[0] = run(**_values(menus), on_step=lambda step, _, left: say(f"step {step}: {int(left[0]):,} active"))
            image.value = last[0].picture
            say(last[0].certificate)
        except Exception as error:  # whatever the reader's settings lead to belongs on the page
            say(f"{type(error).__name__}: {error}")
        finally:
            go.disabled = keep.disabled = False

    go.on_click(press_run)
    keep.on_click(lambda _: say(f"{last[0].certificate}\nsaved: {last[0].save(folder)}"))
    for menu in menus.values() if stored else ():
        menu.observe(lambda _: say(stored(**_values(menus))), names="value")
    if upload is not None:
        buttons.append(_upload_into(menus[upload]))
    say(first.certificate)
    present(widgets.VBox([*menus.values(), widgets.HBox(buttons), words, image]), alt, first.picture)


def _upload_into(menu: widgets.Dropdown) -> widgets.FileUpload:
    """A button whose file becomes the last entry of a menu and is chosen."""
    bundled, button = menu.options, file_button()

    def choose(_: object) -> None:
        if file := uploaded(button):
            menu.options = [*bundled, file]
            menu.value = file[1]

    button.observe(choose, names="value")
    return button


def file_button() -> widgets.FileUpload:
    """A button that takes one image file of the reader's; read it with `uploaded`."""
    return widgets.FileUpload(accept="image/*", multiple=False, description="Upload")


def choose_file() -> widgets.FileUpload:
    """Show a file button and return it; pages without a kernel show a line of text."""
    button = file_button()
    present(button, "(a button to upload an image, where a kernel runs)")
    return button


def uploaded(button: widgets.FileUpload) -> tuple[str, bytes] | None:
    """Name and bytes of the file that was chosen, or None."""
    files = button.value
    if isinstance(files, dict):  # ipywidgets 7: name -> file
        files = [{"name": name, **file} for name, file in files.items()]
    return (files[-1]["name"], bytes(files[-1]["content"])) if files else None
