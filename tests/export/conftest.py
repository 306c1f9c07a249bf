"""A page, a server of it and a browser, for the tests of the explorer."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import vaekit
from vaekit import VAE
from vaekit.commands import towards
from vaekit.export import explorer
from vaekit.runs.prior import keep
from vaekit.system.server import address_of, server_of

REQUIRED = "VAEKIT_BROWSER"  # set to "required" where a test that cannot run is a failure
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1280,900"
)
OPENED = "document.querySelector('main').getAttribute('aria-busy') === 'false'"


def cannot(reason: str) -> None:
    """Skip, or fail where the tests of the page must run."""
    if os.environ.get(REQUIRED) == "required":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def sorted_run(tiny, photos, tmp_path_factory) -> Path:
    """A run on pictures in two class folders, measured."""
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("sorted")
    for i, path in enumerate(sorted(photos.iterdir())):
        place = folder / ("even", "odd")[i % 2]
        place.mkdir(exist_ok=True)
        shutil.copy(path, place)
    run = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAEKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(towards, "FEWEST_SHOWN", 2)  # of twenty pictures
        shaken(vaekit.train(tiny, folder, run), run)
        vaekit.sample_run(run, "gaussian-mixture", 1)
        vaekit.evaluate_run(run)
        yield run


def shaken(vae: VAE, run: Path) -> None:
    """Give every weight of the flow a value: of so few pictures it learns nothing, and its field would be zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in vae.priors["flow"].network.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=generator)
    vae.set_prior("flow", vae.priors["flow"])
    keep("flow", run, vae)


@pytest.fixture(scope="session")
def page(sorted_run, tmp_path_factory) -> Path:
    """Its page, with the latents of test pictures."""
    if not (explorer.PAGE / explorer.RUNTIME).is_dir():
        cannot("what the page computes with is not here: make web")
    return vaekit.export_run(sorted_run, web=tmp_path_factory.mktemp("page") / "page", show_pictures=True)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder while it is served."""
    with server_of(folder) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield address_of(server)
        server.shutdown()
        thread.join()


@pytest.fixture
def serve() -> Callable[[Path], AbstractContextManager[str]]:
    return served


class Browser:
    """Chromium without a window."""

    def __init__(self, downloads: Path) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = str(shutil.which("chromium"))
        for flag in FLAGS.split():
            options.add_argument(flag)
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.downloads = downloads
        self.driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        self.driver.set_script_timeout(120)

    def js(self, script: str, *given: Any) -> Any:
        return self.driver.execute_script(f"return {script}", *given)

    def awaited(self, script: str, *given: Any) -> Any:
        """What the promise of a script gives."""
        done = "const done = arguments[arguments.length - 1];"
        caught = f"(async () => {script})().then(done, (error) => done({{failed: String(error)}}))"
        found = self.driver.execute_async_script(done + "const given = [...arguments];" + caught, *given)
        assert not (isinstance(found, dict) and "failed" in found), found["failed"]
        return found

    def until(self, script: str, *given: Any) -> None:
        """Wait until something is true."""
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, 120, poll_frequency=0.05).until(lambda _: self.js(script, *given), script)

    def open(self, address: str) -> None:
        self.driver.get(address)
        self.until(OPENED)

    def settle(self) -> None:
        """Wait until the picture is that of the sliders."""
        self.until("(({ shown, wanted }) => shown === wanted)(document.getElementById('shown').dataset)")

    def click(self, name: str) -> None:
        self.driver.find_element("id", name).click()

    def text(self, name: str) -> str:
        return self.driver.find_element("id", name).text

    def pixels(self, name: str) -> list[int]:
        """RGBA of a canvas."""
        get = "const c = document.getElementById(given[0]);"
        get += "return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data];"
        return self.awaited("{" + get + "}", name)

    def count(self, name: str, what: str) -> int:
        """How often the page has done something, as it notes at an element."""
        return int(self.js("document.getElementById(arguments[0]).dataset[arguments[1]]", name, what) or 0)

    def drop(self, name: str, path: Path) -> None:
        """Drop a file on an element, or on the whole page."""
        import base64

        script = """{
          const bytes = Uint8Array.from(atob(given[1]), (letter) => letter.charCodeAt(0));
          const data = new DataTransfer();
          data.items.add(new File([bytes], given[2]));
          const on = given[0] ? document.getElementById(given[0]) : document.body;
          on.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
        }"""
        self.awaited(script, name, base64.b64encode(path.read_bytes()).decode(), path.name)

    def errors(self) -> list[str]:
        """What went wrong in the page, beside what it says itself."""
        return [line["message"] for line in self.driver.get_log("browser") if line["level"] == "SEVERE"]


@pytest.fixture(scope="session")
def browser(tmp_path_factory) -> Iterator[Browser]:
    """One browser for all tests of a process."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        cannot("selenium is not here")
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        cannot("no chromium and chromedriver: on Debian, apt-get install chromium chromium-driver")
    browser = Browser(tmp_path_factory.mktemp("downloads"))
    yield browser
    browser.driver.quit()


@pytest.fixture(scope="module")
def address(page) -> Iterator[str]:
    with served(page) as found:
        yield found


@pytest.fixture
def opened(browser, address) -> Browser:
    """The browser with a fresh page."""
    browser.open(address)
    browser.errors()  # those of tests before
    return browser
