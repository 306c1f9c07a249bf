"""Several real processes against one, in float64: the same losses and the same gradients."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from vaekit.collectives import from_rank_zero, mean_over_images, sum_over_ranks
from vaekit.objectives import GlobalELBO, StandardELBO, vae_loss
from vaekit.posterior import MOMENTS, Posterior

NUM_IMAGES, LATENT_DIM = 12, 5
OBJECTIVES = [*(GlobalELBO(moments=moments) for moments in MOMENTS), StandardELBO(kl=4.0)]
SHARES = {1: [12], 2: [5, 7], 3: [2, 4, 6]}  # images of each rank, uneven on purpose


def losses_and_gradients(rank, world):
    """Total loss of each objective, and its gradient as DistributedDataParallel would average it."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(NUM_IMAGES, 3, 4, 4, generator=generator, dtype=torch.float64)
    eps = torch.randn(NUM_IMAGES, LATENT_DIM, generator=generator, dtype=torch.float64)
    encoder = torch.randn(2, 48, LATENT_DIM, generator=generator, dtype=torch.float64) / 10
    decoder = torch.randn(LATENT_DIM, 48, generator=generator, dtype=torch.float64)
    x, eps = x.split(SHARES[world])[rank], eps.split(SHARES[world])[rank]
    results = []
    for objective in OBJECTIVES:
        weights = [encoder.clone().requires_grad_(), decoder.clone().requires_grad_()]
        posterior = Posterior(*(x.flatten(1) @ weights[0]))
        z = posterior.sample(eps)
        x_hat = (z @ weights[1]).view_as(x)
        realism = x_hat.mean((1, 2, 3), keepdim=True)
        total = vae_loss(objective, x, x_hat, posterior, z, realism).total
        gradients = torch.autograd.grad(total, weights)
        if world > 1:
            for gradient in gradients:
                dist.all_reduce(gradient)
        results.append([total.detach(), *(gradient / world for gradient in gradients)])
    return results


def work(rank, world, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    shared = from_rank_zero(float(rank), 7.0 + rank)
    torch.save((losses_and_gradients(rank, world), shared), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [2, 3])
def test_uneven_ranks_have_the_loss_and_the_gradient_of_one_process(tmp_path, world):
    multiprocessing.spawn(work, args=(world, str(tmp_path)), nprocs=world)
    alone = losses_and_gradients(0, 1)
    for rank in range(world):
        together, shared = torch.load(tmp_path / f"{rank}.pt")
        assert shared == [0.0, 7.0]
        for ours, theirs in zip(together, alone, strict=True):
            for one, other in zip(ours, theirs, strict=True):
                assert (one - other).norm() / other.norm() < 1e-12


def test_on_one_process_sums_are_the_identity(generator):
    x = torch.randn(4, 3, generator=generator)
    assert sum_over_ranks(x) is x
    torch.testing.assert_close(mean_over_images(x), x.mean(0))
    assert from_rank_zero(1.5, True) == [1.5, True]
