"""Runs that begin with the weights of another one."""

import dataclasses
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from vaekit import VAE, train
from vaekit.runs.begin import begin_with, leaked
from vaekit.runs.checkpoint import latest
from vaekit.system.files import read_tensors
from vaekit.training.state import build_state, fabric_of
from vaekit.training.step import train_step


@pytest.fixture(scope="module")
def source(tiny, photos, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "source"
    train(tiny, photos, run)
    return run


@pytest.fixture
def others(tmp_path):
    """Twelve pictures that the source has not seen."""
    folder = tmp_path / "others"
    folder.mkdir()
    random = np.random.default_rng(7)
    for i in range(12):
        Image.fromarray(random.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / f"{i:02d}.png")
    return folder


def test_all_networks_begin_as_those_of_the_source(tiny, source):
    config = dataclasses.replace(tiny, seed=5).resolved()
    state = build_state(fabric_of(config), config)
    said = begin_with(source, state.networks)
    assert said == f"begins with 100% of the weights from {source}, and 100% of the discriminator's"
    averaged = VAE.from_pretrained(source).state_dict()
    judge = read_tensors(latest(source) / "discriminator.safetensors")[0]
    for name, expected in (("vae", averaged), ("ema", averaged), ("discriminator", judge)):
        for key, value in state.networks[name].state_dict().items():
            assert torch.equal(value, expected[key]), (name, key)


def test_a_run_that_begins_so_is_another_one_and_is_resumed_bit_for_bit(tiny, source, others, tmp_path, monkeypatch):
    config = dataclasses.replace(tiny, init_from=str(source), images=60)
    whole = train(config, others, tmp_path / "whole").state_dict()
    fresh = train(dataclasses.replace(config, init_from=None), others, tmp_path / "fresh").state_dict()
    assert not all(torch.equal(whole[name], fresh[name]) for name in whole)

    steps = []

    def step_and_interrupt(*args, **options):
        steps.append(1)
        if len(steps) == 7:
            os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C: the step is finished and saved
        return train_step(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr("vaekit.training.loop.train_step", step_and_interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(config, others, tmp_path / "broken")
    assert latest(tmp_path / "broken").name == "000000007"
    again = train(config, others, tmp_path / "broken", resume=True).state_dict()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_larger_size_takes_the_layers_that_fit(tiny, source, others, tmp_path, capsys):
    larger = dataclasses.replace(tiny, size=32, init_from=str(source))
    train(larger, others, tmp_path / "larger")
    said = " ".join(capsys.readouterr().err.split())
    assert f"of the weights from {source}" in said
    assert "begins with 100%" not in said


def test_another_network_and_no_model_are_refused_before_a_step(tiny, source, others, tmp_path):
    wide = dataclasses.replace(tiny.network, channels=24, max_channels=48)
    for config, message in (
        (dataclasses.replace(tiny, network=wide, init_from=str(source)), "another network than this one: .* there and"),
        (dataclasses.replace(tiny, init_from=str(tmp_path)), "no model in .*--init-from takes the folder"),
    ):
        with pytest.raises(ValueError, match=message):
            train(config, others, tmp_path / "refused")


def test_without_checkpoints_the_discriminator_begins_anew(tiny, source, tmp_path):
    shutil.copytree(source, tmp_path / "light", ignore=shutil.ignore_patterns("checkpoints"))
    config = tiny.resolved()
    state = build_state(fabric_of(config), config)
    assert begin_with(tmp_path / "light", state.networks).endswith("and 0% of the discriminator's")


def test_test_pictures_that_the_source_has_trained_on_are_told(tiny, source, photos, others, tmp_path, capsys):
    other_split = dataclasses.replace(tiny, split=0.4, init_from=str(source))
    train(other_split, photos, tmp_path / "again")
    assert f"WARNING: {source} trained on 8 of the 12 test pictures" in " ".join(capsys.readouterr().err.split())
    assert leaked(source, np.arange(3, dtype=np.uint64)) is None
    assert leaked(others, np.arange(3, dtype=np.uint64)) is None
