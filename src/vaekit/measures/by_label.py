"""Whether new pictures that are asked for by label show it: a linear probe of real pictures' means tells.

New pictures are drawn, rounded to 8 bits and encoded again; the probe has learned from train pictures alone. One of
ImageNet features, which knows nothing of the model, takes the soft pictures of a short training for anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from vaekit.data.attributes import find_attributes
from vaekit.data.labels import Labels
from vaekit.data.loader import evenly
from vaekit.data.pixels import to_float, to_uint8
from vaekit.measures.codes import as_decoded
from vaekit.measures.full import Subject, TrainPart
from vaekit.measures.probes import MOST_CLASSES, gap_between, probabilities_of, task_of
from vaekit.measures.quick import BATCH
from vaekit.models.batches import decode_batches, encode_batches
from vaekit.models.posterior import Posterior
from vaekit.priors.conditions import Attributes, Conditions

MISSING = "labels of new pictures"
MOST_DRAWN = 600  # pictures of a task
MOST_ATTRIBUTES = 8  # of which the first are measured


@dataclass(frozen=True)
class Question:
    """Labels of all pictures, and what the prior is asked for to get those of each class."""

    name: str
    labels: Labels
    asked: tuple[str, ...]


def measure_by_label(
    subject: Subject, train: TrainPart | None, posterior: Posterior, labels: Labels | None
) -> dict[str, dict[str, float]]:
    """For the classes, or for each attribute: the accuracy of the probe on `test` pictures and on those `drawn`.

    `posterior` (N, d) is that of the test pictures, `labels` are those of all pictures, if they are known.

    Also its binomial standard error `drawn_se`, and what always guessing the most frequent class gives (`majority`).
    Pictures are drawn of each class as often as the test pictures show it. Nothing where no prior was fitted with
    labels; where it cannot be measured the reason is in `subject.missing`.
    """
    name, conditions = told_prior(subject)
    if conditions is None:
        return {}
    try:
        if train is None or train.prepared.path != subject.prepared.path:
            raise ValueError("they are measured on the run's own pictures")
        asked = list(questions(subject, conditions, labels))
    except ValueError as error:
        subject.missing[MISSING] = str(error)
        return {}
    found = {}
    for question in asked:
        try:
            found[question.name] = answered(subject, name, train, posterior, question)
        except ValueError as error:  # an attribute that a part never shows
            subject.missing[f"{MISSING}: {question.name}"] = str(error)
    return found


def told_prior(subject: Subject) -> tuple[str, Conditions | None]:
    """The last prior of the table that was fitted with labels, by name, and what it can be told; none without one."""
    for name, prior in reversed(subject.vae.priors.items()):
        conditions: Conditions | None = getattr(prior, "conditions", None)
        if conditions is not None and conditions.names:
            return name, conditions
    return "", None


def questions(subject: Subject, conditions: Conditions, labels: Labels | None) -> Iterator[Question]:
    """What the prior is asked. Raises `ValueError` if it was fitted with other labels than these pictures have."""
    folder, names = subject.prepared.folder, subject.prepared.names
    if isinstance(conditions, Attributes):
        found = find_attributes(folder, names)
        if found is None or found.names != conditions.names:
            raise ValueError("the prior was fitted with attributes that these pictures do not have")
        for k, name in enumerate(found.names[:MOST_ATTRIBUTES]):
            two = Labels(("0", "1"), found.values[:, k], found.source, ordered=True)
            yield Question(name, two, (f"{name}=0", f"{name}=1"))
        return
    labels = None if labels is None else labels.decided()
    if labels is None or not set(conditions.names) <= set(labels.classes):
        raise ValueError(f"the prior was fitted with the labels {', '.join(conditions.names[:10])}, these are others")
    if len(labels.classes) > MOST_CLASSES:
        raise ValueError(
            f"{len(labels.classes):,} classes, more than the {MOST_CLASSES:,} that a linear probe tells apart"
        )
    yield Question("class", labels, labels.classes)


def answered(
    subject: Subject, prior: str, train: TrainPart, posterior: Posterior, question: Question
) -> dict[str, float]:
    """The accuracy on test pictures, of that posterior, and on drawn ones of a probe of the train pictures."""
    test = subject.test.indices
    some = test[evenly(len(test), MOST_DRAWN)]
    wanted = question.labels.indices[some]
    gap = gap_between(question.labels[train.encoded], question.labels[test])
    if gap:
        raise ValueError(gap)
    subject.say(f"drawing {len(wanted):,} samples by label: {question.name}")
    order = np.argsort(wanted, kind="stable")
    generator = torch.Generator().manual_seed(subject.seed)
    z = torch.cat(
        [
            subject.vae.draw(int((wanted == i).sum()), generator, prior, label=question.asked[i])
            for i in np.unique(wanted)
        ]
    )
    pictures = (to_float(to_uint8(x_hat.float())) for x_hat in decode_batches(subject.vae, z, BATCH))
    drawn = encode_batches(subject.vae, pictures)
    scored = question.labels[np.concatenate([test, some[order]])]
    codebook = subject.vae.codebook
    means = torch.cat([posterior.mean, as_decoded(codebook, drawn.mean)])
    task = task_of(as_decoded(codebook, train.posterior.mean), question.labels[train.encoded], means, scored).bounded()
    right = probabilities_of(task)[0].argmax(1) == task.test_classes
    accuracy = float(right[len(test) :].mean())
    counts = np.bincount(task.train_classes)
    return {
        "test": float(right[: len(test)].mean()),
        "drawn": accuracy,
        "drawn_se": math.sqrt(accuracy * (1 - accuracy) / len(z)),
        "majority": float((task.test_classes[: len(test)] == counts.argmax()).mean()),
    }
