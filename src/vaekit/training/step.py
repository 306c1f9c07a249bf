"""One step of Algorithm 1, exact over ranks and micro-batches.

Letters: B images of this rank, of which at most `micro_batch` are worked on at once.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vaekit.objectives.losses import Losses, Objective, vae_loss
from vaekit.system.devices import Fabric
from vaekit.system.ranks import images_of_ranks, which_ranks
from vaekit.training.adversarial import (
    Judge,
    backward_discriminator,
    backward_latent_discriminator,
    judge_through,
)
from vaekit.training.state import Step, TrainState

TINY = 1e-30
GRAD_NORM = "grad_norm"
FOLLOWING = ("total", GRAD_NORM, f"discriminator_{GRAD_NORM}")
LEAST_SCALE = 2.0**-24  # of fp16 losses; it begins at 2^16


class NonFiniteLoss(ArithmeticError):
    """A loss term or a gradient became infinite or not a number; no such step changed a weight."""


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
    encoder_alone: bool = False,
) -> dict[str, Tensor]:
    """One step on the VAE, then one on the discriminator (Algorithm 1); returns the loss terms by name.

    x (B, C, H, W) in [-1, 1] and the noise eps (B, `Config.noise_dim`) are this rank's share of the step;
    `adversarial` brings in the discriminator. The author's code takes both gradients before both updates; that is the
    same step, since the discriminator sees the reconstructions made before the update either way. `clip` bounds the
    VAE's gradient, see `clip_gradient`. A step with a loss or a gradient that is not finite changes no weight;
    `check_finite` says so. With `encoder_alone` no other network moves. Nothing here waits for the device.
    """
    chunks = split_batch(len(x), micro_batch)
    features = objective.compares_features
    judge = judge_through(fabric, state.discriminator.module, features) if adversarial else None
    backward = backward_whole if len(chunks) == 1 else backward_in_chunks

    state.vae_optimizer.zero_grad()
    done = backward(fabric, state.vae, objective, x, eps, chunks, judge)
    losses = done.losses
    terms = {"total": losses.total, **losses.terms}
    if encoder_alone:
        state.vae.module.decoder.zero_grad()
    terms[GRAD_NORM] = gradient_norm(state, state.vae, state.vae_optimizer)
    if clip is not None:
        clip_gradient(state, terms[GRAD_NORM], clip, usual=not encoder_alone)
    sound = all_finite(losses.total, terms[GRAD_NORM])
    update(state.vae_optimizer, sound)  # phi, theta
    if state.vae.module.codebook is not None:
        state.vae.module.codebook.learn(images_of_ranks(done.z), sound)

    if adversarial and not encoder_alone:
        state.discriminator_optimizer.zero_grad()
        judged = backward_discriminator(fabric, state.discriminator, x, done.fakes, chunks)
        norm = gradient_norm(state, state.discriminator, state.discriminator_optimizer)
        update(state.discriminator_optimizer, all_finite(judged.total, norm))  # gamma
        terms |= {**judged.terms, f"discriminator_{GRAD_NORM}": norm}
    if state.latent_discriminator:
        state.latent_discriminator_optimizer.zero_grad()
        judged = backward_latent_discriminator(fabric, state.latent_discriminator, done.z, eps[:, done.z.shape[1] :])
        norm = gradient_norm(state, state.latent_discriminator, state.latent_discriminator_optimizer)
        update(state.latent_discriminator_optimizer, all_finite(judged.total, norm))
        terms |= {f"latent_{name}": term for name, term in judged.terms.items()}
    terms = {name: term.detach() for name, term in terms.items()}  # or each keeps the graph of its step in memory
    # The scale of fp16 losses grows until gradients overflow; such steps are skipped by design.
    checked = {name: term for name, term in terms.items() if state.scaler is None or not name.endswith(GRAD_NORM)}
    state.unchecked.append(Step(int(state.counters["step"]) + 1, checked, done.fakes.isfinite().all()))
    return terms


def all_finite(*scalars: Tensor) -> Tensor:
    """Whether all of some scalars are finite, on their device."""
    return torch.stack([scalar.detach().float() for scalar in scalars]).isfinite().all()


def update(optimizer: Any, sound: Tensor) -> None:
    """One step of an optimiser if `sound`; a fused one decides on the device, as it does for a scaler of losses.

    Where losses are scaled, the scaler decides by the gradients alone, which are not finite if the loss is not.
    """
    inner = optimizer.optimizer
    if inner.defaults["fused"]:
        inner.found_inf = (~sound).float()
        optimizer.step()
    elif sound:
        optimizer.step()


class Done(NamedTuple):
    """What the VAE's half of a step leaves, without gradients: its losses, z, and what the discriminator judges."""

    losses: Losses
    z: Tensor  # (B, d)
    fakes: Tensor  # the reconstructions (B, C, H, W), or (B, F, C, H, W) where F pictures an image are judged


def backward_whole(
    fabric: Fabric,
    vae: Any,
    objective: Objective,
    x: Tensor,
    eps: Tensor,
    chunks: list[slice],
    judge: Judge | None,
) -> Done:
    """Gradients of the loss of a batch that fits in memory."""
    latents, z, x_hat, shared, measured, fakes = vae(x, eps)
    judged = judge(x, x_hat, fakes) if judge else {}
    posterior = vae.module.latents_of(latents)
    losses = vae_loss(objective, x, x_hat, posterior, z, **judged, shared=shared, measured=measured)
    fabric.backward(losses.total)
    return Done(losses, z.detach(), (x_hat if fakes is None else fakes).detach())


def backward_in_chunks(
    fabric: Fabric,
    vae: Any,
    objective: Objective,
    x: Tensor,
    eps: Tensor,
    chunks: list[slice],
    judge: Judge | None,
) -> Done:
    """The same gradients with the activations of one chunk in memory, at the cost of a second pass through the encoder.

    Latent terms are not additive over chunks. So the latents of the whole batch are computed first, without a
    graph; the latent terms are differentiated with respect to them; then each chunk is encoded again with the same
    noise and those gradients are sent through it together with its own image terms; what is shared by all images is
    computed with every chunk, and gets its gradient in shares. Statistics that image terms
    need of the whole step come from the first pass too, which then decodes as well. BatchNorm sees chunks in both
    passes, and its running statistics move twice a step.
    """
    with torch.no_grad(), fabric.autocast():
        encoded = [vae.module.encode_unchecked(x[chunk]).tensors for chunk in chunks]
        known = vae.module.shared()
    leaves = [torch.cat(parts).requires_grad_() for parts in zip(*encoded, strict=True)]
    shared_leaves = tuple(tensor.requires_grad_() for tensor in known)
    latents = vae.module.latents_of(leaves)
    z = latents.sample(eps[:, : latents.num_entries])
    latent = Losses(objective.latent_terms(latents, z, shared_leaves), objective.weights)
    every = (*leaves, *shared_leaves)
    if latent.terms:
        gradients = torch.autograd.grad(latent.total, every, allow_unused=True, materialize_grads=True)
    else:
        gradients = tuple(torch.zeros_like(leaf) for leaf in every)
    statistics = statistics_of(fabric, vae, objective, x, z.detach(), chunks)

    terms: dict[str, Tensor] = {name: term.detach() for name, term in latent.terms.items()}
    judged_ones = []
    for chunk in chunks:
        with fabric.no_backward_sync(vae, enabled=chunk is not chunks[-1]):
            tensors, _, x_hat, shared, measured, fakes = vae(x[chunk], eps[chunk])
            judged = {**measured, **(judge(x[chunk], x_hat, fakes) if judge else {})}
            image = Losses(objective.image_terms(x[chunk], x_hat, judged, statistics), objective.weights)
            share = len(x_hat) / len(x)
            own = [gradient[chunk] for gradient in gradients[: len(tensors)]]
            of_all = [share * gradient for gradient in gradients[len(tensors) :]]
            pairs = zip((*tensors, *shared), (*own, *of_all), strict=True)
            moving = [(tensor, gradient) for tensor, gradient in pairs if tensor.requires_grad]  # not the std of points
            through_latents = sum((tensor * gradient).sum() for tensor, gradient in moving)
            fabric.backward(share * image.total + through_latents)
        for name, term in image.terms.items():
            terms[name] = terms.get(name, 0.0) + share * term.detach()
        judged_ones.append((x_hat if fakes is None else fakes).detach())
    return Done(Losses(terms, objective.weights), z.detach(), torch.cat(judged_ones))


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


def gradient_norm(state: TrainState, network: Any, optimizer: Any) -> Tensor:
    """The norm of the gradient of all weights of a network, (); where losses are scaled, the scale is taken out."""
    if state.scaler is not None:
        state.scaler.unscale_(optimizer.optimizer)
    return nn.utils.get_total_norm(gradients_of(network))


def gradients_of(network: Any) -> list[Tensor]:
    """The gradients of the weights of a network."""
    return [p.grad for p in network.module.parameters() if p.grad is not None]


def clip_gradient(state: TrainState, norm: Tensor, clip: float, usual: bool = True) -> None:
    """Scale the VAE's gradient, whose norm () is known, down to `clip` times its usual norm where it is larger.

    A single outlier otherwise moves every weight by up to 1 / sqrt(1 - beta2) times the learning rate, 10 times at
    0.99, and a network without normalisation does not always recover. The usual norm is a running average, so that
    the bound needs no knowledge of the scale of the loss; a norm that is not `usual` stays out of it.
    """
    bound = clip * state.usual_norm.value
    torch._foreach_mul_(gradients_of(state.vae), (bound / (norm + TINY)).clamp(max=1.0))
    if usual:
        state.usual_norm.update(torch.where(norm.isfinite(), torch.minimum(norm, bound), norm))


def split_batch(size: int, micro_batch: int | None) -> list[slice]:
    """Slices of at most `micro_batch` images that cover a batch, as equal in size as possible."""
    count = math.ceil(size / (micro_batch or size))
    edges = [size * i // count for i in range(count + 1)]
    return [slice(start, stop) for start, stop in pairwise(edges)]


def check_finite(state: TrainState) -> None:
    """Raise `NonFiniteLoss` if a step since the last call had a loss or gradient that is not finite: its terms, ranks.

    Every rank holds the same losses, and so all of them stop. Waits for the device.
    """
    steps, state.unchecked = state.unchecked, []
    for step in steps:
        bad = [f"{name} = {term.item()}" for name, term in step.terms.items() if not term.isfinite()]
        if bad:
            named = ", ".join(telling(bad))
            where = which_ranks(not bool(step.own_finite))
            raise NonFiniteLoss(f"step {step.number}: {named} {where}".strip())
    if steps and state.scaler is not None and state.scaler.get_scale() < LEAST_SCALE:
        raise NonFiniteLoss(f"step {steps[-1].number}: the gradients overflow in fp16 at every scale of the loss")


def telling(bad: list[str]) -> list[str]:
    """Of terms that are not finite those that say something: the total and the gradients follow from the others."""
    return [term for term in bad if not term.startswith(FOLLOWING)] or bad


def check_weights(state: TrainState) -> None:
    """Raise `NonFiniteLoss` if a network holds a number that is not finite: it must not be saved as a good one."""
    for name, network in state.networks.items():
        numbers = [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]
        if name != "usual_norm" and not nn.utils.get_total_norm(numbers).isfinite():
            raise NonFiniteLoss(f"step {int(state.counters['step'])}: the weights of {name} are not finite")
