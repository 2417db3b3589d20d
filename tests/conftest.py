"""What several tests share: the real networks (loaded once), one real attack, a server, no Internet."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import matplotlib
import pytest
import torch
from hypothesis import settings

matplotlib.use("Agg")

from helpers.attack import Result, zero_out
from helpers.images import DATA, load_image, save_png
from helpers.networks import Base, Classifier, efficientnet_lite0, vgg16_base

# The same examples on every run; a slow machine is no failure.
settings.register_profile("here", derandomize=True, database=None, deadline=None)
settings.load_profile("here")

# Tiny networks are up to twenty times quicker on one thread; the real attack gets them all.
THREADS = torch.get_num_threads()
torch.set_num_threads(1)

ALBATROSS = DATA / "images" / "albatross.png"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs the real attack is slow."""
    for item in items:
        if "blinded" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only this machine can be reached: a test that needs the Internet fails at once."""
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: object) -> None:
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "localhost", "::1"):
            raise OSError(f"tests stay off the Internet, but one asked for {address[0]}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)
    monkeypatch.setenv("no_proxy", "*")
    for name in ("ZERO_OUT_WEIGHTS", "ZERO_OUT_OUT", "KERAS_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[tuple[str, dict[str, bytes]]]:
    """(address, pages): a web server on this machine. A page under /cut... breaks off half-way."""
    pages: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = pages.get(self.path)
            self.send_response(404 if content is None else 200)
            content = content or b""
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if self.path.startswith("/cut") else content)

        def log_message(self, *_: object) -> None:
            pass

    service = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{service.server_port}", pages
    service.shutdown()
    service.server_close()
    thread.join()


@pytest.fixture
def style() -> None:
    """The look of all figures, and none open."""
    import matplotlib.pyplot as plt

    from helpers.plots import use_style

    plt.close("all")
    use_style()


@pytest.fixture(scope="session")
def vgg() -> Base:
    return vgg16_base()


@pytest.fixture(scope="session")
def lite0() -> Classifier:
    return efficientnet_lite0()


@pytest.fixture(scope="session")
def albatross() -> torch.Tensor:
    return load_image(ALBATROSS)


@pytest.fixture(scope="session")
def blinded(vgg: Base, albatross: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """The one attack on the real VGG-16, with a generous budget, and its saved file."""
    torch.set_num_threads(THREADS)
    result = zero_out(vgg, albatross, eps=16 / 255, steps=80)
    torch.set_num_threads(1)
    return result, save_png(result.images, tmp_path_factory.mktemp("blinded") / "albatross.png")
