"""Sliders, each a thin line over a plain function that returns the bytes of a picture.

They browse pictures that are there already and compute nothing, so that they answer at
once. Only widgets that ipywidgets 7.7.1 (Colab) and 8 share; a still stands beside them for GitHub.
"""

import html
import io
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from helpers.attack import Certificate, Result, certify, zero_out
from helpers.images import save_png, to_bytes
from helpers.networks import Classifier
from helpers.plots import curves, for_display, strip

Drawable = Figure | Tensor | Image.Image
BAR = 60  # pixels at the right of feature maps, for their colour scale


def encode(picture: Drawable, kind: str = "png") -> bytes:
    """The bytes of a figure (which is closed), a tensor (3, H, W) in [0, 1] or a PIL image.

    kind: "png", or "jpeg" for photos: a sixth of the size, for display only.
    """
    stream = io.BytesIO()
    if isinstance(picture, Figure):
        picture.savefig(stream, format=kind)
        plt.close(picture)
        return stream.getvalue()
    if isinstance(picture, Tensor):
        picture = Image.fromarray(to_bytes(picture.squeeze(0)).transpose(1, 2, 0))
    picture.save(stream, format=kind)
    return stream.getvalue()


def frames(pictures: Iterable[Drawable], kind: str = "png") -> list[bytes]:
    """Each picture as bytes, made once, to be browsed."""
    return [encode(picture, kind) for picture in pictures]


def map_picture(maps: Mapping[str, Tensor], high: float, side: int = 280, cmap: str = "viridis") -> Image.Image:
    """Titled feature maps (h, w) side by side on one colour scale from 0 to high, each side x side pixels.

    At the right stands the scale. Plain colours without matplotlib's figures: some milliseconds, so it can
    be drawn on each move.
    """
    sheet = Image.new("RGB", (len(maps) * (side + 10) + BAR, side + 24), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.truetype(findfont("DejaVu Sans"), 14)
    colours = plt.get_cmap(cmap)
    for place, (title, one) in enumerate(maps.items()):
        share = (one.detach().float().cpu() / max(high, 1e-9)).clamp(0, 1).numpy()
        tile = Image.fromarray(colours(share, bytes=True)).convert("RGB")
        left = place * (side + 10)
        sheet.paste(tile.resize((side, side), Image.Resampling.NEAREST), (left, 24))
        draw.text((left + side / 2, 10), title, fill="black", font=font, anchor="mm")
    left = len(maps) * (side + 10)
    scale = Image.fromarray(colours(np.linspace(1, 0, side)[:, None], bytes=True)).convert("RGB")
    sheet.paste(scale.resize((12, side)), (left, 24))
    draw.text((left + 16, 24), f"{high:,.0f}" if high >= 100 else f"{high:.3g}", fill="black", font=font, anchor="lt")
    draw.text((left + 16, 24 + side), "0", fill="black", font=font, anchor="lb")
    return sheet


def controls(choices: Mapping[str, Sequence], start: Mapping[str, object] | None = None) -> dict[str, widgets.Widget]:
    """One slider per entry over its values; `start` names values to begin with (else the first)."""
    for name, values in choices.items():
        if not len(values):
            raise ValueError(f"{name} has no values to choose from; give at least one")
    return {
        name: widgets.SelectionSlider(
            options=list(values), value=(start or {}).get(name, values[0]), description=name, continuous_update=True
        )
        for name, values in choices.items()
    }


def browse(
    choices: Mapping[str, Sequence],
    picture: Callable[..., bytes],
    *,
    alt: str,
    start: Mapping[str, object] | None = None,
    interval: int = 250,
    still: Figure | None = None,
) -> None:
    """Show sliders over `choices` and the picture they choose; the first slider has a Play button.

    picture: called with one value per entry, by name, must answer with the bytes of a PNG or
    JPEG picture within some 50 ms. start: the values at the beginning and of the still that
    viewers without a kernel show. alt: one sentence for those who do not see it. interval:
    milliseconds between the pictures while playing. still: a figure of more than one choice, for
    those viewers.
    """
    sliders = controls(choices, start)
    first = next(iter(sliders.values()))
    begin = _now(sliders, picture)
    image = widgets.Image(value=begin)
    for slider in sliders.values():
        slider.observe(lambda _: setattr(image, "value", _now(sliders, picture)), names="value")
    play = widgets.Play(value=first.index, min=0, max=len(first.options) - 1, interval=interval)
    widgets.jslink((play, "value"), (first, "index"))
    rows = [widgets.HBox([play, first]), *list(sliders.values())[1:], image]
    present(widgets.VBox(rows), alt, begin if still is None else encode(still))


def _now(sliders: Mapping[str, widgets.Widget], picture: Callable[..., bytes]) -> bytes:
    return picture(**{name: slider.value for name, slider in sliders.items()})


def present(page: widgets.Widget, alt: str, still: bytes | None = None) -> None:
    """Display a widget; viewers without a kernel see the still picture or, where there is none, the text."""
    view = {"version_major": 2, "version_minor": 0, "model_id": page.model_id}
    content: dict[str, object] = {"application/vnd.jupyter.widget-view+json": view, "text/plain": alt}
    described = {}
    if still is not None:
        kind, small = as_still(still)
        content[kind], described = small, {kind: {"alt": alt}}
    display(content, raw=True, metadata=described)


def as_still(content: bytes) -> tuple[str, bytes]:
    """Kind and bytes of the same picture for pages that no kernel runs, see plots.for_display."""
    return for_display(Image.open(io.BytesIO(content)).convert("RGB"), photo=True)


@dataclass(frozen=True)
class Trial:
    """One attack as the laboratory shows it: picture (PNG bytes) and text, with what stands behind them."""

    picture: bytes
    text: str
    result: Result
    certificate: Certificate

    def save(self, folder: Path, name: str = "laboratory") -> str:
        """Write the attacked picture as PNG and its certificate as JSON; return their names."""
        png = save_png(self.result.images, folder / f"{name}.png")
        return f"{png.name} and {self.certificate.save(png.with_suffix('.json')).name}"


def trial(classifier: Classifier, image: Tensor, **settings: object) -> Trial:
    """Attack one picture (1, 3, H, W) with any settings of zero_out; draw and certify what came out."""
    result = zero_out(classifier.base, image, **settings)
    with tempfile.TemporaryDirectory() as folder:
        certificate = certify(classifier.base, save_png(result.images, Path(folder) / "laboratory.png"), image)
    before, after = (classifier.predict(x)[0] for x in (result.original, result.images))
    line = {"outputs left": [float(n) for n in result.history[0]]}
    figures = [strip(result.original, result.images, before, after), curves(line, "step", "outputs left", log=True)]
    parts = [Image.open(io.BytesIO(content)) for content in frames(figures)]
    sheet = Image.new("RGB", (max(part.width for part in parts), sum(part.height for part in parts)), "white")
    top = 0
    for part in parts:
        sheet.paste(part, ((sheet.width - part.width) // 2, top))
        top += part.height
    return Trial(encode(sheet), str(certificate), result, certificate)


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
    """Menus over `choices`, a Run and a Save button, the picture and the verdict of the last trial.

    run: called with one value per menu, by name, and on_step. first: shown until something was
    run. stored: the same values -> a line of text at once, on each change of a menu. folder:
    where Save writes. upload: a menu that gets an Upload button: a file of the reader's becomes its
    last entry, with the file's bytes as value. Nothing is answered while an attack runs;
    interrupting the kernel ends it with the best picture so far.
    """
    menus = {
        name: widgets.Dropdown(options=list(values), value=(start or {}).get(name, values[0]), description=name)
        for name, values in choices.items()
    }
    go, keep = widgets.Button(description="Run", button_style="primary"), widgets.Button(description="Save")
    image, words = widgets.Image(value=first.picture), widgets.HTML(value=_paragraph(first.text))
    last = [first]

    def say(line: str) -> None:
        words.value = _paragraph(line)

    def press_run(_: widgets.Button) -> None:
        go.disabled = keep.disabled = True
        say("loading the network ...")
        try:
            values = {name: menu.value for name, menu in menus.items()}
            last[0] = run(**values, on_step=lambda step, _, left: say(f"step {step}: {int(left[0]):,} outputs left"))
            image.value = last[0].picture
            say(last[0].text)
        except Exception as error:  # whatever the reader's settings lead to belongs on the page
            say(f"{type(error).__name__}: {error}")
        finally:
            go.disabled = keep.disabled = False

    go.on_click(press_run)
    keep.on_click(lambda _: say(f"{last[0].text}\nwritten: {last[0].save(folder)}"))
    for menu in menus.values() if stored else ():
        menu.observe(lambda _: say(stored(**{name: menu.value for name, menu in menus.items()})), names="value")
    buttons = [go, keep]
    if upload is not None:
        own = file_button()
        own.observe(lambda _: _offer(menus[upload], own), names="value")
        buttons.append(own)
    page = widgets.VBox([*menus.values(), widgets.HBox(buttons), words, image])
    present(page, alt, first.picture)


def choose_file() -> widgets.FileUpload:
    """Show a button for a picture of the reader's and return it; viewers without a kernel see a line of text."""
    button = file_button()
    present(button, "(a button to upload a picture, where a kernel runs)")
    return button


def file_button() -> widgets.FileUpload:
    """A button that takes one picture file of the reader's; read it with `uploaded`."""
    return widgets.FileUpload(accept="image/*", multiple=False, description="Upload")


def uploaded(button: widgets.FileUpload) -> tuple[str, bytes] | None:
    """Name and bytes of the file that was chosen, or None."""
    files = button.value
    if not files:
        return None
    if isinstance(files, dict):  # ipywidgets 7: name -> file
        name, file = list(files.items())[-1]
        return name, bytes(file["content"])
    return files[-1]["name"], bytes(files[-1]["content"])


def _offer(menu: widgets.Dropdown, button: widgets.FileUpload) -> None:
    """Choose the uploaded file in a menu, which then holds it as its last entry."""
    if (file := uploaded(button)) is not None:
        pairs = [entry if isinstance(entry, tuple) else (str(entry), entry) for entry in menu.options]
        menu.options = [*(pair for pair in pairs if not isinstance(pair[1], bytes)), file]
        menu.value = file[1]


def _paragraph(line: str) -> str:
    return f"<pre>{html.escape(line)}</pre>"
