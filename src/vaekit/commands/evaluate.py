"""Everything that can be said in numbers about a finished run: reconstruction, generation, latents, usefulness.

The result carries its protocol: the model, pictures, features, seed and precision that gave it. N test pictures, d
latent entries.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaekit.commands.sample import run_prior
from vaekit.config.settings import Config
from vaekit.data.cache import Prepared
from vaekit.data.labels import Labels, find_labels
from vaekit.data.loader import HeldOut, evenly
from vaekit.measures import pictures as metrics
from vaekit.measures.diagnostics import diagnose
from vaekit.measures.features import LPIPS_SMALLEST, Extractor, load_extractor, load_lpips
from vaekit.measures.probes import usefulness
from vaekit.measures.quick import BATCH, encode, gather, reconstruct
from vaekit.measures.sets import Collector, PictureSet, collect, compare_sets
from vaekit.models.posterior import Posterior
from vaekit.models.vae import VAE, WEIGHTS_FILE
from vaekit.priors.mixture import Prior, StandardNormal
from vaekit.reports.charts import power_spectra
from vaekit.reports.mosaic import save
from vaekit.reports.tables import ABSENT, GENERATIONS, Table, by_measure, caveats
from vaekit.runs.folder import FIGURES_FOLDER, held_out_of, trained_on
from vaekit.runs.log import read_records
from vaekit.system.devices import available, precision_here
from vaekit.system.files import replacing, sha256

PROTOCOL_VERSION = 1  # raise it when a measure would give another number
FEW_IMAGES = 2048  # fewer bias distances upwards too much to be compared with those of other sets
RECONSTRUCTIONS = {"sampled": "from sampled z", "mean": "from the mean"}

PROBED = ("accuracy", "balanced_accuracy", "auroc", "average_precision")
NONE = np.array([], dtype=int)

Say = Callable[[str], None]


def evaluate_run(
    run: str | Path,
    images: str | Path | None = None,
    *,
    features: str = "efficientnet-lite0",
    weights: Path | None = None,
    labels: Path | None = None,
    normal: Iterable[str] = (),
    limit: int | None = None,
    seed: int = 0,
    reuse: bool = False,
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Measure a finished run on its own test pictures, or on all pictures of the folder `images`.

    `features` names the feature space of the distances ("efficientnet-lite0", "inception" or "none") and `weights`
    the file of its weights where it needs one; `labels` is a CSV of file,label (class folders are found without),
    `normal` names the classes that are no anomaly; `limit` takes that many pictures, at even distances; with
    `reuse`, numbers of the same protocol that are already there are returned; `say` hears the progress.

    Returns nested dictionaries: `protocol`; `reconstruction` from `sampled` z and from the `mean`; `generation` by
    prior, and of `train` pictures, which says how near pictures of the same kind come; `latents` (see
    `diagnostics.diagnose`); `usefulness` where there are labels; `spectra`; `warnings`; and `not_measured` with the
    reasons. Writes them to evaluation.json in the run (evaluation-<folder>.json for other pictures), the tables beside
    it in Markdown and the power spectra to figures/.

    Raises `ValueError` for a folder without a model, pictures that are gone, fewer than two of them, labels that miss
    files, an unknown feature space or one without its weights.
    """
    started_at = time.monotonic()
    run = Path(run)
    vae = VAE.from_pretrained(run, available("auto"))
    prepared, test = held_out_of(run, vae.config, images)
    chosen = test if limit is None else test[evenly(len(test), limit)]
    if len(chosen) < 2:
        raise ValueError(
            f"{len(chosen)} pictures to measure {run} with: variances need two or more; name a folder with more"
        )
    found = find_labels(prepared.folder, prepared.names, labels)
    extractor = None if features == "none" else load_extractor(features, weights, available("auto"))
    subject = Subject(vae, prepared, HeldOut(prepared.images, chosen), extractor, seed, say)
    say(f"{len(chosen):,} pictures, {seen_as(vae.config)}")

    name = "evaluation" if images is None else f"evaluation-{prepared.folder.name}"
    asked = protocol(run, subject, found, tuple(normal))
    before = measured_before(run / f"{name}.json", asked) if reuse else None
    if before is not None:
        return before

    with torch.no_grad(), in_precision_of(vae.config):
        reconstruction, posterior, errors = reconstructions(subject)
        train = train_part(run, subject)
        generation = generations(run, subject, train)
    say("diagnosing the latents")
    latents = diagnose(posterior, seed, vae.config.objective)
    result: dict[str, Any] = {
        "protocol": asked,
        "reconstruction": reconstruction,
        "generation": generation,
        "latents": latents,
        "usefulness": usefulness_of(subject, train, posterior, errors, found, tuple(normal)),
        "spectra": {name: pictures.spectrum.tolist() for name, pictures in subject.sets.items()},
        "warnings": [*few_images(len(chosen)), *latents["verdict"]["warnings"]],
        "not_measured": subject.missing | latents.pop("not_measured"),
    }
    result["measuring_sec"] = round(time.monotonic() - started_at, 1)
    write(result, run, name)
    return result


@dataclass
class Subject:
    """What is measured and with what; `sets` gathers the pictures met on the way, `missing` what was not measured."""

    vae: VAE
    prepared: Prepared
    test: HeldOut
    extractor: Extractor | None
    seed: int
    say: Say
    sets: dict[str, PictureSet] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def against_test(self, name: str, pictures: PictureSet) -> dict[str, float]:
        """Keep a set of pictures and return how far it is from the test pictures."""
        self.sets[name] = pictures
        measured, missing = compare_sets(self.sets["original"], pictures, self.extractor, self.seed)
        self.missing |= missing
        return measured

    @property
    def device(self) -> torch.device:
        return next(self.vae.parameters()).device

    def on_device(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        return (x.to(self.device) for x in batches)


def reconstructions(subject: Subject) -> tuple[dict[str, dict[str, float]], Posterior, Tensor]:
    """Every measure of the reconstructions, the posterior (N, d) and the L1 (N,) of those from the mean."""
    subject.say(f"reconstructing {len(subject.test.indices):,} pictures")
    subject.sets["original"] = real_set(subject.prepared, subject.test.indices, subject.extractor)
    pairwise = pairwise_measures(subject)
    values: dict[str, dict[str, list[Tensor]]] = {kind: defaultdict(list) for kind in RECONSTRUCTIONS}
    num_images = len(subject.test.indices)
    # Features take most of the time: one of the two has to do.
    collectors = {"sampled": Collector(num_images, subject.extractor), "mean": Collector(num_images, None)}
    posteriors = []
    for x, posterior, *x_hats in reconstruct(subject.vae, subject.on_device(subject.test.batches(BATCH)), subject.seed):
        posteriors.append(posterior)
        for kind, x_hat in zip(RECONSTRUCTIONS, x_hats, strict=True):
            collectors[kind].add(x_hat)
            for name, measure in pairwise.items():
                values[kind][name].append(measure(x, x_hat).cpu().double())
    measured = {
        kind: {name: torch.cat(parts).mean().item() for name, parts in values[kind].items()}
        | subject.against_test(kind, collectors[kind].result())
        for kind in RECONSTRUCTIONS
    }
    return measured, gather(posteriors), torch.cat(values["mean"]["l1"])


Pairwise = Callable[[Tensor, Tensor], Tensor]


def pairwise_measures(subject: Subject) -> dict[str, Pairwise]:
    """The measures of a picture and its reconstruction that can be taken: (B, C, H, W) twice -> (B,)."""
    measures: dict[str, Pairwise] = {"l1": metrics.l1, "psnr": metrics.psnr, "ssim": metrics.ssim}
    if metrics.ms_ssim_scales(*subject.vae.config.image_size) is None:
        subject.missing["ms_ssim"] = "the pictures are too small for two scales"
    else:
        measures["ms_ssim"] = metrics.ms_ssim
    lpips, reason = load_lpips(subject.device)
    if min(subject.vae.config.image_size) < LPIPS_SMALLEST:
        subject.missing["lpips"] = f"the pictures are smaller than {LPIPS_SMALLEST} pixels"
    elif lpips is None:
        subject.missing["lpips"] = reason
    else:
        measures["lpips"] = lpips
    return measures


@dataclass(frozen=True)
class TrainPart:
    """The pictures that a run trained on, and their posterior."""

    prepared: Prepared
    indices: np.ndarray
    posterior: Posterior


def train_part(run: Path, subject: Subject) -> TrainPart | None:
    """What the run trained on, encoded; None, with the reason in `missing`, if those pictures are gone."""
    try:
        prepared, indices = trained_on(run, subject.vae.config, subject.prepared)
    except ValueError as error:
        subject.missing["gaussian-mixture, train"] = str(error)
        return None
    subject.say(f"encoding {len(indices):,} train pictures")
    return TrainPart(prepared, indices, encode(subject.vae, HeldOut(prepared.images, indices)))


def generations(run: Path, subject: Subject, train: TrainPart | None) -> dict[str, dict[str, float]]:
    """How far samples are from the test pictures, for each prior, as many as those; and how far train pictures are."""
    num_images = len(subject.test.indices)
    priors: dict[str, Prior] = {"normal": StandardNormal(subject.vae.latent_dim)}
    if train is not None:
        subject.say("fitting a mixture of Gaussians to the latents of the train pictures")
        try:
            priors["gaussian-mixture"] = run_prior(run, subject.vae, train.posterior)
        except ValueError as error:
            subject.missing["gaussian-mixture"] = str(error)
    measured = {}
    for name, prior in priors.items():
        subject.say(f"drawing {num_images:,} samples from the prior {name}")
        z = prior.sample(num_images, torch.Generator().manual_seed(subject.seed))
        x_hat = (subject.vae.decode(part.to(subject.device)) for part in z.split(BATCH))
        measured[name] = subject.against_test(name, collect(x_hat, num_images, subject.extractor))
    if train is not None:
        some = train.indices[evenly(len(train.indices), num_images)]
        measured["train"] = subject.against_test("train", real_set(train.prepared, some, subject.extractor))
    return measured


KNOWN: dict[tuple[Any, ...], PictureSet] = {}


def real_set(prepared: Prepared, chosen: np.ndarray, extractor: Extractor | None) -> PictureSet:
    """Those pictures as they are; remembered, because the runs of a comparison share them."""
    key = prepared.path, chosen.tobytes(), extractor
    if key not in KNOWN:
        KNOWN[key] = collect(HeldOut(prepared.images, chosen).batches(BATCH), len(chosen), extractor)
    return KNOWN[key]


def usefulness_of(
    subject: Subject,
    train: TrainPart | None,
    posterior: Posterior,
    errors: Tensor,
    labels: Labels | None,
    normal: tuple[str, ...],
) -> dict[str, Any] | None:
    """Probes of the means (N, d) and the errors (N,) as anomaly scores, where `labels` of all pictures are known.

    Pictures that the run did not train on have no train part: the probes then learn from half of them.
    """
    if labels is None:
        subject.missing["usefulness"] = (
            "no labels: sort pictures into class folders, or give a CSV of file,label (--labels)"
        )
        return None
    subject.say(f"probing the latents with the labels of {labels.source}")
    learned = train.indices if train is not None and train.prepared.path == subject.prepared.path else NONE
    train_means = train.posterior.mean if train is not None and len(learned) else posterior.mean[:0]
    test = subject.test.indices
    try:
        return usefulness(train_means, labels[learned], posterior.mean, labels[test], errors, normal, subject.seed)
    except ValueError as error:
        subject.missing["usefulness"] = str(error)
        return None


def measured_before(path: Path, asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """What is in `path`, if it was measured by this very protocol."""
    if not path.is_file():
        return None
    result = json.loads(path.read_text())
    return result if result["protocol"] == json.loads(json.dumps(asked)) else None


def protocol(run: Path, subject: Subject, labels: Labels | None, normal: tuple[str, ...]) -> dict[str, Any]:
    """What somebody needs to know to get the same numbers again."""
    config = subject.vae.config
    last = next((record for record in reversed(read_records(run)) if "images_seen" in record), {})
    return {
        "version": PROTOCOL_VERSION,
        "model": {
            "sha256": sha256(run / WEIGHTS_FILE),
            "preset": config.preset,
            "objective": config.objective,
            "moments": config.moments,
            "gan": config.gan,
            "seed": config.seed,
            "images_seen": last.get("images_seen"),
            "train_sec": last.get("elapsed_sec"),
        },
        "pictures": {
            "folder": str(subject.prepared.folder),
            "num_images": len(subject.test.indices),
            "of": len(subject.prepared),
            "image_shape": list(config.image_shape),
            "preparation": "upright, cropped to the middle, Lanczos; for distances, spectra and sharpness 8 bits",
            "crc32": subject.prepared.crc32,
        },
        "features": None if subject.extractor is None else subject.extractor.protocol(),
        "ms_ssim_scales": metrics.ms_ssim_scales(*config.image_size),
        "labels": None if labels is None else {"source": labels.source, "crc32": labels.crc32, "normal": normal},
        "seed": subject.seed,
        "precision": precision_here(config),
        "device": subject.device.type,
        "versions": {name: version(name) for name in ("vaekit", "torch", "torchmetrics", "scikit-learn")},
    }


@contextmanager
def in_precision_of(config: Config) -> Iterator[None]:
    """The network in the precision of the run, as in training; measures are in float32 and float64 all the same."""
    device = available("auto")
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision_here(config))
    with torch.autocast(device, dtype, enabled=dtype is not None):
        yield


def seen_as(config: Config) -> str:
    """What becomes of pictures of another size or with other channels."""
    height, width = config.image_size
    kind = "grey" if config.channels == 1 else "colour"
    return f"cropped and resized to {height}x{width} in {kind}: what this model takes"


def few_images(num_images: int) -> list[str]:
    """A warning if distances of so few pictures cannot be compared with those of other sets."""
    if num_images >= FEW_IMAGES:
        return []
    return [
        f"{num_images:,} test pictures: Frechet distances of fewer than {FEW_IMAGES:,} are biased upwards; "
        "compare them only with those of as many pictures"
    ]


def readable(result: Mapping[str, Any]) -> str:
    """The result for a terminal."""
    tables = [table.text() for table in tables_of(result)]
    latents = "Latents\n  " + "\n  ".join(latent_lines(result["latents"]))
    return "\n\n".join([*tables, latents, *caveats(result["warnings"], result["not_measured"])])


def latent_lines(latents: Mapping[str, Any]) -> list[str]:
    """What `diagnose` found, in words."""
    split, std, modes = latents["elbo_split"], latents["std"], latents["bimodality"]
    correlated = latents["kl_full_gaussian"] - latents["kl_global"]
    by_chance = latents["correlations"]["by_chance"]
    share = f"of which about {by_chance:.0f}" if by_chance < correlated else "all of which may"
    lines = [
        latents["verdict"]["sentence"],
        f"KL (eq. 11) {split['kl']:.1f} nats; rate {latents['rate']:.1f}, "
        f"{latents['joint_rate']:.1f} without what correlated entries say twice",
        f"KL_G (eq. 20) {latents['kl_global']:.1f} nats, {latents['kl_full_gaussian']:.1f} with correlations, "
        f"{share} come by chance",
        f"mutual information {split['mutual_information']:.2f} of at most log N = {split['log_num_images']:.2f} nats; "
        f"KL of the mixture to N(0, I) {split['kl_aggregate']:.1f}",
        f"posterior stds: {std['near_dirac']:.1%} below 0.05, {std['near_prior']:.1%} above 0.95",
    ]
    if modes is not None:
        rule = f"dip test, Benjamini-Hochberg at {modes['level']:.0%}"
        places = modes["median_modes"]
        where = f", their modes at {places[0]:.2f} and {places[1]:.2f} (medians)" if places else ""
        lines.append(f"{modes['count']} of {latents['latent_dim']} entries bimodal ({rule}){where}")
    return lines


def tables_of(result: Mapping[str, Any]) -> list[Table]:
    """The result for people."""
    reconstruction = {RECONSTRUCTIONS[kind]: values for kind, values in result["reconstruction"].items()}
    generation = {GENERATIONS[kind]: values for kind, values in result["generation"].items()}
    useful = [usefulness_table(result["usefulness"])] if result["usefulness"] else []
    title = f"Reconstruction of {result['protocol']['pictures']['num_images']:,} pictures"
    return [by_measure(title, reconstruction), by_measure("Generation, as many", generation), *useful]


def usefulness_table(scores: Mapping[str, Any]) -> Table:
    """The probes side by side, and the anomaly score below them."""

    def row(name: str) -> list[str]:
        error = scores.get(f"linear_{name}_se"), scores.get(f"knn_{name}_se"), None
        values = (scores[f"linear_{name}"], scores[f"knn_{name}"], scores[f"linear_{name}_majority"])
        cells = (f"{v:.3f}" + (f" ± {e:.3f}" if e else "") for v, e in zip(values, error, strict=True))
        return [name.replace("_", " "), *cells]

    names = [name for name in PROBED if f"linear_{name}" in scores]
    anomaly = f"{scores['anomaly_auroc']:.3f} ± {scores['anomaly_auroc_se']:.3f}"
    label = f"error as anomaly score, AUROC (normal: {scores['anomaly_normal']})"
    columns = ("", "linear probe", f"{scores['knn_k']} nearest", "most frequent class")
    rows = [*(row(name) for name in names), [label, anomaly, ABSENT, "0.500"]]
    return Table(f"Usefulness of the means ({scores['protocol']})", columns, rows)


def write(result: Mapping[str, Any], run: Path, name: str) -> None:
    """The result as JSON, its tables as Markdown, and the power spectra as a figure."""
    with replacing(run / f"{name}.json") as unfinished:
        unfinished.write_text(json.dumps(result, indent=1) + "\n")
    with replacing(run / f"{name}.md") as unfinished:
        tables = [table.markdown() for table in tables_of(result)]
        lines = [*latent_lines(result["latents"]), *caveats(result["warnings"], result["not_measured"])]
        unfinished.write_text("\n\n".join([*tables, "\n".join(f"- {line}" for line in lines)]) + "\n")
    figure = f"power_spectra{name.removeprefix('evaluation')}.png"
    save(power_spectra(result["spectra"]), run / FIGURES_FOLDER / figure)
