"""The command: its flags, what it prints, and the exit status of every kind of mistake."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from vaekit.cli import run
from vaekit.config.presets import preset
from vaekit.config.settings import Config

TINY = (
    "--size 16 --images 24 --batch 4 --device cpu --precision fp32 --draws 1 "
    "--network.latent-dim 16 --network.channels 8 --network.max-channels 16 --discriminator.channels 8 8 8 8 8"
).split()


def dry_run(capsys, *arguments):
    assert run(["train", "photos", *arguments, "--dry-run"]) == 0
    return Config.from_json(capsys.readouterr().out)


def test_the_flags_have_exactly_the_promised_names(capsys):
    config = dry_run(
        capsys,
        *"--size 32 --preset released --seed 7 --minutes 3 --batch 12 --micro-batch 4".split(),
        *"--lr 0.01 --objective global --moments total --no-gan --device cpu --devices 2".split(),
        *"--precision bf16 --split 0.7 --out somewhere".split(),
    )
    expected = preset(
        "released",
        size=32,
        seed=7,
        minutes=3.0,
        batch=12,
        micro_batch=4,
        lr=0.01,
        objective="global",
        moments="total",
        gan=False,
        device="cpu",
        devices=2,
        precision="bf16",
        split=0.7,
    )
    assert config == expected.resolved()
    assert dry_run(capsys, "--images", "500") == preset("fast", images=500).resolved()  # or minutes, not both


def test_the_preset_gives_the_defaults_of_all_other_flags(capsys):
    assert dry_run(capsys, "--preset", "paper") == preset("paper").resolved()
    assert dry_run(capsys, "--preset=paper", "--gan") == preset("paper").resolved()
    assert dry_run(capsys) == preset("fast").resolved()


def test_height_and_width_may_differ(capsys):
    assert dry_run(capsys, "--size", "32", "48").image_size == (32, 48)


def test_inner_settings_have_dotted_flags(capsys):
    config = dry_run(capsys, "--weights.kl-individual", "0.1", "--network.latent-dim", "48")
    assert (config.weights.kl_individual, config.network.latent_dim) == (0.1, 48)


def test_train_figures_and_resume_from_the_command_line(photos, tmp_path, capsys):
    out = str(tmp_path / "run")
    assert run(["train", str(photos), *TINY, "--out", out]) == 0
    assert run(["figures", out]) == 0
    drawn = capsys.readouterr().out.split()
    assert len(drawn) == 8
    Image.open(drawn[0]).verify()
    assert run(["figures", out, str(photos)]) == 0
    assert run(["train", "--resume", "--out", out]) == 0


def mistakes(tmp_path, photos):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("no pictures")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"nothing")
    (tmp_path / "two").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (8, 8)).save(tmp_path / "two" / f"{name}.png")
    train = ["train", str(photos), *TINY, "--out", str(tmp_path / "run")]
    return {
        "no pictures": (["train"], "vaekit train photos/"),
        "no such folder": (["train", str(tmp_path / "nowhere")], "there is no folder"),
        "a file that lists other things": (["train", str(tmp_path / "text.txt")], "1 of the 1 pictures"),
        "an empty folder": (["train", str(tmp_path / "empty")], "holds no picture"),
        "only broken pictures": (["train", str(tmp_path / "broken")], "can be read"),
        "an impossible size": ([*train, "--size", "50"], "multiples of 8"),
        "one image a batch": ([*train, "--batch", "1"], "--batch 2 or more"),
        "an unknown preset": ([*train, "--preset", "best"], "unknown preset 'best'"),
        "nothing to test on": ([*train, "--split", "0.01"], "leaves 0 to train on and 20 to test on"),
        "one picture to train on": (["train", str(tmp_path / "two"), "--split", "0.5"], "need two or more"),
        "one picture to test on": ([*train, "--split", "0.95"], "19 of 20 pictures to train on and 1 to test on"),
        "other channels than pictures have": ([*train, "--channels", "4"], "give --channels 3"),
        "no run to resume": (["train", "--resume", "--out", str(tmp_path / "nowhere")], "no run in"),
        "which run to resume": (["train", "--resume"], "name its folder, as in `vaekit train --resume runs"),
        "no run to draw": (["figures", str(tmp_path / "nowhere")], "no model in"),
    }


@pytest.mark.parametrize("case", range(15))
def test_a_users_mistake_is_one_line_and_exit_two_and_leaves_nothing(photos, tmp_path, capsys, case):
    arguments, message = list(mistakes(tmp_path, photos).values())[case]
    before = sorted(tmp_path.rglob("*"))
    assert run(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("vaekit: ")
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unknown_flag_is_exit_two():
    command = [sys.executable, "-m", "vaekit", "train", "photos", "--sise", "64"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 2
    assert "--size" in finished.stderr  # it guesses what was meant


def test_divergence_is_our_exit_one(photos, tmp_path, capsys):
    arguments = [*TINY, "--out", str(tmp_path / "run"), "--lr", "1e30", "--images", "400"]
    assert run(["train", str(photos), *arguments]) == 1
    assert "Try a lower --lr" in capsys.readouterr().err


def test_the_same_command_with_resume_goes_on_and_changed_flags_are_named(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["train", str(photos), *TINY, "--lr", "0.003"]
    assert run(command) == 0
    (folder,) = Path("runs").iterdir()
    capsys.readouterr()
    assert run([*command, "--resume"]) == 0
    assert run(["train", str(photos), "--size", "16", "--resume", "--devices", "1"]) == 0
    assert capsys.readouterr().err.count(f"{folder} is finished") == 2
    assert run(["train", "--resume", "--out", str(folder), "--lr", "0.5", "--seed", "3"]) == 2
    assert "other settings: seed was 0, now 3; lr was 0.003, now 0.5; leave these out" in capsys.readouterr().err


def test_the_folder_of_a_run_after_resume_is_the_run(photos, tmp_path, capsys):
    out = str(tmp_path / "run")
    assert run(["train", str(photos), *TINY, "--out", out]) == 0
    for arguments in (["--resume", out], [out, "--resume"], ["--resume", "--out", out], ["--resume", f"--out={out}"]):
        capsys.readouterr()
        assert run(["train", *arguments]) == 0
        assert f"{out} is finished" in capsys.readouterr().err
    more = ["--images", "48", "--change-settings"]
    assert run(["train", "--resume", out, *more]) == 0
    assert f"done: model and figures are in {out}" in capsys.readouterr().err
    assert run(["train", out]) == 2
    assert f"is a run, not pictures; to go on with it: vaekit train --resume {out}" in capsys.readouterr().err


def test_a_run_around_its_own_pictures_is_refused(photos, tmp_path, capsys):
    pictures = tmp_path / "pictures"
    shutil.copytree(photos, pictures)
    for out in (pictures, tmp_path):
        for command in (["train"], ["compare", "--models", "standard", "--features", "none"]):
            assert run([command[0], str(pictures), *command[1:], *TINY, "--out", str(out)]) == 2
            assert "where the results would be written; give another --out" in capsys.readouterr().err


def test_a_run_among_its_own_pictures_does_not_become_one_of_them(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(shutil.copytree(photos, tmp_path / "pictures"))
    assert run(["train", ".", *TINY]) == 0
    (folder,) = Path("runs").iterdir()
    assert run(["sample", str(folder), "--count", "2", "--out", "new"]) == 0
    for arguments in (
        ["evaluate", str(folder), "--features", "none"],
        ["figures", str(folder)],
        ["sample", str(folder)],
    ):
        assert run(arguments) == 0, arguments
    assert run(["train", "--resume", str(folder)]) == 0
    assert run(["prepare", ".", "--size", "16"]) == 0
    assert "20 pictures" in capsys.readouterr().out
    assert run(["compare", ".", *TINY, "--models", "standard", "--features", "none"]) == 0
    assert run(["prepare", ".", "--size", "16"]) == 0
    assert "20 pictures" in capsys.readouterr().out
    assert run(["evaluate", str(folder), "--features", "none", "--out", "."]) == 0
    assert run(["evaluate", str(folder), "--features", "none"]) == 0
    comparison = "runs/compare-pictures-fast-16"
    assert run(["train", str(folder), *TINY, "--out", "runs/x"]) == 2
    assert "is a run, not pictures" in capsys.readouterr().err
    for command in (["train", comparison, *TINY], ["prepare", comparison], ["evaluate", str(folder), comparison]):
        assert run(command) == 2
        assert "holds results of vaekit, whose pictures are figures" in capsys.readouterr().err
    assert run(["train", ".", *TINY, "--resume", "--out", comparison]) == 2
    assert "holds a comparison; give another --out" in capsys.readouterr().err
    assert run(["compare", ".", *TINY, "--models", "standard", "--out", str(folder)]) == 2
    assert "holds a run; give the comparison another --out" in capsys.readouterr().err
    assert run(["compare", ".", *TINY, "--models", "standard", "--lr", "0.1"]) == 2
    assert "or give the comparison another --out" in capsys.readouterr().err


def test_pictures_that_were_moved_are_asked_for_with_the_command_to_type(photos, tmp_path, capsys):
    pictures, out = shutil.copytree(photos, tmp_path / "pictures"), str(tmp_path / "run")
    assert run(["train", str(pictures), *TINY, "--out", out]) == 0
    moved = shutil.move(pictures, tmp_path / "moved")
    assert run(["train", "--resume", out]) == 2
    assert f"say where: vaekit train FOLDER --resume --out {out}" in capsys.readouterr().err
    assert run(["train", str(moved), "--resume", "--out", out]) == 0


def test_a_pipe_that_is_closed_is_no_error():
    command = f"{sys.executable} -m vaekit train --help | head -1"
    ended = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert "Errno" not in ended.stderr


@pytest.mark.parametrize(
    ("missing", "command"),
    [("fcntl", ["train", "PHOTOS", *TINY]), ("resource", "bench --size 16 --seconds 0 --no-gan --device cpu".split())],
)
def test_a_system_without_what_only_unix_has_can_do_everything_else(photos, tmp_path, missing, command):
    command = [str(photos) if word == "PHOTOS" else word for word in command]
    program = f"import sys; sys.modules[{missing!r}] = None; from vaekit.cli import run; sys.exit(run({command}))"
    environment = os.environ | {"VAEKIT_CACHE": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, cwd=tmp_path)


def test_a_cache_that_cannot_be_written_names_the_cure(photos, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VAEKIT_CACHE", str(tmp_path / "file" / "cache"))
    assert run(["prepare", str(photos), "--size", "16"]) == 2
    assert "set VAEKIT_CACHE to a folder" in capsys.readouterr().err


def test_resuming_takes_the_settings_of_the_run_and_those_given_over_them(photos, tmp_path, capsys):
    config = preset("paper", size=48, lr=0.01, batch=30).resolved()
    (tmp_path / "config.json").write_text(config.to_json())
    resumed = dry_run(capsys, "--resume", "--out", str(tmp_path), "--devices", "3")
    assert resumed == dataclasses.replace(config, devices=3)


def test_a_run_that_begins_with_another_is_not_that_one_resumed(photos, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    for name in ("config.json", "pictures.json"):
        (other / name).write_text(preset("fast", size=48).resolved().to_json())
    begun = dry_run(capsys, "--resume", "--init-from", str(other), "--out", str(tmp_path / "new"))
    assert (begun.size, begun.init_from) == (preset("fast").resolved().size, str(other))
    begun = dry_run(capsys, "--resume", "--init-from", str(other))
    assert begun.init_from == str(other)


def test_the_config_of_a_run_is_what_dry_run_prints(photos, tmp_path, capsys):
    out = tmp_path / "run"
    assert run(["train", str(photos), *TINY, "--out", str(out)]) == 0
    assert run(["train", str(photos), *TINY, "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((out / "config.json").read_text())


def test_training_reads_what_prepare_decoded(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("VAEKIT_CACHE", str(tmp_path / "cache"))
    assert run(["prepare", str(photos), "--size", "16"]) == 0
    printed = capsys.readouterr().out
    [entry] = (tmp_path / "cache").glob("[!.]*")
    assert printed == f"20 pictures at 16x16 are in {entry}\n"
    decoded_at = entry.stat().st_mtime_ns
    assert run(["train", str(photos), *TINY, "--out", str(tmp_path / "run")]) == 0
    assert [path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("[!.]*")] == [decoded_at]


def test_prepare_takes_height_width_and_channels_and_lists_what_it_skips(tmp_path, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no picture")
    assert run(["prepare", str(tmp_path), "--size", "4", "6", "--channels", "1"]) == 0
    printed = capsys.readouterr()
    assert "1 pictures at 4x6" in printed.out
    assert "skipped b.png: not a picture\n" in printed.err


def test_prepare_refuses_a_folder_without_pictures_in_one_line(tmp_path, capsys):
    assert run(["prepare", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
