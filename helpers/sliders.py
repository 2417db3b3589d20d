"""Sliders over images that are there already, a blind test, and a laboratory that runs attacks.

A slider calls a plain function that returns the bytes of an image. Only widgets that ipywidgets 7.7.1 (Colab) and 8
share are used; pages that no kernel runs show a still.
"""

import html
import io
import operator
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ipywidgets as widgets
from IPython.display import display
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from helpers.attack import Result, zero_out
from helpers.certificate import Certificate, certify
from helpers.charts import curves
from helpers.images import save_png
from helpers.networks import Classifier
from helpers.plots import before_after, described, encode, write_caption


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
    alt: one sentence, shown as a caption and for those who do not see the image.
    start: the values at the beginning. (Default: the first ones)
    interval: milliseconds between the images while playing. (Default: 250)
    still: what pages without a kernel show. (Default: the image at the beginning)
    """
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


def blind_test(pairs: Sequence[bytes], truth: Sequence[str], *, alt: str, still: Figure) -> None:
    """Show pairs of images one by one and ask which of the two was changed; at the end, count the right answers.

    pairs: PNG or JPEG images, each with two images side by side.
    truth: "left" or "right" for each pair.
    alt, still: as in browse.
    """
    image, words, answers = widgets.Image(value=pairs[0]), widgets.HTML(), [""] * len(pairs)
    left, right, further = (widgets.Button(description=name) for name in ("left", "right", "next"))
    place = 0

    def say(text: str) -> None:
        words.value = f"<p>{text}</p>"
        further.disabled = not answers[place]

    def choose(button: widgets.Button) -> None:
        answers[place] = button.description
        say(f"Pair {place + 1} of {len(pairs)}: your answer is {button.description}.")

    def go_on(_: object) -> None:
        nonlocal place
        place += 1
        if place < len(pairs):
            image.value = pairs[place]
            say(f"Pair {place + 1} of {len(pairs)}: which one was changed?")
            return
        for button in (left, right, further):
            button.disabled = True
        from scipy.stats import binomtest  # takes a second

        hits = sum(map(operator.eq, answers, truth))
        share = f"{binomtest(hits, len(pairs), alternative='greater').pvalue:.1%}"
        words.value = f"<p>{hits} of {len(pairs)} right. Guessing gets as many or more in {share} of tests.</p>"

    for button, press in ((left, choose), (right, choose), (further, go_on)):
        button.on_click(press)
    say(f"Pair 1 of {len(pairs)}: which one was changed?")
    present(widgets.VBox([image, widgets.HBox([left, right, further]), words]), alt, encode(still))


def _values(menus: Mapping[str, widgets.Widget]) -> dict[str, object]:
    return {name: menu.value for name, menu in menus.items()}


def present(page: widgets.Widget, alt: str, still: bytes) -> None:
    """Display a widget with its caption; pages without a kernel show the still image."""
    content, metadata = described(still, alt)
    view = {"version_major": 2, "version_minor": 0, "model_id": page.model_id}
    display({**content, "application/vnd.jupyter.widget-view+json": view}, raw=True, metadata=metadata)
    write_caption(alt)


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
    figures = (
        before_after(result.original, result.images, before, after, chance=1 / len(classifier.labels)),
        curves({"attacked": result.history[0]}, "step", "active features", log=True),
    )
    above, below = (Image.open(io.BytesIO(encode(figure))) for figure in figures)
    sheet = Image.new("RGB", (max(above.width, below.width), above.height + below.height), "white")
    sheet.paste(above, (0, 0))
    sheet.paste(below, (0, above.height))
    content = io.BytesIO()
    sheet.save(content, format="png")
    return Trial(content.getvalue(), result, certificate)


class Laboratory:
    """The widgets of `laboratory`, which describes the arguments."""

    def __init__(
        self,
        choices: Mapping[str, Sequence],
        run: Callable[..., Trial],
        first: Trial,
        folder: Path,
        stored: Callable[..., str] | None,
    ) -> None:
        self.run, self.last, self.folder, self.stored = run, first, folder, stored
        self.menus = {
            name: widgets.Dropdown(options=[(str(value), value) for value in values], description=name)
            for name, values in choices.items()
        }
        self.buttons = [widgets.Button(description="Run", button_style="primary"), widgets.Button(description="Save")]
        self.image, self.words = widgets.Image(value=first.picture), widgets.HTML()
        for button, press in zip(self.buttons, (self.press_run, self.press_save), strict=True):
            button.on_click(press)
        for menu in self.menus.values() if stored else ():
            menu.observe(lambda _: self.say(stored(**_values(self.menus))), names="value")
        self.say(first.certificate)

    def say(self, line: object) -> None:
        self.words.value = f"<pre>{html.escape(str(line))}</pre>"

    def press_run(self, _: object) -> None:
        for button in self.buttons:
            button.disabled = True
        self.say("loading the network ...")
        try:
            self.last = self.run(**_values(self.menus), on_step=self.on_step)
            self.image.value = self.last.picture
            self.say(self.last.certificate)
        except Exception as error:  # whatever the reader's settings lead to belongs on the page
            self.say(f"{type(error).__name__}: {error}")
        finally:
            for button in self.buttons:
                button.disabled = False

    def on_step(self, step: int, _: Tensor, left: Tensor) -> None:
        self.say(f"step {step}: {int(left[0]):,} active")

    def press_save(self, _: object) -> None:
        self.say(f"{self.last.certificate}\nsaved: {self.last.save(self.folder)}")


def laboratory(
    choices: Mapping[str, Sequence],
    run: Callable[..., Trial],
    first: Trial,
    *,
    folder: Path,
    alt: str,
    stored: Callable[..., str] | None = None,
    upload: str | None = None,
) -> None:
    """Show one menu per entry of choices, buttons Run and Save, and image and verdict of the last trial.

    run: called with one value per menu, by name, and on_step; errors are shown on the page.
    first: the trial that is shown until something was run.
    folder: where Save writes.
    alt: one sentence, shown as a caption and for those who do not see the image.
    stored: called with the values after each change of a menu; returns a line of text.
    upload: a menu that gets an Upload button; an uploaded file becomes its last entry, with the bytes as value.
    """
    here = Laboratory(choices, run, first, folder, stored)
    buttons = [*here.buttons, _upload_into(here.menus[upload])] if upload else here.buttons
    page = widgets.VBox([*here.menus.values(), widgets.HBox(buttons), here.words, here.image])
    present(page, alt, first.picture)


def _upload_into(menu: widgets.Dropdown) -> widgets.FileUpload:
    """A button whose file becomes the last entry of a menu and is chosen."""
    bundled, button = menu.options, widgets.FileUpload(accept="image/*", multiple=False, description="Upload")

    def choose(_: object) -> None:
        if file := uploaded(button):
            menu.options = [*bundled, file]
            menu.value = file[1]

    button.observe(choose, names="value")
    return button


def uploaded(button: widgets.FileUpload) -> tuple[str, bytes] | None:
    """Name and bytes of the file that was chosen, or None."""
    files = button.value
    if isinstance(files, dict):  # ipywidgets 7: name -> file
        files = [{"name": name, **file} for name, file in files.items()]
    return (files[-1]["name"], bytes(files[-1]["content"])) if files else None
