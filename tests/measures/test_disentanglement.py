"""Scores of disentanglement: 1 where each factor has an entry of its own, about 0 where entries tell nothing."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

import vaekit
from vaekit.cli import run
from vaekit.data.factors import SHAPE_FACTORS, find_factors, write_shapes
from vaekit.measures.disentanglement import correlation_ratio, disentanglement, entropy, gap, mutual_information


@pytest.fixture
def factors():
    random = np.random.default_rng(0)
    return np.stack([random.integers(values, size=3_000) for values in (3, 5, 8)], 1)


def noise(shape):
    return np.random.default_rng(1).normal(size=shape)


def test_an_entry_for_each_factor_is_disentangled(factors):
    codes = np.concatenate([factors + 0.01 * noise(factors.shape), 1e-3 * noise((3_000, 2))], 1)
    found = disentanglement(codes, factors)
    assert found.keys() == {
        *("mig", "sap", "factorvae"),
        *(f"dci_{n}" for n in ("disentanglement", "completeness", "informativeness")),
    }
    assert all(value > 0.95 for value in found.values()), found


def test_entries_that_know_nothing_score_nothing(factors):
    found = disentanglement(noise((3_000, 5)), factors)
    assert max(found[name] for name in ("mig", "sap", "dci_disentanglement", "dci_informativeness")) < 0.1
    assert found["factorvae"] < 0.5  # a third by chance


def test_a_rotation_of_the_entries_is_as_informative_and_less_disentangled(factors):
    straight = (factors - factors.mean(0)) / factors.std(0) + 0.01 * noise(factors.shape)
    turned = straight @ np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    one, other = disentanglement(straight, factors), disentanglement(turned, factors)
    assert all(other[name] < one[name] - 0.2 for name in ("mig", "sap", "dci_disentanglement", "dci_completeness"))
    assert other["dci_informativeness"] > 0.7


def test_a_factor_told_by_two_entries_is_not_complete(factors):
    codes = np.concatenate([factors, factors], 1) + 0.01 * noise((3_000, 6))
    found = disentanglement(codes, factors)
    assert found["mig"] < 0.05
    assert found["dci_disentanglement"] > 0.9
    assert found["dci_completeness"] < 0.8


def test_information_is_that_of_counts():
    one = np.array([0, 0, 1, 1])
    assert entropy(one) == pytest.approx(np.log(2))
    assert mutual_information(one, one) == pytest.approx(np.log(2))
    assert mutual_information(one, np.array([0, 1, 0, 1])) == pytest.approx(0)
    assert gap(np.array([0.25, 0.75, 0.5])) == 0.25
    assert gap(np.array([0.75])) == 0.75


def test_the_correlation_ratio_is_r_squared_of_two_values():
    factor = np.array([0, 0, 0, 1, 1])
    codes = np.random.default_rng(0).normal(size=(5, 2))
    expected = [np.corrcoef(column, factor)[0, 1] ** 2 for column in codes.T]
    assert correlation_ratio(codes, factor) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("codes", "factors", "message"),
    [
        (np.zeros((9, 2)), np.zeros((9, 1), int), "9 pictures with factors; the scores need 200 or more"),
        (np.eye(300), np.zeros((300, 1), int), "no factor of these pictures has between 2 and 50 values"),
        (np.eye(300), np.arange(300)[:, None], "no factor of these pictures has between 2 and 50 values"),
        (np.zeros((300, 2)), np.arange(300)[:, None] % 3, "no entry of the latents varies"),
        (np.zeros((300, 2)), np.zeros((299, 1), int), r"give \(N, d\) and \(N, K\)"),
    ],
)
def test_what_cannot_be_scored_is_refused(codes, factors, message):
    with pytest.raises(ValueError, match=message):
        disentanglement(codes, factors)


def test_shapes_are_what_their_table_says(tmp_path):
    write_shapes(tmp_path, 300, 32)
    names = sorted(path.name for path in tmp_path.glob("*.png"))
    factors = find_factors(tmp_path, names)
    assert factors.names == tuple(SHAPE_FACTORS)
    assert {name: factors.values[:, i].max() + 1 for i, name in enumerate(factors.names)} == SHAPE_FACTORS
    pictures = np.stack([np.asarray(Image.open(tmp_path / name), float) for name in names])
    weight = pictures.max(3) - pictures.min(3)  # grey is the background
    weight /= weight.sum((1, 2), keepdims=True)
    at = np.arange(32) + 0.5
    for axis, place in (("x", (weight.sum(1) * at).sum(1)), ("y", (weight.sum(2) * at).sum(1))):
        asked = 32 * (0.25 + 0.5 * factors.values[:, list(SHAPE_FACTORS).index(axis)] / 7)
        assert np.abs(place - asked).max() < 1.0
    area = (pictures.max(3) > 100).sum((1, 2))
    size = factors.values[:, list(SHAPE_FACTORS).index("size")]
    assert all(area[size == i].mean() < area[size == i + 1].mean() for i in range(4))


def test_the_evaluation_of_a_run_on_shapes_has_the_scores(tiny, tmp_path, capsys):
    assert run(["shapes", str(tmp_path / "shapes"), "--count", "1000", "--size", "16"]) == 0
    assert run(["shapes", str(tmp_path / "shapes")]) == 2
    assert "shapes" in capsys.readouterr().err
    config = dataclasses.replace(tiny, prior="gaussian", gan=False)
    vaekit.train(config, tmp_path / "shapes", tmp_path / "run")
    result = vaekit.evaluate_run(tmp_path / "run", features="none")
    assert 0 <= result.disentanglement["mig"] <= 1
    assert "How the means follow the factors" in result.markdown()
    assert "MIG" in result.markdown()
    assert type(result).from_json(result.to_json()).disentanglement == result.disentanglement


def test_a_table_that_misses_pictures_stops_no_evaluation(tiny, tmp_path):
    vaekit.make_shapes(tmp_path / "shapes", 30, 16)
    table = tmp_path / "shapes" / "factors.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-3]) + "\n")
    vaekit.train(dataclasses.replace(tiny, prior="gaussian", gan=False), tmp_path / "shapes", tmp_path / "run")
    result = vaekit.evaluate_run(tmp_path / "run", features="none")
    assert not result.disentanglement
    assert "has no label for 3 of 30 pictures" in result.not_measured["disentanglement"]
