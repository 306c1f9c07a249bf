"""Probes of the latents for the classes of pictures, against known answers and counts made by hand."""

import math

import numpy as np
import pytest
import torch

from vaekit.data.labels import Labels
from vaekit.measures import probes as probes_module
from vaekit.measures.probes import BY_CLASS, BY_ORDER, anomaly_auroc, knn_probe, linear_probe, task_of, usefulness
from vaekit.reports.evaluation import usefulness_table

probes = pytest.mark.parametrize("probe", [linear_probe, knn_probe])


@pytest.fixture
def random():
    return np.random.default_rng(0)


def clusters(random, names, spread=0.1, d=6):
    """Means about one point for each class, and their labels."""
    labels = Labels.of(names)
    centers = np.random.default_rng(1).normal(size=(len(labels.classes), d))
    return centers[labels.indices] + spread * random.normal(size=(len(labels), d)), labels


def halved(means, labels):
    half = len(labels) // 2
    return means[:half], labels[:half], means[half:], labels[half:]


@probes
def test_classes_that_lie_apart_are_told_apart(random, probe):
    result = probe(*halved(*clusters(random, ["a", "b", "c"] * 40)))
    assert (result["accuracy"], result["balanced_accuracy"], result["accuracy_se"]) == (1, 1, 0)
    assert result["accuracy_majority"] == pytest.approx(1 / 3)
    assert (result["classes"], result["num_train"], result["num_test"]) == (3, 60, 60)
    assert "auroc" not in result


@probes
def test_codes_that_know_nothing_score_like_a_guess(random, probe):
    labels = Labels.of(random.choice(["no", "yes"], 2000).tolist())
    result = probe(*halved(random.normal(size=(2000, 5)), labels))
    assert abs(result["accuracy"] - 0.5) < 4 * math.sqrt(0.25 / 1000)
    assert abs(result["auroc"] - 0.5) < 4 * result["auroc_se"]
    assert result["accuracy_se"] == pytest.approx(math.sqrt(0.25 / 1000), rel=0.01)


@probes
def test_the_majority_guess_stands_beside_each_score(random, probe):
    names = (["good"] * 7 + ["bad"] * 3) * 20
    result = probe(*halved(*clusters(random, names, spread=2)))
    assert result["positive"] == "bad"
    assert result["accuracy_majority"] == pytest.approx(0.7)
    assert result["balanced_accuracy_majority"] == result["auroc_majority"] == 0.5
    assert result["average_precision_majority"] == pytest.approx(0.3)
    assert result["auroc"] > 0.6


def test_the_linear_probe_comes_close_to_the_best_line_there_is(random):
    """For two Gaussians 2 apart the best accuracy is Phi(1) and the best AUROC Phi(sqrt(2))."""
    labels = Labels.of(["0", "1"] * 4000)
    means = random.normal(size=(8000, 20))
    means[:, 3] += 2 * labels.indices
    result = linear_probe(*halved(means, labels))
    assert result["accuracy"] == pytest.approx(0.8413, abs=4 * result["accuracy_se"])
    assert result["auroc"] == pytest.approx(0.9214, abs=4 * result["auroc_se"])
    assert result["positive"] == "1"


def test_the_linear_probe_does_not_care_for_the_unit_of_an_entry(random):
    train, train_labels, test, test_labels = halved(*clusters(random, ["a", "b"] * 60, spread=2))
    unit = np.array([1e-6, 1, 1e6, 1, 1, 1])
    scaled = linear_probe(train * unit, train_labels, test * unit, test_labels)
    assert scaled == pytest.approx(linear_probe(train, train_labels, test, test_labels))


def test_the_penalty_is_strong_where_there_is_nothing_to_learn_and_weak_where_there_is(random):
    labels = Labels.of(["a", "b"] * 100)
    noise = random.normal(size=(200, 50))
    assert linear_probe(*halved(noise, labels))["c"] <= 1e-3
    assert linear_probe(*halved(noise[:, :2] + 5 * labels.indices[:, None], labels))["c"] == 1


def test_the_nearest_neighbours_go_by_angle_and_not_by_length(random):
    """One class along each axis, vectors of all lengths: by distance, a short vector is nearest to the other class."""
    labels = Labels.of(["a", "a", "b", "b"] * 100)
    axes = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]] * 100)
    means = axes * random.uniform(0.01, 10, 100).repeat(4)[:, None]
    assert knn_probe(*halved(means, labels))["accuracy"] == 1


def test_twenty_neighbours_vote_or_fewer_where_there_are_few_pictures(random):
    assert knn_probe(*halved(*clusters(random, ["a", "b"] * 50)))["k"] == 7
    assert knn_probe(*halved(*clusters(random, ["a", "b"] * 500)))["k"] == 20


def test_a_linear_probe_of_many_classes_learns_from_fewer_pictures_of_each(random, monkeypatch):
    parts = halved(*clusters(random, ["rare", *[str(i) for i in range(10)] * 40, "rare"], d=12))
    monkeypatch.setattr(probes_module, "MOST_PRODUCTS", 12 * 11 * 60)
    assert 60 <= linear_probe(*parts)["num_train"] <= 60 + 3 * 11, "and some of each class for the folds"
    assert linear_probe(*parts)["accuracy"] > 0.99
    assert knn_probe(*parts)["num_train"] == 201
    assert min(np.bincount(task_of(*parts).bounded().train_classes)) >= 1


def test_of_very_many_classes_there_are_neighbours_alone(random, monkeypatch):
    parts = halved(*clusters(random, ["a", "b", "c"] * 40))
    scores = {"error": np.linspace(0, 1, 60)}
    monkeypatch.setattr(probes_module, "MOST_CLASSES", 2)
    found = usefulness(*parts, scores)
    assert found["knn_accuracy"] == 1
    assert "linear_accuracy" not in found
    assert ["accuracy", "-", "1.000", "0.333"] in usefulness_table(found).rows


@probes
def test_tensors_and_arrays_give_the_same(random, probe):
    train, train_labels, test, test_labels = halved(*clusters(random, ["a", "b"] * 30, spread=2))
    tensors = probe(torch.from_numpy(train).requires_grad_(), train_labels, torch.from_numpy(test), test_labels)
    assert tensors == probe(train, train_labels, test, test_labels)


@probes
def test_entries_that_never_vary_do_no_harm(random, probe):
    means, labels = clusters(random, ["a", "b"] * 30)
    plain = probe(*halved(means, labels))
    assert probe(*halved(np.hstack([means, np.full((60, 2), 0.1)]), labels)) == pytest.approx(plain)


@probes
def test_a_class_with_one_training_picture_and_one_that_the_test_lacks_are_allowed(random, probe):
    means, labels = clusters(random, ["once"] + ["a", "b"] * 30)
    result = probe(means[:31], labels[:31], means[31:], labels[31:])
    assert (result["classes"], result["accuracy"], result["balanced_accuracy"]) == (3, 1, 1)


@probes
def test_probabilities_are_told_apart_at_a_half(random, probe):
    labels = Labels.of(["0", "0.25", "0.5", "1"] * 30)
    means = random.normal(size=(120, 3)) + 20 * (labels.indices >= 2)[:, None]
    result = probe(*halved(means, labels))
    assert (result["classes"], result["accuracy"], result["positive"]) == (2, 1, "0.5 or more")


@probes
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_means": np.full((4, 2), np.nan)}, "some means are not finite"),
        ({"train_means": np.zeros(4)}, r"means of shape \(4,\); give \(N, d\)"),
        ({"test_means": np.zeros((4, 3))}, "means of 2 and of 3 entries"),
        ({"train_means": np.zeros((5, 2))}, "5 means and 4 labels"),
        ({"train_labels": Labels.of(["a", "b"] * 2)[[0, 2, 0, 2]]}, "the train part shows no class but a"),
        ({"test_labels": Labels.of(["a", "b"] * 2)[[1, 1, 1, 1]]}, "the test part shows no class but b"),
        ({"test_labels": Labels.of(["a", "c"] * 2)}, "do not know the same classes"),
    ],
)
def test_what_cannot_be_probed_is_refused_in_one_line(probe, change, message):
    labels = Labels.of(["a", "b"] * 2)
    task = {"train_means": np.eye(4, 2), "train_labels": labels, "test_means": np.eye(4, 2), "test_labels": labels}
    with pytest.raises(ValueError, match=message) as error:
        probe(**(task | change))
    assert "\n" not in str(error.value)


# reconstruction errors as anomaly scores


def test_the_auroc_counts_the_pairs_in_which_the_abnormal_has_the_larger_error():
    errors, labels = [0.1, 0.4, 0.4, 0.9, 0.2], Labels.of(["good", "good", "bad", "bad", "good"])
    result = anomaly_auroc(np.array(errors), labels)
    assert result["auroc"] == pytest.approx((2 + 0.5 + 3) / 6)  # a tie is half a pair
    assert (result["normal"], result["num_normal"], result["num_abnormal"]) == ("good", 3, 2)
    assert anomaly_auroc(torch.tensor(errors), labels, "bad")["auroc"] == pytest.approx(1 - 5.5 / 6)


def test_the_standard_error_is_the_spread_over_repetitions(random):
    """Exponential errors, for which the formula of Hanley and McNeil is exact."""
    labels = Labels.of(["good"] * 60 + ["bad"] * 30)
    scale = np.where(labels.indices == labels.classes.index("bad"), 2, 1)
    results = [anomaly_auroc(random.exponential(scale), labels) for _ in range(400)]
    spread = np.std([result["auroc"] for result in results])
    assert np.mean([result["auroc_se"] for result in results]) == pytest.approx(spread, rel=0.12)
    assert np.mean([result["auroc"] for result in results]) == pytest.approx(2 / 3, abs=0.015)


def test_several_classes_may_be_normal():
    labels = Labels.of(["a", "b", "c", "c"])
    result = anomaly_auroc(np.array([1.0, 2.0, 3.0, 4.0]), labels, ("b", "a"))
    assert (result["auroc"], result["normal"]) == (1, "a, b")


def test_of_probabilities_those_below_a_half_are_normal_even_if_they_are_few():
    result = anomaly_auroc(np.arange(5.0), Labels.of(["0.0", "0.3", "1.0", "1.0", "1.0"]))
    assert (result["auroc"], result["normal"], result["num_normal"]) == (1, "below 0.5", 2)


@pytest.mark.parametrize(
    ("errors", "normal", "message"),
    [
        (np.zeros(3), None, "3 scores and 4 labels"),
        (np.full(4, np.inf), None, "some scores are not finite"),
        (np.zeros((4, 1)), None, r"scores of shape \(4, 1\); give \(M,\)"),
        (np.zeros(4), "c", "no class 'c' to be normal; choose from a, b"),
        (np.zeros(4), ("a", "b"), "normal is a, b, and so are all pictures or none"),
    ],
)
def test_errors_that_cannot_be_scored_are_refused(errors, normal, message):
    with pytest.raises(ValueError, match=message):
        anomaly_auroc(errors, Labels.of(["a", "b"] * 2), normal)


# all of it


def test_everything_is_gathered_in_one_flat_dictionary(random):
    means, labels = clusters(random, ["a", "b"] * 40, spread=1)
    parts, errors = halved(means, labels), random.normal(size=40)
    result = usefulness(*parts, {"error": errors, "kl": -errors})
    anomaly = anomaly_auroc(errors, parts[3])
    other = {
        "kl_auroc": pytest.approx(1 - anomaly["auroc"]),
        "kl_auroc_se": pytest.approx(anomaly["auroc_se"], rel=0.5),
    }
    expected = {"linear": linear_probe(*parts), "knn": knn_probe(*parts), "anomaly": anomaly | other}
    assert result.pop("protocol") == BY_ORDER
    assert result == {f"{probe}_{name}": v for probe, scores in expected.items() for name, v in scores.items()}


@pytest.mark.parametrize(
    "names",
    [["a"] * 40 + ["b"] * 10 + ["b", "c"] * 10, ["a"] * 50 + ["b", "c"] * 10],
    ids=["a class unseen", "one class to learn from"],
)
def test_sorted_class_folders_are_probed_on_halves_of_the_test_pictures(random, names):
    means, labels = clusters(random, names)
    result = usefulness(means[:50], labels[:50], means[50:], labels[50:], {"error": random.normal(size=20)}, "b")
    assert result["protocol"] == BY_CLASS
    assert (result["linear_num_train"], result["linear_num_test"], result["linear_classes"]) == (10, 10, 2)
    assert result["linear_accuracy"] == result["knn_accuracy"] == 1
    assert result["linear_accuracy_majority"] == 0.5  # each half has as many of both classes
    assert result["anomaly_num_normal"] + result["anomaly_num_abnormal"] == 20


def test_the_halves_repeat_with_their_seed(random):
    means, labels = clusters(random, ["a"] * 60 + ["b", "c"] * 30, spread=3)
    task = means[:60], labels[:60], means[60:], labels[60:], {"error": random.normal(size=60)}
    assert usefulness(*task, seed=1) == usefulness(*task, seed=1)
    assert usefulness(*task, seed=1) != usefulness(*task, seed=2)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a"] * 40 + ["b"] * 10, "they hold 10 of the class b and of no other; mix the classes"),
        (["a"] * 40 + ["b"] * 9 + ["c"], "they hold 1 of the class c; mix the classes"),
    ],
)
def test_test_pictures_that_cannot_be_halved_are_refused(random, names, message):
    means, labels = clusters(random, names)
    with pytest.raises(ValueError, match=message) as error:
        usefulness(means[:40], labels[:40], means[40:], labels[40:], random.normal(size=10))
    assert "\n" not in str(error.value)
