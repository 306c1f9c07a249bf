"""Scores of disentanglement, where the factors that pictures were made of are known: MIG, SAP, DCI, FactorVAE's.

Letters: N pictures, `codes` (N, d) the means of their latents, `factors` (N, K) whole numbers. All scores are 1 where
each factor has an entry of its own, and near 0 where entries tell nothing. They need hundreds of pictures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

BINS = 20  # of an entry, of equal width, as usual since Locatello et al. (ICML 2019)
TREES, DEPTH = 30, 12
VOTES, GROUP = 800, 32  # of the FactorVAE score: votes, and pictures that share a factor in each
LEAST_VARIANCE = 1e-2  # of an entry, in shares of the largest: below, FactorVAE's score leaves it out
FEWEST, MOST = 200, 5000  # pictures; of more, some at even distances
MOST_VALUES = 50  # of a factor: more are no steps, and each would be a class of a few pictures
TINY = 1e-12


def disentanglement(codes: np.ndarray, factors: np.ndarray, seed: int = 0) -> dict[str, float]:
    """All scores by name: `mig`, `sap`, `factorvae`, `dci_disentanglement`, `dci_completeness`, `dci_informativeness`.

    Entries that never vary, and factors with one value or more than `MOST_VALUES`, are left out. Raises `ValueError`
    for fewer than `FEWEST` pictures, shapes that do not fit together, and where nothing is left.
    """
    if codes.ndim != 2 or factors.shape[:1] != codes.shape[:1]:
        raise ValueError(f"codes {codes.shape} and factors {factors.shape}; give (N, d) and (N, K)")
    if len(codes) < FEWEST:
        raise ValueError(f"{len(codes)} pictures with factors; the scores need {FEWEST} or more")
    some = np.linspace(0, len(codes) - 1, min(len(codes), MOST)).round().astype(int)
    codes, factors = codes[some].astype(np.float64), factors[some]
    factors = factors[:, [1 < len(np.unique(column)) <= MOST_VALUES for column in factors.T]]
    codes = codes[:, codes.std(0) > 0]
    if not factors.size:
        raise ValueError(f"no factor of these pictures has between 2 and {MOST_VALUES} values")
    if not codes.size:
        raise ValueError("no entry of the latents varies among these pictures")
    return {
        "mig": mutual_information_gap(codes, factors),
        "sap": separated_attribute_predictability(codes, factors),
        "factorvae": factorvae_score(codes, factors, seed),
        **dci(codes, factors, seed),
    }


def mutual_information_gap(codes: np.ndarray, factors: np.ndarray) -> float:
    """MIG: how much more the best entry tells of a factor than the second best, in shares of the factor's entropy, the
    mean over the factors (Chen et al., NeurIPS 2018, eq. 6). Entries are cut into `BINS` of equal width.
    """
    binned = np.stack([in_bins(column) for column in codes.T], 1)
    gaps = []
    for factor in factors.T:
        told = np.array([mutual_information(column, factor) for column in binned.T])
        gaps.append(gap(told) / entropy(factor))
    return float(np.mean(gaps))


def in_bins(column: np.ndarray) -> np.ndarray:
    """Values as the numbers of their bins of equal width."""
    return np.searchsorted(np.linspace(column.min(), column.max(), BINS + 1)[1:-1], column, side="right")


def entropy(values: np.ndarray) -> float:
    """Nats of whole numbers (N,)."""
    share = np.unique(values, return_counts=True)[1] / len(values)
    return float(-(share * np.log(share)).sum())


def mutual_information(one: np.ndarray, other: np.ndarray) -> float:
    """Nats that two lists of whole numbers (N,) share, as counted: N pictures too few make it too large."""
    pairs = one.astype(np.int64) * (int(other.max()) + 1) + other
    return entropy(one) + entropy(other) - entropy(pairs)


def gap(scores: np.ndarray) -> float:
    """The highest less the second highest, zero if there is one entry alone that tells nothing."""
    ordered = np.sort(np.append(scores, 0.0))
    return float(ordered[-1] - ordered[-2])


def separated_attribute_predictability(codes: np.ndarray, factors: np.ndarray) -> float:
    """SAP: how much better the best entry explains a factor than the second best, the mean over the factors (Kumar et
    al., ICLR 2018, section 3): by the share of the entry's variance that lies between the values of the factor, which
    needs no order of these, in place of their R^2 and SVM.
    """
    return float(np.mean([gap(correlation_ratio(codes, factor)) for factor in factors.T]))


def correlation_ratio(codes: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Of each entry, (d,): its variance between the values of a factor, in shares of its variance."""
    centred = codes - codes.mean(0)
    between = np.zeros(codes.shape[1])
    for value in np.unique(factor):
        chosen = centred[factor == value]
        between += len(chosen) * chosen.mean(0) ** 2
    return between / (len(codes) * np.maximum(centred.var(0), TINY))


def factorvae_score(codes: np.ndarray, factors: np.ndarray, seed: int) -> float:
    """How well the entry that varies least among pictures with one factor in common tells which factor that is (Kim and
    Mnih, ICML 2018, section 4): the accuracy of a majority vote on votes that it was not counted from.
    """
    variance = codes.var(0)
    used = np.flatnonzero(variance >= LEAST_VARIANCE * variance.max())
    random = np.random.default_rng(seed)
    votes = np.zeros((2, len(used), factors.shape[1]))
    for i in range(VOTES):
        k = random.integers(factors.shape[1])
        same = np.flatnonzero(factors[:, k] == random.choice(factors[:, k]))
        spread = codes[np.ix_(random.choice(same, GROUP), used)].var(0) / variance[used]
        votes[i % 2, spread.argmin(), k] += 1
    learned = votes[0].argmax(1)
    return float(votes[1][np.arange(len(used)), learned].sum() / votes[1].sum())


def dci(codes: np.ndarray, factors: np.ndarray, seed: int) -> Mapping[str, float]:
    """Disentanglement, completeness and informativeness (Eastwood and Williams, ICLR 2018, section 2), by what random
    forests find important; informativeness is their accuracy on pictures that they did not learn from, above that of
    the most frequent value, as a share of what is left above it.
    """
    from sklearn.ensemble import RandomForestClassifier

    order = np.random.default_rng(seed).permutation(len(codes))
    train, test = order[len(order) // 4 :], order[: len(order) // 4]
    importances, accuracies = [], []
    for factor in factors.T:
        # All entries are looked at for each split: else some importance goes to whatever is at hand.
        forest = RandomForestClassifier(TREES, max_depth=DEPTH, max_features=None, random_state=seed)
        forest.fit(codes[train], factor[train])
        importances.append(forest.feature_importances_)
        chance = np.unique(factor[test], return_counts=True)[1].max() / len(test)
        if chance < 1:
            accuracies.append((forest.score(codes[test], factor[test]) - chance) / (1 - chance))
    matrix = np.array(importances).T  # (d, K)
    by_entry, by_factor = matrix.sum(1), matrix.sum(0)
    focused = 1 - spread_of(matrix)  # of each entry over the factors
    complete = 1 - spread_of(matrix.T)
    return {
        "dci_disentanglement": float((focused * by_entry).sum() / by_entry.sum()),
        "dci_completeness": float((complete * by_factor).sum() / by_factor.sum()),
        "dci_informativeness": float(np.mean(accuracies)) if accuracies else math.nan,
    }


def spread_of(rows: np.ndarray) -> np.ndarray:
    """The entropy of each row, in shares of the largest that there can be; 0 of a single column."""
    share = rows / np.maximum(rows.sum(1, keepdims=True), TINY)
    nats = -(share * np.log(np.maximum(share, TINY))).sum(1)
    return nats / np.log(rows.shape[1]) if rows.shape[1] > 1 else np.zeros(len(rows))
