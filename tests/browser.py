"""The sliders in a real browser: `make browser`. JupyterLab, headless Chromium, every slider moved, Play pressed.

Needs selenium, jupyterlab and Chromium with its driver; skipped where one of them is missing.
Each notebook runs as a whole, in a copy, which takes minutes: so it is not in `make test`.
LAB_PYTHON=OTHER/bin/python runs JupyterLab and the kernel of another environment, for example one with
ipywidgets 7.7.1.
"""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("selenium", reason="pip install selenium")
pytest.importorskip("jupyterlab", reason="pip install jupyterlab")

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None)
DRIVER = shutil.which("chromedriver")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--window-size=1400,1000")
# (notebook, label of the button that starts its live computation, or "")
NOTEBOOKS = [(name, "") for name in ("02_albatross", "03_activations", "05_defence", "06_bypass")] + [
    ("04_sweeps", "Run")
]
BLIND_TEST = "02_visibility"
PYTHON = os.environ.get("LAB_PYTHON", sys.executable)
SETTINGS = {  # all cells in the page, no news
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
PIXELS = """
const img = arguments[0], canvas = document.createElement('canvas');
canvas.width = img.naturalWidth; canvas.height = img.naturalHeight;
canvas.getContext('2d').drawImage(img, 0, 0);
return canvas.toDataURL();
"""

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no Chromium with its driver on this machine")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """JupyterLab on copies of the notebooks, on a free port: its address up to the token."""
    (tmp_path / "helpers").symlink_to(ROOT / "helpers")
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "out").mkdir()
    for name in [name for name, _ in NOTEBOOKS] + [f"appendix/{BLIND_TEST}"]:
        shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", tmp_path / "notebooks")
    for name, values in SETTINGS.items():
        path = tmp_path / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values), encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    command = f"-m jupyterlab --no-browser --allow-root --expose-app-in-browser --ip=127.0.0.1 --port={port}".split()
    command += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={tmp_path / 'notebooks'}"]
    places = {
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "ZERO_OUT_OUT": "out",
    }
    environment = {**os.environ, **{name: str(tmp_path / place) for name, place in places.items()}}
    server = subprocess.Popen([PYTHON, *command], env=environment)
    yield f"http://127.0.0.1:{port}/lab/tree/{{}}.ipynb?token={token}"
    server.terminate()  # shuts its kernels down
    server.wait(20)


@pytest.fixture
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def run_all(browser: webdriver.Chrome, address: str) -> None:
    """Open a notebook in JupyterLab and run all its cells."""
    for _ in range(300):  # until the server answers
        try:
            browser.get(address)
            break
        except WebDriverException:
            time.sleep(0.2)
    ready = "const w = window.jupyterapp?.shell?.currentWidget; return !!(w?.sessionContext?.session?.kernel)"
    WebDriverWait(browser, 90).until(lambda b: b.execute_script(ready))
    browser.execute_script("window.jupyterapp.commands.execute('notebook:run-all-cells').then(r => window.ran = r)")
    assert WebDriverWait(browser, 1800, 1).until(lambda b: b.execute_script("return [window.ran]") != [None])
    assert browser.execute_script("return window.ran") is True, "a cell failed"


def find(place: webdriver.Chrome | WebElement, selector: str) -> list[WebElement]:
    return place.find_elements("css selector", selector)


def where(handle: WebElement) -> str:
    """A slider's place: noUiSlider tells it, jQuery's slider (ipywidgets 7) only shows it."""
    return handle.get_attribute("aria-valuenow") or handle.get_attribute("style")


def move(browser: webdriver.Chrome, handle: WebElement, image: WebElement) -> None:
    """Move a slider by one place and wait until its picture has changed."""
    old, place = browser.execute_script(PIXELS, image), where(handle)
    for key in (Keys.ARROW_RIGHT, Keys.ARROW_LEFT):
        handle.send_keys(key)
        if where(handle) != place:
            break
    WebDriverWait(browser, 20, 0.02).until(lambda b: b.execute_script(PIXELS, image) != old)


def play(browser: webdriver.Chrome, box: WebElement, image: WebElement) -> None:
    """Press Play; two more pictures must come by themselves, then press it again to pause."""
    seen = {browser.execute_script(PIXELS, image)}
    button = find(box, ".widget-play button")[0]
    button.click()
    WebDriverWait(browser, 20, 0.02).until(
        lambda b: seen.add(b.execute_script(PIXELS, image)) or len(seen) >= 3  # type: ignore[func-returns-value]
    )
    button.click()


@pytest.mark.parametrize(("name", "run"), NOTEBOOKS)
def test_sliders_answer_in_jupyterlab(lab: str, browser: webdriver.Chrome, name: str, run: str) -> None:
    run_all(browser, lab.format(name))
    images = find(browser, ".widget-vbox img.widget-image")
    assert images, "no sliders came up"
    for image in images:
        box = image.find_element("xpath", "ancestor::*[contains(@class, 'widget-vbox')][last()]")
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", box)
        for button in find(box, "button.jupyter-button") if run else []:
            if run in button.text:
                old = browser.execute_script(PIXELS, image)
                Select(find(box, "select")[0]).select_by_index(1)  # another picture than the one that is shown
                button.click()
                WebDriverWait(browser, 300).until(lambda b, i=image, o=old: b.execute_script(PIXELS, i) != o)
        if find(box, ".widget-play button"):
            play(browser, box, image)  # first: it ends at the last picture
        for handle in find(box, ".noUi-handle, .ui-slider-handle"):
            for _ in range(3):
                move(browser, handle, image)
    errors = find(browser, "[data-mime-type$='jupyter.error'], [data-mime-type$='jupyter.stderr']")
    assert not [error.text for error in errors]


def test_the_blind_test_counts_answers_in_jupyterlab(lab: str, browser: webdriver.Chrome) -> None:
    run_all(browser, lab.format(BLIND_TEST))
    (image,) = find(browser, ".widget-vbox img.widget-image")
    box = image.find_element("xpath", "ancestor::*[contains(@class, 'widget-vbox')][last()]")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", box)
    left, _, further = find(box, "button.jupyter-button")
    for pair in range(1, 9):
        old = browser.execute_script(PIXELS, image)
        left.click()
        WebDriverWait(browser, 20).until(lambda _: further.is_enabled())
        further.click()
        if pair < 8:
            WebDriverWait(browser, 20).until(lambda b, o=old: b.execute_script(PIXELS, image) != o)
    WebDriverWait(browser, 20).until(lambda _: "of 8 right" in box.text)
