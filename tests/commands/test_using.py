"""What people do with a finished model on pictures of their own."""

import csv
import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

import vaekit
from vaekit import VAE, LatentTable, read_picture, save_picture
from vaekit.cli import run as command
from vaekit.commands.latents import numbers_of
from vaekit.commands.towards import ENCODED, direction
from vaekit.measures.pictures import l1
from vaekit.models.kept import weights_sha256
from vaekit.runs.folder import config_of, trained_on
from vaekit.runs.prior import latents_of


@pytest.fixture(scope="module")
def trained(tiny, photos, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    vaekit.train(tiny, photos, run)
    return run


@pytest.fixture
def vae(trained):
    return VAE.from_pretrained(trained)


@pytest.fixture
def some(photos):
    """Three pictures."""
    return sorted(photos.iterdir())[:3]


def stacked(files, vae):
    return torch.cat([read_picture(file, vae) for file in files])


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".parquet"])
def test_encode_keeps_what_the_model_says_of_each_picture(trained, vae, some, suffix, tmp_path):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    path = vaekit.encode_run(trained, some, tmp_path / f"latents{suffix}")
    table = LatentTable.load(path)
    x = stacked(some, vae)
    posterior = vae.encode(x)
    assert table.files == [file.name for file in some]
    torch.testing.assert_close(table.mean, posterior.mean)
    torch.testing.assert_close(table.std, posterior.std)
    torch.testing.assert_close(table.kl, posterior.kl_standard())
    torch.testing.assert_close(table.l1, l1(x, vae.decode(posterior.mean)))
    assert table.model == weights_sha256(vae.state_dict())
    draws = vae.priors["gaussian"].sample(20_000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(table.train[0], draws.mean(0), atol=0.1, rtol=0)
    torch.testing.assert_close(table.train[1], draws.std(0), atol=0.1, rtol=0.05)


@pytest.mark.parametrize(("rows", "entries"), [(1, 1), (3, 1), (1, 4), (3, 4)])
def test_a_table_of_any_shape_is_read_as_it_was_written(rows, entries, tmp_path):
    pytest.importorskip("pyarrow")
    mean, std = torch.randn(2, rows, entries)
    files = [f"{i}.png" for i in range(rows)]
    path = LatentTable(files, mean, std, torch.rand(rows), torch.rand(rows), "model").save(tmp_path / "z.parquet")
    again = LatentTable.load(path)
    assert again.files == files
    assert torch.equal(again.mean, mean)
    assert torch.equal(again.std, std)
    assert again.kl.shape == (rows,)


@pytest.mark.parametrize(
    ("column", "reason"), [([[1.0, 2.0], [3.0]], "of different lengths"), ([[1.0], None], "some rows are empty")]
)
def test_a_table_whose_rows_do_not_fit_together_is_refused(column, reason):
    pyarrow = pytest.importorskip("pyarrow")
    with pytest.raises(ValueError, match=reason):
        numbers_of(pyarrow.chunked_array([column]))


def test_a_folder_is_encoded_under_the_names_of_its_pictures(trained, photos, tmp_path):
    table = LatentTable.load(vaekit.encode_run(trained, [photos], tmp_path / "all.npz"))
    assert table.files == sorted(file.name for file in photos.iterdir())


def test_decoded_latents_are_the_pictures_of_their_means(trained, vae, some, tmp_path):
    latents = vaekit.encode_run(trained, some, tmp_path / "latents.npz")
    out = vaekit.decode_run(trained, latents, tmp_path / "out")
    expected = vae.decode(LatentTable.load(latents).mean)
    for file, x_hat in zip(some, expected, strict=True):
        drawn = np.asarray(Image.open(out / f"{file.stem}.png")).astype(int)
        assert np.abs(drawn - ((x_hat.clamp(-1, 1) + 1) * 127.5).permute(1, 2, 0).numpy()).max() <= 1
    again = vaekit.reconstruct_run(trained, some, tmp_path / "again")
    for file in some:
        assert (again / f"{file.stem}.png").read_bytes() == (out / f"{file.stem}.png").read_bytes()


def test_two_pictures_of_one_stem_stay_two(trained, some, tmp_path):
    for suffix in ("png", "jpg", "webp"):
        Image.open(some[0]).convert("RGB").save(tmp_path / f"a.{suffix}")
    out = vaekit.reconstruct_run(trained, [tmp_path / f"a.{s}" for s in ("png", "jpg", "webp")], tmp_path / "out")
    assert {path.name for path in out.glob("*.png")} == {"a.png", "a.jpg.png", "a.webp.png"}


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_the_way_from_one_picture_to_another_begins_and_ends_at_them(trained, vae, some, suffix, tmp_path):
    out = vaekit.interpolate_run(trained, some[0], some[1], tmp_path / f"way.{suffix}", steps=5, straight=True)
    ends = vae.decode(vae.encode(stacked(some[:2], vae)).mean)
    ends = ((ends.clamp(-1, 1) + 1) * 127.5).permute(0, 2, 3, 1).numpy()
    side = vae.image_shape[1]
    with Image.open(out) as film:
        if suffix == "png":
            strip = np.asarray(film).astype(int)
            assert strip.shape == (side, 5 * side + 8, 3)
            found = strip[:, :side], strip[:, -side:]
        else:
            assert film.n_frames == 8  # there and back
            frames = []
            for i in (0, 4):
                film.seek(i)
                factor = film.width // side
                frames.append(np.asarray(film.convert("RGB")).astype(int)[::factor, ::factor])
            found = frames
    for drawn, expected in zip(found, ends, strict=True):
        assert np.abs(drawn - expected).mean() < (8 if suffix == "gif" else 1)  # a gif has 256 colours


def test_the_way_through_the_flow_has_the_same_ends(trained, some, tmp_path):
    ways = [
        np.asarray(Image.open(vaekit.interpolate_run(trained, *some[:2], tmp_path / f"{s}.png", 3, straight=s)))
        for s in (False, True)
    ]
    assert np.abs(ways[0][:, :16].astype(int) - ways[1][:, :16]).mean() < 3
    assert np.abs(ways[0][:, -16:].astype(int) - ways[1][:, -16:]).mean() < 3


def test_a_picture_is_varied_by_the_entries_that_vary_most_or_are_asked_for(trained, vae, some, tmp_path):
    said = []
    vaekit.vary_run(trained, some[0], tmp_path / "a.png", say=said.append)
    gaussian = vae.priors["gaussian"]
    variances = (gaussian.root @ gaussian.root).diagonal()
    a, b = variances.topk(2).indices.tolist()
    assert f"entries {a} (across) and {b} (down)" in said[0]
    vaekit.vary_run(trained, some[0], tmp_path / "b.png", entries=(a, b))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_anomalies_are_scored_sorted_and_drawn(trained, photos, tmp_path):
    (tmp_path / "some").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "some" / "03.jpg")  # the darkest that there can be
    out = vaekit.anomalies_run(trained, [photos, tmp_path / "some"], tmp_path / "found", by="darkness")
    rows = list(csv.DictReader((out / "scores.csv").read_text().splitlines()))
    assert len(rows) == 21
    assert (rows[0]["file"], float(rows[0]["darkness"])) == ("03.jpg", 1)
    scores = [float(row["darkness"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert float(rows[0]["error"]) > 0.5
    with Image.open(out / "maps" / "03.jpg.png") as picture:
        shown = np.asarray(picture)
    assert shown.shape == (16, 3 * 16 + 2 * 2, 3)
    assert (shown[:, :16] == 0).all()
    assert shown[:, -16:].mean() > 128  # where the error is large, light
    assert {path.name for path in (out / "maps").iterdir()} >= {"03.png", "03.jpg.png"}
    assert len(list((out / "maps").iterdir())) == 21
    assert (out / "highest.png").is_file()


def test_the_nearest_picture_is_the_picture_itself_and_distances_rise(trained, photos, some, tmp_path):
    found = vaekit.nearest_run(trained, some[1], [photos], count=5, out=tmp_path / "found.png")
    assert found[0] == (some[1].name, pytest.approx(0, abs=1e-5))
    distances = [distance for _, distance in found]
    assert distances == sorted(distances)
    assert len(found) == 5
    with Image.open(tmp_path / "found.png") as sheet:
        assert sheet.width > 5 * 16


def test_a_picture_read_and_saved_is_itself(vae, some, tmp_path):
    x = read_picture(some[0], vae)
    assert x.shape == (1, *vae.image_shape)
    save_picture(x, tmp_path / "deep" / "a.png")
    torch.testing.assert_close(read_picture(tmp_path / "deep" / "a.png", vae), x, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match=r"a picture of shape \(2, 3, 4, 4\)"):
        save_picture(torch.zeros(2, 3, 4, 4), tmp_path / "a.png")
    with pytest.raises(ValueError, match="is not finite"):
        save_picture(torch.full((3, 4, 4), torch.nan), tmp_path / "a.png")
    with pytest.raises(ValueError, match="pictures are written as"):
        save_picture(torch.zeros(3, 4, 4), tmp_path / "a.svg")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("encode {here} {picture}", "no model in"),
        ("encode {run} {here}/none.jpg", "there is no folder"),
        ("encode {run} {here}/text.jpg", "none of the 1 pictures can be read"),
        ("encode {run} {picture} --out {here}/a.txt", "latents are kept as .npz, .safetensors, .parquet"),
        ("encode {run} {picture} {here}/twin/{name}", "two pictures are called"),
        ("decode {run} {here}/none.npz --out {here}/out", "no latents in"),
        ("decode {run} {here}/short.npz --out {here}/out", "has latents of 3 entries, and this model has"),
        ("decode {run} {here}/nan.npz --out {here}/out", "the latents of b.png are not finite"),
        ("decode {run} {here}/other.npz --out {here}/out", "was encoded by other weights than these"),
        ("decode {run} {here}/damaged.npz --out {here}/out", "holds no latents"),
        ("reconstruct {run} {picture} --out {here}", "already holds files"),
        ("interpolate {run} {picture} {here}/text.jpg", "not a picture"),
        ("interpolate {run} {picture} {picture} --steps 1", "1 steps; give two or more"),
        ("interpolate {run} {picture} {picture} --out {here}/a.mov", "transitions are written as"),
        ("vary {run} {picture} --entries 0 99", "99"),
        ("vary {run} {picture} --entries 0 1 2", "3 entries; give one or two"),
        (
            "anomalies {run} {picture} --out {here}/out --by luck",
            "no score is called 'luck'; choose one of error",
        ),
        ("nearest {run} {picture} {here} --count 0", "0 pictures; ask for one or more"),
    ],
)
def test_a_mistake_is_one_line(trained, vae, some, line, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.jpg").write_text("words")
    (tmp_path / "twin").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "twin" / some[0].name)
    own = weights_sha256(vae.state_dict())

    def kept(name, mean, model=own):
        files = [f"{letter}.png" for letter in "ab"[: len(mean)]]
        LatentTable(files, mean, mean, mean[:, 0], mean[:, 0], model).save(tmp_path / name)

    kept("short.npz", torch.zeros(2, 3))
    kept("nan.npz", torch.stack([torch.zeros(vae.latent_dim), torch.full((vae.latent_dim,), torch.nan)]))
    kept("other.npz", torch.zeros(2, vae.latent_dim), "0" * 64)
    (tmp_path / "damaged.npz").write_bytes(b"PK\x03\x04 no zip")
    names = {"run": trained, "here": tmp_path, "picture": some[0], "name": some[0].name}
    assert command(line.format(**names).split()) == 2
    lines = [text for text in capsys.readouterr().err.splitlines() if text.startswith("vaekit:")]
    assert len(lines) == 1
    assert said in lines[0]


@pytest.fixture(scope="module")
def with_labels(tiny, tmp_path_factory):
    """A run on dark and light pictures in class folders."""
    folder = tmp_path_factory.mktemp("classes")
    random = np.random.default_rng(0)
    for i in range(60):
        kind = "light" if i % 2 else "dark"
        (folder / kind).mkdir(exist_ok=True)
        level = random.integers(160, 256) if i % 2 else random.integers(0, 96)
        noise = random.integers(0, 16, (16, 16, 3))
        Image.fromarray((level + noise).clip(0, 255).astype(np.uint8)).save(folder / kind / f"{i}.png")
    run = tmp_path_factory.mktemp("runs") / "run"
    config = dataclasses.replace(tiny, images=4000, batch=16, gan=False, prior="gaussian")
    vaekit.train(config, folder, run)
    return run, folder


@pytest.mark.parametrize(("label", "sign"), [("light", 1), ("dark", -1), ("light=0", -1), ("dark=0", 1)])
def test_a_picture_is_moved_towards_a_label(with_labels, label, sign, tmp_path):
    run, folder = with_labels
    picture = sorted((folder / "dark").iterdir())[0]
    said: list[str] = []
    out = vaekit.towards_run(run, picture, label, tmp_path / "row.png", said.append)
    with Image.open(out) as row:
        assert row.width > row.height
    vae = VAE.from_pretrained(run)
    config = config_of(run, vae)
    latents = latents_of(vae, config, *trained_on(run, config), ENCODED, said.append)
    step = direction(latents, label)
    z = vae.encode(read_picture(picture, vae)).mean
    light = [vae.decode(z + t * step).mean().item() for t in (-1, 0, 1)]
    assert light == sorted(light, reverse=sign < 0)
    assert abs(light[2] - light[0]) > 0.1


def test_a_label_that_is_not_known_is_one_line(with_labels, trained, some, tmp_path, capsys):
    run, folder = with_labels
    picture = str(sorted((folder / "dark").iterdir())[0])
    for arguments, said in (
        ([str(run), picture, "--towards", "grey"], "no label 'grey'; the pictures have dark, light"),
        ([str(run), picture, "--towards", "dark=2"], "no label 'dark=2'"),
        ([str(run), picture, "--towards", "dark", "--entries", "1"], "--entries or --towards"),
        ([str(trained), str(some[0]), "--towards", "dark"], "the pictures of this run have none"),
    ):
        assert command(["vary", *arguments, "--out", str(tmp_path / "a.png")]) == 2
        assert said in capsys.readouterr().err
