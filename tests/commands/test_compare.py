"""A comparison: only the models differ, an interrupted one goes on run by run, and there is one report."""

import dataclasses
import json
import re
import sys

import pytest
import torch
from PIL import Image

from vaekit import compare
from vaekit.cli import run as command
from vaekit.commands.compare import planned
from vaekit.config.presets import model_config
from vaekit.config.settings import Config
from vaekit.runs.checkpoint import all_checkpoints
from vaekit.training.state import build_state, fabric_of

MODELS = ("samples", "means+gan:weights.kl_individual=0.1", "beta")


@pytest.fixture(scope="module")
def report(tiny, photos, tmp_path_factory):
    return compare(tiny, photos, tmp_path_factory.mktemp("comparison") / "out", MODELS, seeds=2, features="none")


def test_the_report_has_every_model_with_its_spread_and_its_figures(report):
    folder = report.parent
    markdown = (folder / "report.md").read_text()
    for model in MODELS:
        assert f"| {model} | " in markdown
    assert "±" in markdown
    for seed in (0, 1):
        assert f"- beta, seed-{seed}: " in markdown
    assert "| latent entries |" in markdown
    assert "biased upwards" not in markdown  # no distance was measured
    figures = re.findall(r"!\[.*?\]\((figures/.*?\.png)\)", markdown)
    assert len(figures) == 10
    assert all((folder / figure).is_file() for figure in figures)
    page = report.read_text()
    assert page.count("data:image/png;base64,") == 10
    assert "http" not in page
    numbers = json.loads((folder / "report.json").read_text())
    assert {model: len(runs) for model, runs in numbers.items()} == dict.fromkeys(MODELS, 2)


def test_models_differ_in_nothing_but_what_their_names_say(report):
    folder = report.parent
    configs = {
        path.parent.parent.name: Config.from_json(path.read_text()) for path in folder.glob("*/seed-0/config.json")
    }
    same = {
        dataclasses.replace(
            config,
            objective="global",
            moments="samples",
            gan=True,
            weights=dataclasses.replace(config.weights, kl_individual=0.5),
        ).to_json()
        for config in configs.values()
    }
    assert len(configs) == 3
    assert len(same) == 1


def test_all_models_of_a_seed_start_from_the_same_weights(tiny):
    starts = []
    for model in ("samples", "standard+gan", "beta"):
        config = model_config(tiny.resolved(), model)
        starts.append(build_state(fabric_of(config), config).ema.state_dict())
    for start in starts[1:]:
        assert all(torch.equal(start[name], tensor) for name, tensor in starts[0].items())


def test_finished_runs_are_neither_trained_nor_measured_again(tiny, photos, report):
    folder = report.parent
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("seed-*/*.*") if path.is_file()}
    compare(tiny, photos, folder, MODELS, seeds=2, features="none")
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_run_that_was_cut_off_goes_on(tiny, photos, tmp_path):
    long = dataclasses.replace(tiny, save_every_minutes=1e-6)
    compare(long, photos, tmp_path / "out", ["samples"], features="none")
    run = tmp_path / "out" / "samples" / "seed-0"
    last = all_checkpoints(run)[-1]
    undisturbed = (last / "vae.safetensors").read_bytes()
    for path in last.iterdir():
        path.unlink()
    last.rmdir()
    compare(long, photos, tmp_path / "out", ["samples"], features="none")
    assert (last / "vae.safetensors").read_bytes() == undisturbed


def test_a_run_that_was_cut_off_before_its_first_checkpoint_starts_anew(tiny, photos, tmp_path):
    (tmp_path / "out" / "samples" / "seed-0" / "checkpoints").mkdir(parents=True)
    assert compare(tiny, photos, tmp_path / "out", ["samples"], features="none") is not None


def test_two_test_pictures_are_enough_for_a_report(tiny, photos, tmp_path):
    config = dataclasses.replace(tiny, split=0.9)
    assert compare(config, photos, tmp_path / "out", ["samples"], features="none") is not None


def test_unknown_models_and_several_devices_are_refused_before_anything_is_trained(tiny, photos, tmp_path, capsys):
    with pytest.raises(ValueError, match="unknown model 'gan'"):
        compare(tiny, photos, tmp_path / "out", ["samples", "gan"])
    with pytest.raises(ValueError, match="compare trains on one device"):
        compare(dataclasses.replace(tiny, devices=2), photos, tmp_path / "out", ["samples"])
    assert not (tmp_path / "out").exists()
    assert command(["compare", str(photos), "--models", "samples", "--size", "17"]) == 2
    assert "does not fit this network" in capsys.readouterr().err


def test_another_comparisons_pictures_are_not_reported_as_these(tiny, photos, tmp_path):
    compare(tiny, photos, tmp_path / "out", ["samples"], features="none")
    others = tmp_path / photos.name
    others.mkdir()
    for path in photos.iterdir():
        Image.open(path).rotate(180).save(others / path.name)
    with pytest.raises(ValueError, match=r"began with other pictures than the 20 now in .*: with 20 in"):
        compare(tiny, others, tmp_path / "out", ["samples"], features="none")


def test_what_cannot_be_measured_is_refused_before_anything_is_trained(tiny, photos, tmp_path):
    (tmp_path / "few.csv").write_text("00.png,a\n01.png,b\n")
    for settings, message in (
        ({"seeds": 0}, "0 seeds"),
        ({"limit": 1}, "--limit 1: two or more pictures"),
        ({"labels": tmp_path / "few.csv"}, "has no label for 18 of 20 pictures"),
        ({"features": "efficientnet-lite0", "weights": tmp_path / "none.pth"}, "none.pth"),
    ):
        with pytest.raises(ValueError, match=message):
            compare(tiny, photos, tmp_path / "out", ["samples"], **({"features": "none"} | settings))
    assert not (tmp_path / "out").exists()


def test_without_diptest_there_is_a_report_all_the_same(tiny, photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "diptest", None)
    page = compare(tiny, photos, tmp_path / "out", ["samples"], seeds=2, features="none")
    assert "not measured, bimodal entries" in page.with_suffix(".md").read_text()


def test_other_settings_than_those_of_a_started_comparison_are_refused(tiny, photos, tmp_path):
    compare(tiny, photos, tmp_path / "out", ["samples"], features="none")
    with pytest.raises(ValueError, match="lr was"):
        compare(dataclasses.replace(tiny, lr=0.1), photos, tmp_path / "out", ["samples"], features="none")


def test_a_model_that_is_named_twice_is_planned_once(tiny, tmp_path):
    assert [one.model for one in planned(tiny, tmp_path, ["means", "beta", "means"], seeds=1)] == ["means", "beta"]
