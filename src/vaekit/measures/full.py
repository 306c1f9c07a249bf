"""Every measure of a model and its pictures: reconstruction, generation and usefulness.

N test pictures, d latent entries. A measure that cannot be taken is missing, with the reason.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaekit.config.priors import COPIES, PRIORS
from vaekit.data.cache import Prepared
from vaekit.data.factors import find_factors
from vaekit.data.labels import Labels
from vaekit.data.loader import HeldOut, evenly
from vaekit.data.view import USUAL_CHANNELS
from vaekit.measures.anomalies import anomaly_scores, joined, known_of
from vaekit.measures.codes import as_decoded
from vaekit.measures.copying import Copying, judged, nearest, small_of
from vaekit.measures.disentanglement import disentanglement
from vaekit.measures.extractor import Extractor
from vaekit.measures.features import LPIPS_SMALLEST, load_lpips
from vaekit.measures.pictures import l1, ms_ssim, ms_ssim_scales, psnr, ssim
from vaekit.measures.probes import usefulness
from vaekit.measures.quick import BATCH, reconstruct
from vaekit.measures.sets import Collector, PictureSet, collect, compare_sets
from vaekit.models.base import Density
from vaekit.models.batches import decode_batches
from vaekit.models.posterior import Posterior, gathered
from vaekit.models.vae import VAE

FEW_IMAGES = 2048  # fewer bias distances upwards too much to be compared with those of other sets
POSTERIORS = "posteriors"  # beside the priors
RECONSTRUCTIONS = ("sampled", "mean")  # the latents that are decoded
NO_INDICES = np.array([], dtype=int)

Say = Callable[[str], None]
KnownSets = dict[tuple[Any, ...], PictureSet]  # sets of real pictures that several runs share, by what they are


@dataclass
class Subject:
    """A model, its pictures and what to measure with.

    `sets` collects the sets of pictures that were measured, `latents` those that were decoded, `closest` of each
    sample the nearest of `TrainPart.compared` by pixels and its ratio (`copying.nearest`), `missing` the reasons for
    measures that were not taken, `warnings` what a reader of the numbers must know.
    """

    vae: VAE
    prepared: Prepared
    test: HeldOut
    extractor: Extractor | None
    seed: int
    say: Say
    known: KnownSets
    sets: dict[str, PictureSet] = field(default_factory=dict)
    latents: dict[str, Tensor] = field(default_factory=dict)
    closest: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def against_test(self, name: str, pictures: PictureSet) -> dict[str, float]:
        """Keep a set of pictures and return how far it is from the test pictures."""
        self.sets[name] = pictures
        measured, missing = compare_sets(self.sets["original"], pictures, self.extractor, self.seed)
        self.missing |= missing
        return measured

    def real_set(self, prepared: Prepared, chosen: np.ndarray) -> PictureSet:
        """Those pictures as they are, collected once."""
        key = prepared.path, chosen.tobytes(), self.extractor
        if key not in self.known:
            batches = HeldOut(prepared.images, chosen).batches(BATCH)
            self.known[key] = collect(batches, len(chosen), self.extractor)
        return self.known[key]

    def on_device(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """The batches where the model is."""
        return (x.to(self.vae.device) for x in batches)


def measure_reconstructions(
    subject: Subject,
) -> tuple[dict[str, dict[str, float]], Posterior, dict[str, Tensor]]:
    """Every measure of the reconstructions, the posterior (N, d) and the anomaly scores by name, (N,) each."""
    subject.say(f"reconstructing {len(subject.test.indices):,} pictures")
    subject.sets["original"] = subject.real_set(subject.prepared, subject.test.indices)
    pairwise = pairwise_measures(subject)
    values: dict[str, dict[str, list[Tensor]]] = {kind: defaultdict(list) for kind in RECONSTRUCTIONS}
    num_images = len(subject.test.indices)
    # Features take most of the time, so they are computed for one of the two only.
    collectors = {"sampled": Collector(num_images, subject.extractor), "mean": Collector(num_images, None)}
    posteriors, scores = [], []
    for x, posterior, *x_hats in reconstruct(subject.vae, subject.on_device(subject.test.batches(BATCH)), subject.seed):
        posteriors.append(posterior)
        scores.append(anomaly_scores(known_of(subject.vae, x, x_hats[-1], posterior)))
        for kind, x_hat in zip(RECONSTRUCTIONS, x_hats, strict=True):
            collectors[kind].add(x_hat)
            for name, measure in pairwise.items():
                values[kind][name].append(measure(x, x_hat).cpu().double())
    measured = {
        kind: {name: torch.cat(parts).mean().item() for name, parts in values[kind].items()}
        | subject.against_test(kind, collectors[kind].result())
        for kind in RECONSTRUCTIONS
    }
    return measured, gathered(posteriors), joined(scores)


Pairwise = Callable[[Tensor, Tensor], Tensor]


def pairwise_measures(subject: Subject) -> dict[str, Pairwise]:
    """The measures of a picture and its reconstruction that can be taken: (B, C, H, W) twice -> (B,)."""
    measures: dict[str, Pairwise] = {"l1": l1, "psnr": psnr, "ssim": ssim}
    if ms_ssim_scales(*subject.vae.image_shape[1:]) is None:
        subject.missing["ms_ssim"] = "the pictures are too small for two scales"
    else:
        measures["ms_ssim"] = ms_ssim
    lpips, reason = load_lpips(subject.vae.device)
    if subject.vae.image_shape[0] not in USUAL_CHANNELS:
        subject.missing["lpips"] = "it takes grey and colour"
    elif min(subject.vae.image_shape[1:]) < LPIPS_SMALLEST:
        subject.missing["lpips"] = f"the pictures are smaller than {LPIPS_SMALLEST} pixels"
    elif lpips is None:
        subject.missing["lpips"] = reason
    else:
        measures["lpips"] = lpips
    return measures


@dataclass(frozen=True)
class TrainPart:
    """The pictures that a run trained on, and the posterior of those that are `encoded`: all, or as many as fit.

    Samples are compared by pixels with those that are `compared`, what priors are fitted to, as they are: mirror images
    are not looked for, which a prior that was trained with the model may have learned from too.
    """

    prepared: Prepared
    indices: np.ndarray
    encoded: np.ndarray
    posterior: Posterior
    compared: np.ndarray


def measure_generations(
    subject: Subject, priors: Mapping[str, Density], train: TrainPart | None
) -> dict[str, dict[str, float]]:
    """How far samples from each prior, as many as the test pictures, and train pictures are from the test pictures.

    `posteriors` is what a perfect prior would give: latents of train pictures, decoded.
    """
    num_images = len(subject.test.indices)
    measured = {}

    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(subject.seed)

    latents = {name: partial(prior.sample, num_images, generator()) for name, prior in priors.items()}
    if train is not None:
        some = evenly(len(train.encoded), num_images)
        latents[POSTERIORS] = partial(train.posterior[some].sample, generator=generator())
    for name, draw in latents.items():
        subject.say(f"drawing {num_images:,} samples: {name}")
        subject.latents[name] = z = draw()
        x_hat = decode_batches(subject.vae, z, BATCH)
        measured[name] = subject.against_test(name, collect(x_hat, num_images, subject.extractor))
    if train is not None:
        some = train.indices[evenly(len(train.indices), num_images)]
        measured["train"] = subject.against_test("train", subject.real_set(train.prepared, some))
        for space, (key, of_train) in references(subject, train).items():
            for name, verdict in copied(subject, list(latents), space, of_train).items():
                measured[name][key] = verdict.share
                measured[name][COPIES] = float(verdict.copies or measured[name].get(COPIES, 0))
    return measured


def references(subject: Subject, train: TrainPart) -> dict[str, tuple[str, Tensor]]:
    """What samples are compared with for copies, by the attribute of a `PictureSet`: the name of the measure, and
    train pictures in that space. By pixels those that priors are fitted to, by features those of the row `train`.
    """
    found = {"small": ("copied_pixels", small_of(train.prepared.images, train.compared))}
    features = subject.sets["train"].features
    return found if features is None else found | {"features": ("copied_features", features)}


def copied(subject: Subject, names: Sequence[str], space: str, of_train: Tensor) -> dict[str, Copying]:
    """For each set of samples, whether more of it is as near to one train picture as 2 % of the reconstructions are."""
    found = {}
    try:
        usual = nearest(getattr(subject.sets["sampled"], space), of_train)
        for name in names:
            found_nearest = nearest(getattr(subject.sets[name], space), of_train)
            if space == "small":
                subject.closest[name] = found_nearest
            found[name] = verdict = judged(found_nearest[1], usual[1])
            if verdict.copies and name in PRIORS and PRIORS[name].has_seen_pictures:
                kind = {"small": "pixels"}.get(space, space)
                subject.warnings.append(f"z ~ {PRIORS[name].short}, by {kind}: {verdict.sentence}")
    except ValueError as error:
        subject.missing["copies"] = str(error)
    return found


def usefulness_of(
    subject: Subject,
    train: TrainPart | None,
    posterior: Posterior,
    scores: Mapping[str, Tensor],
    labels: Labels | None,
    normal: tuple[str, ...],
) -> dict[str, Any] | None:
    """Probes of the means (N, d) and the anomaly scores, (N,) each, where `labels` of all pictures are known.

    Pictures that the run did not train on have no train part: the probes then learn from half of them.
    """
    if labels is None:
        none = "no labels: sort pictures into class folders, or give a CSV of file,label (--labels)"
        subject.missing.setdefault("usefulness", none)
        return None
    subject.say(f"probing the latents with the labels of {labels.source}")
    learned = train.encoded if train is not None and train.prepared.path == subject.prepared.path else NO_INDICES
    train_means = train.posterior.mean if train is not None and len(learned) else posterior.mean[:0]
    train_means = as_decoded(subject.vae.codebook, train_means)
    test = subject.test.indices
    try:
        found = usefulness(train_means, labels[learned], posterior.mean, labels[test], scores, normal, subject.seed)
        if "linear_accuracy" not in found:
            subject.missing["linear probe"] = f"{found['knn_classes']:,} classes are too many for it"
        return found
    except ValueError as error:
        subject.missing["usefulness"] = str(error)
        return None


def disentangled(subject: Subject, posterior: Posterior) -> dict[str, float]:
    """The scores of the means where factors.csv says what the pictures were made of; none without."""
    try:
        factors = find_factors(subject.prepared.folder, subject.prepared.names)
        if factors is None:
            return {}
        subject.say(f"scoring the latents by {len(factors.names)} factors")
        return disentanglement(posterior.mean.numpy(), factors.values[subject.test.indices], subject.seed)
    except ValueError as error:
        subject.missing["disentanglement"] = str(error)
        return {}


def few_images(num_images: int) -> list[str]:
    """A warning if distances of so few pictures cannot be compared with those of other sets."""
    if num_images >= FEW_IMAGES:
        return []
    return [
        f"{num_images:,} test pictures: Frechet distances of fewer than {FEW_IMAGES:,} are biased upwards; "
        "compare them only with those of as many pictures"
    ]
