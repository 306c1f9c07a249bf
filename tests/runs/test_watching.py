"""What else hears of a training: functions of the caller, and services that keep experiments."""

import dataclasses
import json
import sys
import tomllib
from pathlib import Path

import pytest
import torch

import vaekit
from vaekit.cli import run as command
from vaekit.runs import watching
from vaekit.runs.watching import ids_of, numbers

SMALL = (
    "--size 16 --images 24 --batch 4 --device cpu --draws 1 --log-every-steps 1 --prior gaussian "
    "--network.latent-dim 16 --network.channels 8 --network.max-channels 8 --discriminator.channels 8 8 8 8 8"
).split()


@pytest.fixture
def config(tiny):
    return dataclasses.replace(tiny, prior="gaussian", draws=2)


def test_functions_hear_of_every_record_and_every_measurement(config, photos, tmp_path, drawn):
    steps, measured = [], []
    vaekit.train(
        config, photos, tmp_path / "run", on_step=steps.append, on_measure=lambda *given: measured.append(given)
    )
    assert [record["step"] for record in steps] == [1, 2, 3, 4, 5, 6]
    assert all(record["l1"] > 0 for record in steps)
    assert [record["step"] for record, _ in measured] == [3, 6]
    for record, figures in measured:
        assert record["test/psnr"] > 0
        assert {path.stem for path in figures} >= {"reconstructions", "samples"}
        assert all(path.is_file() for path in figures)


def test_what_a_function_raises_ends_the_training(config, photos, tmp_path):
    def stop(record):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        vaekit.train(config, photos, tmp_path / "run", on_step=stop)


def test_functions_change_nothing_of_what_is_trained(config, photos, tmp_path):
    runs = [
        vaekit.train(config, photos, tmp_path / name, on_step=watch)
        for name, watch in (("with", lambda record: torch.rand(9)), ("without", None))
    ]
    weights = [vae.state_dict() for vae in runs]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_numbers_are_called_as_in_tensorboard_and_text_is_left_out():
    record = {"step": 3, "l1": 0.5, "test/psnr": 20.0, "test/verdict": "healthy"}
    assert numbers(record) == {"train/l1": 0.5, "test/psnr": 20.0}


class Service:
    """A package with the interface of wandb and trackio."""

    def __init__(self, name, fails_at=None):
        self.__name__, self.fails_at = name, fails_at
        self.started, self.logged, self.finished = [], [], 0

    def init(self, **options):
        self.started.append(options)

    def log(self, values, step):
        if step == self.fails_at:
            raise ConnectionError("no\nnetwork")
        self.logged.append((step, values))

    def Image(self, path):
        return f"image of {path}"

    def finish(self, exit_code=0):
        self.finished += 1
        self.exit_code = exit_code


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_service_gets_settings_losses_measures_and_figures(name, photos, tmp_path, monkeypatch, drawn):
    service = Service(name)
    monkeypatch.setitem(sys.modules, name, service)
    run = tmp_path / "run"
    assert command(["train", str(photos), "--out", str(run), "--track", name, *SMALL]) == 0
    (options,) = service.started
    assert (options["project"], options["name"]) == ("vaekit", "run")
    assert options["config"]["network.latent_dim"] == 16
    assert [step for step, _ in service.logged] == [1, 2, 3, 4, 5, 6, 6]
    assert service.logged[0][1]["train/l1"] > 0
    last = service.logged[-1][1]
    assert last["test/psnr"] > 0
    assert last["figures/samples"].startswith("image of ")
    assert service.finished == 1


def test_a_run_that_goes_on_is_one_run_of_the_service(photos, tmp_path, monkeypatch):
    service = Service("wandb")
    monkeypatch.setitem(sys.modules, "wandb", service)
    run = str(tmp_path / "run")
    assert command(["train", str(photos), "--out", run, "--track", "wandb", *SMALL]) == 0
    assert command(["train", "--resume", run, "--change-settings", "--images", "32"]) == 0
    first, second = (options["id"] for options in service.started)
    assert first == second
    assert {options["resume"] for options in service.started} == {"allow"}
    assert [step for step, _ in service.logged][-3:] == [7, 8, 8]


def test_a_service_hears_that_a_training_failed(photos, tmp_path, monkeypatch):
    service = Service("wandb")
    monkeypatch.setitem(sys.modules, "wandb", service)
    command(["train", str(photos), "--out", str(tmp_path / "run"), "--track", "wandb", *SMALL])
    assert service.exit_code == 0
    broken = ["--lr", "1e30", "--optimizer.clip", "None", "--optimizer.warmup", "0"]
    assert command(["train", str(photos), "--out", str(tmp_path / "broken"), "--track", "wandb", *SMALL, *broken]) == 1
    assert (service.finished, service.exit_code) == (2, 1)


def test_a_service_that_fails_on_the_way_is_left_and_the_training_goes_on(photos, tmp_path, monkeypatch, capsys):
    service = Service("wandb", fails_at=3)
    monkeypatch.setitem(sys.modules, "wandb", service)
    assert command(["train", str(photos), "--out", str(tmp_path / "run"), "--track", "wandb", *SMALL]) == 0
    assert [step for step, _ in service.logged] == [1, 2]
    assert "wandb is told nothing from here on: no network" in " ".join(capsys.readouterr().err.split())
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 7


def test_a_service_that_cannot_start_is_one_line_and_leaves_the_folder_free(photos, tmp_path, monkeypatch, capsys):
    service = Service("wandb")
    monkeypatch.setattr(service, "init", lambda **options: service.log({}, None))
    service.fails_at = None
    service.log = lambda values, step: (_ for _ in ()).throw(PermissionError("no account"))
    monkeypatch.setitem(sys.modules, "wandb", service)
    line = ["train", str(photos), "--out", str(tmp_path / "run"), *SMALL]
    assert command([*line, "--track", "wandb"]) == 2
    assert "wandb cannot track this run: no account" in capsys.readouterr().err
    assert command(line) == 0


def test_a_missing_package_says_how_to_get_it(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "trackio", None)
    assert command(["train", str(photos), "--out", str(tmp_path / "run"), "--track", "trackio", *SMALL]) == 2
    assert 'pip install "vaekit[trackio]"' in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")  # of mlflow and what it needs
def test_mlflow_keeps_a_run_in_its_own_store(photos, tmp_path, monkeypatch, drawn):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    run = tmp_path / "run"
    assert command(["train", str(photos), "--out", str(run), "--track", "mlflow", *SMALL]) == 0
    found = mlflow.get_run(ids_of(run)["mlflow"])
    assert found.data.params["network.latent_dim"] == "16"
    assert found.data.metrics["test/psnr"] > 0
    assert [point.step for point in mlflow.MlflowClient().get_metric_history(found.info.run_id, "train/l1")] == list(
        range(1, 7)
    )
    names = {file.path for file in mlflow.MlflowClient().list_artifacts(found.info.run_id, "figures")}
    assert "figures/samples.png" in names
    assert command(["train", "--resume", str(run), "--change-settings", "--images", "32"]) == 0
    history = mlflow.MlflowClient().get_metric_history(found.info.run_id, "train/l1")
    assert sorted(point.step for point in history) == list(range(1, 9))


@pytest.mark.filterwarnings("ignore")  # of wandb and what it needs
def test_wandb_itself_takes_a_run_without_a_network(photos, tmp_path, monkeypatch, drawn):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = tmp_path / "run"
    assert command(["train", str(photos), "--out", str(run), "--track", "wandb", *SMALL]) == 0
    (folder,) = (run / "wandb").glob(f"offline-run-*-{json.loads((run / 'tracking.json').read_text())['wandb']}")
    assert list(folder.glob("files/media/images/figures/samples*.png"))


def test_every_service_is_an_extra():
    pages = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert set(watching.SERVICES) <= set(pages["project"]["optional-dependencies"])
