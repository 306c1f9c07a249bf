"""KL_G over several steps: its value against all pictures as one batch, its gradient against autograd on that batch."""

import dataclasses

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from lightning_fabric import Fabric

from vaekit import train
from vaekit.config.presets import preset
from vaekit.models.posterior import Posterior
from vaekit.objectives.build import build_objective
from vaekit.objectives.moments import MOMENTS, MomentsMemory, batch_moments, kl_global, straight_through
from vaekit.runs import checkpoint
from vaekit.runs.log import read_records
from vaekit.system.files import read_tensors
from vaekit.training.state import build_state
from vaekit.training.step import train_step

D = 3


@pytest.fixture
def steps(generator):
    """Posteriors and noise of four steps of five images."""

    def randn():
        return torch.randn(5, D, generator=generator, dtype=torch.float64)

    return [(Posterior(randn() + step, randn()), randn()) for step in range(4)]


def new_memory(size):
    return MomentsMemory(size, D).double()


def pooled(memory, steps, moments):
    """What the memory gives at the last of some steps."""
    for posterior, eps in steps:
        result = memory(*batch_moments(posterior, posterior.sample(eps), moments))
    return result


def as_one_batch(steps):
    """All the images of some steps, their samples among them."""
    posterior = Posterior(torch.cat([p.mean for p, _ in steps]), torch.cat([p.logvar for p, _ in steps]))
    return posterior, posterior.sample(torch.cat([eps for _, eps in steps]))


def test_two_steps_of_hand_computed_moments_are_pooled():
    """Images at -1 and 1, then at 3 and 7: mean 2.5, and variance ((-3.5)^2 + (-1.5)^2 + 0.5^2 + 4.5^2) / 4."""
    memory = MomentsMemory(1, 1).double()
    memory(torch.tensor([0.0]).double(), torch.tensor([1.0]).double())
    mean, var = memory(torch.tensor([5.0]).double(), torch.tensor([4.0]).double())
    assert (mean.item(), var.item()) == (2.5, 8.75)


@pytest.mark.parametrize("moments", ["means", "total"])
def test_the_pooled_moments_are_those_of_all_images_as_one_batch(steps, moments):
    torch.testing.assert_close(pooled(new_memory(3), steps, moments), batch_moments(*as_one_batch(steps), moments))


def test_the_pooled_variance_of_samples_is_that_of_one_batch_on_average(generator):
    """Forty thousand entries that differ in their noise alone, instead of as many draws of one entry."""
    copies = 40_000
    mean, logvar = torch.randn(2, 4, 5, 1, generator=generator, dtype=torch.float64).unbind()
    memory = MomentsMemory(3, copies).double()
    for posterior in map(Posterior, mean.expand(4, 5, copies), logvar.expand(4, 5, copies)):
        var = memory(*batch_moments(posterior, posterior.sample(generator=generator), "samples"))[1]
    exact = mean.var(correction=0) + logvar.exp().mean()  # the law of total variance
    assert var.mean().item() == pytest.approx(exact.item(), rel=0.01)


def test_a_memory_forgets_all_but_the_last_steps_and_counts_only_those_it_has_seen(steps):
    for seen in (1, 2, 3, 4):
        last = steps[max(0, seen - 3) : seen]
        expected = batch_moments(*as_one_batch(last), "total")
        torch.testing.assert_close(pooled(new_memory(2), steps[:seen], "total"), expected)


@pytest.mark.parametrize("moments", ["means", "total"])
def test_each_step_has_four_times_its_share_of_the_gradient_of_one_large_batch(steps, moments):
    """Autograd on all twenty images at once gives the last five a quarter; the memory scales that to the whole."""
    large, z = as_one_batch(steps)
    means, logvars = large.mean.requires_grad_(), large.logvar.requires_grad_()
    kl_global(Posterior(means, logvars), z, moments).backward()

    memory, (last, eps) = new_memory(3), steps[-1]
    pooled(memory, steps[:-1], moments)
    own = Posterior(last.mean.clone().requires_grad_(), last.logvar.clone().requires_grad_())
    kl_global(own, own.sample(eps), moments, memory).backward()
    torch.testing.assert_close(own.mean.grad, 4 * means.grad[-5:])
    if moments == "total":
        torch.testing.assert_close(own.logvar.grad, 4 * logvars.grad[-5:])


def test_the_gradient_through_samples_is_on_average_that_of_the_noise_free_estimator(generator):
    """The gradient of the pooled variance, averaged over 40,000 entries that differ only in their noise."""
    copies = 40_000
    mean, logvar = torch.randn(2, 5, 1, generator=generator, dtype=torch.float64).unbind()
    gradients = []
    for moments in ("samples", "total"):
        memory = MomentsMemory(1, copies).double()
        memory(torch.full((copies,), 1.5).double(), torch.full((copies,), 0.7).double())
        own = Posterior(
            mean.expand(5, copies).clone().requires_grad_(), logvar.expand(5, copies).clone().requires_grad_()
        )
        memory(*batch_moments(own, own.sample(generator=generator), moments))[1].sum().backward()
        gradients.append(torch.stack([own.mean.grad.mean(1), own.logvar.grad.mean(1)]))
    torch.testing.assert_close(*gradients, rtol=0, atol=0.03)


@pytest.mark.parametrize("moments", MOMENTS)
def test_the_first_step_is_that_without_a_memory(steps, moments):
    results = []
    for memory in (None, new_memory(4)):
        posterior, eps = steps[0]
        own = Posterior(posterior.mean.clone().requires_grad_(), posterior.logvar.clone().requires_grad_())
        value = kl_global(own, own.sample(eps), moments, memory)
        value.backward()
        results.append((value, own.mean.grad, own.logvar.grad))
    torch.testing.assert_close(*results)


def three_steps(rank, world):
    """KL_G of the last of three steps on uneven shares, its gradient by the weights, and what is remembered."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(4, 2 * D, generator=generator, dtype=torch.float64).requires_grad_()
    memory = new_memory(2)
    for _ in range(3):
        x, eps = (torch.randn(6, size, generator=generator, dtype=torch.float64) for size in (4, D))
        x, eps = (tensor.split({1: [6], 2: [2, 4]}[world])[rank] for tensor in (x, eps))
        posterior = Posterior(*(x @ weights).chunk(2, 1))
        value = kl_global(posterior, posterior.sample(eps), "samples", memory)
    (gradient,) = torch.autograd.grad(value, weights)
    if world > 1:
        dist.all_reduce(gradient)
    return [value.detach(), gradient / world, memory.means, memory.variances]


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.save(three_steps(rank, 2), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_remember_the_same_and_have_the_gradient_of_one_process(tmp_path):
    multiprocessing.spawn(work, args=(str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for one, other, alone in zip(*ranks, three_steps(0, 1), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
        torch.testing.assert_close(one, alone, rtol=1e-12, atol=1e-12)


def test_straight_through_has_the_value_of_one_and_the_gradient_of_the_other():
    value, gradient = torch.tensor(3.0, requires_grad=True), torch.tensor(5.0, requires_grad=True)
    result = straight_through(value, gradient)
    (2 * result).backward()
    assert (result.item(), value.grad, gradient.grad) == (3.0, None, torch.tensor(2.0))


def test_a_memory_is_only_for_the_objective_with_batch_moments():
    with pytest.raises(ValueError, match="moments_memory 4 needs --objective global; beta has no batch moments"):
        preset("fast", moments_memory=4, objective="beta")
    with pytest.raises(ValueError, match="moments_memory is -1; it must be at least 0"):
        preset("fast", moments_memory=-1)


def test_training_logs_the_pooled_divergence_and_keeps_its_moments_in_checkpoints(tiny, photos, tmp_path):
    divergences, kept = [], []
    for size in (0, 8):
        run = tmp_path / str(size)
        train(dataclasses.replace(tiny, moments_memory=size), photos, run)
        divergences.append([record["kl_global"] for record in read_records(run) if "kl_global" in record])
        kept.append(checkpoint.latest(run) / "memory.safetensors")
    without, remembering = divergences
    assert remembering[0] == pytest.approx(without[0], rel=1e-5)
    assert max(remembering[3:]) < min(without[3:])  # from 16 to 24 images instead of 4: less bias
    assert not kept[0].exists()
    assert read_tensors(kept[1])[0]["filled"].tolist() == 6 * [1.0] + 2 * [0.0]


def stepped(state, config, batches, micro_batch=None):
    objective = build_objective(config, state.beside)
    for x, eps in batches:
        train_step(Fabric(accelerator="cpu"), state, objective, x, eps, adversarial=True, micro_batch=micro_batch)
    return state


@pytest.fixture
def config(tiny):
    return dataclasses.replace(tiny, moments_memory=4)


@pytest.fixture
def batches(config, generator):
    """Pictures and noise of six steps."""

    def batch():
        noise = torch.randn(4, config.latent_dim, generator=generator)
        return torch.rand(4, *config.image_shape, generator=generator), noise

    return [batch() for _ in range(6)]


def test_six_steps_are_three_then_a_checkpoint_then_three_bit_for_bit(config, batches, tmp_path):
    fabric = Fabric(accelerator="cpu")
    undisturbed = stepped(build_state(fabric, config), config, batches)
    saved = checkpoint.save_checkpoint(stepped(build_state(fabric, config), config, batches[:3]), tmp_path, config)
    resumed = build_state(fabric, config)
    checkpoint.load_checkpoint(resumed, saved)
    stepped(resumed, config, batches[3:])
    assert "memory" in resumed.networks
    for name, network in undisturbed.networks.items():
        for key, tensor in network.state_dict().items():
            assert torch.equal(resumed.networks[name].state_dict()[key], tensor), (name, key)


def test_micro_batches_remember_the_moments_of_the_whole_step(config, batches):
    whole, chunked = (
        stepped(build_state(Fabric(accelerator="cpu"), config), config, batches[:2], micro_batch).memory.state_dict()
        for micro_batch in (None, 3)
    )
    assert whole["filled"].tolist() == [1, 1, 0, 0]
    for name in whole:
        torch.testing.assert_close(chunked[name], whole[name], rtol=1e-3, atol=1e-5)
