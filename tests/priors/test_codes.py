"""The transformer over codes: it sees what came before, learns what belongs together, and is a probability."""

import dataclasses
import itertools
import math

import pytest
import torch
from torch.distributions import MultivariateNormal

import vaekit
from small import of_objective
from vaekit.cli import run
from vaekit.models.codebook import Codebook
from vaekit.networks.code_transformer import CodeTransformer
from vaekit.networks.codes import latents_of_codes
from vaekit.priors.base import Latents
from vaekit.priors.code_fit import fit_codes, gaussian_start, log_frequencies
from vaekit.priors.codes import CodePrior, grouped, in_rows
from vaekit.priors.conditions import Classes
from vaekit.priors.fitting import BATCH, Length
from vaekit.runs.checkpoint import load_checkpoint, save_checkpoint
from vaekit.system.files import read_tensors, write_tensors

SMALL = {"width": 32, "depth": 2}


@pytest.fixture
def network(generator):
    torch.manual_seed(0)
    network = CodeTransformer(3, torch.randn(2, 5, 4, generator=generator), **SMALL)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=generator)
        rows = torch.randint(5, (40, 6), generator=generator)
        network.begin_at(gaussian_start(rows, network.vectors, log_frequencies(rows, 5)))
    return network.eval()


def paired(generator, num=600):
    """Latents of two positions with two groups of three codes, where both positions always have the same codes."""
    codes = torch.tensor([[[0.0], [5.0], [9.0]], [[-1.0], [-5.0], [-9.0]]])  # (G, K, e)
    one = torch.randint(3, (num, 2, 1), generator=generator)
    z = latents_of_codes(one.expand(-1, -1, 2), codes)
    return Latents(z + 0.1 * torch.randn(z.shape, generator=generator), torch.zeros_like(z), positions=2, codes=codes)


def test_a_code_is_told_by_those_before_it_alone(network, generator):
    codes = torch.randint(5, (2, 6), generator=generator)
    before = network(codes)
    changed = codes.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 5
    after = network(changed)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_one_code_after_another_has_the_logits_of_the_whole_row(network, generator):
    codes = torch.randint(5, (2, 6), generator=generator)
    past = [None] * len(network.blocks)
    found = [network.next_logits(codes[:, :place], past) for place in range(6)]
    torch.testing.assert_close(torch.stack(found, 1), network(codes), rtol=1e-4, atol=1e-5)


def test_all_rows_together_have_a_probability_of_one(generator):
    torch.manual_seed(0)
    codes = torch.randn(2, 3, 1, generator=generator)
    network = CodeTransformer(2, codes, **SMALL)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=generator)
    prior = CodePrior(codes, network, SMALL, Classes(), 1.0)
    rows = torch.tensor(list(itertools.product(range(3), repeat=4)))
    log_prob = prior.log_prob(latents_of_codes(grouped(rows, 2), codes))
    assert log_prob.exp().sum().item() == pytest.approx(1, rel=1e-4)
    drawn = in_rows(prior_indices(prior, prior.sample(5_000, torch.Generator().manual_seed(0))))
    frequent = rows[log_prob.argmax()]
    share = (drawn == frequent).all(1).float().mean().item()
    assert share == pytest.approx(log_prob.max().exp().item(), abs=0.03)


def prior_indices(prior, z):
    codebook = Codebook(prior.latent_dim, prior.positions, prior.codes.shape[1], prior.codes.shape[2])
    codebook.codes.data.copy_(prior.codes)
    return codebook.indices(z)


def test_an_untrained_one_knows_what_their_gaussian_says(generator):
    latents = paired(generator)
    prior = fit_codes(latents, length=Length(0), **SMALL)
    assert prior.held_out_loss < 0.6  # the second position follows from the first
    assert prior.log_prob(latents.mean).mean().item() > -2.4 * math.log(3)
    alone = dataclasses.replace(latents, mean=latents.mean.flatten()[torch.randperm(2400)].unflatten(0, (600, 4)))
    codes = torch.tensor([[[0.0], [5.0], [9.0]]]).expand(2, -1, -1)
    alone = dataclasses.replace(alone, mean=alone.mean.abs(), codes=codes)  # nothing follows from anything
    prior = fit_codes(alone, length=Length(0), **SMALL)
    assert prior.held_out_loss == pytest.approx(1, abs=0.01)
    assert prior.held_out_loss <= 1


def test_the_start_is_what_a_gaussian_says_of_the_next_code(generator):
    """Rows of vectors that are drawn from a Gaussian: p(k | before) = p(k) N(v_k | before) / N(v_k), entry by entry."""
    groups, positions, num_codes, entries = 2, 2, 7, 3
    vectors = torch.randn(groups, num_codes, entries, generator=generator)
    rows = torch.randint(num_codes, (500, 4), generator=generator)
    rows[:, 2:] = (rows[:, :2] + torch.randint(2, (500, 2), generator=generator)) % num_codes
    alone = log_frequencies(rows, num_codes)
    network = CodeTransformer(positions, vectors, **SMALL)
    network.begin_at(gaussian_start(rows, vectors, alone))
    drawn = vectors[torch.arange(4) % groups, rows].flatten(1).double()  # (N, 12)
    mean, covariance = drawn.mean(0), drawn.T.cov(correction=0)
    covariance = covariance.lerp(covariance.diagonal().diag(), 12 / 512)
    x = drawn[:5] - mean
    for place in range(4):
        before, own = slice(0, place * entries), slice(place * entries, (place + 1) * entries)
        weights = covariance[own, before] @ torch.linalg.pinv(covariance[before, before])
        given = MultivariateNormal(
            mean[own] + x[:, before] @ weights.T, covariance[own, own] - weights @ covariance[before, own]
        )
        usual = MultivariateNormal(mean[own], covariance[own, own])
        candidates = vectors[place % groups].double()
        expected = alone[place] + torch.stack([given.log_prob(v) - usual.log_prob(v) for v in candidates], 1)
        logits = network(rows[:5])[:, place].double()
        torch.testing.assert_close(logits.log_softmax(1), expected.log_softmax(1), rtol=1e-3, atol=1e-3)


def test_a_file_of_before_starts_at_frequencies_alone(generator, tmp_path):
    prior = fit_codes(paired(generator), length=Length(0), **SMALL)
    prior.save(tmp_path / "prior")
    tensors, metadata = read_tensors(tmp_path / "prior")
    old = {
        name: value
        for name, value in tensors.items()
        if name.split(".")[-1] not in ("mean", "seen", "answers", "shares")
    }
    write_tensors(old, tmp_path / "old", {name: value for name, value in metadata.items() if name != "classes"})
    network = CodePrior.load(tmp_path / "old").network
    assert torch.equal(network.usual, prior.network.usual)
    assert not network.seen.any()


def test_it_learns_what_belongs_together(generator):
    latents = paired(generator)
    prior = fit_codes(latents, length=Length(150 * BATCH), **SMALL)
    assert prior.held_out_loss == pytest.approx(0.5, abs=0.03)  # the second position follows from the first
    drawn = prior_indices(prior, prior.sample(200, torch.Generator().manual_seed(0)))
    assert (drawn[..., 0] == drawn[..., 1]).float().mean() > 0.94  # a third by chance
    assert prior.log_prob(latents.mean).mean().item() == pytest.approx(-2 * math.log(3), abs=0.1)


@pytest.fixture(scope="module", params=["classes", "attributes"])
def told(request):
    """Latents whose code of the first group is their label, with a prior of them; and how to ask for each code."""
    latents = paired(torch.Generator().manual_seed(0))
    codebook = Codebook(4, 2, 3, 1)
    codebook.codes.data.copy_(latents.codes)
    first = codebook.indices(latents.mean)[:, 0, 0]
    if request.param == "classes":
        labels, asked = {"classes": ("a", "b", "c"), "labels": first}, ["a", "b", "c"]
    else:  # not the first code, the last one
        has = torch.stack([first > 0, first == 2], 1).long()
        labels, asked = {"attributes": ("any", "last"), "labels": has}, ["any=0", ["any", "last=0"], ["any", "last"]]
    latents = dataclasses.replace(latents, **labels)
    return latents, fit_codes(latents, length=Length(300 * BATCH), **SMALL), asked, first


def test_a_label_draws_its_codes_and_none_draws_all_as_frequent_as_they_are(told):
    _, prior, asked, first = told

    def drawn(**options):
        return prior_indices(prior, prior.sample(300, torch.Generator().manual_seed(0), **options))[:, 0, 0]

    for code, label in enumerate(asked):
        assert (drawn(label=label) == code).float().mean() > 0.9
        assert (drawn(label=label, guidance=2.0) == code).float().mean() > 0.95
    shares = drawn().bincount(minlength=3) / 300
    torch.testing.assert_close(shares, first.bincount(minlength=3) / len(first), atol=0.1, rtol=0)
    for options, message in (
        ({"label": "x"}, "no label 'x' in this prior"),
        ({"guidance": -1.0}, "guidance -1; 1 is the label as it is"),
    ):
        with pytest.raises(ValueError, match=message):
            prior.sample(1, **options)


def test_with_labels_all_rows_together_have_a_probability_of_one_and_a_file_keeps_them(told, tmp_path):
    _, prior, asked, _ = told
    rows = torch.tensor(list(itertools.product(range(3), repeat=4)))
    z = latents_of_codes(grouped(rows, 2), prior.codes)
    assert prior.log_prob(z).exp().sum().item() == pytest.approx(1, rel=1e-4)
    prior.save(tmp_path / "prior")
    again = CodePrior.load(tmp_path / "prior")
    draws = [each.sample(9, torch.Generator().manual_seed(1), label=asked[2], guidance=1.5) for each in (prior, again)]
    assert torch.equal(*draws)
    assert torch.equal(again.log_prob(z), prior.log_prob(z))


def test_one_without_labels_says_so(generator):
    prior = fit_codes(paired(generator), length=Length(0), **SMALL)
    with pytest.raises(ValueError, match="no label 'x' in this prior; it was fitted without labels"):
        prior.sample(1, label="x")
    with pytest.raises(ValueError, match="guidance 3 needs labels"):
        prior.sample(1, guidance=3.0)


def test_a_low_temperature_prefers_frequent_codes(generator):
    latents = paired(generator)
    often = Latents(latents.mean[:2].repeat(20, 1), torch.zeros(40, 4), positions=2, codes=latents.codes)
    prior = fit_codes(often, length=Length(0), **SMALL)
    draws = [
        prior.log_prob(prior.sample(300, torch.Generator().manual_seed(0), temperature=t)).mean() for t in (1, 0.3)
    ]
    assert draws[1] > draws[0]


def test_what_is_kept_in_a_file_is_the_same_prior(generator, tmp_path):
    prior = fit_codes(paired(generator), length=Length(5 * BATCH), **SMALL)
    prior.save(tmp_path / "prior")
    again = CodePrior.load(tmp_path / "prior")
    draws = [each.sample(5, torch.Generator().manual_seed(1)) for each in (prior, again)]
    assert torch.equal(*draws)
    assert (again.latent_dim, again.held_out_loss) == (4, prior.held_out_loss)
    (tmp_path / "half").write_bytes((tmp_path / "prior").read_bytes()[:-4])
    with pytest.raises(ValueError, match="fit the prior again"):
        CodePrior.load(tmp_path / "half")


def test_a_fit_that_was_interrupted_goes_on_bit_for_bit(generator, tiny, tmp_path):
    latents, options = paired(generator), {"length": Length(8 * BATCH), **SMALL}

    def watch(fit, done):
        if fit.counters["step"] == 4:
            save_checkpoint(fit, tmp_path, tiny)

    whole = fit_codes(latents, watch=watch, **options)
    (kept,) = (tmp_path / "checkpoints").iterdir()
    again = fit_codes(latents, begin=lambda fit: load_checkpoint(fit, kept), **options)
    z = latents.mean
    assert torch.equal(whole.log_prob(z), again.log_prob(z))


def test_latents_that_are_no_codes_are_refused(generator):
    with pytest.raises(ValueError, match="these latents are no codes; take --kind flow"):
        fit_codes(Latents(torch.randn(60, 4, generator=generator), torch.ones(60, 4)))


def test_it_is_refused_where_latents_become_no_codes(photos, capsys):
    assert run(["train", str(photos), "--prior", "codes", "--dry-run"]) == 2
    assert "prior codes needs latents that become codes; give --objective vq or vq2" in capsys.readouterr().err


def test_a_run_of_codes_ends_with_it_and_others_are_not_told_of_it(tiny, photos, tmp_path):
    vaekit.train(of_objective(tiny, "vq"), photos, tmp_path / "vq")
    model = vaekit.VAE.from_pretrained(tmp_path / "vq")
    assert list(model.priors) == ["normal", "gaussian", "codes"]
    z = model.draw(4, torch.Generator().manual_seed(0))
    torch.testing.assert_close(z, model.codebook.nearest(z), atol=1e-3, rtol=0)  # some codes are nearly the same
    vaekit.train(tiny, photos, tmp_path / "global")
    result = vaekit.evaluate_run(tmp_path / "global", features="none")
    assert "codes" not in result.markdown()
    assert "codes" not in result.generation
