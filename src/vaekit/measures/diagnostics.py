"""What the latents of N images hold: by entry, in the aggregate posterior, and in one sentence.

Letters: N images, d latent entries. Everything is computed in float64 on the CPU from a `Posterior` of all images
(N, d). Each function raises `ValueError` for fewer than two images and for latents that are not finite.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaekit.config.variants import ANY_PRICE, OBJECTIVES
from vaekit.measures.bimodality import MIN_IMAGES, bimodality
from vaekit.models.posterior import Posterior, kl_gaussians, log_densities

ACTIVE_VARIANCE = 0.01  # Burda et al. (2016): an entry is active if its mean varies by more than this over the data
DIRAC_STD, PRIOR_STD = 0.05, 0.95  # a std below the one is nearly a point, above the other nearly the prior
SINGULAR = 1e-12  # the least eigenvalue of a covariance that has an inverse, over the largest
TINY = 1e-300
HUGE = 1e100  # latents beyond this count as not finite: their squares and precisions leave float64
BLOCK = 2**24  # log densities held at a time: 128 MiB

# The verdict. A Dirac comes first: latents that shrank to a point have no active entry either.
DIRAC_SHARE = 0.5  # of the stds below DIRAC_STD
ACTIVE_SHARE = 0.1  # a smaller share of active entries than this is a collapse to the prior,
LEAST_RATE = 0.1  # and so is a rate of less than this many nats in all
DEAD_SHARE = 0.05  # a larger share of inactive entries than this is reported
AGGREGATE_VARIANCE, AGGREGATE_MEAN = (0.5, 2.0), 0.5  # an entry beyond these does not match N(0, 1)
OFF_SHARE = 0.1  # a larger share of such entries than this makes samples from N(0, I) miss the latents,
CORRELATED = 0.25  # and so do correlations that cost more than this many nats an entry


@dataclass(frozen=True)
class Entries:
    """The latent entries one by one, tensors (d,) in float64 but for `active`.

    `kl`: mean KL(q(z_j|x) || N(0, 1)), nats (eq. 11). `mean_variance`: variance of the means over the images.
    `mean_std`: mean of the stds. `snr`: `mean_variance` over the mean of std^2. `rate`: 0.5 log(1 + snr), nats, what a
    Gaussian channel of that signal-to-noise ratio holds. `aggregate_mean`, `aggregate_variance`: of the aggregate
    posterior (eqs 16-19, "total"). `active`: `mean_variance` above 0.01 (Burda et al., 2016). Of points (an
    autoencoder's latents) `kl`, `snr` and `rate` are infinite.
    """

    kl: Tensor
    snr: Tensor
    rate: Tensor
    mean_variance: Tensor
    mean_std: Tensor
    aggregate_mean: Tensor
    aggregate_variance: Tensor
    active: Tensor

    @property
    def points(self) -> bool:
        """Whether the latents are points, an autoencoder's."""
        return bool(self.kl.isinf().all())


@dataclass(frozen=True)
class Verdict:
    """The state of the latents, a sentence with its numbers and what to do, and remarks that do not change it."""

    state: str  # "healthy", "points", "collapsed to the prior", "collapsed to a Dirac" or "dead dimensions"
    sentence: str
    warnings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the state is healthy, or what the objective is meant to give."""
        return self.state in ("healthy", "points")


def checked(posterior: Posterior) -> Posterior:
    """The posterior in float64 on the CPU. Raises `ValueError` for one image, or for values that are not finite."""
    mean, logvar = (t.detach().cpu().double() for t in (posterior.mean, posterior.logvar))
    if len(mean) < 2:
        raise ValueError(f"latents of {len(mean)} image; diagnostics compare images, so give at least two")
    precision = logvar.abs().exp() if not posterior.points else torch.ones_like(mean)
    lost = int((~((1 + mean.square()) * precision < HUGE)).any(1).sum())  # NaN is not below anything
    if lost:
        cure = "the training diverged: take an earlier checkpoint, or a lower learning rate"
        raise ValueError(f"latents of {lost:,} of {len(mean):,} images are not finite; {cure}")
    return Posterior(mean, logvar)


def entries(posterior: Posterior) -> Entries:
    """Information, scale and activity of each latent entry over the images (N, d)."""
    posterior = checked(posterior)
    mean, var = posterior.mean, posterior.var
    mean_variance, noise = mean.var(0, correction=0), var.mean(0)
    snr = mean_variance / noise if not posterior.points else torch.full_like(noise, math.inf)
    return Entries(
        kl=posterior.kl_entries().mean(0),
        snr=snr,
        rate=0.5 * torch.log1p(snr),
        mean_variance=mean_variance,
        mean_std=posterior.std.mean(0),
        aggregate_mean=mean.mean(0),  # eq. 16
        aggregate_variance=noise + mean_variance,  # eq. 17
        active=mean_variance > ACTIVE_VARIANCE,
    )


def kl_of_moments(by_entry: Entries) -> Tensor:
    """KL_G of the images as one batch (eq. 20 with the variance "total"), from their `entries` alone: (), nats."""
    zero, one = torch.zeros_like(by_entry.kl), torch.ones_like(by_entry.kl)
    return kl_gaussians(by_entry.aggregate_mean, by_entry.aggregate_variance, zero, one).sum()  # eq. 20


def correlations(posterior: Posterior) -> dict[str, float | None]:
    """`mean` and `largest` |correlation| of two different entries of the aggregate posterior; None where d is one.

    Means that are independent still correlate by about 0.8 / sqrt(N) on average, by chance, which adds to
    `kl_full_gaussian` the nats `by_chance`: ((sum s)^2 - sum s^2) / (4 N), where s is the share of each entry's
    variance that its means have. The noise of the posteriors, the rest, is known exactly and correlates with nothing.
    To second order in the correlations, so for many more images than entries.
    """
    posterior = checked(posterior)
    n, d = posterior.mean.shape
    covariance = torch.cov(posterior.mean.T, correction=0) + posterior.var.mean(0).diag()
    share = posterior.mean.var(0, correction=0) / covariance.reshape(d, d).diagonal().clamp(min=TINY)
    by_chance = (share.sum().square() - share.square().sum()).item() / (4 * n)
    if d < 2:
        return {"mean": None, "largest": None, "by_chance": by_chance}
    std = covariance.diagonal().sqrt().clamp(min=TINY)  # an entry of points that never varies correlates with nothing
    off_diagonal = (covariance / std / std[:, None]).abs().fill_diagonal_(0)
    mean, largest = off_diagonal.sum().item() / (d * (d - 1)), off_diagonal.max().item()
    return {"mean": mean, "largest": largest, "by_chance": by_chance}


def kl_full_gaussian(posterior: Posterior) -> float:
    """KL of the aggregate posterior's moment-matched Gaussian *with* its correlations to N(0, I), nats.

    It lies between KL_G, which leaves the correlations out, and KL(q(z) || N(0, I)). Of points it is infinite for no
    more images than entries.
    """
    posterior = checked(posterior)
    mean, noise = posterior.mean.mean(0), posterior.var.mean(0)
    if posterior.points:
        covariance = torch.cov(posterior.mean.T, correction=0).reshape(len(mean), len(mean))
        eigenvalues = torch.linalg.eigvalsh(covariance)
        if len(posterior.mean) <= len(mean) or eigenvalues[0] < SINGULAR * eigenvalues[-1]:
            return math.inf  # such a Gaussian is flat in a direction
        return 0.5 * (covariance.trace() + mean.square().sum() - len(mean) - eigenvalues.log().sum()).item()
    signal = (posterior.mean - mean) / noise.sqrt()  # (N, d)
    eigenvalues = torch.linalg.eigvalsh(signal.T @ signal / len(signal)).clamp(min=0)
    log_det = noise.log().sum() + eigenvalues.log1p().sum()  # of noise^(1/2) (I + signal' signal / N) noise^(1/2)
    trace = (noise + posterior.mean.var(0, correction=0)).sum()
    return 0.5 * (trace + mean.square().sum() - len(mean) - log_det).item()


def elbo_split(posterior: Posterior, seed: int, num_samples: int = 1000) -> dict[str, float]:
    """Mean KL(q(z|x) || p) = I(x; z) + KL(q(z) || p) (Hoffman & Johnson, 2016), nats.

    `kl`, the left side, is exact. `mutual_information` is the mean of log q(z|x_i) - log q(z) over `num_samples`
    points z from q(z|x_i), the images in turn in random order, with q(z) the mixture of all N images (eq. 15).
    `kl_aggregate` is the difference, so both have the same `standard_error`.

    I(x; z) is the information about *which of these N images* was encoded, hence at most `log_num_images` = log N.
    Posteriors that hold hundreds of nats hardly overlap: then I(x; z) is saturated at log N and all the rest counts as
    KL(q(z) || p), even if the latents of the distribution behind the images are Gaussian.
    """
    posterior = checked(posterior)
    n, d = posterior.mean.shape
    generator = torch.Generator().manual_seed(seed)
    rounds = [torch.randperm(n, generator=generator) for _ in range(math.ceil(num_samples / n))]
    images = torch.cat(rounds)[:num_samples]
    eps = torch.randn(num_samples, d, generator=generator, dtype=torch.float64)
    blocks = zip(*(t.split(max(1, BLOCK // n)) for t in (images, eps)), strict=True)
    terms = torch.cat([information_of(posterior, *block) for block in blocks])
    kl, information = posterior.kl_standard().mean().item(), terms.mean().item()
    return {
        "kl": kl,
        "mutual_information": information,
        "kl_aggregate": kl - information,
        "standard_error": terms.std().item() / math.sqrt(num_samples),
        "log_num_images": math.log(n),
    }


def information_of(posterior: Posterior, images: Tensor, eps: Tensor) -> Tensor:
    """log q(z|x_i) - log q(z) at one z of each of `images` (M,), with noise (M, d): (M,), at most log N."""
    own = Posterior(posterior.mean[images], posterior.logvar[images])
    log_own = -0.5 * (eps.square() + own.logvar + math.log(2 * math.pi)).sum(1)
    log_all = log_densities(own.sample(eps), posterior)
    log_all[torch.arange(len(images)), images] = log_own  # without rounding, or points of tiny std would exceed log N
    return log_own - log_all.logsumexp(1) + math.log(len(posterior.mean))  # eq. 15


def std_histogram(posterior: Posterior) -> dict[str, Any]:
    """Posterior stds of all images and entries: `counts[i]` lie from `edges[i]` to the next, the last ones above.

    `near_dirac` and `near_prior`: the shares below 0.05 and above 0.95.
    """
    std, edges = checked(posterior).std.flatten().numpy(), [i / 20 for i in range(31)]
    counts = np.histogram(std, [*edges, math.inf])[0].tolist()
    near_dirac, near_prior = float(np.mean(std < DIRAC_STD)), float(np.mean(std > PRIOR_STD))
    return {"edges": edges, "counts": counts, "near_dirac": near_dirac, "near_prior": near_prior}


def verdict(by_entry: Entries, std: dict[str, Any], objective: str | None = None, correlated: float = 0) -> Verdict:
    """Judge what `entries` and `std_histogram` return by the constants at the head of this module.

    `objective` is the name of one (`config.variants.OBJECTIVES`), and decides which weight the cure names; `correlated`
    are the nats that correlations add to KL_G, beyond chance. Cheap enough for every log. Raises `ValueError` for
    another objective.
    """
    if objective is not None and objective not in OBJECTIVES:
        raise ValueError(f"unknown objective {objective!r}; choose one of {', '.join(OBJECTIVES)}")
    row = OBJECTIVES[objective] if objective is not None else None
    price, reconstruction = (row.price, row.reconstruction) if row is not None else (ANY_PRICE, "--weights.l1")
    d, rate = len(by_entry.kl), by_entry.rate.sum().item()
    active, narrow_share = int(by_entry.active.sum()), std["near_dirac"]
    holds = f"{active} of {d} entries are active"
    holds += "" if by_entry.points else f" and together hold up to {rate:.3g} nats"
    narrow = f"{narrow_share:.0%} of the posterior stds are below {DIRAC_STD}"
    if narrow_share > DIRAC_SHARE and not by_entry.points:
        cure = f"raise {price}, or, if each of a few entries has to hold much, give more of them (--network.latent-dim)"
        state, text = "collapsed to a Dirac", f"{narrow}, so nothing is learned between codes; {cure}"
    elif active < ACTIVE_SHARE * d or rate < LEAST_RATE:
        cure = f"lower {price}" + (f" or raise {reconstruction}" if reconstruction else "")
        state, text = "collapsed to the prior", f"only {holds}; {cure}"
    elif d - active > DEAD_SHARE * d:
        cure = f"lower {price}, or make --network.latent-dim smaller if the pictures are good enough"
        state, text = "dead dimensions", f"{d - active} of {d} entries do not vary with the image; {cure}"
    elif by_entry.points:
        state, text = "points", f"latents have no width by design, so no KL and no rate; {holds}"
    else:
        state, text = "healthy", f"{holds}; {narrow}"
    remarks = off_prior(by_entry, correlated)
    return Verdict(state, f"{state[0].upper()}{state[1:]}: {text}.", remarks)


def off_prior(by_entry: Entries, correlated: float) -> tuple[str, ...]:
    """A remark where samples from N(0, I) miss the latents of pictures, and why."""
    variance, mean, faults = by_entry.aggregate_variance, by_entry.aggregate_mean.abs(), []
    (lowest, highest), d = AGGREGATE_VARIANCE, len(mean)
    off = int(((variance < lowest) | (variance > highest) | (mean > AGGREGATE_MEAN)).sum())
    if off > OFF_SHARE * d:
        bounds = f"a variance outside [{lowest:g}, {highest:g}] or a mean beyond {AGGREGATE_MEAN}"
        faults.append(f"{off} of {d} entries have {bounds} (median variance {variance.median():.2f})")
    if correlated > CORRELATED * d:
        faults.append(f"correlations of the entries add {correlated:.3g} nats to KL_G")
    cure = "draw from a density that is fitted to the latents (as vaekit sample does where it can)"
    return (f"Samples from N(0, I) will be off: {', and '.join(faults)}; {cure}.",) if faults else ()


def diagnose(posterior: Posterior, seed: int = 0, objective: str | None = None) -> dict[str, Any]:
    """Everything above and the bimodal entries, as one nested dictionary for JSON; lists under `entries` are (d,).

    `rate` adds up the entries as if they were independent; `joint_rate` is that of the Gaussian channel with their
    correlations, 0.5 log det(I + covariance of the means / mean of std^2), lower by `kl_full_gaussian` - `kl_global`.
    `bimodality` is that of one sample of each image; None without the package diptest or with under four images, for
    the reason in `not_measured`. Of points `elbo_split` is None and what their width would give is infinite.
    """
    posterior = checked(posterior)
    n, d = posterior.mean.shape
    by_entry, std = entries(posterior), std_histogram(posterior)
    rate, full = by_entry.rate.sum().item(), kl_full_gaussian(posterior)
    diagonal = kl_of_moments(by_entry).item()
    correlated = correlations(posterior)
    cost = full - diagonal - (correlated["by_chance"] or 0.0)
    judged = verdict(by_entry, std, objective, cost if math.isfinite(cost) else 0.0)
    missing = {}
    if posterior.points:
        missing["KL and rate"] = "the latents of this objective are points: a KL to N(0, I) would be infinite"
    if n < MIN_IMAGES:
        missing["bimodal entries"] = f"{n} pictures; the dip test needs {MIN_IMAGES} or more"
    elif not find_spec("diptest"):
        missing["bimodal entries"] = 'the dip test is a package of its own; run: pip install "vaekit[bimodality]"'
    z = posterior.sample(generator=torch.Generator().manual_seed(seed))
    return {
        "num_images": n,
        "latent_dim": d,
        "active": int(by_entry.active.sum()),
        "rate": rate,
        "joint_rate": rate - (full - diagonal),
        "kl_global": diagonal,
        "kl_full_gaussian": full,
        "elbo_split": None if posterior.points else elbo_split(posterior, seed),
        "correlations": correlated,
        "std": std,
        "bimodality": None if "bimodal entries" in missing else bimodality(z).to_dict(),
        "not_measured": missing,
        "verdict": vars(judged) | {"ok": judged.ok, "warnings": list(judged.warnings)},
        "entries": {name: values.tolist() for name, values in vars(by_entry).items()},
    }
