"""Sharing on the Hugging Face Hub, against a server on this machine that speaks enough of its language."""

import base64
import dataclasses
import hashlib
import json
import re
import shutil
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PureWindowsPath

import pytest
import torch

import vaekit
from vaekit import VAE, Config
from vaekit.cli import run as command
from vaekit.export.card import numbers_of
from vaekit.system.hub import names_repository

pytest.importorskip("huggingface_hub")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Repositories(BaseHTTPRequestHandler):
    """Models by name, each a dictionary of files."""

    models: dict[str, dict[str, bytes]] = {}  # noqa: RUF012
    private: dict[str, bool] = {}  # noqa: RUF012
    requests: list[str] = []  # noqa: RUF012

    def log_message(self, *args):
        pass

    def answer(self, status, body=b"", headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if not any(name == "Content-Length" for name, _ in headers):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_json(self, value, status=200):
        self.answer(status, json.dumps(value).encode(), [("Content-Type", "application/json")])

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_POST(self):
        self.requests.append(self.path)
        body = self.body()
        if self.path == "/api/repos/create":
            about = json.loads(body)
            name = "/".join(filter(None, (about.get("organization"), about["name"])))
            self.models.setdefault(name, {})
            self.private[name] = about.get("private", about.get("visibility") == "private")
            self.answer_json({"url": f"http://{self.headers['Host']}/{name}"})
        elif (found := re.match(r"/api/models/([^/]+/[^/]+)/preupload/", self.path)) is not None:
            files = json.loads(body)["files"]
            self.answer_json(
                {"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]}
            )
        elif (found := re.match(r"/api/models/([^/]+/[^/]+)/commit/", self.path)) is not None:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "deletedFile":
                    del self.models[found[1]][entry["value"]["path"]]
                if entry["key"] == "file":
                    self.models[found[1]][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            self.answer_json(
                {
                    "success": True,
                    "commitOid": COMMIT,
                    "commitUrl": f"http://{self.headers['Host']}/{found[1]}/commit/x",
                }
            )
        elif self.path.startswith("/api/validate-yaml"):
            self.answer_json({"errors": [], "warnings": []})
        else:
            self.answer(404)

    def do_GET(self):
        self.requests.append(self.path)
        found = re.match(r"/([^/]+/[^/]+)/resolve/[^/]+/([^?]+)", self.path)
        about = re.match(r"/api/models/([^/]+/[^/?]+)", self.path)
        name = found[1] if found else about[1] if about else ""
        if name not in self.models:
            self.answer(401 if self.path.startswith("/api") else 404, headers=[("X-Error-Code", "RepoNotFound")])
        elif found is None and "/tree/" in self.path:
            files = self.models[name].items()
            self.answer_json([{"type": "file", "path": f, "size": len(data), "oid": "0" * 40} for f, data in files])
        elif found is None:
            siblings = [{"rfilename": f} for f in self.models[name]]
            self.answer_json({"id": name, "sha": COMMIT, "private": self.private.get(name), "siblings": siblings})
        elif found[2] not in self.models[name]:
            self.answer(404, headers=[("X-Error-Code", "EntryNotFound"), ("X-Repo-Commit", COMMIT)])
        else:
            data = self.models[name][found[2]]
            etag = f'"{hashlib.sha1(data).hexdigest()}"'
            length = ("Content-Length", str(len(data)))
            self.answer(200, data, [("ETag", etag), ("X-Repo-Commit", COMMIT), length])

    do_HEAD = do_GET


@pytest.fixture
def server(monkeypatch, tmp_path):
    """The address of a Hub of our own, empty; what is fetched goes to a folder of the test."""
    Repositories.models, Repositories.private, Repositories.requests = {}, {}, []
    listening = ThreadingHTTPServer(("127.0.0.1", 0), Repositories)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{listening.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    yield Repositories
    listening.shutdown()
    listening.server_close()


@pytest.fixture(scope="module")
def trained(tiny, photos, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    vaekit.train(tiny, photos, run)
    vaekit.draw_run(run)
    vaekit.evaluate_run(run, features="none")
    return run


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_a_model_that_was_shared_is_the_same_for_those_who_fetch_it(trained, server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    url = vaekit.export_run(trained, hub="someone/faces", say=said.append)
    assert url.endswith("someone/faces")
    assert server.private == {"someone/faces": True}
    files = server.models["someone/faces"]
    assert {
        "model.safetensors",
        "config.json",
        "README.md",
        "samples.png",
        "prior-gaussian.safetensors",
    } <= files.keys()
    assert "reconstructions.png" not in files
    own, theirs = VAE.from_pretrained(trained), VAE.from_pretrained("someone/faces")
    assert all(torch.equal(own.state_dict()[name], tensor) for name, tensor in theirs.state_dict().items())
    assert theirs.priors.keys() == own.priors.keys()
    draws = [vae.sample(3, torch.Generator().manual_seed(0)) for vae in (own, theirs)]
    assert torch.equal(*draws)
    vaekit.sample_run("hf://someone/faces", num_images=2, out=tmp_path / "new")
    assert len(list((tmp_path / "new").glob("*.png"))) == 2
    assert VAE.from_pretrained("hf://someone/faces@main").latent_dim == own.latent_dim
    with pytest.raises(ValueError, match="give a folder for the pictures with --out"):
        vaekit.sample_run("hf://someone/faces")


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_a_model_pushes_itself_without_naming_a_place_of_this_machine(trained, server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    vae = VAE.from_pretrained(trained)
    vae.config_json = dataclasses.replace(Config.from_json(vae.config_json), init_from="/home/me/run").to_json()
    assert vae.push_to_hub("someone/faces").endswith("someone/faces")
    assert server.private == {"someone/faces": True}
    assert not any(b"/home/me" in file for file in server.models["someone/faces"].values())
    theirs = VAE.from_pretrained("someone/faces")
    assert all(torch.equal(vae.state_dict()[name], tensor) for name, tensor in theirs.state_dict().items())
    assert theirs.priors.keys() == vae.priors.keys()
    assert "/home/me" in vae.config_json  # which stays as it was


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_the_card_has_the_numbers_and_no_place_of_this_machine(trained, server, photos):
    vaekit.export_run(trained, hub="someone/faces", licence="mit", show_pictures=True, public=True)
    files = server.models["someone/faces"]
    assert server.private == {"someone/faces": False}
    assert "reconstructions.png" in files
    card = files["README.md"].decode()
    assert card.startswith("---\nlicense: mit\nlibrary_name: vaekit\n")
    result = json.loads((trained / "evaluation.json").read_text())
    assert f"{result['reconstruction']['sampled']['psnr']:.2f}" in card
    assert 'VAE.from_pretrained("someone/faces")' in card
    assert "20 pictures" in card
    assert result["not_measured"]
    assert "as 2 % of reconstructions, by pixels" in card
    assert all(reason not in card for reason in result["not_measured"].values())
    for text in (card, files["config.json"].decode()):
        assert str(photos) not in text
        assert str(trained) not in text


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_a_prior_that_repeats_training_pictures_is_never_shared(trained, server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = shutil.copytree(trained, tmp_path / "run")
    vae = VAE.from_pretrained(run)
    vae.push_to_hub("someone/others")
    assert "prior-gaussian.safetensors" in server.models["someone/others"]
    vae.set_prior("gaussian", vae.priors["gaussian"], copies=True)
    vae.save_pretrained(run)
    vaekit.export_run(run, hub="someone/faces")
    vae.push_to_hub("someone/others")
    for name in ("someone/faces", "someone/others"):
        assert "prior-gaussian.safetensors" not in server.models[name], "also where it was uploaded before"
        assert "gaussian" not in VAE.from_pretrained(name).priors
    assert "`gaussian`" not in server.models["someone/faces"]["README.md"].decode()
    assert "gaussian" in VAE.from_pretrained(run).priors


def test_the_card_names_the_features_of_its_distances(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    result = json.loads((run / "evaluation.json").read_text())
    result["protocol"]["features"] = {"network": "efficientnet-lite0"}
    (run / "evaluation.json").write_text(json.dumps(result))
    assert "features efficientnet-lite0" in numbers_of(run)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_a_model_that_is_shared_again_leaves_nothing_of_before(trained, server):
    vaekit.export_run(trained, hub="someone/faces", show_pictures=True)
    server.models["someone/faces"] |= {"prior.safetensors": b"a mixture of before", "own.png": b"not ours"}
    vaekit.export_run(trained, hub="someone/faces")
    files = server.models["someone/faces"]
    assert "reconstructions.png" not in files
    assert ("prior.safetensors" in files) == (trained / "prior.safetensors").exists()
    assert files.get("prior.safetensors") != b"a mixture of before"
    assert files["own.png"] == b"not ours"
    assert "model.safetensors" in files


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_a_repository_that_all_can_see_is_not_taken_for_a_private_one(trained, server):
    server.models["someone/faces"], server.private["someone/faces"] = {}, False
    with pytest.raises(ValueError, match="someone/faces is there and public; add --public"):
        vaekit.export_run(trained, hub="someone/faces")
    assert not server.models["someone/faces"]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("someone/nothing", "there is no someone/nothing"),
        ("someone/other", "it holds no model of vaekit"),
    ],
)
def test_what_is_not_there_is_one_line(server, name, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    server.models["someone/other"] = {"README.md": b"text"}
    with pytest.raises(ValueError, match=said) as error:
        VAE.from_pretrained(name)
    assert "\n" not in str(error.value)


def test_without_a_connection_it_is_one_line(trained, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(time, "sleep", lambda sec: None)  # between tries
    assert command(["export", str(trained), "--hub", "someone/faces"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("vaekit: cannot upload to someone/faces")
    with pytest.raises(ValueError, match="cannot fetch someone/faces from the Hub: the Hub cannot be reached"):
        VAE.from_pretrained("someone/faces")


def test_a_folder_that_is_misspelled_is_never_looked_for_on_the_hub(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert not names_repository("runs/fces")
    assert not names_repository(Path("someone/faces")), "the command line gives paths"
    assert names_repository(Path("hf://someone/faces"))
    assert names_repository(PureWindowsPath("hf://someone/faces"))
    assert not names_repository(str(trained))
    assert names_repository("someone/faces")
    assert names_repository("hf://runs/faces")
    with pytest.raises(ValueError, match="no model in runs/fces"):
        VAE.from_pretrained("runs/fces")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("export RUN", "give --onnx FOLDER, --web FOLDER, --pt2 FOLDER or --hub user/name"),
        ("export RUN --hub faces", "'faces' is no name on the Hub; give user/name"),
        ("export RUN --hub a/b --onnx OUT", "give --onnx FOLDER, --web FOLDER, --pt2 FOLDER or --hub user/name"),
    ],
)
def test_a_mistake_is_one_line(trained, line, said, tmp_path, capsys):
    arguments = line.replace("RUN", str(trained)).replace("OUT", str(tmp_path)).split()
    assert command(arguments) == 2
    assert said in capsys.readouterr().err
