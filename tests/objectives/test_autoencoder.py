"""The autoencoder, whose latents are points."""

import torch
from torch import nn

from vaekit.models.posterior import Posterior
from vaekit.models.vae import VAE
from vaekit.networks.heads import PointHead
from vaekit.objectives.autoencoder import Autoencoder
from vaekit.objectives.losses import vae_loss


class LinearEncoder(nn.Module):
    def __init__(self, pixels, latent_dim):
        super().__init__()
        self.mean, self.logvar = nn.Linear(pixels, latent_dim, bias=False), PointHead(latent_dim)

    def forward(self, x):
        return self.mean(x.flatten(1)), self.logvar(x)


def test_z_is_the_mean_whatever_the_noise():
    posterior = Posterior(torch.tensor([[1.0, -2.0]]), PointHead(2)(torch.zeros(1, 7)))
    assert torch.equal(posterior.sample(torch.tensor([[5.0, 5.0]])), posterior.mean)
    assert posterior.points
    assert not Posterior(posterior.mean, torch.full((1, 2), -80.0)).points
    assert posterior.kl_standard().isinf().all()


def test_a_linear_autoencoder_spans_the_first_principal_components(generator):
    """Pictures of 3 strong directions and weak noise, 2x4 pixels: the decoder's columns against those of the SVD."""
    strong = torch.linalg.qr(torch.randn(8, 3, generator=generator))[0]
    codes = torch.randn(400, 3, generator=generator) * torch.tensor([3.0, 2.0, 1.0])
    x = (codes @ strong.T + 0.02 * torch.randn(400, 8, generator=generator)).reshape(-1, 1, 2, 4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder = nn.Sequential(nn.Linear(3, 8, bias=False), nn.Unflatten(1, (1, 2, 4)))
        vae = VAE(LinearEncoder(8, 3), decoder, (1, 2, 4), 3)
    objective, optimizer = Autoencoder(l1=1.0), torch.optim.Adam(vae.parameters(), lr=0.02)
    for step in range(1500):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / 1500)
        posterior = vae.encode_unchecked(x)
        z = posterior.sample(torch.randn(400, 3, generator=generator))
        optimizer.zero_grad()
        vae_loss(objective, x, vae.decode(z), posterior, z).total.backward()
        optimizer.step()
    learned = torch.linalg.qr(decoder[0].weight.detach())[0]
    components = torch.linalg.svd(x.flatten(1), full_matrices=False).Vh[:3].T
    cosines = torch.linalg.svdvals(learned.T @ components)  # of the principal angles between the two spaces
    assert cosines.min() > 0.999
