"""Measuring a finished run: what is reported, from which pictures, and what is refused."""

import dataclasses
import json
import shutil
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image

from vaekit import evaluate_run, sample_run, train
from vaekit.cli import run as command
from vaekit.commands.protocol import PROTOCOL_VERSION
from vaekit.config.priors import PRIORS
from vaekit.config.settings import Config
from vaekit.data.cache import prepare
from vaekit.data.loader import HeldOut, split
from vaekit.data.sources.folder import find_pictures
from vaekit.measures.full import few_images
from vaekit.measures.probes import BY_ORDER
from vaekit.measures.quick import evaluate
from vaekit.models.vae import VAE
from vaekit.priors.mixture import GaussianMixturePrior
from vaekit.reports.evaluation import readable_evaluation
from vaekit.runs.prior import keep

OF_ALL = [name for name, row in PRIORS.items() if not (row.trained or row.of_codes)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two class folders of twenty pictures each."""
    folder = tmp_path_factory.mktemp("labelled")
    random = np.random.default_rng(0)
    for name in ("bad", "good"):
        (folder / name).mkdir()
        for i in range(20):
            coarse = Image.fromarray(random.integers(0, 256, (3, 3, 3), dtype=np.uint8))
            coarse.resize((20, 20)).save(folder / name / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="module")
def trained(tiny, folder, tmp_path_factory):
    """A finished run, trained once for all tests of this file; no test writes to it."""
    run = tmp_path_factory.mktemp("trained") / "run"
    train(tiny, folder, run)
    return run


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the run for a test to write to."""
    return shutil.copytree(trained, tmp_path / "run")


def test_it_measures_reconstruction_generation_latents_and_usefulness(run, folder):
    result = evaluate_run(run)
    assert json.loads((run / "evaluation.json").read_text()) == json.loads(json.dumps(result))
    assert result["protocol"]["pictures"]["num_images"] == 8  # 20 % of 40
    assert result["protocol"]["features"]["distance"] == "FD-EffNet"
    for kind in ("sampled", "mean"):
        assert {"l1", "psnr", "ssim", "laplacian_ratio", "spectrum_db"} <= result["reconstruction"][kind].keys()
    assert {"fd_effnet", "kd_effnet", "precision"} <= result["reconstruction"]["sampled"].keys()
    assert result["generation"].keys() == {*OF_ALL, "posteriors", "train"}
    assert result["generation"]["train"]["fd_effnet"] < result["generation"]["normal"]["fd_effnet"]
    assert result["latents"]["latent_dim"] == 16
    assert result["usefulness"]["protocol"] == BY_ORDER
    assert 0 <= result["usefulness"]["anomaly_auroc"] <= 1
    assert (run / "figures" / "power_spectra.png").is_file()
    written = (run / "evaluation.md").read_text()
    for part in ("FD-EffNet", "Reconstruction of 8 pictures", "biased upwards", "Benjamini-Hochberg", "by chance"):
        assert part in written
    assert "biased upwards" in result["warnings"][0]
    assert "not measured, lpips" in readable_evaluation(result)
    assert "FID" not in readable_evaluation(result)


def test_its_numbers_are_those_of_evaluate_and_repeat(run, folder):
    first, again = evaluate_run(run, features="none"), evaluate_run(run, features="none")
    assert first["reconstruction"] == again["reconstruction"]
    assert first["generation"] == again["generation"]
    prepared = prepare(folder, 16, 16, 3)
    test = HeldOut(prepared.images, split(prepared.names, 0.8)[1])
    expected = evaluate(VAE.from_pretrained(run), test.batches(50))
    for name in ("l1", "psnr"):
        assert first["reconstruction"]["sampled"][name] == pytest.approx(expected[name], rel=1e-3)  # bf16 or not
        assert first["reconstruction"]["mean"][name] == pytest.approx(expected[f"{name}_mean"], rel=1e-3)


def test_other_pictures_are_all_measured_and_named_in_the_file(run, tmp_path):
    others = new_pictures(tmp_path / "others", 20)
    result = evaluate_run(run, others, features="none")
    assert result["protocol"]["pictures"]["num_images"] == 20
    assert (run / "evaluation-others.json").is_file()
    assert "no labels" in result["not_measured"]["usefulness"]

    assert (run / "figures" / "power_spectra-others.png").is_file()


def test_other_pictures_in_a_folder_of_the_same_name_have_a_file_of_their_own(run, tmp_path):
    first, second = (new_pictures(tmp_path / place / "same", count) for place, count in (("a", 4), ("b", 6)))
    for folder in (first, second, first):
        evaluate_run(run, folder, features="none")
    counts = {json.loads(path.read_text())["protocol"]["pictures"]["num_images"] for path in run.glob("*-same*.json")}
    assert counts == {4, 6}


def new_pictures(folder, count):
    """A folder of noise that no run has seen."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(count)
    for i in range(count):
        Image.fromarray(random.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


def test_without_the_train_pictures_what_needs_them_is_left_out_with_the_reason(tiny, folder, photos, tmp_path):
    copy = shutil.copytree(photos, tmp_path / "copy")
    train(tiny, copy, tmp_path / "run")
    shutil.rmtree(copy)
    result = evaluate_run(tmp_path / "run", folder, features="none")
    assert result["generation"].keys() == {"normal", "gaussian", "flow"}
    assert "no longer in" in result["not_measured"]["gaussian-mixture, posteriors, train"]


def test_pictures_that_were_moved_or_touched_are_not_taken_for_new_ones(tiny, photos, tmp_path):
    first = shutil.copytree(photos, tmp_path / "first")
    train(tiny, first, tmp_path / "run")
    moved = shutil.move(first, tmp_path / "moved")
    for path in moved.iterdir():
        path.touch()
    result = evaluate_run(tmp_path / "run", moved, features="none")
    assert result["protocol"]["pictures"]["num_images"] == 4  # the 20 % that it has not trained on
    assert result["generation"].keys() == {*OF_ALL, "posteriors", "train"}


def test_a_run_whose_pictures_have_changed_is_not_measured_on_those_it_may_have_trained_on(
    tiny, photos, tmp_path, capsys
):
    copy = shutil.copytree(photos, tmp_path / "copy")
    train(tiny, copy, tmp_path / "run")
    Image.new("RGB", (20, 20)).save(copy / "new.png")
    assert command(["evaluate", str(tmp_path / "run"), "--features", "none"]) == 2
    assert "it is not known which of them are its test pictures" in capsys.readouterr().err


def test_numbers_are_not_lost_because_they_cannot_be_kept(run, tmp_path, monkeypatch):
    """A run of a colleague's on a mount that can only be read, and a disk that is full."""

    def refuse(*arguments):
        raise OSError(30, "Read-only file system", str(run))

    for module in ("commands.evaluate", "runs.folder"):
        monkeypatch.setattr(f"vaekit.{module}.write_text", refuse)
    monkeypatch.setattr("vaekit.priors.mixture.write_tensors", refuse)
    lines = []
    result = evaluate_run(run, features="none", say=lines.append)
    assert result.generation.keys() == {*OF_ALL, "posteriors", "train"}
    assert any("the prior is not kept" in line for line in lines)
    assert "the numbers are not kept" in lines[-1]
    assert "--out" in lines[-1]


def test_a_place_for_the_results_that_cannot_be_written_is_told_before_anything_is_measured(run, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("vaekit.commands.evaluate.measure_reconstructions", pytest.fail)
    with pytest.raises(OSError, match="file"):
        evaluate_run(run, features="none", out=tmp_path / "file" / "results")


def test_results_go_where_they_are_asked_to(run, tmp_path, capsys):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name != "prior.safetensors"}
    assert command(["evaluate", str(run), "--features", "none", "--out", str(tmp_path / "results")]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert json.loads((tmp_path / "results" / "evaluation.json").read_text())["reconstruction"]
    assert str(tmp_path / "results" / "evaluation.json") in capsys.readouterr().err


def test_a_normal_class_that_there_is_not_is_refused_before_anything_is_measured(run, folder, monkeypatch, capsys):
    monkeypatch.setattr("vaekit.commands.evaluate.measure_reconstructions", pytest.fail)
    assert command(["evaluate", str(run), "--features", "none", "--normal", "fine"]) == 2
    assert "no class fine among the labels; there are bad, good" in capsys.readouterr().err


@pytest.mark.parametrize(("num_images", "warned"), [(2047, True), (2048, False)])
def test_distances_of_fewer_than_2048_pictures_come_with_a_warning(num_images, warned):
    assert bool(few_images(num_images)) == warned


def test_labels_that_were_edited_are_measured_anew(run, folder, tmp_path):
    rows = [f"{name}/{i:02d}.png,{name}" for name in ("bad", "good") for i in range(20)]
    labels = tmp_path / "labels.csv"
    labels.write_text("file,label\n" + "\n".join(rows))
    evaluate_run(run, features="none", labels=labels)
    before = evaluate_run(run, features="none", labels=labels, reuse=True)
    assert evaluate_run(run, features="none", labels=labels, reuse=True) == before
    labels.write_text("file,label\n" + "\n".join(row.replace("00.png,bad", "00.png,good") for row in rows))
    assert evaluate_run(run, features="none", labels=labels, reuse=True)["protocol"] != before["protocol"]


def test_numbers_of_other_priors_are_measured_anew(run):
    """Those that an evaluation fits itself are its own: they are there when it is asked again."""
    measured = evaluate_run(run, features="none")
    assert evaluate_run(run, features="none", reuse=True).measuring_sec == measured.measuring_sec
    vae = VAE.from_pretrained(run)
    gaussian = dataclasses.replace(vae.priors["gaussian"], mean=torch.ones(vae.latent_dim))
    vae.set_prior("gaussian", gaussian)
    keep("gaussian", run, vae)
    assert evaluate_run(run, features="none", reuse=True).generation["gaussian"] != measured.generation["gaussian"]


def test_a_result_of_another_version_is_measured_again(run):
    evaluate_run(run, features="none")
    path = run / "evaluation.json"
    earlier = json.loads(path.read_text())
    earlier["protocol"]["version"] = 0
    path.write_text(json.dumps(earlier | {"a key of that version": 1}))
    assert evaluate_run(run, features="none", reuse=True).protocol["version"] == PROTOCOL_VERSION


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_run_trained_on_another_device_is_measured_on_the_one_there_is(run):
    vae = VAE.from_pretrained(run)
    config = dataclasses.replace(Config.from_json(vae.config_json), device="cuda", precision="fp16")
    vae.config_json = config.to_json()
    vae.save_pretrained(run)
    assert evaluate_run(run, features="none")["protocol"]["device"] != "cuda"


def test_a_limit_takes_that_many_pictures(run):
    assert evaluate_run(run, features="none", limit=5)["protocol"]["pictures"]["num_images"] == 5


def test_of_very_many_pictures_some_are_measured_and_some_encoded(run, monkeypatch):
    whole = evaluate_run(run, features="none")
    dim = VAE.from_pretrained(run).latent_dim
    monkeypatch.setattr("vaekit.commands.evaluate.MOST_MEASURED", 6)
    monkeypatch.setattr("vaekit.runs.prior.MOST_NUMBERS", 20 * dim)
    lines = []
    some = evaluate_run(run, features="none", say=lines.append)
    assert some.protocol["pictures"]["num_images"] == 6
    assert any("6 of 8 test pictures" in line and "--limit" in line for line in lines)
    assert whole.usefulness["linear_num_train"] == 32
    assert some.usefulness["linear_num_train"] == 20  # each with its own label
    assert some.generation.keys() == whole.generation.keys()


def test_mistakes_are_one_clear_line(run, folder, tmp_path, capsys):
    (tmp_path / "few.csv").write_text("bad/00.png,a\nbad/01.png,b\n")
    inception = "no weights in" if find_spec("torch_fidelity") else "need torch-fidelity"
    for arguments, message in {
        (str(tmp_path / "nothing"),): "no model in",
        (str(run), str(tmp_path / "nowhere")): "there is no folder",
        (str(run), "--limit", "1"): "two or more are needed; name a folder with more, or raise --limit",
        (str(run), "--labels", str(tmp_path / "few.csv")): "has no label for 38 of 40 pictures",
        (str(run), "--features", "inception", "--weights", str(tmp_path / "none.pth")): inception,
    }.items():
        assert command(["evaluate", *arguments]) == 2, arguments
        error = capsys.readouterr().err.strip().splitlines()
        assert message in error[-1]
        assert error[-1].startswith("vaekit: ")


@pytest.mark.filterwarnings("always")
def test_latents_that_are_not_finite_are_one_clear_line(run, capsys):
    vae = VAE.from_pretrained(run)
    torch.nn.init.constant_(vae.encoder.mean.bias, float("nan"))
    vae.kept = {"normal": vae.kept["normal"]}
    vae.save_pretrained(run)
    assert command(["evaluate", str(run), "--features", "none"]) == 2
    *lines, error = capsys.readouterr().err.strip().splitlines()
    told = "was fitted to other weights than these; it is not used: vaekit fit-prior --kind flow fits it again"
    assert any(line.startswith("WARNING: ") and line.endswith(told) for line in lines)
    assert "not finite" in error


def size(path):
    with Image.open(path) as picture:
        return picture.size


def test_samples_come_from_either_prior_as_one_picture_or_many(run, tmp_path):
    one = sample_run(run, "gaussian-mixture", 9)
    assert size(one) == (3 * 128 + 4, 3 * 128 + 4)
    many = sample_run(run, "normal", 3, out=tmp_path / "out")
    assert sorted(path.name for path in many.glob("*.png")) == ["000000.png", "000001.png", "000002.png"]
    with pytest.raises(ValueError, match="already holds files; give an empty folder"):
        sample_run(run, "normal", 2, out=tmp_path / "out")
    assert len(find_pictures(tmp_path / "out").pictures) == 3  # named by itself, it is a folder of pictures
    with pytest.raises(ValueError, match="holds no picture"):
        find_pictures(tmp_path)  # but nobody learns from it who names the folder around it


def test_the_fitted_prior_is_kept_until_the_model_changes(run):
    sample_run(run, "gaussian-mixture", 1)
    kept = (run / "prior.safetensors").stat().st_mtime_ns
    sample_run(run, "gaussian-mixture", 1)
    assert (run / "prior.safetensors").stat().st_mtime_ns == kept
    vae = VAE.from_pretrained(run)
    with torch.no_grad():
        vae.decoder.layers[-1].bias += 1
    vae.kept = {"normal": vae.kept["normal"]}
    vae.save_pretrained(run)
    with pytest.warns(UserWarning, match="other weights than these"):
        sample_run(run, "gaussian-mixture", 1)
    assert (run / "prior.safetensors").stat().st_mtime_ns > kept
    assert GaussianMixturePrior.load(run / "prior.safetensors").mean.shape[1] == 16


def test_a_seed_draws_the_same_samples_and_another_seed_others(run, tmp_path):
    def drawn(seed):
        return sample_run(run, "normal", 1, seed=seed).read_bytes()

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_grey_pictures_are_measured_too(tiny, folder, tmp_path):
    train(dataclasses.replace(tiny, channels=1), folder, tmp_path / "grey")
    assert evaluate_run(tmp_path / "grey", limit=4)["reconstruction"]["sampled"]["fd_effnet"] > 0
