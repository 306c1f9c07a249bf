"""One step of Algorithm 1, exact over ranks and micro-batches.

Letters: B images of this rank, of which at most `micro_batch` are worked on at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.models.posterior import MomentsMemory, Posterior
from vaekit.models.vae import VAE
from vaekit.networks.patchgan import PatchDiscriminator
from vaekit.objectives.losses import Losses, Objective, discriminator_loss, feature_distance, likelihood_terms, vae_loss
from vaekit.system.devices import Fabric
from vaekit.system.ranks import which_ranks

TINY = 1e-30
NORM_RATE = 0.01  # of the running average of the gradient's norm: a hundred steps


class NonFiniteLoss(ArithmeticError):
    """A loss term became infinite or not a number; no such step changed a weight."""


class UsualNorm(nn.Module):
    """The usual norm of the VAE's gradient: a running average, infinite before the first step.

    A buffer, so that it lives on the device and in checkpoints.
    """

    value: Tensor  # ()

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("value", torch.tensor(math.inf))

    def update(self, norm: Tensor) -> None:
        """Take in the norm of one more step, unless it is not finite."""
        moved = torch.where(self.value.isinf(), norm, self.value + NORM_RATE * (norm - self.value))
        self.value.copy_(torch.where(norm.isfinite(), moved, self.value))


@dataclass(frozen=True)
class Step:
    """What one step left on the device: its number, its loss terms, and whether this rank's own x_hat was finite."""

    number: int
    terms: Mapping[str, Tensor]
    own_finite: Tensor


@dataclass
class TrainState:
    """Everything that changes during a run.

    `vae`, `discriminator` and the optimisers are Fabric's wrappers: call those networks; `.module` is the network
    itself. Without a discriminator its two are None; without `moments_memory`, so is `memory`. `unchecked` are the
    steps that `check_finite` has not seen yet.
    """

    vae: Any
    vae_optimizer: Any
    ema: VAE
    usual_norm: UsualNorm
    discriminator: Any = None
    discriminator_optimizer: Any = None
    memory: MomentsMemory | None = None
    unchecked: list[Step] = field(default_factory=list)
    counters: dict[str, float] = field(default_factory=lambda: {"step": 0, "images_seen": 0, "elapsed_sec": 0.0})

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """The networks by name, unwrapped, and what else lives on the device, for checkpoints."""
        networks: dict[str, nn.Module] = {"vae": self.vae.module, "ema": self.ema, "usual_norm": self.usual_norm}
        if self.discriminator:
            networks["discriminator"] = self.discriminator.module
        if self.memory:
            networks["memory"] = self.memory
        return networks

    @property
    def optimizers(self) -> Mapping[str, Any]:
        """The optimisers by name, for checkpoints and schedules."""
        optimizers = {"vae": self.vae_optimizer}
        return optimizers | ({"discriminator": self.discriminator_optimizer} if self.discriminator else {})


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
    features = objective.weights["features"] > 0
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
    """Whether fp16 losses are scaled up until gradients overflow now and then; such steps are left out by design."""
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


Judge = Callable[[Tensor, Tensor], dict[str, Tensor]]  # x, x_hat -> `realism`, and `features` if they count


def judge_through(fabric: Fabric, discriminator: PatchDiscriminator, features: bool) -> Judge:
    """What the discriminator makes of reconstructions in the VAE's step: gradients pass through, it gets none itself.

    It is called unwrapped, so that DistributedDataParallel does not wait for gradients that never come.
    """

    def judge(x: Tensor, x_hat: Tensor) -> dict[str, Tensor]:
        discriminator.requires_grad_(False)
        with fabric.autocast():
            if discriminator.batch_statistics:  # real and fake pictures in one batch: see `judge_both`
                both = [activation.chunk(2) for activation in discriminator.activations(torch.cat([x, x_hat]))]
                real, fake = [real.detach() for real, _ in both], [fake for _, fake in both]
            else:
                fake = discriminator.activations(x_hat)
                with torch.no_grad():
                    real = discriminator.activations(x) if features else []
        discriminator.requires_grad_(True)
        distance = {"features": feature_distance(real[:-1], fake[:-1])} if features else {}
        return {"realism": fake[-1], **distance}

    return judge


def judge_both(discriminator: Any, x: Tensor, x_hat: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of real and fake pictures seen in one batch, so that live BatchNorm gives both the same statistics."""
    realism_real, realism_fake = discriminator(torch.cat([x, x_hat])).chunk(2)
    return realism_real, realism_fake


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
    mean, logvar, z, x_hat = vae(x, eps)
    losses = vae_loss(objective, x, x_hat, Posterior(mean, logvar), z, **(judge(x, x_hat) if judge else {}))
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
    """The same gradients in the memory of one chunk, for one more pass through the encoder.

    The batch moments are not additive over chunks. So the latents of the whole batch are computed first, without a
    graph; the latent terms are differentiated with respect to them; then each chunk is encoded again with the same
    noise and those gradients are sent through it together with its own reconstruction terms. BatchNorm sees chunks
    in both passes, and its running statistics move twice a step.
    """
    with torch.no_grad(), fabric.autocast():
        encoded = [vae.module.encode(x[chunk]) for chunk in chunks]
    posterior = Posterior(
        torch.cat([p.mean for p in encoded]).requires_grad_(),
        torch.cat([p.logvar for p in encoded]).requires_grad_(),
    )
    latent = Losses(objective.latent_terms(posterior, posterior.sample(eps)), objective.weights)
    mean_grad, logvar_grad = torch.autograd.grad(latent.total, (posterior.mean, posterior.logvar))

    terms: dict[str, Tensor] = {name: term.detach() for name, term in latent.terms.items()}
    x_hats = []
    for chunk in chunks:
        with fabric.no_backward_sync(vae, enabled=chunk is not chunks[-1]):
            mean, logvar, _, x_hat = vae(x[chunk], eps[chunk])
            judged = judge(x[chunk], x_hat) if judge else {}
            likelihood = Losses(likelihood_terms(x[chunk], x_hat, **judged), objective.weights)
            share = len(x_hat) / len(x)
            through_latents = (mean * mean_grad[chunk]).sum() + (logvar * logvar_grad[chunk]).sum()
            fabric.backward(share * likelihood.total + through_latents)
        for name, term in likelihood.terms.items():
            terms[name] = terms.get(name, 0.0) + share * term.detach()
        x_hats.append(x_hat.detach())
    return Losses(terms, objective.weights), torch.cat(x_hats)


def backward_discriminator(fabric: Fabric, discriminator: Any, x: Tensor, x_hat: Tensor, chunks: list[slice]) -> Losses:
    """Gradients of the discriminator's loss, each chunk of real pictures beside its reconstructions (eq. 24)."""
    terms: dict[str, Tensor] = {}
    for chunk in chunks:
        with fabric.no_backward_sync(discriminator, enabled=chunk is not chunks[-1]):
            losses = discriminator_loss(*judge_both(discriminator, x[chunk], x_hat[chunk]))
            share = len(x[chunk]) / len(x)
            fabric.backward(share * losses.total)
        for name, term in losses.terms.items():
            terms[name] = terms.get(name, 0.0) + share * term.detach()
    return Losses(terms, losses.weights)


def clip_gradient(fabric: Fabric, state: TrainState, clip: float) -> Tensor:
    """Scale the VAE's gradient down to `clip` times its usual norm, where it is larger; returns its norm before, ().

    A single outlier otherwise moves every weight by up to 1 / sqrt(1 - beta2) times the learning rate, 10 times at
    0.99, and a network without normalisation does not always come back. The usual norm is a running average, so that
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
    """Slices of at most `micro_batch` images that cover a batch, as even as they come."""
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
