"""Several real processes against one: the same losses, gradients, weights and measures, and the same end."""

import dataclasses
import datetime
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from lightning_fabric import Fabric
from torch import nn

from small import of_model, tiny_resnet
from vaekit.cli import run as run_command
from vaekit.commands import draw
from vaekit.commands import train as commands
from vaekit.config.variants import COMPARED, OBJECTIVES, PAPER
from vaekit.data.cache import prepare
from vaekit.data.loader import Batches
from vaekit.measures.quick import measure
from vaekit.models.build import build_discriminator
from vaekit.models.vae import build_vae
from vaekit.networks.norms import synchronise_batch_norm
from vaekit.objectives.build import build_objective
from vaekit.priors.base import Latents
from vaekit.priors.fitting import BATCH, Length
from vaekit.priors.flow_fit import fit_flow
from vaekit.runs.log import read_records
from vaekit.runs.prior import encoded
from vaekit.system.bf16 import GAIN
from vaekit.system.devices import launch
from vaekit.system.ranks import agree, object_from_rank_zero, which_ranks
from vaekit.training import loop as training
from vaekit.training.state import build_state
from vaekit.training.step import NonFiniteLoss, check_finite, train_step

NUM_IMAGES = 12
SHARES = {1: [12], 2: [5, 7], 3: [2, 4, 6]}  # images of each rank, uneven on purpose
HANG_SEC = 300  # far more than ranks wait for each other, and less than the half hour of torch
NOT_LOSSES = ("elapsed_sec", "images_per_sec", "test/verdict")


def run_ranks(job, world, folder, *arguments):
    """What `job(rank, world, *arguments)` returns on each of `world` real processes."""
    folder = folder / f"{job.__name__}-{world}"
    folder.mkdir()
    multiprocessing.get_context("forkserver").set_forkserver_preload(
        ["vaekit.commands.train", "vaekit.commands.fit_prior"]
    )
    settings = (job, world, folder, dict(os.environ), *arguments)
    multiprocessing.start_processes(be_rank, settings, nprocs=world, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt") for rank in range(world)]


def be_rank(rank, job, world, folder, environment, *arguments):
    """One process as torchrun would start it."""
    os.environ.update(environment)
    os.environ.update(LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(world), WORLD_SIZE=str(world))
    torch.set_num_threads(1)
    draw.draw_figures = lambda *_: []  # as in conftest, of another process
    rendezvous, patience = f"file://{folder}/rendezvous", datetime.timedelta(seconds=HANG_SEC)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world, timeout=patience)
    torch.save(job(rank, world, *arguments), folder / f"{rank}.pt")
    dist.destroy_process_group()


def double_fabric(world):
    torch.set_default_dtype(torch.float64)
    fabric = Fabric(accelerator="cpu", devices=world, strategy="ddp" if world > 1 else "auto", precision="64-true")
    fabric.launch()
    return fabric


def global_batch(config):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(NUM_IMAGES, *config.image_shape, generator=generator) * 2 - 1
    return x, torch.randn(NUM_IMAGES, config.noise_dim, generator=generator)


def build(fabric, config):
    """Networks whose every weight has a gradient: some start at zero."""
    state = build_state(fabric, config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for network in filter(None, (state.vae, state.discriminator, state.latent_discriminator)):
            for weight in network.module.parameters():
                weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return state


def cases(tiny):
    others = {OBJECTIVES[settings["objective"]].network: name for name, settings in COMPARED.items()}.values()
    for config, models in ((tiny, COMPARED.keys() - {PAPER}), (tiny_resnet(tiny, "none"), others)):
        for model in sorted(models):  # in one order on all ranks
            yield f"{config.network.kind} {model}", of_model(config, f"{model}+gan")


def gradients(rank, world, tiny):
    """The losses and gradients of one real step in each case, with uneven shares and with micro-batches."""
    fabric = double_fabric(world)
    results = {}
    for name, config in cases(tiny):
        x, eps = global_batch(config)
        for shares, micro_batch in ((SHARES[world], None), ([NUM_IMAGES // world] * world, 2)):
            state = build(fabric, config)
            mine = x.split(shares)[rank], eps.split(shares)[rank]
            objective = build_objective(config, state.beside)
            losses = train_step(fabric, state, objective, *mine, adversarial=True, micro_batch=micro_batch)
            grads = {
                f"{kind}.{weight}": parameter.grad
                for kind, network in (
                    ("vae", state.vae),
                    ("discriminator", state.discriminator),
                    ("latents", state.latent_discriminator),
                )
                if network
                for weight, parameter in network.module.named_parameters()
                if parameter.requires_grad
            }
            codebook = state.vae.module.codebook
            codes = {} if codebook is None else {f"codes.{n}": t.double() for n, t in codebook.state_dict().items()}
            results[f"{name}, micro-batch {micro_batch}"] = losses | grads | codes
    return results


@pytest.fixture(scope="module")
def gradients_of_one(tiny, tmp_path_factory):
    (results,) = run_ranks(gradients, 1, tmp_path_factory.mktemp("one"), tiny)
    return results


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_have_the_losses_and_gradients_of_one_process(tiny, tmp_path, gradients_of_one, world):
    for together in run_ranks(gradients, world, tmp_path, tiny):
        for case, tensors in together.items():
            alone = gradients_of_one[case.replace("micro-batch 2", "micro-batch None")]
            assert tensors.keys() == alone.keys()
            for name, tensor in tensors.items():
                assert alone[name].norm() > 0, (case, name)
                assert (tensor - alone[name]).norm() < 1e-9 * alone[name].norm(), (case, name)


def spoilt_steps(rank, world, tiny):
    """The messages of steps with a NaN in rank 1's pictures, or in a weight, and whether they changed a weight."""
    fabric = double_fabric(world)
    x, eps = (t.chunk(world)[rank] for t in global_batch(tiny))
    messages = []
    for spoilt in ("pictures", "weight"):
        for micro_batch in (None, 2):
            state, x_here = build(fabric, tiny), x.clone()
            weight = next(state.vae.module.decoder.parameters())
            if spoilt == "weight":
                weight.data[0, 0] = torch.nan
            elif rank == 1:
                x_here[2, 0, 3, 3] = torch.nan
            before = weight.detach().clone()
            objective = build_objective(tiny)
            train_step(fabric, state, objective, x_here, eps, adversarial=True, micro_batch=micro_batch)
            with pytest.raises(NonFiniteLoss) as raised:
                check_finite(state)
            messages.append(str(raised.value))
            assert torch.equal(weight.nan_to_num(), before.nan_to_num())
    return messages


def test_a_loss_that_is_not_finite_names_the_ranks_it_comes_from_on_all_of_them(tiny, tmp_path):
    first, second = run_ranks(spoilt_steps, 2, tmp_path, tiny)
    assert first == second
    likelihood = "l1 = nan, realism = nan, features = nan"
    judged = "discriminator_real = nan, discriminator_fake = nan"
    assert first[:2] == 2 * [f"step 1: kl_global = nan, kl_individual = nan, {likelihood}, {judged} on rank 1"]
    assert first[2:] == 2 * [f"step 1: {likelihood}, discriminator_fake = nan on every rank"]


def trained(config, photos, run, resume=False, interrupted=False):
    """Train, and return every weight there is: of the VAE, of its average and of the discriminator."""
    states = []

    def keep(*settings):
        states.append(build_state(*settings))
        return states[-1]

    commands.build_state = keep
    try:
        with pytest.raises(KeyboardInterrupt) if interrupted else nullcontext():
            commands.train(config, photos, run, resume=resume)
    finally:
        commands.build_state = build_state
    (state,) = states
    return {
        f"{kind}.{name}": tensor.clone()
        for kind, network in state.networks.items()
        for name, tensor in network.state_dict().items()
    }


def interrupt_after(step, run):
    """Press Ctrl-C in this process once the log holds `step` records."""

    def press():
        while len(read_records(run)) < step:
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press).start()


def runs(rank, world, config, photos, folder):
    """Weights after a whole run, after one that was interrupted and resumed, and after one begun by one process."""
    whole, broken, begun = (folder / f"{name}-{world}" for name in ("whole", "broken", "begun"))
    weights = {"whole": trained(config, photos, whole)}
    if rank == 0:
        interrupt_after(3, broken)
    trained(config, photos, broken, interrupted=True)
    if rank == 0:
        assert 3 <= len(read_records(broken)) < 20
        shutil.copytree(broken, begun)
    dist.barrier()
    weights["resumed"] = trained(config, photos, broken, resume=True)
    if world > 1:
        weights["begun by one"] = trained(config, photos, folder / "begun-1", resume=True)
    return weights


def stopped_at(rank, world, when, config, photos, folder):
    """The step after which this rank stops, if the last rank gets a signal just before or after the ranks agree."""
    steps, agree = [], training.agree

    def signal_once(moment):
        if moment == when and rank == world - 1 and len(steps) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    def agree_and_signal(clock, stop):
        steps.append(clock)
        signal_once("before")
        agreed = agree(clock, stop)
        signal_once("after")
        return agreed

    training.agree = agree_and_signal
    with pytest.raises(KeyboardInterrupt):
        commands.train(config, photos, folder / f"stopped-{when}")
    return len(steps)


@pytest.fixture(scope="module")
def run_config(tiny):
    """Twenty steps that end in the middle of an epoch of sixteen pictures."""
    discriminator = dataclasses.replace(tiny.discriminator, start=0.2)
    return dataclasses.replace(tiny, batch=6, images=120, discriminator=discriminator)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def of_one(run_config, photos, folder):
    (weights,) = run_ranks(runs, 1, folder, run_config, photos, folder)
    return weights


@pytest.fixture(scope="module")
def of_two(of_one, run_config, photos, folder):
    return run_ranks(runs, 2, folder, run_config, photos, folder)


def losses(run):
    return [{name: value for name, value in r.items() if name not in NOT_LOSSES} for r in read_records(run)]


def assert_equal(weights, others):
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, others[name]), name


def assert_same_curve(run, other):
    assert len(losses(run)) == 21  # twenty steps and the test pictures
    for ours, theirs in zip(losses(run), losses(other), strict=True):
        assert ours == pytest.approx(theirs, rel=2e-3)


def test_two_ranks_hold_the_same_weights_bit_for_bit(of_two):
    for name in of_two[0]:
        assert_equal(of_two[0][name], of_two[1][name])


def test_an_interrupted_run_of_two_ranks_resumes_bit_for_bit(of_two, folder):
    assert_equal(of_two[0]["resumed"], of_two[0]["whole"])
    assert losses(folder / "broken-2") == losses(folder / "whole-2")


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_signal_beside_an_agreement_stops_all_ranks_after_the_next_step(run_config, photos, tmp_path, when):
    assert run_ranks(stopped_at, 2, tmp_path, when, run_config, photos, tmp_path) == [4, 4]


def test_one_and_two_ranks_see_the_same_batches_and_noise_also_when_resumed_by_the_other(
    of_one, of_two, run_config, photos, folder
):
    assert_same_curve(folder / "whole-2", folder / "whole-1")
    assert_same_curve(folder / "begun-1", folder / "whole-1")  # begun by one process, resumed by two
    trained(run_config, photos, folder / "begun-2", resume=True)
    assert_same_curve(folder / "begun-2", folder / "whole-1")
    for name, tensor in of_one["whole"].items():
        torch.testing.assert_close(of_two[0]["whole"][name], tensor, rtol=1e-2, atol=1e-4)


def on_machines_of_their_own(rank, world, config, photos, folder):
    """What each rank is told if the last one sees other pictures or settings, and its weights if it lacks checkpoints.

    They take each other for machines of their own, which look for pictures and checkpoints by themselves.
    """
    last, told = rank == world - 1, []
    copy, run = folder / f"photos-{rank}", folder / f"begun-on-{rank}"
    shutil.copytree(photos, copy)
    shutil.copytree(folder / "interrupted", run)
    if last:
        (copy / "00.png").unlink()
        shutil.rmtree(run / "checkpoints")
    os.environ.update(
        LOCAL_RANK="0", LOCAL_WORLD_SIZE="1", GROUP_RANK=str(rank), TORCHELASTIC_RUN_ID="test", RANK=str(rank)
    )
    socket.gethostname = lambda: f"machine-{rank}"
    flat = shutil.copytree(photos, folder / f"flat-{rank}")
    if last:  # the same pixels in the same order, by other names
        for path in flat.iterdir():
            path.rename(path.with_stem("renamed-" + path.stem))
    others = [
        (config, copy),
        (config, flat),
        (dataclasses.replace(config, gan=False) if last else config, photos),
        (dataclasses.replace(config, lr=0.5) if last else config, photos),
        (dataclasses.replace(config, precision="auto"), photos),
    ]
    os.environ[GAIN] = "0.5" if last else "2"  # another processor
    for settings, pictures in others:
        with pytest.raises(ValueError, match="rank") as caught:
            commands.train(settings, pictures, folder / f"refused-{len(told)}")
        told.append(str(caught.value))
    return told, trained(config, photos, run, resume=True)


def test_ranks_go_on_from_what_the_first_one_has_and_are_refused_if_they_see_other_things(
    of_one, run_config, photos, folder
):
    interrupt_after(3, folder / "interrupted")
    trained(run_config, photos, folder / "interrupted", interrupted=True)
    (told, weights), (also_told, other_weights) = run_ranks(
        on_machines_of_their_own, 2, folder, run_config, photos, folder
    )
    assert told == also_told
    for line, name in zip(told, ("pictures", "pictures", "settings", "settings", "precision"), strict=True):
        assert f"rank 1 has other {name} than rank 0" in line
    assert told[-1].endswith("fp32 instead of bf16; choose --precision bf16 or fp32")
    assert_equal(other_weights, weights)
    assert_same_curve(folder / "begun-on-0", folder / "whole-1")


def run_of_three(rank, world, config, photos, folder):
    return trained(config, photos, folder / "whole-3")


def test_three_ranks_hold_the_same_weights_and_have_the_losses_of_one(of_one, run_config, photos, folder):
    first, *others = run_ranks(run_of_three, 3, folder, run_config, photos, folder)
    for other in others:
        assert_equal(other, first)
    assert_same_curve(folder / "whole-3", folder / "whole-1")


COMMAND = (
    "vaekit train {} --out {} --size 16 --images 24 --batch 4 --device cpu --precision fp32 --draws 1 "
    "--log-every-steps 1 --network.latent-dim 16 --network.channels 8 --network.max-channels 16 "
    "--discriminator.channels 8 8 8 8 8"
)


@pytest.mark.parametrize(
    ("launcher", "more"),
    [("-m", "--devices 2"), ("-m torch.distributed.run --standalone --nproc-per-node 2 -m", "")],
    ids=["devices", "torchrun"],
)
def test_the_command_trains_two_ranks_as_one(photos, tmp_path, launcher, more):
    assert run_command(COMMAND.format(photos, tmp_path / "one").split()[1:]) == 0
    command = f"{sys.executable} {launcher} {COMMAND.format(photos, tmp_path / 'two')} {more}".split()
    ended = subprocess.run(command, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True)
    assert ended.returncode == 0, ended.stderr.decode()
    assert ended.stderr.decode().count("2 x cpu in fp32") == 1
    assert len(losses(tmp_path / "two")) == 7  # six steps and the test pictures
    for ours, theirs in zip(losses(tmp_path / "two"), losses(tmp_path / "one"), strict=True):
        assert ours == pytest.approx(theirs, rel=2e-3)


def test_a_process_parts_from_the_other_ranks_before_it_ends(tmp_path, monkeypatch):
    ends = []
    monkeypatch.setattr("atexit.register", ends.append)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    launch(Fabric(accelerator="cpu"))
    for end in ends:
        end()
    assert not dist.is_initialized()


def test_a_folder_that_cannot_work_is_refused_before_other_processes_start(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert run_command([*COMMAND.format(tmp_path / "empty", tmp_path / "run").split()[1:], "--devices", "2"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds no picture" in line


def measured(rank, world, config):
    """The measures of test pictures, shared by the ranks, and by this process alone."""
    torch.manual_seed(0)
    vae, batches = build_vae(config), global_batch(config)[0].split(5)
    return [measure(vae, batches, rank=rank, world=world)[0], measure(vae, batches)[0]]


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_that_share_the_test_pictures_measure_exactly_what_one_process_does(tiny, tmp_path, world):
    for together, alone in run_ranks(measured, world, tmp_path, tiny):
        assert together == alone


def flow_of_ranks(rank, world):
    """The weights of a flow after a few steps, and its held-out loss."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(200, 4, generator=generator).sign() + 0.1 * torch.randn(200, 4, generator=generator)
    labels = (means[:, 0] > 0).long()
    latents = Latents(means, torch.full_like(means, 0.1), 2, classes=("a", "b"), labels=labels)
    prior = fit_flow(latents, length=Length(12 * BATCH), width=32, depth=2)
    return prior.network.state_dict() | {"loss": torch.tensor(prior.held_out_loss)}


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_fit_the_flow_of_one_process(tmp_path, world):
    first, *others = run_ranks(flow_of_ranks, world, tmp_path)
    for name, weight in flow_of_ranks(0, 1).items():
        assert all(torch.equal(first[name], other[name]) for other in others), name
        torch.testing.assert_close(first[name], weight, atol=2e-4, rtol=1e-3)


def encoded_by_ranks(rank, world, config, photos):
    torch.manual_seed(0)
    vae = build_vae(config).eval()
    batches = Batches(prepare(photos, *config.image_size, config.channels).images, np.arange(17), 3)
    return encoded(vae, batches).tensors


def test_ranks_share_the_encoding_and_all_have_all_of_it_in_order(tiny, photos, tmp_path):
    first, second = run_ranks(encoded_by_ranks, 2, tmp_path, tiny.resolved(), photos)
    alone = encoded_by_ranks(0, 1, tiny.resolved(), photos)
    for one, other, whole in zip(first, second, alone, strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one, whole)


def test_batch_norm_over_ranks_keeps_names_settings_and_values_and_leaves_frozen_ones_alone(tiny, generator):
    config = dataclasses.replace(
        tiny_resnet(tiny, "batch"), discriminator=dataclasses.replace(tiny.discriminator, norm="batch")
    )
    for network in (build_vae(config), build_discriminator(config)):
        for buffer in network.buffers():
            buffer.copy_(torch.randint(1, 9, buffer.shape, generator=generator))
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        parameters = list(network.parameters())
        synchronise_batch_norm(network)
        assert_equal(network.state_dict(), before)
        assert list(network.state_dict()) == list(before)
        assert all(new is old for new, old in zip(network.parameters(), parameters, strict=True))
        layers = [layer for layer in network.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
        assert layers
        assert {(type(layer), layer.eps, layer.momentum) for layer in layers} == {(nn.SyncBatchNorm, 1e-3, 0.01)}
    frozen = build_vae(tiny_resnet(tiny, "frozen"))
    kinds = [type(layer) for layer in frozen.modules()]
    synchronise_batch_norm(frozen)
    assert [type(layer) for layer in frozen.modules()] == kinds


def agreed(rank, world):
    """What ranks agree on if their clocks differ, the last is asked to stop, and all but the first have a fault."""
    stop = 15 if rank == world - 1 else 0
    return [*agree(10.0 + rank, stop), which_ranks(rank > 0), object_from_rank_zero((rank, "plain"))]


def test_ranks_agree_on_the_first_clock_and_on_the_wish_of_any_of_them_to_stop(tmp_path):
    for clock, stop, faulty, holds in run_ranks(agreed, 3, tmp_path):
        assert (clock, stop, faulty, holds) == (10.0, 15, "on ranks 1, 2", (0, "plain"))
