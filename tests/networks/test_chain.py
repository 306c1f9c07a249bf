"""Computing activations again changes memory use and nothing else."""

import dataclasses

import pytest
import torch

from small import tiny_resnet
from vaekit.models.vae import build_vae


def after_one_pass(config, recompute, compiled=False):
    """Gradients and buffers after a forward and backward pass, and the elements kept in between."""
    torch.manual_seed(0)
    vae = build_vae(dataclasses.replace(config, checkpoint_activations=recompute)).train()
    if compiled:
        for network in (vae.encoder, vae.decoder):
            network.compile(backend="aot_eager")
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(8, *config.image_shape, generator=generator)
    kept = 0

    def count(tensor):
        nonlocal kept
        kept += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        latents, z, x_hat, *_ = vae(x, torch.randn(8, config.latent_dim, generator=generator))
    sum(output.square().sum() for output in (*latents, z, x_hat)).backward()
    return {name: p.grad for name, p in vae.named_parameters()} | dict(vae.named_buffers()), kept


@pytest.mark.parametrize("norm", ["none", "group", "batch", "frozen"])
def test_gradients_and_running_statistics_are_the_same_and_far_less_is_kept(tiny, norm):
    config = tiny_resnet(tiny, norm)
    (kept_all, many), (recomputed, few) = (after_one_pass(config, recompute) for recompute in (False, True))
    assert kept_all.keys() == recomputed.keys()
    for name, value in kept_all.items():
        assert torch.equal(value, recomputed[name]), name
    assert few < 0.6 * many


def test_the_small_network_forgets_too(tiny):
    (kept_all, many), (recomputed, few) = (after_one_pass(tiny, recompute) for recompute in (False, True))
    assert all(torch.equal(value, recomputed[name]) for name, value in kept_all.items())
    assert few < 0.9 * many


@pytest.mark.filterwarnings("default")  # compilers warn
@pytest.mark.parametrize("norm", ["group", "batch"])
def test_a_compiled_network_forgets_too(tiny, norm):
    config = tiny_resnet(tiny, norm)
    kept_all, many = after_one_pass(config, recompute=False)
    recomputed, few = after_one_pass(config, recompute=True, compiled=True)
    for name, value in kept_all.items():
        torch.testing.assert_close(recomputed[name], value, rtol=1e-4, atol=1e-4, msg=name)
    assert few < 0.3 * many  # compiled and without `recompute`, it keeps two thirds
