"""How useful the latents are where pictures have labels: classes predicted from the means, and anomalies by scores.
Letters: N training and M test images, d latent entries.

Labels that are probabilities of one thing, as those of the solar cells, are cut at 0.5 (`Labels.decided`).
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor

from vaekit.data.labels import Labels
from vaekit.data.loader import evenly

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression  # slow to import

Array: TypeAlias = np.ndarray | Tensor
Scores: TypeAlias = dict[str, float | int | str]

REGULARISATIONS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C, the inverse of the penalty's weight
FOLDS = 3
MOST_PRODUCTS = 500_000_000  # N d K that a linear probe learns from in minutes
MOST_CLASSES = 2_000  # beyond, a linear probe takes hours, and there is none
NEIGHBOURS = 20
BY_ORDER = "train and test pictures of the model"
BY_CLASS = "halves of the held-out pictures, split by class"


def linear_probe(train_means: Array, train_labels: Labels, test_means: Array, test_labels: Labels) -> Scores:
    """How well a linear classifier of the means separates the classes: (N, d) to learn from, (M, d) to be scored.

    Logistic regression on means standardised by the train part. Its C is the one of `REGULARISATIONS` with the least
    log loss in a threefold cross-validation of the train part, tried upwards until the loss rises; it is 0.01 if a
    class has one picture only. A fit that has not converged after 1,000 steps is used as it is. Where N d times the
    number of classes is more than 500 million, it learns from fewer pictures, at even distances in each class.

    Returns `accuracy` with its binomial standard error `accuracy_se`; `balanced_accuracy`, the mean recall of the
    classes of the test part; for two classes `auroc` (`auroc_se`) and `average_precision` of the class `positive`,
    which is the one that is not `train_labels.normal`; for each also `..._majority`, what always guessing the most
    frequent class of the train part gives; `c`, the chosen one; `classes`, `num_train`, `num_test`.

    Raises `ValueError` if shapes and labels do not fit together, a mean is not finite, either part has only one
    class or the test part one that the train part lacks.
    """
    task = task_of(train_means, train_labels, test_means, test_labels).bounded()
    probabilities, c = probabilities_of(task)
    return task.scores(probabilities) | {"c": c}


def knn_probe(train_means: Array, train_labels: Labels, test_means: Array, test_labels: Labels) -> Scores:
    """How well the nearest means predict the class of a picture: (N, d) to search, (M, d) to be scored.

    The 20 nearest of the train part (fewer below 400 images: the root of N) have one vote each, by the cosine of means
    that are centred by the train part. They are not standardised: an entry that the model does not use must not
    weigh as much as one that it does. Nothing is chosen, so nothing is cross-validated. Returns what `linear_probe`
    does, with `k` for `c`, and raises the same.
    """
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.preprocessing import normalize

    task = task_of(train_means, train_labels, test_means, test_labels)
    # of vectors of length one the nearest has the largest cosine; float32 is twice as fast
    train, test = (normalize(means - task.train.mean(0)).astype(np.float32) for means in (task.train, task.test))
    k = min(NEIGHBOURS, math.isqrt(len(train)))
    neighbours = KNeighborsClassifier(k, algorithm="brute").fit(train, task.train_classes)
    return task.scores(neighbours.predict_proba(test)) | {"k": k}


def anomaly_auroc(scores: Array, labels: Labels, normal: str | Collection[str] | None = None) -> Scores:
    """How well a score (M,) of a picture, as its reconstruction error, tells classes that are not normal from others.

    `normal` names one class or several, by default `labels.normal`: the lower of two numbers, else the most
    frequent. `auroc` is the probability that an abnormal picture has the larger score; below 0.5 the abnormal
    ones are, for instance, easier to reconstruct. `auroc_se` is its standard error (Hanley and McNeil 1982).
    A model that was trained on normal pictures alone, as is usual, should do better than one that has seen both.

    Raises `ValueError` for scores that are not finite or not as many as labels, an unknown class, or pictures that are
    all normal or all abnormal.
    """
    labels = labels.decided()
    values = finite_array(scores, 1, "scores")
    if len(values) != len(labels):
        raise ValueError(f"{len(values)} scores and {len(labels)} labels; give one of each for a picture")
    names = {normal} if isinstance(normal, str) else set(normal or [labels.normal])
    if unknown := sorted(names - set(labels.classes)):
        raise ValueError(f"no class {unknown[0]!r} to be normal; choose from {', '.join(labels.classes)}")
    abnormal = np.array([name not in names for name in labels.classes])[labels.indices]
    if len(np.unique(abnormal)) < 2:
        raise ValueError(f"normal is {', '.join(sorted(names))}, and so are all pictures or none; an AUROC needs both")
    auroc, error = area_under_roc(abnormal, values)
    return {
        "auroc": auroc,
        "auroc_se": error,
        "normal": ", ".join(sorted(names)),
        "num_normal": int((~abnormal).sum()),
        "num_abnormal": int(abnormal.sum()),
    }


def usefulness(
    train_means: Array,
    train_labels: Labels,
    test_means: Array,
    test_labels: Labels,
    test_scores: Mapping[str, Array],
    normal: str | Collection[str] | None = None,
    seed: int = 0,
) -> Scores:
    """All of the above in one flat dictionary: `linear_...`, `knn_...`, `anomaly_...`, and the `protocol`.

    Means (N, d) and (M, d) and their labels are those of the model's train and test pictures, `test_scores` (M,) the
    anomaly scores of the test pictures by name. `error` is one of them: `anomaly_...` are its numbers, and
    `anomaly_<name>_auroc` and `anomaly_<name>_auroc_se` those of the others. The probes learn from the train pictures
    and are scored on the test pictures, except where that cannot be: other pictures have no train part, and a CSV may
    be sorted so that the test part shows one class only, or one that the train part lacks. The probes then learn from
    one half of the test pictures, drawn class by class from `seed`, and are scored on the other; `protocol` says so.
    Of more than 2,000 classes there is no linear probe.

    Raises `ValueError` as the probes do, and if there are no such halves: the test pictures show one class only, or a
    class only once.
    """
    parts, protocol = (train_means, train_labels, test_means, test_labels), BY_ORDER
    if gap_between(train_labels.decided(), test_labels.decided()):
        first, second = halves_of(test_labels.decided(), seed)
        parts, protocol = (test_means[first], test_labels[first], test_means[second], test_labels[second]), BY_CLASS
    knn = knn_probe(*parts)
    linear = linear_probe(*parts) if int(knn["classes"]) <= MOST_CLASSES else {}
    results = {"linear": linear, "knn": knn, "anomaly": anomaly_auroc(test_scores["error"], test_labels, normal)}
    for name, scores in test_scores.items():
        if name != "error":
            found = anomaly_auroc(scores, test_labels, normal)
            results["anomaly"] |= {f"{name}_auroc": found["auroc"], f"{name}_auroc_se": found["auroc_se"]}
    flat = {f"{probe}_{name}": value for probe, scores in results.items() for name, value in scores.items()}
    return {"protocol": protocol} | flat


@dataclass(frozen=True, eq=False)
class Task:
    """Means (N, d) and (M, d) with the place of each picture's class among the K that the train part shows.

    `positive` is the place of the positive class if there are two.
    """

    train: np.ndarray
    train_classes: np.ndarray
    test: np.ndarray
    test_classes: np.ndarray
    names: list[str]
    positive: int | None

    def bounded(self) -> Task:
        """Itself with as many train pictures as a linear probe can learn from in minutes, some of each class."""
        most = MOST_PRODUCTS // (self.train.shape[1] * len(self.names))
        if len(self.train) <= most:
            return self
        by_class = np.argsort(self.train_classes, kind="stable")
        rank = np.arange(len(by_class)) - np.searchsorted(classes := self.train_classes[by_class], classes)
        kept = by_class[np.union1d(evenly(len(by_class), most), np.flatnonzero(rank < FOLDS))]
        return dataclasses.replace(self, train=self.train[kept], train_classes=self.train_classes[kept])

    def scores(self, probabilities: np.ndarray) -> Scores:
        """Score predictions (M, K), with the guess of the most frequent class beside them."""
        shares = np.bincount(self.train_classes) / len(self.train)
        guess = self.score(np.tile(shares, (len(self.test), 1)))
        scores: Scores = dict(self.score(probabilities))
        scores |= {f"{name}_majority": value for name, value in guess.items() if not name.endswith("_se")}
        if self.positive is not None:
            scores["positive"] = self.names[self.positive]
        return scores | {"classes": len(self.names), "num_train": len(self.train), "num_test": len(self.test)}

    def score(self, probabilities: np.ndarray) -> dict[str, float]:
        from sklearn.metrics import average_precision_score

        right = probabilities.argmax(1) == self.test_classes
        accuracy = float(right.mean())
        recalls = [right[self.test_classes == i].mean() for i in np.unique(self.test_classes)]
        scores = {
            "accuracy": accuracy,
            "accuracy_se": math.sqrt(accuracy * (1 - accuracy) / len(right)),
            "balanced_accuracy": float(np.mean(recalls)),
        }
        if self.positive is not None:
            truth, belief = self.test_classes == self.positive, probabilities[:, self.positive]
            scores["auroc"], scores["auroc_se"] = area_under_roc(truth, belief)
            scores["average_precision"] = float(average_precision_score(truth, belief))
        return scores


def probabilities_of(task: Task) -> tuple[np.ndarray, float]:
    """What the linear probe gives to each class of the M pictures that are scored, (M, K), and the C that it chose."""
    center = task.train.mean(0)
    spread = np.where(np.ptp(task.train, 0) > 0, task.train.std(0), 1)  # an entry that never varies is only centred
    train, test = (task.train - center) / spread, (task.test - center) / spread
    c = choose_c(train, task.train_classes)
    return fit_logistic(train, task.train_classes, c).predict_proba(test), c


def task_of(train_means: Array, train_labels: Labels, test_means: Array, test_labels: Labels) -> Task:
    train, test = finite_array(train_means, 2, "means"), finite_array(test_means, 2, "means")
    train_labels, test_labels = train_labels.decided(), test_labels.decided()
    if train.shape[1] != test.shape[1]:
        raise ValueError(f"means of {train.shape[1]} and of {test.shape[1]} entries; give those of one model")
    for means, labels in ((train, train_labels), (test, test_labels)):
        if len(means) != len(labels):
            raise ValueError(f"{len(means)} means and {len(labels)} labels; give one of each for a picture")
    if gap := gap_between(train_labels, test_labels):
        raise ValueError(f"{gap}; give parts that both show the classes")
    shown, train_classes = np.unique(train_labels.indices, return_inverse=True)
    names = [train_labels.classes[i] for i in shown]
    positive = 1 - names.index(train_labels.normal) if len(names) == 2 else None
    return Task(train, train_classes, test, np.searchsorted(shown, test_labels.indices), names, positive)


def gap_between(train: Labels, test: Labels) -> str | None:
    """Why the classes of the test part cannot be learned from the train part, or None."""
    if train.classes != test.classes:
        raise ValueError("the labels of train and test do not know the same classes; cut both from one `Labels`")
    shown = [{name for name, count in labels.counts.items() if count} for labels in (train, test)]
    for part, names in zip(("train", "test"), shown, strict=True):
        if len(names) < 2:
            return f"the {part} part shows no class but {', '.join(names) or 'none'}"
    unseen = sorted(shown[1] - shown[0])
    return f"the test part shows the class {unseen[0]}, the train part never does" if unseen else None


def halves_of(labels: Labels, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of the pictures of two halves, each with about half of every class."""
    from sklearn.model_selection import train_test_split

    counts = {name: count for name, count in labels.counts.items() if count}
    rarest = min(counts, key=counts.__getitem__)
    if len(counts) < 2 or counts[rarest] < 2:
        what = f"{counts[rarest]} of the class {rarest}" + " and of no other" * (len(counts) < 2)
        raise ValueError(
            f"the train and test pictures show different classes and the {len(labels)} test pictures cannot be halved: "
            f"they hold {what}; mix the classes in the order of the files, in one folder with a labels.csv"
        )
    first, second = train_test_split(np.arange(len(labels)), test_size=0.5, stratify=labels.indices, random_state=seed)
    return first, second


def choose_c(train: np.ndarray, classes: np.ndarray) -> float:
    """The C with the least log loss on parts of standardised means (N, d) that were left out."""
    from sklearn.metrics import log_loss
    from sklearn.model_selection import StratifiedKFold

    rarest = np.bincount(classes).min()
    if rarest < 2:
        return 0.01
    folds = list(StratifiedKFold(min(FOLDS, rarest), shuffle=True, random_state=0).split(train, classes))
    best, least = REGULARISATIONS[0], math.inf
    for c in REGULARISATIONS:
        fits = [fit_logistic(train[part], classes[part], c) for part, _ in folds]
        guesses = [fit.predict_proba(train[rest]) for fit, (_, rest) in zip(fits, folds, strict=True)]
        loss = np.mean([log_loss(classes[rest], p) for p, (_, rest) in zip(guesses, folds, strict=True)])
        if loss > least:
            break
        best, least = c, loss
    return best


def fit_logistic(means: np.ndarray, classes: np.ndarray, c: float) -> LogisticRegression:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=c, max_iter=1000).fit(means, classes)


def area_under_roc(positive: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """Area under the ROC curve of scores (M,), and its standard error by Hanley and McNeil (1982)."""
    from sklearn.metrics import roc_auc_score

    a = float(roc_auc_score(positive, scores))
    n1, n2 = int(positive.sum()), int((~positive).sum())
    q1, q2 = a / (2 - a), 2 * a**2 / (1 + a)  # two positives above one negative, one positive above two negatives
    variance = (a * (1 - a) + (n1 - 1) * (q1 - a**2) + (n2 - 1) * (q2 - a**2)) / (n1 * n2)
    return a, math.sqrt(max(variance, 0))


def finite_array(values: Array, ndim: int, what: str) -> np.ndarray:
    """`values` in float64 on the CPU. Raises `ValueError` for another number of axes or a value that is not finite."""
    array = torch.as_tensor(values).detach().cpu().double().numpy()
    if array.ndim != ndim:
        raise ValueError(f"{what} of shape {array.shape}; give {('(M,)', '(N, d)')[ndim - 1]}")
    if not np.isfinite(array).all():
        raise ValueError(
            f"some {what} are not finite: the training diverged, or the pictures are not those of the model"
        )
    return array
