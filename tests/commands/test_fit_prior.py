"""What new pictures are drawn from: fitted at the end of a training, again by a command, and by label."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from vaekit import VAE, evaluate_run, fit_prior_run, sample_run, train
from vaekit.cli import run as command
from vaekit.commands import fit_prior
from vaekit.commands.sample import label_name
from vaekit.config.priors import COPIES, PICTURES, PRIORS, WEIGHTS
from vaekit.data.loader import HeldOut, evenly
from vaekit.measures.copying import Copying
from vaekit.models.batches import encode_batches
from vaekit.priors.base import fitted_by
from vaekit.runs.checkpoint import all_checkpoints
from vaekit.runs.folder import config_of, trained_on
from vaekit.runs.lock import claimed
from vaekit.runs.prior import compared_with, latents_of
from vaekit.system.files import read_metadata, read_tensors, write_tensors

OF_ALL = [name for name, row in PRIORS.items() if not (row.trained or row.of_codes)]

FLOW, GAUSSIAN = "prior-flow.safetensors", "prior-gaussian.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Dark and light pictures in class folders, thirty each."""
    folder = tmp_path_factory.mktemp("lit")
    random = np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 128)):
        (folder / name).mkdir()
        for i in range(30):
            coarse = Image.fromarray(random.integers(low, low + 128, (3, 3, 3), dtype=np.uint8))
            coarse.resize((20, 20)).save(folder / name / f"{i:02d}.png")
    return folder


@pytest.fixture(autouse=True, scope="module")
def short_fits():
    """Flows that have learned little, but in the tests that ask for more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_prior, "length_of_fit", lambda seen: (2048, min(int(3 * seen), 512)))
        yield


@pytest.fixture(scope="module")
def trained(tiny, folder, tmp_path_factory):
    """A run of long enough that its latents tell dark from light."""
    run = tmp_path_factory.mktemp("runs") / "lit"
    train(dataclasses.replace(tiny, images=1600, lr=3e-3), folder, run)
    return run


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def test_a_finished_run_has_a_gaussian_and_a_flow_and_draws_from_the_flow(run):
    vae = VAE.from_pretrained(run)
    assert list(vae.priors) == ["normal", "gaussian", "flow"]
    assert vae.prior_name == "flow"
    assert vae.prior.conditions.names == ("dark", "light")
    assert vae.sample(2).shape == (2, 3, 16, 16)
    assert vae.prior.log_prob(vae.draw(3)).isfinite().all()
    assert sample_run(run, num_images=4).name == "samples-flow.png"


def test_the_model_that_train_returns_has_them_too(tiny, photos, tmp_path):
    vae = train(tiny, photos, tmp_path / "run")
    assert vae.prior_name == "flow"
    kept = VAE.from_pretrained(tmp_path / "run")
    draws = [each.draw(3, torch.Generator().manual_seed(0)) for each in (vae, kept)]
    torch.testing.assert_close(*draws)


@pytest.mark.parametrize("prior", ["gaussian", "gaussian-mixture"])
def test_what_is_fitted_at_the_end_is_chosen(tiny, photos, prior, tmp_path):
    vae = train(dataclasses.replace(tiny, prior=prior), photos, tmp_path / "run")
    assert vae.prior_name == prior
    assert not (tmp_path / "run" / FLOW).exists()


@pytest.fixture(scope="module")
def fitted_long(trained, tmp_path_factory):
    """The same run with a flow that had the time to tell the classes apart."""
    run = shutil.copytree(trained, tmp_path_factory.mktemp("runs") / "fitted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_prior, "length_of_fit", lambda seen: (2048, 28_000))
        fit_prior_run(run)
    return run


def test_a_label_draws_pictures_of_its_class(fitted_long, tmp_path):
    run = fitted_long
    brightness = {}
    for label in ("dark", "light"):
        out = sample_run(run, num_images=24, out=tmp_path / label, label=label)
        brightness[label] = np.mean([np.asarray(Image.open(path)).mean() for path in out.glob("*.png")])
    assert brightness["light"] > brightness["dark"] + 40
    assert sample_run(run, num_images=4, label="dark").name == "samples-flow-dark.png"


def test_a_run_of_before_gets_a_flow_and_says_how_long_it_took(run):
    (run / FLOW).unlink()
    (run / GAUSSIAN).unlink()
    assert VAE.from_pretrained(run).prior_name == "normal"
    said = []
    assert fit_prior_run(run, say=said.append) == run / FLOW
    assert VAE.from_pretrained(run).prior_name == "flow"
    assert any("held-out loss" in line for line in said)
    assert (run / GAUSSIAN).exists()


def test_an_interrupted_fit_goes_on_and_leaves_nothing(run, monkeypatch):
    monkeypatch.setattr(fit_prior, "KEPT_EVERY_SEC", 0.0)
    saved = []

    def save_twice(*arguments):
        saved.append(real(*arguments))
        if len(saved) == 2:
            raise KeyboardInterrupt

    real = fit_prior.save_checkpoint
    monkeypatch.setattr(fit_prior, "save_checkpoint", save_twice)
    before = (run / FLOW).read_bytes()
    with pytest.raises(KeyboardInterrupt):
        fit_prior_run(run)
    assert (run / FLOW).read_bytes() == before
    assert [len(all_checkpoints(place)) for place in (run / fit_prior.UNFINISHED).iterdir()] == [2]
    said = []
    fit_prior_run(run, say=said.append)
    assert any("going on with a fit that was interrupted at step 2" in line for line in said)
    assert not (run / fit_prior.UNFINISHED).exists()
    assert all(torch.equal(tensor, read_tensors(run / FLOW)[0][name]) for name, tensor in tensors_of(before, run))


def tensors_of(content, run):
    """The tensors in the bytes of a file."""
    (run / "before").write_bytes(content)
    return read_tensors(run / "before")[0].items()


def test_a_flow_that_copies_is_told_and_not_the_default(run, monkeypatch):
    monkeypatch.setattr(fit_prior, "check_copies", lambda *_: Copying(0.5, 0.02, 0.1, 0.8, 500))
    said = []
    fit_prior_run(run, say=said.append)
    assert any("they repeat training pictures; the flow is not used" in line for line in said)
    assert read_metadata(run / FLOW)[COPIES] == "yes"
    assert VAE.from_pretrained(run).prior_name == "gaussian"
    assert sample_run(run, num_images=4).name == "samples-gaussian.png"


def test_copies_are_looked_for_among_the_pictures_that_were_fitted(run, monkeypatch):
    fitted_to, compared = [], []
    real_latents, real_small = fit_prior.latents_of, fit_prior.small_of
    monkeypatch.setattr(fit_prior, "FEWEST", 10)
    monkeypatch.setattr(fit_prior, "length_of_fit", lambda seen: (20, 200))
    monkeypatch.setattr(fit_prior, "latents_of", lambda *args: fitted_to.append(real_latents(*args)) or fitted_to[-1])
    monkeypatch.setattr(
        fit_prior, "small_of", lambda images, chosen: compared.append(chosen) or real_small(images, chosen)
    )
    fit_prior_run(run)
    assert len(fitted_to[0].mean) == len(compared[0]) == 20
    assert read_metadata(run / FLOW)[PICTURES] == "20"
    vae = VAE.from_pretrained(run)
    assert vae.kept["flow"].pictures == 20
    of_flow = evenly(1000, 20)
    assert set(of_flow) <= set(compared_with(vae, np.arange(1000))), "an evaluation knows them"


def test_priors_are_fitted_to_the_pictures_as_they_are_also_where_a_run_mirrors_them(run):
    vae = VAE.from_pretrained(run)
    config = config_of(run, vae)
    assert config.flip
    prepared, train_places = trained_on(run, config)
    latents = latents_of(vae, config, prepared, train_places, 1000)
    expected = encode_batches(vae, HeldOut(prepared.images, train_places).batches(10))
    torch.testing.assert_close(latents.mean, expected.mean)


def test_draws_are_compared_with_reconstructions_and_few_pictures_are_told(run, monkeypatch):
    said = []
    fit_prior_run(run, say=said.append)
    assert said[-1].startswith("too few pictures to tell whether draws of the flow repeat training pictures")
    monkeypatch.setattr(fit_prior, "FEWEST", 10)
    found = []
    real = fit_prior.copying
    monkeypatch.setattr(fit_prior, "copying", lambda *sets: found.append(sets) or real(*sets))
    fit_prior_run(run, say=said.append)
    new, usual, train = found[0]
    assert new.shape == usual.shape == (12, 768)
    assert train.shape == (48, 768)
    assert not torch.equal(new, usual)


def test_what_an_interrupted_fit_left_is_not_used_by_another_one(run, monkeypatch):
    monkeypatch.setattr(fit_prior, "KEPT_EVERY_SEC", 0.0)

    def stop(*arguments):
        real(*arguments)
        raise KeyboardInterrupt

    real = fit_prior.save_checkpoint
    monkeypatch.setattr(fit_prior, "save_checkpoint", stop)
    with pytest.raises(KeyboardInterrupt):
        fit_prior_run(run, minutes=60)
    monkeypatch.setattr(fit_prior, "save_checkpoint", real)
    said = []
    fit_prior_run(run, minutes=0.02, say=said.append)
    assert not any("going on" in line for line in said)


def test_a_fit_that_fails_leaves_a_finished_run_with_its_model(tiny, photos, tmp_path, monkeypatch, capsys):
    def fail(*arguments, **options):
        raise OSError("No space left on device")

    monkeypatch.setattr(fit_prior, "keep", fail)
    train(tiny, photos, tmp_path / "run")
    assert "no prior for new pictures: No space left on device" in " ".join(capsys.readouterr().err.split())
    assert VAE.from_pretrained(tmp_path / "run").prior_name == "normal"
    train(tiny, photos, tmp_path / "run", resume=True)
    assert "is finished" in capsys.readouterr().err


def test_a_continued_training_removes_the_priors_of_before(tiny, photos, tmp_path):
    train(tiny, photos, tmp_path / "run")
    fit_prior_run(tmp_path / "run", "gaussian-mixture")
    longer = dataclasses.replace(tiny, images=2 * tiny.images)
    train(longer, photos, tmp_path / "run", resume=True, change_settings=True)
    assert list(VAE.from_pretrained(tmp_path / "run").priors) == ["normal", "gaussian", "flow"]


def test_two_fits_of_a_run_at_once_are_refused(run):
    with claimed(run, first=True), pytest.raises(ValueError, match="another process is training"):
        fit_prior_run(run)


def test_labels_that_cannot_be_used_are_told(tiny, folder, tmp_path, capsys):
    flat = tmp_path / "flat"
    flat.mkdir()
    for i, path in enumerate(sorted(folder.rglob("*.png"), key=lambda path: path.name)):  # dark and light in turn
        shutil.copy(path, flat / f"{i:02d}.png")
    (flat / "labels.csv").write_text("file,label\n00.png,a\n01.png,b\n")
    train(tiny, flat, tmp_path / "run")
    assert "the labels are not used: labels.csv has no label for 58" in " ".join(capsys.readouterr().err.split())
    assert VAE.from_pretrained(tmp_path / "run").prior.conditions.names == ()


def test_a_class_that_was_not_trained_on_cannot_be_drawn(tiny, folder, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    lines = ["file,label"]
    for i, path in enumerate(sorted(folder.rglob("*.png"), key=lambda path: path.name)):  # dark and light in turn
        shutil.copy(path, flat / f"{i:02d}.png")
        lines.append(f"{i:02d}.png,{'ab'[i % 2] if i < 50 else 'c'}")  # the last ones are only tested on
    (flat / "labels.csv").write_text("\n".join(lines))
    train(tiny, flat, tmp_path / "run")
    with pytest.raises(ValueError, match="no label 'c' in this prior; it knows a, b"):
        sample_run(tmp_path / "run", num_images=1, label="c")


def test_a_probe_of_real_pictures_tells_the_classes_of_new_ones(fitted_long, tmp_path):
    result = evaluate_run(fitted_long, out=tmp_path, features="none")
    found = result.by_label["class"]
    assert found["test"] > 0.9
    assert found["drawn"] > 0.9
    assert found["majority"] == pytest.approx(0.5)
    assert "new pictures by label" in result.markdown()


def test_a_flow_that_confuses_the_classes_is_seen_by_the_probe(fitted_long, tmp_path):
    run = shutil.copytree(fitted_long, tmp_path / "run")
    vae = VAE.from_pretrained(run)
    rows = vae.prior.network.label.weight
    rows[[0, 1]] = rows[[1, 0]]
    vae.save_pretrained(run)
    assert evaluate_run(run, features="none").by_label["class"]["drawn"] < 0.2


def test_with_other_labels_the_probe_is_missing_with_the_reason(run, tmp_path):
    path = tmp_path / "other.csv"
    names = [f"{name}/{i:02d}.png" for name in ("dark", "light") for i in range(30)]
    path.write_text("\n".join(f"{name},{'ab'[i % 2]}" for i, name in enumerate(names)))
    result = evaluate_run(run, features="none", labels=path)
    assert result.by_label == {}
    assert "fitted with the labels dark, light" in result.not_measured["labels of new pictures"]


def test_attributes_of_a_table_can_be_asked_for_one_by_one_and_together(tiny, tmp_path, monkeypatch, capsys):
    """Pictures that are dark or light, and reddish or bluish, in all four ways."""
    random = np.random.default_rng(0)
    photos = tmp_path / "photos"
    photos.mkdir()
    lines = ["file,light,red"]
    for i in range(80):
        light, red = i % 2, i // 2 % 2
        pixels = random.integers(60, 100, (4, 4, 3)) + 100 * light
        pixels[..., 2 * red] -= 60
        Image.fromarray(pixels.astype(np.uint8)).resize((20, 20)).save(photos / f"{i:02d}.png")
        lines.append(f"{i:02d}.png,{light},{red}")
    (photos / "labels.csv").write_text("\n".join(lines))
    run = tmp_path / "run"
    train(dataclasses.replace(tiny, images=1600, lr=3e-3, prior="gaussian"), photos, run)
    monkeypatch.setattr(fit_prior, "length_of_fit", lambda seen: (2048, 28_000))
    fit_prior_run(run, "flow")
    assert "2 attributes in labels.csv: light, red" in " ".join(capsys.readouterr().err.split())

    def drawn(*label):
        out = sample_run(run, num_images=24, out=tmp_path / "-".join(label), label=label)
        pictures = np.stack([np.asarray(Image.open(path)).astype(float) for path in out.glob("*.png")])
        return pictures.mean(), (pictures[..., 0] - pictures[..., 2]).mean()

    assert drawn("light")[0] > drawn("light=0")[0] + 50
    assert drawn("light", "red")[1] > drawn("light", "red=0")[1] + 50
    assert sample_run(run, num_images=4, label=("light", "red")).name == "samples-flow-light-red.png"
    with pytest.raises(ValueError, match="no label 'old' in this prior; it knows light, red"):
        sample_run(run, num_images=1, label="old")
    found = evaluate_run(run, features="none")
    assert list(found.by_label) == ["light", "red"]
    light, red = found.by_label.values()
    assert min(light["test"], red["test"]) > 0.85
    assert light["drawn"] + red["drawn"] > 1.4  # of 2, where guessing has 1
    assert "new pictures by label" in found.markdown()


def test_labels_have_files_of_their_own():
    assert len({label_name(label) for label in ("a b", "a/b", "a-b", "微笑", "中性")}) == 5
    assert label_name("dark") == "dark"


def test_an_evaluation_has_a_row_for_every_prior_a_perfect_one_and_train_pictures(run):
    result = evaluate_run(run)
    assert list(result.generation) == [*OF_ALL, "posteriors", "train"]
    for name in (*OF_ALL, "posteriors"):
        assert 0 <= result.generation[name]["copied_pixels"] <= 1
        assert result.generation[name]["sd_effnet"] > 0
    assert (run / "figures" / "samples_nearest.png").is_file()
    (run / FLOW).unlink()
    again = evaluate_run(run)
    assert "vaekit fit-prior" in again.not_measured["flow"]
    assert "flow" not in again.generation


def test_decoded_latents_of_train_pictures_count_as_copies(run):
    """The measure is one of something: what a perfect memory would draw is found."""
    result = evaluate_run(run, features="none")
    assert result.generation["posteriors"]["copied_pixels"] > result.generation["gaussian"]["copied_pixels"]


def test_a_prior_of_an_earlier_version_still_draws(run, tmp_path):
    fit_prior_run(run, "gaussian-mixture")
    path = run / fitted_by("gaussian-mixture").file
    tensors, about = read_tensors(path)
    write_tensors(tensors, path, {name: value for name, value in about.items() if name != WEIGHTS})
    (run / FLOW).unlink()
    with pytest.warns(UserWarning, match="of an earlier version, and may be of other weights"):
        assert VAE.from_pretrained(run).prior_name == "gaussian-mixture"
    with pytest.warns(UserWarning, match="earlier version"):
        assert sample_run(run, "gaussian-mixture", 4).is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit-prior", "RUN", "--minutes", "0"], "0 minutes; a fit takes more than 0"),
        (["fit-prior", "RUN", "--kind", "gaussian", "--minutes", "1"], "a Gaussian is fitted without a length"),
        (["fit-prior", "nowhere"], "no model in nowhere"),
        (["sample", "RUN", "--temperature", "0"], "temperature 0; it must be above 0"),
        (["sample", "RUN", "--temperature", "-1"], "temperature -1"),
        (["sample", "RUN", "--label", "grey"], "no label 'grey' in this prior; it knows dark, light"),
        (["sample", "RUN", "--prior", "gaussian", "--label", "dark"], "the prior gaussian takes no label"),
        (["sample", "RUN", "--label", "dark", "--guidance", "-2"], "guidance -2"),
        (["sample", "RUN", "--count", "0"], "0 samples; ask for one or more"),
    ],
    ids=lambda value: " ".join(value[:4]) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line(run, arguments, message, capsys):
    assert command([str(run) if argument == "RUN" else argument for argument in arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert message in error[-1]
    assert error[-1].startswith("vaekit: ")


def test_without_pictures_a_run_draws_from_what_it_has(tiny, folder, tmp_path, capsys):
    pictures = shutil.copytree(folder, tmp_path / "pictures")
    train(tiny, pictures, tmp_path / "run")
    shutil.rmtree(pictures)
    assert sample_run(tmp_path / "run", num_images=4).name == "samples-flow.png"
    (tmp_path / "run" / FLOW).unlink()
    assert sample_run(tmp_path / "run", num_images=4).name == "samples-gaussian.png"
    for arguments, message in (
        (["sample", "RUN", "--prior", "gaussian-mixture"], "are no longer in"),
        (["sample", "RUN", "--prior", "flow"], "has no flow; fit one, which takes minutes: vaekit fit-prior"),
        (["fit-prior", "RUN"], "are no longer in"),
    ):
        assert command([str(tmp_path / "run") if argument == "RUN" else argument for argument in arguments]) == 2
        assert message in capsys.readouterr().err
