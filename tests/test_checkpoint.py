"""A checkpoint is whole or absent, never runs code, and gives back what went in."""

import dataclasses
import os
import pickle

import pytest
import torch
from lightning_fabric import Fabric

from vaekit import checkpoint
from vaekit.training import build_state
from vaekit.vae import VAE


@pytest.fixture
def fabric():
    return Fabric(accelerator="cpu")


def stepped(fabric, config, seed):
    """A state whose optimisers have something to remember."""
    state = build_state(fabric, dataclasses.replace(config, seed=seed))
    for network, optimizer in (
        (state.vae.module, state.vae_optimizer),
        (state.discriminator.module, state.discriminator_optimizer),
    ):
        for parameter in network.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    state.counters |= {"step": 7 + seed, "images_seen": 28}
    return state


def test_loading_gives_back_networks_optimisers_and_counters(fabric, tiny, tmp_path):
    state, other = stepped(fabric, tiny, 0), stepped(fabric, tiny, 1)
    folder = checkpoint.save(state, tmp_path, tiny.to_json())
    checkpoint.load(other, folder)
    assert other.counters == state.counters
    for name, network in state.networks.items():
        for key, tensor in network.state_dict().items():
            assert torch.equal(other.networks[name].state_dict()[key], tensor)
    for name, optimizer in state.optimizers.items():
        ours, theirs = (s.state_dict()["state"] for s in (optimizer, other.optimizers[name]))
        assert all(torch.equal(ours[i]["exp_avg_sq"], theirs[i]["exp_avg_sq"]) for i in ours)


def test_the_newest_two_are_kept(fabric, tiny, tmp_path):
    for seed in range(4):
        checkpoint.save(stepped(fabric, tiny, seed), tmp_path, tiny.to_json())
    assert [folder.name for folder in checkpoint.all_checkpoints(tmp_path)] == ["000000009", "000000010"]
    assert checkpoint.latest(tmp_path).name == "000000010"


def test_a_run_without_checkpoints_has_no_latest(tmp_path):
    assert checkpoint.latest(tmp_path) is None


def test_a_failing_save_keeps_the_old_one_and_leaves_no_rubbish(fabric, tiny, tmp_path, monkeypatch):
    checkpoint.save(stepped(fabric, tiny, 0), tmp_path, tiny.to_json())

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(stepped(fabric, tiny, 1), tmp_path, tiny.to_json())
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["000000007"]


@pytest.mark.parametrize(
    "file",
    ["vae.safetensors", "ema.safetensors", "discriminator.safetensors", "optimizers.pt", "state.json"],
)
@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_damaged_checkpoint_is_refused(fabric, tiny, tmp_path, file, damage):
    state = stepped(fabric, tiny, 0)
    path = checkpoint.save(state, tmp_path, tiny.to_json()) / file
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        path.unlink()
    with pytest.raises(ValueError, match="not a whole"):
        checkpoint.load(state, path.parent)


def test_a_checkpoint_never_runs_code(fabric, tiny, tmp_path):
    class Malicious:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    state = stepped(fabric, tiny, 0)
    folder = checkpoint.save(state, tmp_path, tiny.to_json())
    torch.save({"vae": Malicious()}, folder / "optimizers.pt")
    with pytest.raises(ValueError, match="not a whole checkpoint"):
        checkpoint.load(state, folder)
    (folder / "optimizers.pt").write_bytes(pickle.dumps(Malicious(), protocol=2))
    with pytest.raises(ValueError, match="not a whole checkpoint"):
        checkpoint.load(state, folder)
    assert not (tmp_path / "owned").exists()


def test_a_model_carries_its_config(fabric, tiny, tmp_path):
    vae = build_state(fabric, tiny).ema
    vae.save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()  # for people; the metadata of the weights is what counts
    assert VAE.from_pretrained(tmp_path).config == tiny


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no model in"),
        (b"", "not a whole safetensors"),
        (b"\x08" + b"\0" * 40, "not a whole safetensors"),
    ],
)
def test_what_is_no_model_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        VAE.from_pretrained(tmp_path)
