"""The VQ-VAE: nearest codes, straight gradients, and codes that are all used."""

import dataclasses

import pytest
import torch

import vaekit
from vaekit.cli import run
from vaekit.config.presets import preset
from vaekit.measures.codes import codes_in_use
from vaekit.models.codebook import Codebook
from vaekit.models.vae import VAE, build_vae
from vaekit.objectives.build import build_objective

SOUND = torch.tensor(True)


@pytest.fixture
def codebook(generator):
    """Three groups of two entries at four positions, of seven codes each: latents of 24 entries."""
    torch.manual_seed(0)
    return Codebook(24, positions=4, num_codes=7, code_entries=2)


@pytest.fixture
def config(tiny):
    network = dataclasses.replace(tiny.network, latent_dim=64)
    return dataclasses.replace(tiny, objective="vq", network=network).resolved()


def test_each_group_of_entries_at_each_position_gets_the_nearest_of_its_codes(codebook, generator):
    z = torch.randn(5, 24, generator=generator)
    found, which = codebook.nearest(z), codebook.indices(z)
    assert which.shape == (5, 3, 4)
    channels, quantised = z.view(5, 6, 4), found.view(5, 6, 4)  # (d / P, P) flattened, as heads have them
    for image in range(5):
        for group in range(3):
            for position in range(4):
                own = slice(2 * group, 2 * group + 2)
                distances = (codebook.codes[group] - channels[image, own, position]).norm(dim=1)
                best = distances.argmin()
                assert which[image, group, position] == best
                torch.testing.assert_close(quantised[image, own, position], codebook.codes[group, best])


def test_gradients_pass_straight_through_exactly(config, generator):
    vae = build_vae(config)
    z = torch.randn(3, vae.latent_dim, generator=generator, requires_grad=True)
    at_codes = vae.codebook.nearest(z).requires_grad_()
    weights = torch.randn(3, *vae.image_shape, generator=generator)
    through = torch.autograd.grad((vae.decode(z) * weights).sum(), z)[0]
    beyond = torch.autograd.grad((vae.decoder.layers(at_codes) * weights).sum(), at_codes)[0]
    torch.testing.assert_close(through, beyond, rtol=1e-5, atol=1e-7)
    assert all(code.grad is None for code in vae.codebook.parameters())


def test_what_is_decoded_are_codes(config, generator):
    vae = build_vae(config).eval()
    z = torch.randn(3, vae.latent_dim, generator=generator)
    torch.testing.assert_close(vae.decode(z), vae.decode(vae.codebook.nearest(z)))


def test_the_commitment_is_the_squared_distance_to_the_codes_and_moves_the_points_alone(config, generator):
    vae = build_vae(config)
    z = torch.randn(3, vae.latent_dim, generator=generator, requires_grad=True)
    term = build_objective(config, vae.codebook).latent_terms(None, z)["commitment"]
    away = z.detach() - vae.codebook.nearest(z)
    assert term.item() == pytest.approx(away.square().sum().item() / 3, rel=1e-6)
    torch.testing.assert_close(torch.autograd.grad(term, z)[0], 2 * away / 3)


def test_codes_become_the_means_of_what_they_stand_for_and_none_is_left_unused(generator):
    """Eight clusters, sixteen codes, which begin at random: k-means by moving averages."""
    torch.manual_seed(0)
    codebook = Codebook(2, positions=1, num_codes=16, code_entries=2)
    angles = torch.arange(8) * torch.pi / 4
    centres = 5 * torch.stack([angles.cos(), angles.sin()], 1)
    for _ in range(1_500):
        chosen = torch.randint(8, (64,), generator=generator)
        codebook.learn(centres[chosen] + 0.05 * torch.randn(64, 2, generator=generator), SOUND)
    distances = torch.cdist(centres, codebook.codes[0])
    assert distances.min(1).values.max() < 0.15
    assert distances.min(0).values.max() < 0.15
    assert codes_in_use(codebook, centres)["used"] == 8


def test_one_step_is_the_moving_average(generator):
    torch.manual_seed(0)
    codebook = Codebook(2, positions=1, num_codes=2, code_entries=2)
    codebook.learn(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).repeat(50, 1), SOUND)  # both begin at these
    counts, sums, codes = codebook.counts.clone(), codebook.sums.clone(), codebook.codes.clone()
    z = torch.tensor([[1.0, 2.0], [1.2, 0.0], [-1.0, 0.5]])
    which = codebook.indices(z).flatten()
    codebook.learn(z, SOUND)
    for code in range(2):
        mine = z[which == code]
        count = 0.99 * counts[0, code] + 0.01 * len(mine)
        expected = (0.99 * sums[0, code] + 0.01 * mine.sum(0)) / count
        torch.testing.assert_close(codebook.codes[0, code], expected)
    assert not torch.equal(codes, codebook.codes)


def test_a_step_that_is_not_sound_moves_no_code(codebook, generator):
    before = {name: value.clone() for name, value in codebook.state_dict().items()}
    codebook.learn(torch.full((4, 24), torch.nan), torch.tensor(False))
    assert all(torch.equal(value, codebook.state_dict()[name]) for name, value in before.items())
    codebook.learn(torch.randn(4, 24, generator=generator), SOUND)
    assert not torch.equal(before["codes"], codebook.codes)


def test_the_use_of_codes_is_counted_over_all_pictures(codebook, generator):
    z = codebook.nearest(torch.randn(600, 24, generator=generator))
    found = codes_in_use(codebook, z)
    assert found["used"] <= 7
    assert found["nats"] <= found["most"] == pytest.approx(12 * torch.tensor(7.0).log().item())
    one = codes_in_use(codebook, z[:1].repeat(300, 1))
    assert one["perplexity"] <= 4  # four positions have four codes at most
    same = codebook.codes[:, 0].flatten()[:, None].expand(6, 4).reshape(1, 24)
    assert codes_in_use(codebook, same) == {**found, "used": 1.0, "perplexity": 1.0, "nats": 0.0}


def test_the_report_says_how_codes_are_used_and_the_averaged_model_has_codes_of_its_own(config, photos, tmp_path):
    vaekit.train(dataclasses.replace(config, prior="gaussian"), photos, tmp_path / "run")
    result = vaekit.evaluate_run(tmp_path / "run", features="none")
    assert "codes of a group are used, perplexity" in result.markdown()
    assert 0 < result.latents["codes"]["nats"] <= result.latents["codes"]["most"]
    assert VAE.from_pretrained(tmp_path / "run").codebook.codes.isfinite().all()


def test_entries_that_codes_cannot_share_are_refused_with_a_number_that_works(photos, capsys):
    arguments = ["train", str(photos), "--objective", "vq", "--network.code-entries", "5", "--dry-run"]
    assert run(arguments) == 2
    told = capsys.readouterr().err
    assert "network.code_entries 5 cannot share the 32 entries of a position evenly; give 4" in told
    assert preset("fast", objective="vq").code_entries == 4
