"""A checkpoint is whole or absent, never runs code, and gives back what was saved."""

import dataclasses
import os
import pickle
import random
import shutil
import subprocess

import pytest
import torch
from lightning_fabric import Fabric

from vaekit.commands.train import train
from vaekit.config.settings import Config
from vaekit.models.vae import VAE
from vaekit.runs import checkpoint
from vaekit.runs.folder import read_pictures, read_run_config
from vaekit.runs.prior import prior_of
from vaekit.training.state import build_state

FILES = [
    "vae.safetensors",
    "ema.safetensors",
    "discriminator.safetensors",
    "usual_norm.safetensors",
    "optimizers.pt",
    "state.json",
    "config.json",
]


@pytest.fixture
def fabric():
    return Fabric(accelerator="cpu")


def stepped(fabric, config, seed):
    """A state whose optimisers have made a step, and so have state of their own."""
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


def saved(fabric, config, run, step):
    """A checkpoint of that step."""
    state = stepped(fabric, config, 0)
    state.counters["step"] = step
    return checkpoint.save_checkpoint(state, run, config)


def steps(run):
    return [int(folder.name) for folder in checkpoint.all_checkpoints(run)]


def test_loading_gives_back_networks_optimisers_and_counters(fabric, tiny, tmp_path):
    state, other = stepped(fabric, tiny, 0), stepped(fabric, tiny, 1)
    folder = checkpoint.save_checkpoint(state, tmp_path, tiny)
    checkpoint.load_checkpoint(other, folder)
    assert other.counters == state.counters
    for name, network in state.networks.items():
        for key, tensor in network.state_dict().items():
            assert torch.equal(other.networks[name].state_dict()[key], tensor)
    for name, optimizer in state.optimizers.items():
        ours, theirs = (s.state_dict()["state"] for s in (optimizer, other.optimizers[name]))
        assert ours.keys() == theirs.keys()
        for i, memory in ours.items():
            assert memory.keys() == theirs[i].keys()
            assert all(torch.equal(memory[key], theirs[i][key]) for key in memory)


def test_what_the_config_sets_of_an_optimiser_is_not_loaded(fabric, tiny, tmp_path):
    folder = saved(fabric, tiny, tmp_path, 1)
    changed = dataclasses.replace(tiny, optimizer=dataclasses.replace(tiny.optimizer, beta1=0.7, weight_decay=0.3))
    state = build_state(fabric, changed)
    checkpoint.load_checkpoint(state, folder)
    (group,) = state.vae_optimizer.param_groups
    assert (group["betas"][0], group["weight_decay"]) == (0.7, 0.3)


def test_the_newest_two_are_kept(fabric, tiny, tmp_path):
    for step in (7, 8, 9, 10):
        saved(fabric, tiny, tmp_path, step)
    assert steps(tmp_path) == [9, 10]
    assert checkpoint.latest(tmp_path).name == "000000010"


def test_damaged_ones_do_not_count_among_those_kept(fabric, tiny, tmp_path):
    saved(fabric, tiny, tmp_path, 1)
    damaged = saved(fabric, tiny, tmp_path, 2)
    (damaged / "state.json").unlink()
    saved(fabric, tiny, tmp_path, 3)
    assert steps(tmp_path) == [1, 2, 3]
    saved(fabric, tiny, tmp_path, 4)
    assert steps(tmp_path) == [3, 4]


def test_a_damaged_one_of_a_later_step_pushes_none_out(fabric, tiny, tmp_path):
    damaged = saved(fabric, tiny, tmp_path, 9)
    (damaged / "state.json").unlink()
    other = saved(fabric, dataclasses.replace(tiny, lr=0.5), tmp_path, 8)
    saved(fabric, tiny, tmp_path, 1)
    saved(fabric, tiny, tmp_path, 2)
    assert steps(tmp_path) == [1, 2, 8, 9]
    newest, problems = checkpoint.newest_usable(tmp_path, tiny)
    assert newest.name == "000000002"
    assert problems[0].startswith(f"{damaged} is damaged")
    assert problems[1] == f"{other} is of another run, with lr 0.5 instead of {tiny.lr}"


def test_a_whole_checkpoint_of_the_same_step_is_left_alone_and_a_damaged_one_replaced(fabric, tiny, tmp_path):
    path = saved(fabric, tiny, tmp_path, 1) / "state.json"
    before = path.stat().st_ino, path.stat().st_mtime_ns
    saved(fabric, tiny, tmp_path, 1)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == before
    path.write_text("{}")
    assert checkpoint.latest(tmp_path) is None
    saved(fabric, tiny, tmp_path, 1)
    assert checkpoint.latest(tmp_path) is not None


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum here")
def test_sha256sum_agrees_with_the_checksums(fabric, tiny, tmp_path):
    folder = saved(fabric, tiny, tmp_path, 1)
    checked = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, text=True, check=True)
    assert checked.stdout.splitlines() == [f"{file}: OK" for file in sorted(FILES)]


def test_a_run_without_checkpoints_has_no_latest(tmp_path):
    assert checkpoint.latest(tmp_path) is None


def test_a_failing_save_keeps_the_old_one_and_leaves_no_rubbish(fabric, tiny, tmp_path, monkeypatch):
    checkpoint.save_checkpoint(stepped(fabric, tiny, 0), tmp_path, tiny)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save_checkpoint(stepped(fabric, tiny, 1), tmp_path, tiny)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["000000007"]


@pytest.mark.parametrize("file", [*FILES, "SHA256SUMS"])
@pytest.mark.parametrize("damage", ["truncated", "missing", "one bit flipped"])
def test_a_damaged_checkpoint_is_refused_and_the_one_before_is_the_newest(fabric, tiny, tmp_path, file, damage):
    before = saved(fabric, tiny, tmp_path, 1)
    path = saved(fabric, tiny, tmp_path, 2) / file
    content = bytearray(path.read_bytes())
    if damage == "one bit flipped":
        chance = random.Random(file)
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content[: len(content) // 2] if damage == "truncated" else content)
    if damage == "missing":
        path.unlink()
    with pytest.raises(ValueError, match=r"is damaged|is not a whole checkpoint"):
        checkpoint.load_checkpoint(stepped(fabric, tiny, 0), path.parent)
    assert checkpoint.latest(tmp_path) == before


def test_a_checkpoint_of_another_model_is_refused_by_the_setting_that_differs(fabric, tiny, tmp_path):
    other = dataclasses.replace(tiny, network=dataclasses.replace(tiny.network, latent_dim=32))
    folder = saved(fabric, other, tmp_path, 1)
    assert checkpoint.problem(folder, other) is None
    assert checkpoint.problem(folder, tiny).endswith("of another run, with network.latent_dim 32 instead of 16")
    with pytest.raises(ValueError, match="not a checkpoint of this model"):
        checkpoint.load_checkpoint(stepped(fabric, tiny, 0), folder)


class Malicious:
    """Makes a folder when unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def pickled(malicious):
    return pickle.dumps(malicious, protocol=2)


def zipped(malicious):
    torch.save({"vae": malicious}, malicious.folder.with_name("zip"))
    return malicious.folder.with_name("zip").read_bytes()


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("disguise", [pickled, zipped])
def test_a_checkpoint_never_runs_code(fabric, tiny, tmp_path, file, disguise):
    """Not even one whose checksums are right."""
    folder = saved(fabric, tiny, tmp_path, 1)
    (folder / file).write_bytes(disguise(Malicious(tmp_path / "owned")))
    with pytest.raises(ValueError, match="is damaged"):
        checkpoint.load_checkpoint(stepped(fabric, tiny, 0), folder)
    (folder / "SHA256SUMS").write_text(checkpoint.checksums(folder))
    with pytest.raises(ValueError, match=r"is not a (whole )?checkpoint"):
        checkpoint.load_checkpoint(stepped(fabric, tiny, 0), folder)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("file", "read"),
    [("model.safetensors", VAE.from_pretrained), ("config.json", read_run_config), ("pictures.json", read_pictures)],
)
@pytest.mark.parametrize("disguise", [pickled, zipped])
def test_neither_does_a_run(tmp_path, file, read, disguise):
    (tmp_path / file).write_bytes(disguise(Malicious(tmp_path / "owned")))
    with pytest.raises(ValueError, match=file):
        read(tmp_path)
    assert not (tmp_path / "owned").exists()


def test_a_prior_of_other_weights_is_fitted_anew_whatever_the_times_of_the_files(tiny, photos, tmp_path):
    run, copy = tmp_path / "run", tmp_path / "copy"
    train(tiny, photos, run)
    first = prior_of(run, VAE.from_pretrained(run), "gaussian-mixture")
    vae = VAE.from_pretrained(run)
    torch.nn.init.normal_(next(vae.encoder.parameters()))
    with pytest.warns(UserWarning, match="not kept"):
        vae.save_pretrained(run)
    shutil.copytree(run, copy, copy_function=shutil.copyfile)  # as `cp -r`: all times are new
    means = []
    for place in (copy, run):
        os.utime(place / "prior.safetensors")
        with pytest.warns(UserWarning, match="other weights than these"):
            means.append(prior_of(place, VAE.from_pretrained(place), "gaussian-mixture").mean)
    assert torch.equal(*means)
    assert not torch.equal(means[0], first.mean)
    kept = (run / "prior.safetensors").read_bytes()
    with pytest.warns(UserWarning, match="other weights than these"):  # the other two, which nobody asked for
        prior_of(run, VAE.from_pretrained(run), "gaussian-mixture")
    assert (run / "prior.safetensors").read_bytes() == kept


def test_a_damaged_prior_is_fitted_anew_and_one_of_before_is_taken_where_the_pictures_are_gone(tiny, photos, tmp_path):
    run, pictures = tmp_path / "run", shutil.copytree(photos, tmp_path / "pictures")
    train(tiny, pictures, run)
    (run / "prior.safetensors").write_bytes(b"no prior")
    with pytest.warns(UserWarning, match="not a whole safetensors file"):
        prior = prior_of(run, VAE.from_pretrained(run), "gaussian-mixture")
    prior.save(run / "prior.safetensors")  # as before, without the hash of the weights
    shutil.rmtree(pictures)
    with pytest.warns(UserWarning, match="of an earlier version"):
        assert torch.equal(prior_of(run, VAE.from_pretrained(run), "gaussian-mixture").mean, prior.mean)
    prior.save(run / "prior.safetensors", {"model_sha256": "another"})
    with pytest.warns(UserWarning, match="other weights than these"), pytest.raises(ValueError, match="no longer in"):
        prior_of(run, VAE.from_pretrained(run), "gaussian-mixture")


def test_a_model_carries_its_config(fabric, tiny, tmp_path):
    vae = build_state(fabric, tiny).ema
    vae.save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()  # for people; the metadata of the weights is what counts
    assert Config.from_json(VAE.from_pretrained(tmp_path).config_json) == tiny


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
