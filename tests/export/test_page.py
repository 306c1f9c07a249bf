"""The page in a real browser: it computes what torch computes, and says what is wrong."""

import base64
import http.server
import io
import json
import shutil
import threading
import time
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from scipy import stats

from vaekit import VAE, read_picture
from vaekit.data.decoding import decode
from vaekit.data.fitting import box_of
from vaekit.data.pixels import to_uint8
from vaekit.data.view import View
from vaekit.priors.flow import QUARTER
from vaekit.reports.figures import through_noise

PNG, JPEG = "PNG", "JPEG"


@pytest.fixture(scope="module")
def vae(sorted_run):
    return VAE.from_pretrained(sorted_run)


@pytest.fixture
def picture(photos):
    return sorted(photos.iterdir())[3]


def shown(browser, name, vae):
    """The pixels (C, H, W) of a canvas."""
    _, height, width = vae.image_shape
    return np.array(browser.pixels(name), np.int16).reshape(height, width, 4)[..., :3].transpose(2, 0, 1)


def decoded(vae, z):
    return to_uint8(vae.decode(z))[0].numpy().astype(np.int16)


def test_a_dropped_picture_comes_back_as_torch_reconstructs_it(opened, vae, picture):
    opened.drop("choose", picture)
    opened.until("!document.getElementById('original').hidden && document.getElementById('std-text').textContent")
    x = read_picture(picture, vae)
    assert np.abs(shown(opened, "original", vae) - to_uint8(x)[0].numpy()).max() <= 1
    expected = decoded(vae, vae.encode(x).mean)
    assert np.abs(shown(opened, "shown", vae) - expected).max() <= 2
    mse = (x - vae.decode(vae.encode(x).mean).clamp(-1, 1)).square().mean()
    assert f"{10 * torch.log10(4 / mse):.1f} dB" in opened.text("error-text")
    assert opened.text("name") == picture.name
    assert not opened.errors()


def test_a_picture_dropped_anywhere_is_taken_and_leads_to_its_view(opened, picture):
    opened.click("tab-latents")
    opened.drop("", picture)
    opened.until("!document.getElementById('look').hidden && !document.getElementById('original').hidden")


def move(browser, place, value, event="change"):
    """Move a slider as a hand does."""
    browser.awaited(
        """{
          const slider = document.querySelectorAll("#sliders input")[given[0]];
          slider.value = given[1];
          slider.dispatchEvent(new Event("input"));
          if (given[2] === "change") slider.dispatchEvent(new Event("change"));
        }""",
        place,
        value,
        event,
    )
    browser.settle()


def choose_kind(browser, kind):
    browser.awaited(
        "{const s = document.getElementById('kind'); s.value = given[0]; s.dispatchEvent(new Event('change'));}", kind
    )


@pytest.mark.parametrize("kind", ["directions", "labels", "entries"])
def test_a_slider_moves_the_latent_along_its_way(opened, page, vae, picture, kind):
    opened.drop("choose", picture)
    opened.until("!document.getElementById('original').hidden")
    choose_kind(opened, kind)
    mean = vae.encode(read_picture(picture, vae)).mean
    before = shown(opened, "shown", vae)
    move(opened, 1, 2.5)
    about = json.loads((page / "model" / "page.json").read_text())
    if kind == "entries":
        entry = about["entries"]["order"][1]
        mean[0, entry] += 2.5 * vae.priors["gaussian"].std[entry]
    else:
        places = [i for i, one in enumerate(about["directions"]) if one["kind"] == kind]
        mean += 2.5 * torch.from_numpy(np.load(page / "model" / "directions.npy"))[places[1]]
    expected = decoded(vae, mean)
    assert np.abs(shown(opened, "shown", vae) - expected).max() <= 2
    assert np.abs(expected - before).max() > 2, "nothing changed"
    opened.click("undo")
    opened.settle()
    assert np.abs(shown(opened, "shown", vae) - before).max() == 0
    opened.click("redo")
    opened.settle()
    assert np.abs(shown(opened, "shown", vae) - expected).max() <= 2
    opened.click("reset")
    opened.settle()
    assert np.abs(shown(opened, "shown", vae) - before).max() == 0


def test_directions_are_those_of_the_covariance_a_standard_deviation_long(page, vae):
    found = np.load(page / "model" / "directions.npy")
    kinds = [one["kind"] for one in json.loads((page / "model" / "page.json").read_text())["directions"]]
    found = found[[kind == "directions" for kind in kinds]]
    covariance = (vae.priors["gaussian"].root @ vae.priors["gaussian"].root).numpy()
    values = np.linalg.eigvalsh(covariance)[::-1][: len(found)]
    np.testing.assert_allclose((found**2).sum(1), values, rtol=1e-3)
    np.testing.assert_allclose(covariance @ found.T, (found * values[:, None]).T, atol=1e-3 * values[0])


def test_labels_point_from_pictures_without_to_those_with(page):
    about = json.loads((page / "model" / "page.json").read_text())["directions"]
    vectors = dict(zip([one["title"] for one in about], np.load(page / "model" / "directions.npy"), strict=True))
    np.testing.assert_allclose(vectors["even"], -vectors["odd"], rtol=1e-5)  # two classes


def test_the_pad_moves_two_sliders_by_mouse_and_by_keys(opened):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    opened.until("document.getElementById('pad-canvas').dataset.drawn")
    pad = opened.driver.find_element("id", "pad")
    width, height = pad.size["width"], pad.size["height"]
    ActionChains(opened.driver).move_to_element(pad).click_and_hold().move_by_offset(
        width // 4, height // 4
    ).release().perform()
    across, down = (float(text) for text in values(opened)[:2])
    assert across == pytest.approx(1.5, abs=0.05)
    assert down == pytest.approx(1.5, abs=0.05)
    pad.send_keys(Keys.ARROW_LEFT, Keys.ARROW_DOWN)
    assert [float(text) for text in values(opened)[:2]] == pytest.approx([across - 0.25, down + 0.25], abs=0.02)
    opened.driver.find_element("tag name", "body").send_keys(Keys.CONTROL, "z")
    assert [float(text) for text in values(opened)[:2]] == pytest.approx([across - 0.25, down], abs=0.02)


def values(browser):
    found = browser.js("[...document.querySelectorAll('#sliders output')].map((one) => one.textContent)")
    return [text.replace("\N{MINUS SIGN}", "-") for text in found]


def noise(browser, seed, size):
    script = "{const m = await import('./priors.js'); return [...m.normal(m.uniform(given[0]), given[1])];}"
    return torch.tensor(browser.awaited(script, seed, size))


DRAW = """{
  const [{ ask }, about] = [await import("./engine.js"), await (await fetch("./model/page.json")).json()];
  const prior = about.priors.find(({ name }) => name === given[0]);
  return [...(await ask("draw", { prior, ...given[1] }))];
}"""


def drawn(browser, vae, prior, **given):
    options = {"count": 5, "temperature": 1, "seed": 3, "asked": {}, "guidance": 1} | given
    return torch.tensor(browser.awaited(DRAW, prior, options)).reshape(-1, vae.latent_dim)


def test_noise_is_normal(opened):
    eps = noise(opened, 1, 20_000)
    assert stats.kstest(eps.numpy(), "norm").pvalue > 1e-3
    assert not torch.equal(eps, noise(opened, 2, 20_000))


def test_draws_of_the_normal_and_the_gaussian_are_theirs(opened, vae):
    eps = noise(opened, 3, 5 * vae.latent_dim).reshape(5, -1)
    torch.testing.assert_close(drawn(opened, vae, "normal"), eps)
    torch.testing.assert_close(drawn(opened, vae, "normal", temperature=0.5), 0.5 * eps)
    expected = vae.priors["gaussian"].colour(eps)
    torch.testing.assert_close(drawn(opened, vae, "gaussian"), expected, atol=1e-4, rtol=1e-4)


def test_draws_of_the_mixture_are_those_of_a_component(opened, vae):
    mixture = vae.priors["gaussian-mixture"]
    eps = noise(opened, 3, 5 * vae.latent_dim).reshape(5, -1)
    for z, own in zip(drawn(opened, vae, "gaussian-mixture"), eps, strict=True):
        scales = [scale if scale.ndim == 2 else scale.diag() for scale in mixture.scale]
        nearest = min((z - m - s @ own).abs().max() for m, s in zip(mixture.mean, scales, strict=True))
        assert nearest < 1e-4


@pytest.mark.parametrize(("scale", "covariance"), [((2, 3, 3), "full"), ((2, 3), "diag")])
def test_a_mixture_of_either_covariance_is_mean_and_scale_times_noise(opened, generator, scale, covariance):
    eps, mean = torch.randn(4, 3, generator=generator), torch.randn(2, 3, generator=generator)
    factors = torch.randn(scale, generator=generator)
    factors = factors.tril() if covariance == "full" else factors
    script = """{
      const m = await import("./priors.js");
      const [eps, mean, scale] = [given[0], given[1], given[2]].map((values) => Float32Array.from(values.flat(9)));
      return [...m.ofMixture(eps, [0, 1, 1, 0], { data: mean }, { data: scale, shape: given[3] })];
    }"""
    z = torch.tensor(opened.awaited(script, eps.tolist(), mean.tolist(), factors.tolist(), list(scale))).reshape(4, 3)
    for row, k, own in zip(z, (0, 1, 1, 0), eps, strict=True):
        expected = mean[k] + (factors[k] @ own if covariance == "full" else factors[k] * own)
        torch.testing.assert_close(row, expected)


@pytest.mark.parametrize(("asked", "guidance"), [({"class": 0}, 1), ({"class": 1}, 1), ({"class": 1}, 2.5)])
def test_draws_of_the_flow_are_what_it_makes_of_their_noise(opened, vae, asked, guidance):
    flow = vae.priors["flow"]
    eps = noise(opened, 3, 5 * vae.latent_dim).reshape(5, -1)
    told = torch.full((5, 1), asked["class"])
    expected = flow.gaussian.colour(flow.moved(eps, 0, QUARTER, 25, told, guidance))
    torch.testing.assert_close(
        drawn(opened, vae, "flow", asked=asked, guidance=guidance), expected, atol=1e-3, rtol=1e-3
    )


def test_draws_without_a_label_are_of_classes_as_frequent_as_they_are(opened):
    script = "{const m = await import('./priors.js'); return m.chosen(m.uniform(5), [0.2, 0, 0.8], 4000);}"
    shares = np.bincount(opened.awaited(script), minlength=3) / 4000
    np.testing.assert_allclose(shares, [0.2, 0, 0.8], atol=0.03)


@pytest.mark.parametrize("through", [False, True])
def test_the_way_between_two_is_that_of_vaekit(opened, vae, photos, through):
    x = torch.cat([read_picture(path, vae) for path in sorted(photos.iterdir())[:2]])
    z = vae.encode(x).mean
    script = """{
      const [{ ask }, about] = [await import("./engine.js"), await (await fetch("./model/page.json")).json()];
      const prior = given[2] ? about.priors.find(({ kind }) => kind === "flow") : null;
      const [from, to] = [Float32Array.from(given[0]), Float32Array.from(given[1])];
      return [...(await ask("walk", { from, to, shares: given[3], prior }))];
    }"""
    shares = [0, 0.3, 0.5, 1]
    way = torch.tensor(opened.awaited(script, z[0].tolist(), z[1].tolist(), through, shares)).reshape(4, -1)
    alpha = torch.tensor(shares)
    expected = torch.lerp(z[:1], z[1:], alpha[:, None])
    if through:
        expected = through_noise(vae.priors["flow"], z[:1], z[1:], alpha)[0]
    torch.testing.assert_close(way, expected, atol=2e-3, rtol=2e-3)


def test_a_way_is_saved_as_a_film_there_and_back(opened, vae, photos):
    opened.click("tab-between")
    opened.until("document.getElementById('strip').dataset.walked")
    for end, path in zip("ab", sorted(photos.iterdir()), strict=False):
        before = opened.count("strip", "walked")
        opened.drop(f"choose-{end}", path)
        opened.until("Number(document.getElementById('strip').dataset.walked) > arguments[0]", before)
    first = shown(opened, "end-a", vae)
    opened.click("save-gif")
    path = opened.downloads / "from-one-to-another.gif"
    for _ in range(200):
        if path.is_file():
            break
        time.sleep(0.1)
    with Image.open(path) as film:
        assert (film.n_frames, film.info["duration"], film.info["loop"]) == (58, 60, 0)
        frame = np.asarray(film.convert("RGB").resize(vae.image_shape[:0:-1], Image.Resampling.NEAREST), np.int16)
    path.unlink()
    assert np.abs(frame.transpose(2, 0, 1) - first).mean() < 4  # 256 colours for all frames
    assert not opened.errors()


def test_a_film_has_its_frames_whatever_they_hold(opened):
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((90, 70), Image.Resampling.BICUBIC))
    for frames in (
        [smooth, smooth[::-1], smooth[:, ::-1]],
        [random.integers(0, 256, (70, 90, 3), np.uint8)],
        [smooth * 0],
    ):
        rgba = [np.dstack([frame, np.full(frame.shape[:2], 255, np.uint8)]) for frame in frames]
        script = """{
          const { gif } = await import("./gif.js");
          return [...gif(given[0].map((data) => new ImageData(Uint8ClampedArray.from(data), 90, 70)), 60)];
        }"""
        found = bytes(opened.awaited(script, [frame.ravel().tolist() for frame in rgba]))
        with Image.open(io.BytesIO(found)) as film:
            assert film.n_frames == len(frames)
            for i, frame in enumerate(frames):
                film.seek(i)
                difference = np.abs(np.asarray(film.convert("RGB"), np.int16) - frame)
                assert difference.mean() < 20  # noise in 256 colours
                assert difference.max() == 0 or frame.any()


def test_new_pictures_are_drawn_and_one_is_taken(opened, vae):
    opened.click("tab-fresh")
    opened.until("document.getElementById('grid').dataset.drawn")
    assert opened.js("document.querySelectorAll('#grid canvas').length") == 24
    first = opened.js("document.querySelector('#grid canvas').toDataURL()")
    opened.click("draw")
    opened.until("Number(document.getElementById('grid').dataset.drawn) > 1")
    assert opened.js("document.querySelector('#grid canvas').toDataURL()") != first
    assert opened.js("[...document.getElementById('class').options].map((one) => one.textContent)") == [
        "any",
        "even",
        "odd",
    ]
    opened.awaited("{document.querySelector('#grid button').click();}")
    opened.until("!document.getElementById('look').hidden")
    assert "drawn from the prior" in opened.text("shown-text")
    assert not opened.errors()


def test_the_same_seed_gives_the_same_pictures(opened):
    opened.click("tab-fresh")
    opened.until("document.getElementById('grid').dataset.drawn")
    firsts = [opened.js("document.querySelector('#grid canvas').toDataURL()")]
    for seed in ("7", "0"):
        before = opened.count("grid", "drawn")
        opened.awaited(
            "{const s = document.getElementById('seed'); s.value = given[0]; s.dispatchEvent(new Event('change'));}",
            seed,
        )
        opened.until("Number(document.getElementById('grid').dataset.drawn) > arguments[0]", before)
        firsts.append(opened.js("document.querySelector('#grid canvas').toDataURL()"))
    assert firsts[0] == firsts[2] != firsts[1]


def test_latents_and_diagnostics_are_those_of_the_run(opened, page, sorted_run):
    opened.click("tab-latents")
    opened.until("document.getElementById('joint').dataset.drawn")
    measured = json.loads((sorted_run / "evaluation.json").read_text())
    words = opened.text("words")
    assert measured["latents"]["verdict"]["sentence"] in words
    assert f"{measured['reconstruction']['mean']['psnr']:.2f}" in words
    assert "test pictures" in opened.text("joint-text")
    kl = measured["latents"]["entries"]["kl"]
    order = sorted(range(len(kl)), key=lambda i: -kl[i])
    assert opened.js("document.getElementById('joint').dataset.drawn") == f"{order[0]} {order[1]}"


@pytest.mark.parametrize("content", [b"", b"no picture", b"\xff\xd8\xff\xe0 cut off", b"GIF89a"])
def test_what_is_no_picture_gives_a_line(opened, tmp_path, content):
    path = tmp_path / "strange.jpg"
    path.write_bytes(content)
    opened.drop("choose", path)
    opened.until("!document.getElementById('message').hidden")
    assert opened.text("message") == "strange.jpg is no picture that this browser can read"
    assert opened.js("document.getElementById('original').hidden")


def test_a_line_about_a_bad_file_goes_with_the_next_good_one(opened, tmp_path, picture):
    (tmp_path / "a.jpg").write_bytes(b"x")
    opened.drop("choose", tmp_path / "a.jpg")
    opened.until("!document.getElementById('message').hidden")
    opened.drop("choose", picture)
    opened.until("document.getElementById('message').hidden && !document.getElementById('original').hidden")


def test_two_tabs_have_a_picture_each(opened, address, picture):
    first = opened.driver.current_window_handle
    opened.drop("choose", picture)
    opened.until("!document.getElementById('original').hidden")
    opened.driver.switch_to.new_window("tab")
    opened.open(address)
    assert opened.js("document.getElementById('original').hidden")
    move(opened, 0, 1)
    opened.driver.close()
    opened.driver.switch_to.window(first)
    assert not opened.js("document.getElementById('original').hidden")
    assert set(values(opened)) == {"0"}
    move(opened, 0, 1)


def test_tabs_are_reached_by_keys(opened):
    from selenium.webdriver.common.keys import Keys

    opened.driver.find_element("id", "tab-look").send_keys(Keys.ARROW_RIGHT)
    assert not opened.js("document.getElementById('between').hidden")
    assert opened.js("document.activeElement.id") == "tab-between"
    opened.driver.switch_to.active_element.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert not opened.js("document.getElementById('latents').hidden")


@pytest.mark.parametrize("width", [500, 760, 900])
@pytest.mark.parametrize("view", ["look", "between", "fresh", "latents"])
def test_a_narrow_window_needs_no_scrolling_aside(opened, view, width):
    opened.driver.set_window_size(width, 900)
    try:
        opened.click(f"tab-{view}")
        time.sleep(0.3)
        assert opened.js("document.documentElement.scrollWidth") <= opened.js("innerWidth")
        assert view != "latents" or opened.js("document.getElementById('joint').getBoundingClientRect().width") > 300
    finally:
        opened.driver.set_window_size(1280, 900)


class Elsewhere(http.server.BaseHTTPRequestHandler):
    """Another host, that would answer anyone."""

    asked: list[str] = []  # noqa: RUF012

    def do_GET(self):
        self.asked.append(self.path)
        self.send_response(200)
        self.send_header("Access-Control-Allow-Origin", "*")
        self.send_header("Cross-Origin-Resource-Policy", "cross-origin")
        self.end_headers()

    def log_message(self, *given):
        pass


@pytest.fixture
def elsewhere():
    Elsewhere.asked.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


ASK = "fetch(given[0]).then(() => 'answered', () => 'refused')"


def test_the_page_asks_nothing_of_other_hosts(opened, address, picture):
    opened.drop("choose", picture)
    opened.click("tab-fresh")
    opened.until("document.getElementById('grid').dataset.drawn")
    asked = opened.js("performance.getEntriesByType('resource').map(({ name }) => name)")
    assert asked
    assert all(name.startswith(address) for name in asked)


def test_neither_page_nor_worker_can_ask_another_host(browser, page, serve, tmp_path, elsewhere):
    shutil.copytree(page, tmp_path / "page")
    worker = tmp_path / "page" / "worker.js"
    spy = f"fetch('{elsewhere}worker').catch(() => {{}});"
    worker.write_text(worker.read_text().replace("self.onmessage = ", spy + "self.onmessage = "))
    with serve(tmp_path / "page") as address:
        browser.open(address)
        assert browser.awaited("{return await " + ASK + ";}", elsewhere + "page") == "refused"
        assert Elsewhere.asked == []
        browser.errors()  # which say so


def test_without_the_policy_another_host_could_be_asked(browser, page, tmp_path, elsewhere):
    shutil.copytree(page, tmp_path / "page")
    index = tmp_path / "page" / "index.html"
    lines = index.read_text().splitlines()
    index.write_text("\n".join(line for line in lines if "Content-Security-Policy" not in line))
    with plain_server(tmp_path / "page") as address:
        browser.open(address)
        assert browser.awaited("{return await " + ASK + ";}", elsewhere + "page") == "answered"
        assert Elsewhere.asked == ["/page"]


@contextmanager
def plain_server(folder):
    """A static host that knows nothing of vaekit."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *given):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


def test_a_server_without_headers_of_ours_will_do(browser, page):
    with plain_server(page) as address:
        browser.open(address)
        assert browser.js("document.getElementById('speed').dataset.threads") == "1"
        move(browser, 0, 1)


def test_of_several_pictures_the_last_one_is_taken(opened, photos, tmp_path):
    large = tmp_path / "large.png"
    photograph("RGB", (4000, 3000)).save(large)
    small = sorted(photos.iterdir())[0]
    opened.drop("choose", large)
    opened.drop("choose", small)
    opened.until("document.getElementById('name').textContent")
    time.sleep(2)  # in which the large one would come
    assert opened.text("name") == small.name


def test_networks_that_are_asked_for_at_once_run_one_after_another(browser, page, serve, tmp_path):
    shutil.copytree(page, tmp_path / "page")
    about = tmp_path / "page" / "model" / "page.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"prior": "normal"}))  # the flow is not loaded yet
    script = """{
      const [{ ask }, about] = [await import("./engine.js"), await (await fetch("./model/page.json")).json()];
      const prior = about.priors.find(({ name }) => name === "flow");
      const draw = (seed) => ask("draw", { prior, count: 3, temperature: 1, seed, asked: {}, guidance: 1 });
      const together = await Promise.all([1, 2, 3, 1, 2, 3].map(draw));
      const alone = [await draw(1), await draw(2), await draw(3)];
      return together.every((z, i) => z.every((value, j) => value === alone[i % 3][j]));
    }"""
    with serve(tmp_path / "page") as address:
        browser.open(address)
        assert browser.awaited(script)


def test_undo_knows_what_was_a_change(opened):
    assert opened.js("document.getElementById('undo').disabled")
    slider = "document.querySelectorAll('#sliders .slider')[0]"
    opened.awaited(f"{{{slider}.dispatchEvent(new MouseEvent('dblclick'));}}")
    assert opened.js("document.getElementById('undo').disabled"), "nothing had moved"
    move(opened, 0, 2)
    opened.awaited(f"{{{slider}.dispatchEvent(new MouseEvent('dblclick'));}}")
    assert values(opened)[0] == "0"
    opened.click("undo")
    assert values(opened)[0] == "+2.00"
    opened.click("undo")
    assert opened.js("document.getElementById('undo').disabled")


def test_undo_brings_the_picture_of_before_back_with_its_sliders(opened, vae, picture):
    opened.drop("choose", picture)
    opened.until("!document.getElementById('original').hidden")
    move(opened, 0, 1.5)
    before = shown(opened, "shown", vae)
    opened.click("surprise")
    opened.until("document.getElementById('original').hidden")
    opened.settle()
    assert np.abs(shown(opened, "shown", vae) - before).max() > 2
    opened.click("undo")
    opened.until("!document.getElementById('original').hidden")
    opened.settle()
    assert np.abs(shown(opened, "shown", vae) - before).max() == 0
    assert (opened.text("name"), values(opened)[0]) == (picture.name, "+1.50")
    opened.click("redo")
    opened.until("document.getElementById('original').hidden")


def test_the_picture_at_hand_is_the_one_that_is_seen(opened, vae, picture):
    opened.drop("choose", picture)
    opened.until("!document.getElementById('original').hidden")
    move(opened, 0, 2)
    seen = shown(opened, "shown", vae)
    assert "moved by 1 slider" in opened.text("shown-text")
    opened.click("tab-between")
    opened.until("document.getElementById('strip').dataset.walked")
    assert np.abs(shown(opened, "end-a", vae) - seen).max() <= 2


def test_every_control_has_a_name_of_its_own(opened):
    for kind in ("directions", "labels", "entries"):
        choose_kind(opened, kind)
        names = [one.accessible_name for one in opened.driver.find_elements("css selector", "#sliders input")]
        assert len(set(names)) == len(names), names
    for one in opened.driver.find_elements("css selector", "button, select, input:not([hidden])"):
        assert one.accessible_name or not one.is_displayed(), one.get_attribute("outerHTML")


def test_a_page_opened_as_a_file_says_what_it_needs(browser, page):
    browser.driver.get((page / "index.html").as_uri())
    assert "vaekit explore" in browser.text("message")


@pytest.mark.parametrize(
    ("file", "content", "line"),
    [
        ("page.json", None, "model/page.json is not there (404)"),
        ("decoder.onnx", None, "model/decoder.onnx is not there (404)"),
        ("decoder.onnx", b"\x08\x08cut", "model/decoder.onnx cannot be opened"),
        ("flow-root.npy", b"cut", "model/flow-root.npy is no .npy file"),
    ],
)
def test_a_page_that_is_not_whole_says_what_is_missing(browser, page, serve, tmp_path, file, content, line):
    shutil.copytree(page, tmp_path / "page")
    path = tmp_path / "page" / "model" / file
    path.unlink() if content is None else path.write_bytes(content)
    with serve(tmp_path / "page") as address:
        browser.driver.get(address)
        browser.until("!document.getElementById('message').hidden")
        assert line in browser.text("message")


def saved(image, kind, **options):
    held = io.BytesIO()
    image.save(held, kind, **options)
    return held.getvalue()


def photograph(mode, size=(90, 61)):
    random = np.random.default_rng(1)
    coarse = Image.fromarray(random.integers(0, 256, (9, 9, 4), dtype=np.uint8), "RGBA")
    return coarse.resize(size, Image.Resampling.BICUBIC).convert(mode)


def turned():
    exif = Image.Exif()
    exif[0x112] = 6
    return exif


FILES = {
    "rgb.png": lambda: saved(photograph("RGB"), PNG),
    "grey.png": lambda: saved(photograph("L"), PNG),
    "clear.png": lambda: saved(photograph("RGBA"), PNG),
    "palette.png": lambda: saved(photograph("RGB").quantize(16), PNG),
    "small.png": lambda: saved(photograph("RGB", (5, 7)), PNG),
    "large.png": lambda: saved(photograph("RGB", (1500, 1100)), PNG),
    "photo.jpg": lambda: saved(photograph("RGB"), JPEG, quality=95, subsampling=0),
    "turned.jpg": lambda: saved(photograph("RGB"), JPEG, quality=95, subsampling=0, exif=turned()),
    "grey.jpg": lambda: saved(photograph("L"), JPEG, quality=95),
    "photo.webp": lambda: saved(photograph("RGB"), "WEBP", lossless=True),
    "srgb.png": lambda: saved(
        photograph("RGB"), PNG, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    ),
}


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("channels", [1, 3])
def test_files_are_read_as_vaekit_reads_them(opened, tmp_path, channels, fit):
    script = """{
      const { readPicture } = await import("./pictures.js");
      const file = new File([Uint8Array.from(atob(given[0]), (letter) => letter.charCodeAt(0))], "a");
      return [...(await readPicture(file, given[1]))].map((value) => Math.round((value + 1) * 127.5));
    }"""
    model = {"image_shape": [channels, 24, 32], "fit": fit, "colour_profiles": True}
    for name, make in FILES.items():
        data = make()
        found = opened.awaited(script, base64.b64encode(data).decode(), model)
        expected = decode(data, tmp_path / name, View(24, 32, channels, fit=fit)).astype(int)
        difference = np.abs(np.array(found).reshape(expected.shape) - expected)
        # A turned picture is resized before it is turned: the other way first, with a rounding between the two.
        assert difference.max() <= (16 if name == "turned.jpg" else 3), name
        assert difference.mean() < 0.5, name


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_the_part_of_a_picture_that_is_shown_is_that_of_vaekit(opened, fit):
    random = np.random.default_rng(0)
    shapes = random.integers(1, 400, (500, 4)).tolist()
    script = "{const { box } = await import('./pictures.js'); return given[0].map((shape) => box(...shape, given[1]));}"
    for shape, found in zip(shapes, opened.awaited(script, shapes, fit), strict=True):
        left, top, right, bottom = box_of(shape[0], shape[1], View(shape[2], shape[3], 3, fit=fit))
        assert found == [left, top, right - left, bottom - top], shape


def test_an_array_that_is_cut_short_is_told(browser, page, serve, tmp_path):
    shutil.copytree(page, tmp_path / "page")
    path = tmp_path / "page" / "model" / "directions.npy"
    path.write_bytes(path.read_bytes()[:-8])
    with serve(tmp_path / "page") as address:
        browser.driver.get(address)
        browser.until("!document.getElementById('message').hidden")
        assert browser.text("message") == "model/directions.npy is cut short"


def test_a_page_whose_worker_is_missing_says_so(browser, page, serve, tmp_path):
    shutil.copytree(page, tmp_path / "page")
    (tmp_path / "page" / "worker.js").unlink()
    with serve(tmp_path / "page") as address:
        browser.driver.get(address)
        browser.until("!document.getElementById('message').hidden")
        assert "cannot load what the page computes with" in browser.text("message")


def test_what_failed_once_is_asked_for_again(browser, page, serve, tmp_path):
    shutil.copytree(page, tmp_path / "page")
    hidden = tmp_path / "prior_step.onnx"
    (tmp_path / "page" / "model" / "prior_step.onnx").rename(hidden)
    about = tmp_path / "page" / "model" / "page.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"prior": "gaussian"}))
    choose = "{const s = document.getElementById('prior'); s.value = 'flow'; s.dispatchEvent(new Event('change'));}"
    with serve(tmp_path / "page") as address:
        browser.open(address)
        browser.click("tab-fresh")
        browser.until("document.getElementById('grid').dataset.drawn")
        browser.awaited(choose)
        browser.until("!document.getElementById('message').hidden")
        assert "prior_step.onnx is not there" in browser.text("message")
        hidden.rename(tmp_path / "page" / "model" / "prior_step.onnx")
        browser.click("draw")
        browser.until("Number(document.getElementById('grid').dataset.drawn) > 1")
