"""One step of Algorithm 1: which loss moves which network, and that micro-batches change memory and nothing else."""

import dataclasses
import math
from unittest.mock import Mock

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.accelerators import CPUAccelerator
from lightning_fabric.plugins.precision import MixedPrecision
from lightning_fabric.strategies import SingleDeviceStrategy
from torch.utils._python_dispatch import TorchDispatchMode

from small import of_model, of_objective, tiny_resnet
from vaekit.config.variants import COMPARED, OBJECTIVES
from vaekit.models.posterior import Posterior
from vaekit.objectives.build import build_objective
from vaekit.objectives.elbo import StandardELBO
from vaekit.objectives.losses import discriminator_loss, vae_loss
from vaekit.runs.checkpoint import latest, load_checkpoint, save_checkpoint
from vaekit.training.adversarial import backward_discriminator, judge_through
from vaekit.training.loop import check_before_save, to_device
from vaekit.training.state import build_state
from vaekit.training.step import (
    NonFiniteLoss,
    backward_in_chunks,
    backward_whole,
    check_finite,
    clip_gradient,
    gradient_norm,
    split_batch,
    train_step,
)


@pytest.fixture
def fabric():
    """In float64, so that rounding hides no difference."""
    torch.set_default_dtype(torch.float64)
    yield Fabric(accelerator="cpu")
    torch.set_default_dtype(torch.float32)


def batch(config, generator, size=6):
    x = torch.rand(size, *config.image_shape, generator=generator) * 2 - 1
    return x, torch.randn(size, config.noise_dim, generator=generator)


def parameters(network):
    return {name: p.detach().clone() for name, p in network.module.named_parameters()}


def changed(before, network):
    return {name for name, p in network.module.named_parameters() if not torch.equal(p, before[name])}


@pytest.mark.parametrize("norm", ["none", "frozen", "group"])
@pytest.mark.parametrize("model", COMPARED)
def test_micro_batches_give_the_gradient_of_the_whole_batch(fabric, tiny, generator, model, norm):
    config = of_model(tiny_resnet(tiny, norm), f"{model}+gan")
    state = build_state(fabric, config)
    objective = build_objective(config, state.beside)
    x, eps = batch(config, generator)
    judge = judge_through(fabric, state.discriminator.module, features=True)
    gradients, terms = [], []
    for backward, chunks in ((backward_whole, split_batch(6, None)), (backward_in_chunks, split_batch(6, 4))):
        state.vae_optimizer.zero_grad()
        losses, z, fakes = backward(fabric, state.vae, objective, x, eps, chunks, judge)
        assert z.shape == (6, config.latent_dim)
        assert fakes.shape[0] == len(x)
        assert fakes.shape[-3:] == x.shape[1:]
        gradients.append({name: p.grad.clone() for name, p in state.vae.module.named_parameters() if p.requires_grad})
        terms.append(losses.items())
    whole, chunked = gradients
    for name in whole:
        difference = (whole[name] - chunked[name]).norm() / whole[name].norm().clamp(min=1e-300)
        assert difference < 1e-9, name
    assert terms[1] == pytest.approx(terms[0], rel=1e-9)


class WithoutLatentTerms(StandardELBO):
    """An objective that looks at the reconstruction alone."""

    def latent_terms(self, posterior, z, shared=()):
        return {}


class OfTheMeansAlone(StandardELBO):
    """An objective that does not look at the variances of the posterior."""

    def latent_terms(self, posterior, z, shared=()):
        return {"kl_standard": posterior.mean.square().mean()}


@pytest.mark.parametrize("objective", [WithoutLatentTerms(), OfTheMeansAlone()], ids=lambda each: type(each).__name__)
def test_micro_batches_do_not_need_every_tensor_of_the_latents(fabric, tiny, generator, objective):
    x, eps = batch(tiny, generator)
    gradients = []
    for micro_batch in (None, 4):
        state = build_state(fabric, tiny)
        backward = backward_whole if micro_batch is None else backward_in_chunks
        backward(fabric, state.vae, objective, x, eps, split_batch(6, micro_batch), None)
        gradients.append({name: p.grad.clone() for name, p in state.vae.module.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-9, atol=1e-15)


def test_the_discriminator_learns_the_same_from_micro_batches(fabric, tiny, generator):
    x, eps = batch(tiny, generator)
    after = []
    for micro_batch in (None, 2):
        state = build_state(fabric, tiny)
        train_step(fabric, state, build_objective(tiny), x, eps, adversarial=True, micro_batch=micro_batch)
        after.append(parameters(state.discriminator))
    for name, value in after[0].items():
        torch.testing.assert_close(after[1][name], value, rtol=1e-9, atol=1e-12)


def test_without_a_discriminator_only_the_vae_moves(fabric, tiny, generator):
    state = build_state(fabric, tiny)
    vae, discriminator = parameters(state.vae), parameters(state.discriminator)
    losses = train_step(fabric, state, build_objective(tiny), *batch(tiny, generator), adversarial=False)
    assert changed(vae, state.vae)
    assert not changed(discriminator, state.discriminator)
    assert set(losses) == {"total", "kl_global", "kl_individual", "l1", "grad_norm"}


def test_the_loss_of_the_vae_gives_the_discriminator_no_gradient(fabric, tiny, generator):
    state = build_state(fabric, tiny)
    x, eps = batch(tiny, generator)
    judge = judge_through(fabric, state.discriminator.module, features=True)
    backward_whole(fabric, state.vae, build_objective(tiny), x, eps, split_batch(6, None), judge)
    assert all(p.grad is None for p in state.discriminator.module.parameters())
    assert all(p.requires_grad for p in state.discriminator.module.parameters())
    assert all(p.grad is not None for p in state.vae.module.parameters())


def test_the_loss_of_the_discriminator_gives_the_vae_no_gradient(fabric, tiny, generator):
    state = build_state(fabric, tiny)
    x, _ = batch(tiny, generator)
    backward_discriminator(fabric, state.discriminator, x, torch.zeros_like(x), split_batch(6, None))
    assert all(p.grad is None for p in state.vae.module.parameters())
    assert all(p.grad is not None for p in state.discriminator.module.parameters())


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_feature_matching_brings_reconstructions_closer_in_the_eyes_of_the_discriminator(fabric, tiny, generator, norm):
    x, eps = batch(tiny, generator)
    weights = dataclasses.replace(tiny.weights, l1=0.0, kl_global=0.0, kl_individual=0.0, realism=0.0, features=1.0)
    optimizer = dataclasses.replace(tiny.optimizer, discriminator_lr=0.0)
    discriminator = dataclasses.replace(tiny.discriminator, norm=norm)
    config = dataclasses.replace(tiny, weights=weights, lr=0.01, optimizer=optimizer, discriminator=discriminator)
    state = build_state(fabric, config)
    losses = [
        train_step(fabric, state, build_objective(config), x, eps, adversarial=True)["features"].item()
        for _ in range(40)
    ]
    assert losses[-1] < 0.5 * losses[0]


def test_realism_moves_the_decoder(fabric, tiny, generator):
    x, eps = batch(tiny, generator)
    weights = dataclasses.replace(tiny.weights, l1=0.0, kl_global=0.0, kl_individual=0.0, realism=1.0, features=0.0)
    config = dataclasses.replace(tiny, weights=weights, lr=0.01)
    config = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, discriminator_lr=0.0))
    state = build_state(fabric, config)
    losses = [
        train_step(fabric, state, build_objective(config), x, eps, adversarial=True)["realism"].item()
        for _ in range(80)
    ]
    assert losses[-1] < 0.5 * losses[0]


def test_both_steps_use_the_discriminator_from_before_the_update(fabric, tiny, generator):
    """Algorithm 1 steps on the VAE first, the author's code on both at once: the same, since x_hat is kept."""
    x, eps = batch(tiny, generator)
    state, twin = build_state(fabric, tiny), build_state(fabric, tiny)
    train_step(fabric, state, build_objective(tiny), x, eps, adversarial=True)

    (mean, logvar), z, x_hat, *_ = twin.vae(x, eps)
    real, fake = (twin.discriminator.module.activations(pictures) for pictures in (x, x_hat))
    features = sum((one - other).abs().mean() for one, other in zip(real[:-1], fake[:-1], strict=True))
    posterior = Posterior(mean, logvar)
    generator_loss = vae_loss(build_objective(tiny), x, x_hat, posterior, z, fake[-1], features).total
    judge_loss = discriminator_loss(twin.discriminator(x), twin.discriminator(x_hat.detach())).total
    for loss, network in ((generator_loss, twin.vae), (judge_loss, twin.discriminator)):
        weights = list(network.module.parameters())
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights, retain_graph=True), strict=True):
            weight.grad = gradient
    twin.vae_optimizer.step()
    twin.discriminator_optimizer.step()
    for ours, theirs in ((state.vae, twin.vae), (state.discriminator, twin.discriminator)):
        for one, other in zip(ours.module.parameters(), theirs.module.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_named_and_changes_no_weight(fabric, tiny, generator, value):
    state = build_state(fabric, tiny)
    before, judging = parameters(state.vae), parameters(state.discriminator)
    x, eps = batch(tiny, generator)
    x[2, 0, 3, 3] = value
    train_step(fabric, state, build_objective(tiny), x, eps, adversarial=True)
    assert not changed(before, state.vae)
    assert not changed(judging, state.discriminator)
    with pytest.raises(NonFiniteLoss, match=r"step 1: .*l1 = (nan|inf)"):
        check_finite(state)


def test_a_batch_of_one_sampled_twice_the_same_would_be_infinite(fabric, tiny, generator):
    """Why a batch of one is refused before training: its moments have no variance."""
    config = dataclasses.replace(tiny, moments="means")
    state = build_state(fabric, config)
    train_step(fabric, state, build_objective(config), *batch(config, generator, 1), adversarial=False)
    with pytest.raises(NonFiniteLoss, match="kl_global"):
        check_finite(state)


def test_a_gradient_far_above_its_usual_norm_is_scaled_down_to_the_bound(fabric, tiny, generator):
    state = build_state(fabric, tiny)
    weights = list(state.vae.module.parameters())

    def clip(norm):
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=generator)
        scale = norm / torch.stack([weight.grad.norm() for weight in weights]).norm()
        for weight in weights:
            weight.grad *= scale
        clip_gradient(state, gradient_norm(state, state.vae, state.vae_optimizer), 3.0)
        return torch.stack([weight.grad.norm() for weight in weights]).norm().item()

    assert clip(2.0) == pytest.approx(2.0)  # the first one is usual by definition
    assert clip(5.0) == pytest.approx(5.0)
    usual = state.usual_norm.value.item()
    assert usual == pytest.approx(2.0 + 0.01 * 3.0)
    assert clip(100.0) == pytest.approx(3 * usual, rel=1e-5)
    assert state.usual_norm.value.item() == pytest.approx(usual * 1.02)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("steps_before", [0, 2])
def test_a_gradient_that_is_not_finite_changes_no_weight_and_is_not_usual(fabric, tiny, generator, value, steps_before):
    state, objective = build_state(fabric, tiny), build_objective(tiny)
    for _ in range(steps_before):
        train_step(fabric, state, objective, *batch(tiny, generator), adversarial=False, clip=3.0)
    before, usual = parameters(state.vae), state.usual_norm.value.clone()
    next(state.vae.module.parameters()).register_hook(lambda gradient: gradient * value)
    train_step(fabric, state, objective, *batch(tiny, generator), adversarial=False, clip=3.0)
    assert not changed(before, state.vae)
    assert state.usual_norm.value == usual
    with pytest.raises(NonFiniteLoss, match=r"grad_norm = (nan|inf)"):
        check_finite(state)


@pytest.mark.parametrize("clip", [None, 3.0])
@pytest.mark.parametrize("spoilt", ["vae", "discriminator"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_finite_loss_with_a_gradient_that_is_not_moves_nothing_and_is_named(
    fabric, tiny, generator, spoilt, value, clip
):
    state = build_state(fabric, tiny)
    networks = {"vae": state.vae, "discriminator": state.discriminator}
    before = {name: parameters(network) for name, network in networks.items()}
    next(networks[spoilt].module.parameters()).register_hook(lambda gradient: gradient * value)
    train_step(fabric, state, build_objective(tiny), *batch(tiny, generator), adversarial=True, clip=clip)
    assert {name for name, network in networks.items() if changed(before[name], network)} == networks.keys() - {spoilt}
    name = "grad_norm" if spoilt == "vae" else "discriminator_grad_norm"
    with pytest.raises(NonFiniteLoss, match=f"step 1: {name} = (nan|inf)"):
        check_finite(state)


@pytest.mark.parametrize("network", ["vae", "ema", "discriminator"])
def test_weights_that_are_not_finite_are_never_saved(fabric, tiny, tmp_path, network):
    state = build_state(fabric, tiny)
    check_before_save(state, tmp_path)
    next(state.networks[network].parameters()).data[0] = math.nan
    with pytest.raises(NonFiniteLoss, match=f"the weights of {network} are not finite; not saved, no checkpoint"):
        check_before_save(state, tmp_path)


def scaled(config, kind):
    """State and objective of a run in fp16, whose scaler works on a CPU as on CUDA."""
    config = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, kind=kind))
    fabric = Fabric(accelerator="cpu", plugins=[MixedPrecision("16-mixed", "cpu")])
    return fabric, build_state(fabric, config), build_objective(config)


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_fp16_takes_a_bound_on_the_gradient_and_goes_on_with_the_scale_of_its_losses(tiny, generator, kind, tmp_path):
    fabric, state, objective = scaled(tiny, kind)
    x, eps = batch(tiny, generator)
    for _ in range(3):
        train_step(fabric, state, objective, x, eps, adversarial=True, clip=3.0)
        check_finite(state)  # steps that overflow are skipped by design
    state.scaler.update(2.0**7)
    save_checkpoint(state, tmp_path, tiny)
    _, resumed, _ = scaled(tiny, kind)
    load_checkpoint(resumed, latest(tmp_path))
    assert resumed.scaler.state_dict() == state.scaler.state_dict()
    assert resumed.scaler.get_scale() == 2.0**7


def test_fp16_that_overflows_at_every_scale_stops_the_run(tiny, generator):
    fabric, state, objective = scaled(tiny, "adamw")
    next(state.vae.module.parameters()).register_hook(lambda gradient: gradient * math.inf)

    def steps(count):
        for _ in range(count):
            train_step(fabric, state, objective, *batch(tiny, generator), adversarial=False, clip=None)
            check_finite(state)

    steps(20)  # such steps are skipped by design, and the scale is halved
    with pytest.raises(NonFiniteLoss, match="overflow in fp16 at every scale"):
        steps(40)


@pytest.mark.parametrize("device", ["cpu", "mps", "cuda"])
def test_only_pinned_memory_is_copied_without_waiting(device):
    """Elsewhere the copy would read memory that is free again (https://github.com/pytorch/pytorch/issues/189690)."""
    x = Mock()
    to_device(x, torch.device(device))
    if device == "cuda":
        x.pin_memory.return_value.to.assert_called_once_with(torch.device(device), non_blocking=True)
    else:
        x.to.assert_called_once_with(torch.device(device))


def test_what_a_step_returns_and_leaves_to_be_checked_holds_no_graph(fabric, tiny, generator):
    state = build_state(fabric, tiny)
    terms = train_step(fabric, state, build_objective(tiny), *batch(tiny, generator), adversarial=True, clip=3.0)
    kept = [*terms.values(), *state.unchecked[0].terms.values(), state.unchecked[0].own_finite]
    assert not any(term.requires_grad for term in kept)


class Waits(TorchDispatchMode):
    """Counts what makes Python wait for a device: values read back from it, and numbers of Python's sent to it."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.lift_fresh.default)
        return function(*args, **(kwargs or {}))


class Elsewhere(CPUAccelerator):
    """A device that has shapes and no values: a tensor that lives on the CPU cannot be written from there."""

    def setup_device(self, device):
        assert device.type == "meta"


@pytest.mark.parametrize("micro_batch", [None, 2])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_step_waits_for_no_device(fabric, tiny, generator, name, micro_batch):
    config = of_objective(tiny, name)
    state = build_state(fabric, config)
    objective = build_objective(config, state.beside)
    state.vae_optimizer.optimizer.defaults["fused"] = True  # as on CUDA
    x, eps = batch(config, generator)
    train_step(fabric, state, objective, x, eps, adversarial=True, clip=3.0)  # the first may send what later ones use
    check_finite(state)
    with Waits() as waits:
        train_step(fabric, state, objective, x, eps, adversarial=True, micro_batch=micro_batch, clip=3.0)
    assert waits.count == 0
    with waits:
        check_finite(state)
    assert waits.count > 0  # so it does count
    before = waits.count
    with waits:
        torch.tensor(1.0)
    assert waits.count > before


@pytest.mark.parametrize("micro_batch", [None, 2])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_all_that_a_step_moves_lives_on_its_device(tiny, name, micro_batch):
    there = torch.device("meta")
    fabric = Fabric(strategy=SingleDeviceStrategy(there, accelerator=Elsewhere()))
    memory = 2 if OBJECTIVES[name].batch_moments else 0
    config = dataclasses.replace(of_objective(tiny, name), moments_memory=memory)
    state = build_state(fabric, config)
    state.vae_optimizer.optimizer.defaults["fused"] = True  # as on CUDA
    of_others = Mock(optimizer=Mock(defaults={"fused": True}))  # torch has no fused AdamW there
    state.discriminator_optimizer = state.latent_discriminator_optimizer = of_others
    x, eps = torch.zeros(6, *config.image_shape, device=there), torch.zeros(6, config.noise_dim, device=there)
    objective = build_objective(config, state.beside)
    terms = train_step(fabric, state, objective, x, eps, adversarial=True, micro_batch=micro_batch, clip=3.0)
    kept = [tensor for network in state.networks.values() for tensor in network.state_dict().values()]
    assert {tensor.device for tensor in (*terms.values(), *kept)} == {there}


@pytest.mark.parametrize(("size", "micro_batch", "sizes"), [(6, None, [6]), (6, 4, [3, 3]), (7, 3, [2, 2, 3])])
def test_a_batch_is_cut_into_even_chunks_of_at_most_the_micro_batch(size, micro_batch, sizes):
    chunks = split_batch(size, micro_batch)
    assert [len(range(size)[chunk]) for chunk in chunks] == sizes
    assert [i for chunk in chunks for i in range(size)[chunk]] == list(range(size))
