"""One step of Algorithm 1, exact over ranks and micro-batches.

Letters: B images of this rank, of which at most `micro_batch` are worked on at once.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.objectives.losses import Losses, Objective, vae_loss
from vaekit.system.devices import Fabric
from vaekit.system.ranks import which_ranks
from vaekit.training.adversarial import Judge, backward_discriminator, judge_through
from vaekit.training.state import Step, TrainState

TINY = 1e-30


class NonFiniteLoss(ArithmeticError):
    """A loss term became infinite or not a number; no such step changed a weight."""


def train_step(
    fabric: Fabric,
    state: TrainState,
    objective: Objective,
    x: Tensor,
    eps: Tensor,
    *,
    adversarial: bool,
    micro_batch: int | None = None,
    clip: float | None = None,
) -> dict[str, Tensor]:
    """One step on the VAE, then one on the discriminator (Algorithm 1); returns the loss terms by name.

    x (B, C, H, W) in [-1, 1] and the noise eps (B, d) are this rank's share of the step; `adversarial` brings in the
    discriminator. The author's code takes both gradients before both updates; that is the same step, since the
    discriminator sees the reconstructions made before the update either way. `clip` bounds the VAE's gradient, see
    `clip_gradient`. A step with a loss that is not finite changes no weight; `check_finite` says so. Nothing here
    waits for the device.
    """
    chunks = split_batch(len(x), micro_batch)
    features = objective.compares_features
    judge = judge_through(fabric, state.discriminator.module, features) if adversarial else None
    backward = backward_whole if len(chunks) == 1 else backward_in_chunks

    state.vae_optimizer.zero_grad()
    losses, x_hat = backward(fabric, state.vae, objective, x, eps, chunks, judge)
    terms = {"total": losses.total, **losses.terms}
    if clip is not None:
        terms["grad_norm"] = clip_gradient(fabric, state, clip)
    update(state.vae_optimizer, all_finite(losses.total, terms.get("grad_norm")))  # phi, theta

    if adversarial:
        state.discriminator_optimizer.zero_grad()
        judged = backward_discriminator(fabric, state.discriminator, x, x_hat, chunks)
        update(state.discriminator_optimizer, all_finite(judged.total))  # gamma
        terms |= judged.terms
    terms = {name: term.detach() for name, term in terms.items()}  # or each keeps the graph of its step in memory
    checked = {name: term for name, term in terms.items() if name != "grad_norm" or not scales_losses(fabric)}
    state.unchecked.append(Step(int(state.counters["step"]) + 1, checked, x_hat.isfinite().all()))
    return terms


def scales_losses(fabric: Fabric) -> bool:
    """Whether fp16 losses are scaled: the scale grows until gradients overflow; such steps are skipped by design."""
    return getattr(fabric.strategy.precision, "scaler", None) is not None


def all_finite(*losses: Tensor | None) -> Tensor:
    """Whether all of some scalars are finite, on their device."""
    return torch.stack([loss.detach().float() for loss in losses if loss is not None]).isfinite().all()


def update(optimizer: Any, sound: Tensor) -> None:
    """One step of an optimiser if `sound`; a fused one decides on the device, as it does for a scaler of losses."""
    inner = optimizer.optimizer
    if inner.defaults["fused"]:
        inner.found_inf = (~sound).float()
        optimizer.step()
    elif sound:
        optimizer.step()


def backward_whole(
    fabric: Fabric,
    vae: Any,
    objective: Objective,
    x: Tensor,
    eps: Tensor,
    chunks: list[slice],
    judge: Judge | None,
) -> tuple[Losses, Tensor]:
    """Gradients of the loss of a batch that fits in memory; returns the losses and x_hat, detached."""
    latents, z, x_hat = vae(x, eps)
    judged = judge(x, x_hat) if judge else {}
    losses = vae_loss(objective, x, x_hat, vae.module.latents_of(latents), z, **judged)
    fabric.backward(losses.total)
    return losses, x_hat.detach()


def backward_in_chunks(
    fabric: Fabric,
    vae: Any,
    objective: Objective,
    x: Tensor,
    eps: Tensor,
    chunks: list[slice],
    judge: Judge | None,
) -> tuple[Losses, Tensor]:
    """The same gradients with the activations of one chunk in memory, at the cost of a second pass through the encoder.

    Latent terms are not additive over chunks. So the latents of the whole batch are computed first, without a
    graph; the latent terms are differentiated with respect to them; then each chunk is encoded again with the same
    noise and those gradients are sent through it together with its own image terms. Statistics that image terms
    need of the whole step come from the first pass too, which then decodes as well. BatchNorm sees chunks in both
    passes, and its running statistics move twice a step.
    """
    with torch.no_grad(), fabric.autocast():
        encoded = [vae.module.encode(x[chunk]).tensors for chunk in chunks]
    leaves = [torch.cat(parts).requires_grad_() for parts in zip(*encoded, strict=True)]
    latents = vae.module.latents_of(leaves)
    z = latents.sample(eps)
    latent = Losses(objective.latent_terms(latents, z), objective.weights)
    if latent.terms:
        gradients = torch.autograd.grad(latent.total, leaves, allow_unused=True, materialize_grads=True)
    else:
        gradients = tuple(torch.zeros_like(leaf) for leaf in leaves)
    statistics = statistics_of(fabric, vae, objective, x, z.detach(), chunks)

    terms: dict[str, Tensor] = {name: term.detach() for name, term in latent.terms.items()}
    x_hats = []
    for chunk in chunks:
        with fabric.no_backward_sync(vae, enabled=chunk is not chunks[-1]):
            tensors, _, x_hat = vae(x[chunk], eps[chunk])
            judged = judge(x[chunk], x_hat) if judge else {}
            image = Losses(objective.image_terms(x[chunk], x_hat, judged, statistics), objective.weights)
            share = len(x_hat) / len(x)
            pairs = zip(tensors, gradients, strict=True)
            through_latents = sum((tensor * gradient[chunk]).sum() for tensor, gradient in pairs)
            fabric.backward(share * image.total + through_latents)
        for name, term in image.terms.items():
            terms[name] = terms.get(name, 0.0) + share * term.detach()
        x_hats.append(x_hat.detach())
    return Losses(terms, objective.weights), torch.cat(x_hats)


@torch.no_grad()
def statistics_of(
    fabric: Fabric, vae: Any, objective: Objective, x: Tensor, z: Tensor, chunks: list[slice]
) -> dict[str, Tensor]:
    """What the image terms need to know of the whole step: x and z of it -> means over its images."""
    if not objective.needs_statistics:
        return {}
    totals: dict[str, Tensor] = {}
    for chunk in chunks:
        with fabric.autocast():
            x_hat = vae.module.decode(z[chunk])
        for name, mean in objective.statistics(x[chunk], x_hat).items():
            totals[name] = totals.get(name, 0.0) + len(x_hat) / len(x) * mean
    return totals


def clip_gradient(fabric: Fabric, state: TrainState, clip: float) -> Tensor:
    """Scale the VAE's gradient down to `clip` times its usual norm, where it is larger; returns its norm before, ().

    A single outlier otherwise moves every weight by up to 1 / sqrt(1 - beta2) times the learning rate, 10 times at
    0.99, and a network without normalisation does not always recover. The usual norm is a running average, so that
    the bound needs no knowledge of the scale of the loss.
    """
    fabric.strategy.precision.unscale_gradients(state.vae_optimizer.optimizer)
    gradients = [p.grad for p in state.vae.module.parameters() if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    bound = clip * state.usual_norm.value
    torch._foreach_mul_(gradients, (bound / (norm + TINY)).clamp(max=1.0))
    state.usual_norm.update(torch.minimum(norm, bound))
    return norm


def split_batch(size: int, micro_batch: int | None) -> list[slice]:
    """Slices of at most `micro_batch` images that cover a batch, as equal in size as possible."""
    count = math.ceil(size / (micro_batch or size))
    edges = [size * i // count for i in range(count + 1)]
    return [slice(start, stop) for start, stop in pairwise(edges)]


def check_finite(state: TrainState) -> None:
    """Raise `NonFiniteLoss` if a step since the last call had a loss that is not finite: number, terms and ranks.

    Every rank holds the same losses, and so all of them stop. Waits for the device.
    """
    steps, state.unchecked = state.unchecked, []
    for step in steps:
        bad = [f"{name} = {term.item()}" for name, term in step.terms.items() if not term.isfinite()]
        if bad:
            named = ", ".join(bad[1:] or bad)  # the total, which comes first, says nothing where a term is bad
            where = which_ranks(not bool(step.own_finite))
            raise NonFiniteLoss(f"step {step.number}: {named} {where}".strip())
