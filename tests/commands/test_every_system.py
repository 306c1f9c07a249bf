"""What a user does with a model, for every objective in the table: train, go on, measure, draw, use, share."""

import dataclasses
import json
import math
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import vaekit
from small import of_objective
from vaekit.cli import run
from vaekit.commands import evaluate
from vaekit.config.presets import model_config
from vaekit.config.priors import PRIORS
from vaekit.config.settings import Config
from vaekit.config.variants import OBJECTIVES
from vaekit.export import explorer
from vaekit.models.kept import standard_normal
from vaekit.runs.checkpoint import all_checkpoints
from vaekit.system.files import read_tensors

ANY = OBJECTIVES["global"]
OF_OTHER_NETWORKS = {row.network: name for name, row in OBJECTIVES.items() if row.network != ANY.network}.values()
# Points and codes of two levels, Gaussians of two, a map before the decoder.
EXPORTED = ("vq2", "hierarchical", "flow")


def each(names):
    """A test for each of some objectives."""
    return pytest.mark.parametrize("objective", names)


every_objective = each(OBJECTIVES)
of_points = each([name for name, row in OBJECTIVES.items() if row.points])


class Runs:
    """A finished run of each objective by its name, trained when it is first asked for."""

    def __init__(self, tiny, photos, folder, figures):
        self.tiny, self.photos, self.folder, self.figures = tiny, photos, folder, figures

    def __truediv__(self, name):
        run = self.folder / name
        if not run.is_dir():
            with self.figures():
                vaekit.train(of_objective(self.tiny, name), self.photos, run)
            vaekit.evaluate_run(run, features="none")
        return run


@pytest.fixture(scope="module")
def runs(tiny, photos, tmp_path_factory, figures):
    return Runs(tiny, photos, tmp_path_factory.mktemp("runs"), figures)


@each(["global", "sigma", "lagging", "vae-gan", *OF_OTHER_NETWORKS])
def test_an_interrupted_run_goes_on_bit_for_bit(tiny, photos, tmp_path, objective):
    own = {"micro_batch": 2, "save_every_minutes": 1e-9, "prior": "gaussian"}
    config = dataclasses.replace(of_objective(tiny, objective), **own)
    vaekit.train(config, photos, tmp_path / "whole")

    def stop(record):
        if record["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vaekit.train(config, photos, tmp_path / "halves", on_step=stop)
    assert 0 < int(all_checkpoints(tmp_path / "halves")[-1].name) < 6
    vaekit.train(config, photos, tmp_path / "halves", resume=True)
    whole, halves = (read_tensors(tmp_path / name / "model.safetensors")[0] for name in ("whole", "halves"))
    assert whole.keys() == halves.keys()
    assert all(torch.equal(whole[name], halves[name]) for name in whole)


@every_objective
def test_what_is_measured_is_finite_or_said_to_be_missing(runs, objective):
    result = vaekit.evaluate_run(runs / objective, features="none", reuse=True)
    assert all(math.isfinite(value) for values in result.reconstruction.values() for value in values.values())
    points = OBJECTIVES[objective].points
    assert ("KL and rate" in result.not_measured) == points
    assert (result.latents["elbo_split"] is None) == points
    assert points or result.verdict["state"] != "points"
    assert not re.search(r"\b(nan|inf|None)\b", result.markdown())
    if points:  # 4 test pictures do not span 16 entries
        assert result.latents["kl_full_gaussian"] is None  # infinite, which JSON has not
        assert "with correlations" not in result.markdown()


@every_objective
@pytest.mark.parametrize("prior", PRIORS)
def test_new_pictures_come_from_every_prior(runs, tmp_path, objective, prior):
    if PRIORS[prior].trained and not OBJECTIVES[objective].learned_prior:
        with pytest.raises(ValueError, match=r"no learned prior; these train one: --objective hierarchical or"):
            vaekit.sample_run(runs / objective, prior, 2, out=tmp_path / "new")
        return
    if PRIORS[prior].takes_minutes and prior != of_objective(Config(size=16), objective).fitted_prior:
        said = "since it has no codes" if prior == "codes" else "fit one, which takes minutes"
        with pytest.raises(ValueError, match=said):
            vaekit.sample_run(runs / objective, prior, 2, out=tmp_path / "new")
        return
    vaekit.sample_run(runs / objective, prior, 2, out=tmp_path / "new")
    assert len(list((tmp_path / "new").glob("*.png"))) == 2
    model = vaekit.VAE.from_pretrained(runs / objective)
    assert model.sample(2, prior=prior).isfinite().all()


@every_objective
def test_latents_of_pictures_decode_to_their_reconstructions(runs, photos, tmp_path, objective):
    table = vaekit.encode_run(runs / objective, [photos], tmp_path / "latents.npz")
    vaekit.decode_run(runs / objective, table, tmp_path / "decoded")
    vaekit.reconstruct_run(runs / objective, [photos], tmp_path / "reconstructed")
    decoded = list((tmp_path / "decoded").glob("*.png"))
    assert len(decoded) == 20
    for path in decoded:
        again = np.asarray(Image.open(tmp_path / "reconstructed" / path.name), int)
        assert np.abs(np.asarray(Image.open(path), int) - again).max() <= 1


@each(EXPORTED)
def test_other_networks_leave_as_onnx_and_archives_and_are_what_a_page_is_told(runs, tmp_path, objective):
    pytest.importorskip("onnxscript")
    vaekit.export_run(runs / objective, pt2=tmp_path / "pt2")  # refuses above a difference of 0.001
    vae = vaekit.VAE.from_pretrained(runs / objective)
    if (explorer.PAGE / explorer.RUNTIME / explorer.LAST_OF_RUNTIME).is_file():
        vaekit.export_run(runs / objective, web=tmp_path / "page")
        page = json.loads((tmp_path / "page" / explorer.MODEL / explorer.ABOUT).read_text())
        assert page["prior"] in [prior["name"] for prior in page["priors"]]
    else:
        vaekit.export_run(runs / objective, onnx=tmp_path / "onnx")  # which a page has in it
    about = json.loads(json.dumps(explorer.about_model(runs / objective, vae, ()), allow_nan=False))
    assert sorted(about["entries"]["order"]) == list(range(vae.latent_dim))


@of_points
def test_the_latents_of_points_have_no_width_and_the_weights_of_a_vae(tiny, objective):
    """The same seed gives the same first weights, of all that the two have in common."""
    if OBJECTIVES[objective].two_levels:
        pytest.skip("another network")
    torch.manual_seed(0)
    vae = vaekit.build_vae(tiny)
    torch.manual_seed(0)
    points = vaekit.build_vae(dataclasses.replace(tiny, objective=objective))
    expected = {name: value for name, value in vae.state_dict().items() if not name.startswith("encoder.logvar")}
    assert expected.keys() == {name for name in points.state_dict() if "decoder.front" not in name}
    assert all(torch.equal(value, points.state_dict()[name]) for name, value in expected.items())
    posterior = points.encode(torch.zeros(2, *tiny.image_shape))
    assert posterior.points
    assert torch.equal(posterior.sample(), posterior.mean)


@each(OF_OTHER_NETWORKS)
def test_a_run_does_not_change_to_other_networks_on_the_way(runs, photos, tiny, objective):
    for name, other in ((objective, "global"), ("global", objective)):
        longer = dataclasses.replace(of_objective(tiny, other), images=48)
        with pytest.raises(ValueError, match=r"cannot change objective .* begin another run"):
            vaekit.train(longer, photos, runs / name, resume=True, change_settings=True)
        with pytest.raises(ValueError, match=r"leave these out to go on as it began$"):  # which alone is possible
            vaekit.train(longer, photos, runs / name, resume=True)


@every_objective
def test_weights_of_another_objective_are_refused(photos, capsys, objective):
    names = {name for row in OBJECTIVES.values() for name in row.weights}
    for name in sorted(names - {*OBJECTIVES[objective].weights}):
        flag = f"--weights.{name.replace('_', '-')}"
        assert run(["train", str(photos), "--objective", objective, flag, "7", "--dry-run"]) == 2
        assert f"{flag} 7 has no effect on --objective {objective}: it is a weight of" in capsys.readouterr().err


def test_moments_are_refused_by_an_objective_without_them(photos, capsys):
    assert run(["train", str(photos), "--objective", "ae", "--moments", "samples", "--dry-run"]) == 2
    assert "--moments samples has no effect on --objective ae" in capsys.readouterr().err


def test_weights_of_the_discriminator_are_refused_without_one(photos, capsys):
    assert run(["train", str(photos), "--no-gan", "--weights.realism", "7"]) == 2
    assert "--weights.realism 7 has no effect: there is no discriminator" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        "--minutes 5 --images 1000",
        "--preset paper --network.max-channels 99",
        "--preset paper --optimizer.momentum 0.5",
    ],
)
def test_settings_that_other_settings_leave_without_effect_are_refused(photos, capsys, options):
    assert run(["train", str(photos), *options.split(), "--dry-run"]) == 2
    assert "has no effect" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["compare PHOTOS", "bench"])
def test_a_comparison_and_a_benchmark_have_one_length_too(photos, capsys, command):
    assert run([*command.replace("PHOTOS", str(photos)).split(), "--minutes", "5", "--images", "1000"]) == 2
    assert "--images 1000 has no effect: --minutes is the length of the run" in capsys.readouterr().err


def test_a_weight_named_for_a_model_of_a_comparison_is_one_that_it_reads():
    with pytest.raises(
        ValueError, match=r"--weights.mmd 7 has no effect on --objective global: it is a weight of wae-mmd"
    ):
        model_config(vaekit.preset("fast"), "total:weights.mmd=7")
    assert model_config(vaekit.preset("fast"), "wae-mmd:weights.mmd=7").weights.mmd == 7


@pytest.mark.parametrize(
    ("model", "setting"),
    [
        ("standard", "network.codes=64"),
        ("standard", "network.pseudo_inputs=7"),
        ("standard", "encoder_steps=9"),
        ("ae", "moments=samples"),
        ("standard", "discriminator.norm=none"),
        ("ae", "optimizer.discriminator_lr=0.1"),
        ("vae-gan", "discriminator.start=0.5"),
    ],
)
def test_settings_that_have_no_effect_are_refused_in_a_comparison_and_in_a_training(photos, capsys, model, setting):
    with pytest.raises(ValueError, match="has no effect"):
        model_config(vaekit.preset("fast"), f"{model}:{setting}")
    name, _, value = setting.partition("=")
    command = ["train", str(photos), "--objective", model, f"--{name.replace('_', '-')}", value, "--dry-run"]
    assert run(command + ["--no-gan"] * (model != "vae-gan")) == 2
    assert "has no effect" in capsys.readouterr().err


@pytest.mark.parametrize(
    "model", ["lagging:encoder_steps=9", "vae-gan:discriminator.norm=none", "wae-gan:optimizer.discriminator_lr=0.1"]
)
def test_settings_of_a_system_are_taken_where_it_is_named(model):
    assert model_config(vaekit.preset("fast"), model)


def test_reports_describe_the_codes_that_the_decoder_sees(runs, monkeypatch):
    """And not the points before they are taken to their codes."""
    diagnosed, diagnose = [], evaluate.diagnose
    monkeypatch.setattr(evaluate, "diagnose", lambda *given: diagnosed.append(given[0]) or diagnose(*given))
    vaekit.evaluate_run(runs / "vq", features="none")
    codebook = vaekit.VAE.from_pretrained(runs / "vq").codebook
    torch.testing.assert_close(codebook.nearest(diagnosed[0].mean), diagnosed[0].mean, rtol=0, atol=1e-2)


def test_an_entry_that_never_varies_is_said_and_stops_no_report(runs, tmp_path):
    """As in a latent that an autoencoder has no use for."""
    vae = vaekit.VAE.from_pretrained(runs / "ae")
    with torch.no_grad():
        vae.encoder.mean.weight[0] = 0
    vae.kept = standard_normal(vae.latent_dim)  # the others are of the weights before
    shutil.copytree(runs / "ae", tmp_path / "ae", ignore=shutil.ignore_patterns("prior*"))
    vae.save_pretrained(tmp_path / "ae")
    result = vaekit.evaluate_run(tmp_path / "ae", features="none")
    assert not result.verdict["ok"]
    again = type(result).from_json(result.to_json())
    for found in (result, again):
        assert "KL_G (eq. 20) infinite: an entry is the same for all pictures" in found.markdown()
        assert not re.search(r"\b(nan|inf|None)\b", found.markdown())
