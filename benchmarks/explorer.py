"""The explorer in a real browser: how long from a slider to its picture, and a film of it.

    vaekit export runs/faces --web page/
    python benchmarks/explorer.py page/ [--gif explorer.gif] [--picture 6]

Needs chromium, chromedriver and selenium. The film shows a new picture of the prior, number `--picture` of the first
page of them, under sliders and pad: no photograph.
"""

from __future__ import annotations

import argparse
import io
import shutil
import statistics
import threading
import time
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from vaekit.system.server import address_of, server_of

MOVES = 100
WIDTH, HEIGHT = 1240, 640
FILM_WIDTH = 680
FRAMES = 6  # each way of a move
FRAME_MSEC = 110
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars"
)
READY = "return document.querySelector('main').getAttribute('aria-busy') === 'false'"
SHOWN = "return Number(document.getElementById('shown').dataset.shown)"
MOVE = """
const slider = document.querySelectorAll("#sliders input")[arguments[0]];
slider.value = arguments[1];
slider.dispatchEvent(new Event("input"));
"""
RELEASE = "document.querySelectorAll('#sliders input')[arguments[0]].dispatchEvent(new Event('change'))"


class Page:
    """A page in a browser."""

    def __init__(self, address: str) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = str(shutil.which("chromium"))
        for flag in [*FLAGS.split(), f"--window-size={WIDTH},{HEIGHT}"]:
            options.add_argument(flag)
        self.driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        self.driver.get(address)
        self.until(READY)

    def until(self, script: str, sec: float = 120) -> None:
        """Wait until a script gives something true."""
        end = time.monotonic() + sec
        while not self.driver.execute_script(script):
            if time.monotonic() > end:
                raise TimeoutError(script)
            time.sleep(0.005)

    def move(self, slider: int, value: float) -> float:
        """Move a slider; the milliseconds until its picture is there, as the page takes them."""
        before = self.driver.execute_script(SHOWN)
        self.driver.execute_script(MOVE, slider, value)
        self.until(f"{SHOWN} > {before}")
        return float(self.driver.execute_script("return document.getElementById('speed').dataset.msec"))

    def frame(self) -> Image.Image:
        """What is seen."""
        shot = Image.open(io.BytesIO(self.driver.get_screenshot_as_png())).convert("RGB")
        return shot.resize((FILM_WIDTH, round(FILM_WIDTH * shot.height / shot.width)), Image.Resampling.LANCZOS)


def film(page: Page, picture: int) -> list[Image.Image]:
    """A new picture, and three of its sliders there and back."""
    page.driver.find_element("id", "tab-fresh").click()
    page.until("return document.querySelectorAll('#grid button').length")
    frames = [page.frame()] * 6
    page.driver.execute_script("document.querySelectorAll('#grid button')[arguments[0]].click()", picture)
    time.sleep(1)
    frames += [page.frame()] * 4
    for slider, most, rest in ((0, -2.4, 0.0), (1, 1.6, -0.6), (2, 2.4, 0.0), (4, -2.4, 0.0)):
        there = [most * (step + 1) / FRAMES for step in range(FRAMES)]
        back = [most + (rest - most) * (step + 1) / FRAMES for step in range(FRAMES)]
        for value in there + back:
            page.move(slider, value)
            frames.append(page.frame())
        page.driver.execute_script(RELEASE, slider)
        time.sleep(0.6)
        frames += [page.frame()] * 3
    return frames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--gif", type=Path)
    parser.add_argument("--picture", type=int, default=6)
    given = parser.parse_args()
    with server_of(given.page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        started = time.monotonic()
        page = Page(address_of(server))
        threads = page.driver.execute_script("return document.getElementById('speed').dataset.threads")
        print(f"first picture after {time.monotonic() - started:.1f} s, {threads} threads")
        time.sleep(1)
        times = sorted(page.move(i % 8, (i % 13) / 2 - 3) for i in range(MOVES))
        print(f"slider to picture, {MOVES} moves: median {statistics.median(times):.1f} ms, slowest {times[-1]:.1f} ms")
        if given.gif:
            first, *others = [frame.quantize(80, dither=Image.Dither.NONE) for frame in film(page, given.picture)]
            first.save(given.gif, save_all=True, append_images=others, duration=FRAME_MSEC, loop=0, optimize=True)
            print(f"{given.gif}: {given.gif.stat().st_size / 2**20:.2f} MiB")
        page.driver.quit()
        server.shutdown()


if __name__ == "__main__":
    main()
