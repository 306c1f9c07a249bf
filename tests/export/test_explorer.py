"""The page of a run as files, and the server that shows it to this machine."""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch

import vaekit
from vaekit import VAE
from vaekit.cli import run as command
from vaekit.commands import towards
from vaekit.export import explorer, onnx
from vaekit.export.explorer import is_of
from vaekit.models.kept import weights_sha256
from vaekit.models.vae import build_vae
from vaekit.system.server import server_of


@pytest.fixture
def built(tmp_path, monkeypatch):
    """A vaekit that was built with what the page computes with; here an empty file stands for it."""
    page = tmp_path / "built"
    (page / explorer.RUNTIME).mkdir(parents=True)
    (page / explorer.RUNTIME / explorer.LAST_OF_RUNTIME).touch()
    (page / "index.html").write_text("<!doctype html>")
    monkeypatch.setattr(explorer, "PAGE", page)


@pytest.fixture
def quick(monkeypatch):
    """Without the networks, which take the time."""

    def write(vae, folder, say):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / onnx.STEP).touch()

    monkeypatch.setattr(explorer, "export_onnx", write)


def about(folder):
    return json.loads((folder / "model" / "page.json").read_text())


def test_the_page_says_which_model_it_shows(sorted_run, built, quick, tmp_path):
    folder = vaekit.export_run(sorted_run, web=tmp_path / "page")
    found, vae = about(folder), VAE.from_pretrained(sorted_run)
    assert found["weights_sha256"] == weights_sha256(vae.state_dict())
    assert (found["image_shape"], found["latent_dim"]) == ([3, 16, 16], vae.latent_dim)
    assert [prior["name"] for prior in found["priors"]] == [*vae.priors]
    assert found["prior"] == vae.prior_name
    kl = json.loads((sorted_run / "evaluation.json").read_text())["latents"]["entries"]["kl"]
    assert found["entries"]["order"] == sorted(range(len(kl)), key=lambda i: -kl[i])
    assert [one["title"] for one in found["directions"] if one["kind"] == "labels"] == ["even", "odd"]


def test_latents_of_pictures_are_there_only_where_asked_for(sorted_run, built, quick, tmp_path):
    vae = VAE.from_pretrained(sorted_run)
    without, shown = (
        vaekit.export_run(sorted_run, web=tmp_path / name, show_pictures=name == "shown")
        for name in ("without", "shown")
    )
    drawn = vae.draw(explorer.FIGURE_IMAGES, torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(np.load(without / "model" / "latents.npy"), drawn.numpy())
    assert "draws from the prior" in about(without)["latents_of"]
    assert "test pictures" in about(shown)["latents_of"]
    assert len(np.load(shown / "model" / "latents.npy")) == 4  # the tests of 20 pictures


def test_a_page_of_a_run_without_its_pictures_or_numbers_has_the_rest(sorted_run, built, quick, tmp_path):
    vae = VAE.from_pretrained(sorted_run)
    vae.save_pretrained(tmp_path / "saved")
    found = about(vaekit.export_run(tmp_path / "saved", web=tmp_path / "page", show_pictures=True))
    assert found["words"]["verdict"] is None
    assert "draws from the prior" in found["latents_of"]
    spread = vae.priors["gaussian"].std.tolist()
    assert found["entries"]["order"] == sorted(range(len(spread)), key=lambda i: -spread[i])


def test_numbers_of_earlier_weights_are_left_out(sorted_run, tiny, built, quick, tmp_path):
    build_vae(tiny).save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "evaluation.json").write_text((sorted_run / "evaluation.json").read_text())
    assert about(vaekit.export_run(tmp_path / "other", web=tmp_path / "page"))["words"]["verdict"] is None


def test_a_page_is_replaced_whole(sorted_run, built, quick, tmp_path):
    folder = vaekit.export_run(sorted_run, web=tmp_path / "page")
    (folder / "model" / "flow-of-another-model.npy").touch()
    vaekit.export_run(sorted_run, web=folder)
    assert not (folder / "model" / "flow-of-another-model.npy").exists()


def refused(capsys, *arguments):
    assert command([str(argument) for argument in arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_a_folder_of_other_things_is_left_alone(sorted_run, built, quick, tmp_path, capsys):
    (tmp_path / "index.html").write_text("my site")
    assert "holds other files than a page" in refused(capsys, "export", sorted_run, "--web", tmp_path)
    assert (tmp_path / "index.html").read_text() == "my site"
    assert "is a file" in refused(capsys, "export", sorted_run, "--web", tmp_path / "index.html")


def test_bands_are_refused_since_no_browser_shows_them(tiny, built, tmp_path, capsys):
    import dataclasses

    build_vae(dataclasses.replace(tiny, channels=5)).save_pretrained(tmp_path / "bands")
    assert "grey and colour" in refused(capsys, "export", tmp_path / "bands", "--web", tmp_path / "page")


def test_a_vaekit_without_the_page_says_how_to_build_it(sorted_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(explorer, "PAGE", tmp_path)
    assert "make web" in refused(capsys, "export", sorted_run, "--web", tmp_path / "page")
    assert "make web" in refused(capsys, "explore", sorted_run)


@pytest.mark.parametrize("arguments", [("--onnx", "a", "--web", "b"), (), ("--web", "a", "--hub", "a/b")])
def test_one_thing_is_exported_at_a_time(sorted_run, arguments, capsys):
    assert "export to what?" in refused(capsys, "export", sorted_run, *arguments)


def get(server, path, host=None, method="GET"):
    connection = http.client.HTTPConnection(*server.server_address[:2])
    connection.request(method, path, headers={} if host is None else {"Host": host})
    return connection.getresponse()


@pytest.fixture
def server(tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "secret.txt").write_text("no")
    for name in ("index.html", "a.js", "a.mjs", "a.wasm", "a.npy"):
        (tmp_path / "site" / name).write_text("x")
    (tmp_path / "site" / "model").mkdir()
    with server_of(tmp_path / "site") as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_the_server_is_for_this_machine_alone(server):
    assert server.server_address[0] == "127.0.0.1"
    for host in ("127.0.0.1:1", "localhost:1", "localhost"):
        assert get(server, "/", host).status == 200
    for method in ("GET", "HEAD"):  # a name of elsewhere that leads here: a page from there could read the files
        assert get(server, "/", "elsewhere.example:80", method).status == 403


def test_the_policy_of_the_server_is_that_of_the_page(server):
    page = (Path(vaekit.__file__).parent / "export" / "page" / "index.html").read_text()
    assert f'content="{get(server, "/").headers["Content-Security-Policy"]}"' in page


def test_the_server_gives_types_that_browsers_run_and_no_other_files(server):
    types = {name: get(server, f"/{name}").headers["Content-Type"] for name in ("a.js", "a.wasm", "a.npy")}
    assert types == {"a.js": "text/javascript", "a.wasm": "application/wasm", "a.npy": "application/octet-stream"}
    assert get(server, "/model/").status == 404
    for path in ("/../secret.txt", "/%2e%2e/secret.txt", "/model/../../secret.txt"):
        assert get(server, path).status == 404
    headers = get(server, "/").headers
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"


@pytest.mark.parametrize("port", ["taken", 70_000, -5])
def test_a_port_that_cannot_be_had_is_one_line(server, sorted_run, built, quick, capsys, port):
    number = server.server_address[1] if port == "taken" else port
    assert f"port {number} cannot be had" in refused(capsys, "explore", sorted_run, "--port", number, "--no-browser")


def test_a_page_of_another_state_of_its_run_is_written_again(sorted_run, built, quick, tmp_path, monkeypatch):
    run = shutil.copytree(sorted_run, tmp_path / "run")
    page = vaekit.export_run(run, web=tmp_path / "page")
    assert is_of(page, run)
    for name in ("model.safetensors", "prior-flow.safetensors", "evaluation.json"):
        os.utime(run / name, (1e9, 1e9))  # older, as of a run that was copied here
        assert not is_of(page, run)
        vaekit.export_run(run, web=page)
        assert is_of(page, run)
    (run / "prior-flow.safetensors").unlink()
    assert not is_of(page, run)
    vaekit.export_run(run, web=page)
    monkeypatch.setattr(explorer, "version", lambda name: "another")
    assert not is_of(page, run)


def test_an_export_that_was_interrupted_is_done_again(sorted_run, built, tmp_path, monkeypatch):
    def interrupted(vae, folder, say):
        folder.mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(explorer, "export_onnx", lambda vae, folder, say: folder.mkdir(parents=True))
    page = vaekit.export_run(sorted_run, web=tmp_path / "page")
    before = about(page)
    for folder in (page, tmp_path / "new"):
        with monkeypatch.context() as patch:
            patch.setattr(explorer, "export_onnx", interrupted)
            with pytest.raises(KeyboardInterrupt):
                vaekit.export_run(sorted_run, web=folder)
        if folder == page:
            assert about(page) == before, "the page of before is gone"
        vaekit.export_run(sorted_run, web=folder)
        assert sorted(path.name for path in folder.glob("model*")) == ["model"]


def test_missing_packages_are_told_before_anything_is_written(sorted_run, built, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(onnx.NEEDED, "onnxscript", "999")
    assert 'pip install "vaekit[onnx]"' in refused(capsys, "export", sorted_run, "--web", tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_a_run_is_no_place_for_its_page(sorted_run, built, quick, capsys):
    assert "holds other files than a page" in refused(capsys, "export", sorted_run, "--web", sorted_run)


def test_a_label_of_few_pictures_is_not_given_away(sorted_run, built, quick, tmp_path, monkeypatch):
    monkeypatch.setattr(towards, "FEWEST_SHOWN", 9)  # of 16 pictures to train on, 8 of each class
    found = about(vaekit.export_run(sorted_run, web=tmp_path / "page"))
    assert {one["kind"] for one in found["directions"]} == {"directions"}


@pytest.mark.parametrize("shown", [False, True])
def test_a_prior_that_repeats_pictures_is_left_out_or_called_so(sorted_run, built, quick, tmp_path, shown):
    run = shutil.copytree(sorted_run, tmp_path / "run")
    vae = VAE.from_pretrained(run)
    vae.set_prior("flow", vae.priors["flow"], copies=True)
    vae.save_pretrained(run)
    page = vaekit.export_run(run, web=tmp_path / "page", show_pictures=shown)
    found = about(page)
    assert (page / "model" / onnx.STEP).exists() == shown  # it has learned those pictures
    flow = [prior["short"] for prior in found["priors"] if prior["name"] == "flow"]
    assert flow == (["flow (repeats train pictures)"] if shown else [])


def test_a_name_on_the_hub_is_no_run_to_explore(capsys, built, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "vaekit export hf:" in refused(capsys, "explore", "hf://you/faces")
    assert not list(tmp_path.glob("hf*"))


def test_no_file_of_a_page_names_a_place_of_this_machine(page):
    places = [str(Path.home()).encode(), str(Path(vaekit.__file__).parent).encode(), b"site-packages", b"/tmp/"]
    for path in page.rglob("*"):
        if path.is_file() and path.parent.name != "ort":
            content = path.read_bytes()
            assert not [place for place in places if place in content], path.name


def test_what_is_no_run_is_one_line_and_nothing_is_said_of_a_page(built, tmp_path, capsys):
    assert "no model in" in refused(capsys, "explore", tmp_path / "nothing")


def test_two_that_explore_a_new_run_write_its_page_once(page, sorted_run, tmp_path):
    run = shutil.copytree(sorted_run, tmp_path / "run", ignore=shutil.ignore_patterns("explorer"))
    line = [sys.executable, "-m", "vaekit", "explore", str(run), "--no-browser"]
    both = [subprocess.Popen(line, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = []
    for process in both:
        said.append([])
        for text in iter(process.stderr.readline, ""):
            said[-1].append(text)
            if "http://127.0.0.1:" in text:
                break
    for process in both:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        process.stderr.close()
    assert sum("writing the page" in text for lines in said for text in lines) == 1, said


def test_explore_shows_a_run_until_ctrl_c(page, sorted_run):
    line = [sys.executable, "-m", "vaekit", "explore", str(sorted_run), "--no-browser"]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as process:
        lines = iter(process.stderr.readline, "")
        address = next(word for text in lines for word in text.split() if word.startswith("http://127.0.0.1:"))
        with urllib.request.urlopen(f"{address}model/page.json") as answer:
            assert json.load(answer)["title"] == sorted_run.name
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert "closed" in process.stderr.read()
