"""Whole runs on tiny pictures: the files they write; that they learn, stop and resume; that a seed repeats a run."""

import copy
import dataclasses
import json
import math
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from small import tiny_resnet
from vaekit import VAE, bench, draw_run, preset, train
from vaekit.config.settings import Config
from vaekit.data.cache import prepare
from vaekit.data.pixels import to_float
from vaekit.models.vae import build_vae
from vaekit.networks.average import update_ema
from vaekit.reports.charts import series
from vaekit.runs import checkpoint
from vaekit.runs.folder import read_run_config, write_run
from vaekit.runs.log import LOG_FILE, RunLog, duration, read_records
from vaekit.system.devices import resolve_precision
from vaekit.training.optimizers import learning_rate_factor
from vaekit.training.state import settle_batch_norm
from vaekit.training.step import NonFiniteLoss

FIGURES = {
    "reconstructions",
    "variants",
    "variants_data",
    "transitions",
    "joint_histogram",
    "samples",
    "latents",
    "curves",
}


def weights(vae):
    return {name: tensor.clone() for name, tensor in vae.state_dict().items()}


def test_a_finished_run_holds_model_config_log_and_figures(tiny, photos, tmp_path, drawn):
    vae = train(tiny, photos, tmp_path / "run")
    run = tmp_path / "run"
    loaded = VAE.from_pretrained(run)
    for name, tensor in weights(vae).items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert Config.from_json(loaded.config_json) == tiny.resolved()
    assert json.loads((run / "config.json").read_text())["network"]["stages"] == 2
    assert {path.stem for path in (run / "figures").glob("*.png")} == FIGURES
    for path in (run / "figures").glob("*.png"):
        Image.open(path).verify()


def test_the_log_has_every_step_with_its_losses_and_ends_with_the_test_set(tiny, photos, tmp_path):
    train(tiny, photos, tmp_path)
    *steps, last = read_records(tmp_path)
    assert [record["step"] for record in steps] == [1, 2, 3, 4, 5, 6]
    assert [record["images_seen"] for record in steps] == [4, 8, 12, 16, 20, 24]
    assert {"l1", "kl_global", "kl_individual", "total", "images_per_sec", "elapsed_sec"} <= set(steps[0])
    assert [("realism" in record, "discriminator_fake" in record) for record in steps] == 3 * [(False, False)] + 3 * [
        (True, True)
    ]
    assert last["test/num_images"] == 4
    assert last.pop("test/verdict") in ("healthy", "dead dimensions", "collapsed to the prior", "collapsed to a Dirac")
    assert all(math.isfinite(value) for record in (*steps, last) for value in record.values())


def test_of_very_many_test_pictures_some_are_measured_at_the_end(tiny, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("vaekit.commands.train.MOST_MEASURED", 3)
    train(dataclasses.replace(tiny, images=tiny.batch, draws=1), photos, tmp_path)
    assert list(read_records(tmp_path))[-1]["test/num_images"] == 3


def test_tensorboard_shows_the_same_losses(tiny, photos, tmp_path):
    train(tiny, photos, tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    logged = [record["l1"] for record in read_records(tmp_path) if "l1" in record]
    assert [event.value for event in events.Scalars("train/l1")] == pytest.approx(logged)
    assert len(events.Scalars("test/psnr")) == 1


def test_the_same_seed_trains_the_same_weights_and_another_seed_others(tiny, photos, tmp_path):
    first, second = (weights(train(tiny, photos, tmp_path / name)) for name in "ab")
    other = weights(train(dataclasses.replace(tiny, seed=1), photos, tmp_path / "c"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("objective", ["global", "standard"])
def test_training_overfits_eight_pictures(tiny, tmp_path, objective):
    random = np.random.default_rng(1)
    (tmp_path / "few").mkdir()
    for i in range(10):  # eight to train on, two to test
        pixels = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        pixels.resize((16, 16), Image.Resampling.BICUBIC).save(tmp_path / "few" / f"{i}.png")
    network = dataclasses.replace(tiny.network, latent_dim=32, channels=16, max_channels=32)
    config = dataclasses.replace(
        tiny, objective=objective, images=8 * 500, batch=8, lr=3e-3, gan=False, flip=False, network=network
    )
    vae = train(config, tmp_path / "few", tmp_path / "run")
    x = to_float(torch.from_numpy(prepare(tmp_path / "few", 16, 16, 3).images[:8].copy()))
    with torch.no_grad():
        x_hat = vae.decode(vae.encode(x).sample(generator=torch.Generator().manual_seed(0)))
    assert (x - x_hat).abs().mean() < 0.05


def interrupt_after(step, run):
    """Press Ctrl-C once the log holds `step` records."""

    def press():
        while len(read_records(run)) < step:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    return thread


@pytest.mark.parametrize("gan", [True, False])
def test_an_interrupted_run_resumes_to_the_same_weights_bit_for_bit(tiny, photos, tmp_path, capsys, gan):
    config = dataclasses.replace(tiny, images=150 * 4, gan=gan)
    undisturbed = weights(train(config, photos, tmp_path / "whole"))

    thread = interrupt_after(3, tmp_path / "broken")
    with pytest.raises(KeyboardInterrupt):
        train(config, photos, tmp_path / "broken")
    thread.join()
    assert "go on with: vaekit train --resume" in capsys.readouterr().err
    assert len(read_records(tmp_path / "broken")) < 150

    resumed = weights(train(config, photos, tmp_path / "broken", resume=True))
    assert all(torch.equal(undisturbed[name], resumed[name]) for name in undisturbed)

    def losses(run):
        return [
            {name: value for name, value in record.items() if name not in ("elapsed_sec", "images_per_sec")}
            for record in read_records(run)
        ]

    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")


def test_resuming_with_other_settings_names_them(tiny, photos, tmp_path):
    train(tiny, photos, tmp_path)
    with pytest.raises(ValueError, match=f"other settings: lr was {tiny.lr}, now 0.5"):
        train(dataclasses.replace(tiny, lr=0.5), photos, tmp_path, resume=True)


def test_a_run_goes_on_with_changed_settings_if_asked_to(tiny, photos, tmp_path):
    train(tiny, photos, tmp_path)
    changed = dataclasses.replace(
        tiny, images=32, lr=0.001, gan=False, optimizer=dataclasses.replace(tiny.optimizer, beta1=0.5)
    )
    train(changed, photos, tmp_path, resume=True, change_settings=True)
    steps = [record for record in read_records(tmp_path) if "l1" in record]
    assert [(record["step"], "realism" in record) for record in steps[3:]] == [
        (4, True),
        (5, True),
        (6, True),
        (7, False),
        (8, False),
    ]
    newest = checkpoint.latest(tmp_path)
    (group,) = torch.load(newest / "optimizers.pt", weights_only=True)["vae"]["param_groups"]
    assert group["betas"][0] == 0.5
    assert read_run_config(tmp_path) == checkpoint.read_checkpoint_config(newest) == changed.resolved()


def with_setting(config, name, value):
    """The config with one setting changed, by its dotted name."""
    *group, field = name.split(".")
    if group:
        value, field = dataclasses.replace(getattr(config, group[0]), **{field: value}), group[0]
    return dataclasses.replace(config, **{field: value})


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("size", 32, "the weights of its checkpoints would not fit"),
        ("channels", 1, "the weights"),
        ("network.latent_dim", 32, "the weights"),
        ("discriminator.kernel", 3, "the weights"),
        ("gan", True, "its checkpoints hold no discriminator"),
        ("moments_memory", 2, "its checkpoints do not remember that many steps"),
        ("split", 0.5, "test pictures would be some that it has trained on"),
        ("preset", "paper", "it is only the name of a set of settings"),
    ],
)
def test_what_a_run_cannot_change_is_refused_with_the_reason(tiny, photos, tmp_path, name, value, reason):
    config = dataclasses.replace(tiny, gan=False)
    train(config, photos, tmp_path)
    with pytest.raises(ValueError, match=f"cannot change {name} from .* to {value!r}: {reason}"):
        train(with_setting(config, name, value), photos, tmp_path, resume=True, change_settings=True)


def test_what_is_not_computed_may_differ_freely(tiny, photos, tmp_path):
    first = weights(train(tiny, photos, tmp_path))
    other = dataclasses.replace(tiny, device="auto", log_every_steps=3, draws=2, save_every_minutes=1.0)
    again = weights(train(other, photos, tmp_path, resume=True))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_loop_over_trainings_stops_where_it_is_interrupted(tiny, photos, tmp_path):
    thread = interrupt_after(3, tmp_path / "0")

    def sweep():
        for i, images in enumerate((4000, 24)):
            train(dataclasses.replace(tiny, images=images, gan=False), photos, tmp_path / str(i))

    with pytest.raises(KeyboardInterrupt):
        sweep()
    thread.join()
    assert checkpoint.latest(tmp_path / "0") is not None
    assert not (tmp_path / "1").exists()


def test_a_training_leaves_the_callers_random_numbers_alone(tiny, photos, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(tiny, photos, tmp_path)
    bench(tiny, seconds=0.0)
    assert torch.equal(torch.rand(3), expected)


def test_a_number_of_a_record_that_is_not_finite_is_null_in_the_log(photos, tmp_path):
    with RunLog(tmp_path, 0, Console(quiet=True)) as log:
        log.write({"step": 1, "images_seen": 4, "l1": 0.5, "grad_norm": math.inf})
        log.write({"step": 2, "images_seen": 8, "l1": math.nan, "grad_norm": 1.0})
    lines = (tmp_path / LOG_FILE).read_text().splitlines()
    values = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [(value["l1"], value["grad_norm"]) for value in values] == [(0.5, None), (None, 1.0)]
    assert len(series(read_records(tmp_path))) > 0


def test_one_command_starts_a_run_goes_on_with_it_and_ends_well_when_it_is_over(tiny, photos, tmp_path, capsys):
    """Schedulers repeat it: --resume where there is no folder yet, no checkpoint yet, and nothing left to do."""
    run, prepared = tmp_path / "run", prepare(photos, 16, 16, 3)
    started = weights(train(tiny, photos, tmp_path / "other", resume=True))
    write_run(run, tiny.resolved(), prepared, np.arange(16))  # killed before its first checkpoint
    assert all(torch.equal(started[name], w) for name, w in weights(train(tiny, photos, run, resume=True)).items())
    log, before = read_records(run), {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    capsys.readouterr()
    assert all(torch.equal(started[name], w) for name, w in weights(train(tiny, photos, run, resume=True)).items())
    assert "is finished" in capsys.readouterr().err
    assert (read_records(run), {path: path.stat().st_mtime_ns for path in run.rglob("*")}) == (log, before)


def test_a_run_that_was_killed_before_its_last_measurement_is_measured_when_it_is_repeated(tiny, photos, tmp_path):
    train(tiny, photos, tmp_path)
    log = read_records(tmp_path)
    lines = (tmp_path / LOG_FILE).read_bytes().splitlines(keepends=True)
    (tmp_path / LOG_FILE).write_bytes(b"".join(lines[:-1]))
    train(tiny, photos, tmp_path, resume=True)
    assert read_records(tmp_path) == log


def test_resuming_with_other_pictures_is_refused(tiny, photos, tmp_path):
    pictures, run = tmp_path / "pictures", tmp_path / "run"
    shutil.copytree(photos, pictures)
    train(tiny, pictures, run)
    shutil.copy(pictures / "00.png", pictures / "new.png")
    with pytest.raises(ValueError, match=r"began with other pictures than the 21 now in .*: with 20 in"):
        train(tiny, pictures, run, resume=True)
    (pictures / "new.png").rename(pictures / "01.png")  # as many as before, one of them another
    with pytest.raises(ValueError, match=r"began with other pictures than the 20 now in .*: with 20 in"):
        train(tiny, pictures, run, resume=True)


def test_a_run_goes_on_where_its_pictures_were_moved_to(tiny, photos, tmp_path):
    run = tmp_path / "run"
    first = weights(train(tiny, photos, run))
    moved = shutil.copytree(photos, tmp_path / "moved", copy_function=shutil.copyfile)  # with times of their own
    again = weights(train(tiny, moved, run, resume=True))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_finished_run_resumes_to_itself(tiny, photos, tmp_path):
    first, log = weights(train(tiny, photos, tmp_path)), read_records(tmp_path)
    again = weights(train(tiny, photos, tmp_path, resume=True))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert read_records(tmp_path) == log


def test_a_folder_with_a_run_is_not_overwritten(tiny, photos, tmp_path):
    train(tiny, photos, tmp_path)
    with pytest.raises(ValueError, match="already holds a run; add --resume"):
        train(tiny, photos, tmp_path)


def test_a_run_that_cannot_start_leaves_nothing_behind(tiny, photos, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no picture"):
        train(tiny, tmp_path / "empty", tmp_path / "run")
    with pytest.raises(ValueError, match="leaves 0 to train on and 20 to test on"):
        train(dataclasses.replace(tiny, split=0.01), photos, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_unreadable_pictures_are_listed_in_the_run(tiny, photos, tmp_path, capsys):
    mixed = tmp_path / "mixed"
    shutil.copytree(photos, mixed)
    (mixed / "broken.jpg").write_bytes(b"not a picture")
    train(tiny, mixed, tmp_path / "run")
    assert "1 unreadable" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "pictures.json").read_text())["skipped"][0][0] == "broken.jpg"


def test_divergence_stops_with_step_term_and_checkpoint_named(tiny, photos, tmp_path):
    wild = dataclasses.replace(tiny, lr=1e30, images=400, save_every_minutes=1e-9, gan=False)
    with pytest.raises(
        NonFiniteLoss, match=r"step \d+: .*not finite; not saved, the last good checkpoint is .*checkpoints"
    ):
        train(wild, photos, tmp_path)


def test_the_discriminator_stays_as_it_was_until_its_start(tiny, photos, tmp_path):
    late = dataclasses.replace(tiny.discriminator, start=1.0)
    with_gan = weights(train(dataclasses.replace(tiny, discriminator=late), photos, tmp_path / "late"))
    without = weights(train(dataclasses.replace(tiny, gan=False), photos, tmp_path / "without"))
    assert all(torch.equal(with_gan[name], without[name]) for name in without)


def test_minutes_end_a_run_whatever_the_images(tiny, photos, tmp_path):
    train(dataclasses.replace(tiny, minutes=0.02, images=10**9, draws=1), photos, tmp_path)
    *steps, last = read_records(tmp_path)
    assert steps[-2]["elapsed_sec"] < 0.02 * 60 <= steps[-1]["elapsed_sec"]
    assert "test/l1" in last


def test_figures_can_be_drawn_again_byte_for_byte(tiny, photos, tmp_path, drawn):
    train(tiny, photos, tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "figures").iterdir()}
    assert {path.name: path.read_bytes() for path in draw_run(tmp_path)} == before


def test_drawing_on_the_way_changes_no_weight(tiny, photos, tmp_path, drawn):
    once, thrice = (weights(train(dataclasses.replace(tiny, draws=n), photos, tmp_path / str(n))) for n in (1, 3))
    assert all(torch.equal(once[name], thrice[name]) for name in once)


def test_figures_can_be_drawn_from_other_pictures(tiny, photos, tmp_path, drawn):
    train(tiny, photos, tmp_path / "run")
    other = tmp_path / "other"
    other.mkdir()
    Image.new("RGB", (30, 30), "red").save(other / "red.png")
    Image.new("RGB", (30, 30), "blue").save(other / "blue.png")
    own = (tmp_path / "run" / "figures" / "reconstructions.png").read_bytes()
    draw_run(tmp_path / "run", other)
    assert (tmp_path / "run" / "figures" / "reconstructions.png").read_bytes() == own
    (elsewhere,) = {path.parent for path in draw_run(tmp_path / "run", out=tmp_path / "elsewhere")}
    assert (elsewhere / "reconstructions.png").read_bytes() == own
    pixels = np.asarray(Image.open(tmp_path / "run" / "figures-other" / "reconstructions.png"))
    for colour in ((255, 0, 0), (0, 0, 255)):
        assert (pixels == colour).all(-1).any()


@pytest.mark.parametrize(
    ("progress", "decay", "factor"),
    [
        (0, "cosine", 0),
        (0.05, "cosine", 0.5 * 0.9938),
        (0.5, "cosine", 0.5),
        (1, "cosine", 0),
        (0.7, "constant", 1),
    ],
)
def test_the_learning_rate_rises_and_then_falls_or_stays(progress, decay, factor):
    assert learning_rate_factor(progress, 0.1, decay) == pytest.approx(factor, abs=1e-3)


def test_the_average_follows_the_weights():
    config = preset("paper", size=16)
    ema, vae = build_vae(config), build_vae(config)
    start = weights(ema)
    update_ema(ema, vae, decay=0.9, step=10**6)
    for name, parameter in ema.named_parameters():
        expected = 0.9 * start[name] + 0.1 * dict(vae.named_parameters())[name]
        torch.testing.assert_close(parameter.detach(), expected.detach())


def test_averaged_weights_get_the_batch_statistics_of_what_they_compute_themselves():
    """Those of the weights of the last step are others: the reconstruction is then another than in training."""
    torch.manual_seed(0)
    ema = build_vae(tiny_resnet(preset("fast", size=16), "batch")).eval()
    x, eps = torch.rand(64, 3, 16, 16) * 2 - 1, torch.randn(64, ema.latent_dim)
    for layer in ema.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.fill_(3.0)
    settle_batch_norm(ema, [(x, eps)])
    assert not any(module.training for module in ema.modules())
    settled = ema(x, eps).x_hat
    live = copy.deepcopy(ema).train()(x, eps).x_hat
    torch.testing.assert_close(settled, live, rtol=0.05, atol=0.02)  # running variances divide by n - 1


def test_asking_for_a_precision_gets_it():
    for precision in ("fp32", "bf16"):
        assert resolve_precision("cpu", precision) == precision
    assert resolve_precision("cpu", "auto") in ("fp32", "bf16")
    with pytest.raises(ValueError, match="fp16 needs a CUDA device, this is cpu; choose --precision bf16"):
        resolve_precision("cpu", "fp16")


def test_a_missing_device_is_refused_with_those_there_are(tiny, photos, tmp_path):
    missing = "mps" if not torch.backends.mps.is_available() else "cuda"
    with pytest.raises(ValueError, match=rf"no {missing} device here; choose --device .*cpu"):
        train(dataclasses.replace(tiny, device=missing), photos, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_bf16_trains_with_float32_losses(tiny, photos, tmp_path, drawn):
    train(dataclasses.replace(tiny, precision="bf16"), photos, tmp_path)
    assert VAE.from_pretrained(tmp_path).encoder.mean.weight.dtype == torch.float32
    assert all(math.isfinite(record.get("kl_global", 0)) for record in read_records(tmp_path))


def test_a_resumed_log_forgets_what_came_after_the_checkpoint_and_half_a_line(tmp_path):
    lines = ['{"step": 1}', '{"step": 2}', "damaged", '{"step": 3}', '{"step": 3, "test/verdict": "healthy"}', '{"st']
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    for step, again, kept in ((3, False, 5), (3, True, 4), (2, True, 3), (0, False, 0)):
        with RunLog(tmp_path, step, Console(quiet=True), measure_again=again):
            pass
        assert (tmp_path / "log.jsonl").read_text() == "".join(line + "\n" for line in lines[:kept])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here that is always full")
def test_a_log_on_a_full_disk_waits_in_memory(tmp_path):
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    with RunLog(tmp_path, 0, Console(quiet=True)) as log:
        log.write({"step": 1, "l1": 0.5})
        with pytest.raises(OSError, match="No space left on device"):
            log.sync()


@pytest.mark.parametrize(("sec", "text"), [(45, "45 s"), (600, "10 min"), (3 * 3600, "3.0 h"), (72 * 3600, "3.0 days")])
def test_durations_are_written_for_people(sec, text):
    assert duration(sec) == text
