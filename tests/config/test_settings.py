"""Settings: what is refused and how, and that JSON brings back the same ones."""

import dataclasses
import json

import pytest

from vaekit.config.changes import ON_CHANGE, changes, differences, refusal
from vaekit.config.groups import Network
from vaekit.config.plain import flatten
from vaekit.config.presets import PRESETS, preset
from vaekit.config.settings import Config


@pytest.mark.parametrize("name", PRESETS)
def test_json_brings_back_the_same_settings(name):
    config = preset(name, size=(64, 96), micro_batch=5)
    assert Config.from_json(config.to_json()) == config


def test_the_weights_of_the_presets_are_those_of_paper_and_code():
    paper, released = PRESETS["paper"], PRESETS["released"]
    weights = paper.weights
    assert (weights.kl_global, weights.kl_individual, weights.l1, weights.realism) == (1, 0.5, 5000, 100)
    assert (paper.moments, paper.batch, paper.lr, paper.size) == ("samples", 20, 1e-4, 256)
    assert (released.moments, released.batch, released.weights.kl_individual) == ("means", 10, 0.1)
    assert paper.network.latent_dim == released.network.latent_dim == 512
    assert (paper.network.decoder_blocks, released.network.decoder_blocks) == (2, 1)


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset().size = 128  # type: ignore[misc]


def test_resolving_writes_out_what_follows_from_the_size_and_changes_nothing_else():
    config = preset("fast", size=(64, 96))
    resolved = config.resolved()
    assert differences(config, resolved) == {"network.stages": (None, 4), "network.latent_dim": (None, 504)}
    assert (resolved.num_stages, resolved.latent_dim) == (config.num_stages, config.latent_dim)
    assert list(differences(preset("paper"), preset("paper").resolved())) == ["network.stages"]


def test_differences_are_named_with_dots():
    old = preset("fast")
    new = dataclasses.replace(old, lr=0.5, network=dataclasses.replace(old.network, latent_dim=48))
    assert differences(old, new) == {"lr": (old.lr, 0.5), "network.latent_dim": (None, 48)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 50}, "size 50x50 does not fit.*multiples of 8.*for example 48x48"),
        ({"size": 60}, "multiples of 8, for example 64x64"),
        ({"size": 33}, "multiples of 8"),
        ({"size": 4}, "size is 4; it must be at least 8"),
        ({"size": 64, "network": Network(stages=7)}, "multiples of 128"),
        (
            {"network": Network(latent_dim=100)},
            "100 cannot be shared .* 16 positions .* give 96, or .* dense",
        ),
        ({"batch": 1}, "batch 1: the variance of one image is zero"),
        ({"batch": 10, "devices": 3}, "cannot be shared evenly by 3 devices"),
        ({"split": 1.5}, "split is 1.5; it must lie between 0 and 1, with pictures left to test on"),
        ({"split": 1.0}, "split is 1.0"),
        ({"lr": 0.0}, "lr is 0.0; it must be above zero"),
        ({"minutes": -1.0}, "minutes is -1.0"),
        ({"images": 0}, "images is 0"),
        ({"micro_batch": 0}, "micro_batch is 0"),
        ({"micro_batch": 4, "compile": "reduce-overhead"}, "cannot add up the gradients of micro-batches"),
        ({"colour": True}, "unknown setting colour; choose from preset, size"),
    ],
)
def test_what_cannot_work_is_refused_with_what_would(changes, message):
    with pytest.raises(ValueError, match=message):
        preset("fast", **changes)


def test_without_a_discriminator_a_size_need_not_divide_by_eight():
    assert preset("fast", size=36, gan=False).num_stages == 2


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown preset 'best'; choose one of fast, paper, released"):
        preset("best")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("size",), "64", "setting size is '64'"),
        (("network", "latent_dim"), 1.5, "setting network.latent_dim is 1.5"),
        (("network", "depth"), 3, "unknown setting in config: network.depth"),
        (("objective",), "best", "setting objective is 'best'"),
        (("gan",), 1, "setting gan is 1"),
        (("batch",), True, "setting batch is True"),
    ],
)
def test_a_broken_config_file_is_refused_by_setting(path, value, message):
    values = json.loads(preset().to_json())
    inner = values
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    with pytest.raises(ValueError, match=message):
        Config.from_json(json.dumps(values))


@pytest.mark.parametrize("text", ["", "{", "[]", '"fast"'])
def test_a_file_that_is_no_config_is_refused(text):
    with pytest.raises(ValueError, match="not a vaekit config"):
        Config.from_json(text)


FREE_SETTINGS = {
    "device",
    "devices",
    "checkpoint_activations",
    "threads",
    "log_every_steps",
    "draws",
    "prior",
    "save_every_minutes",
    "strict",
    "track",
}
REFUSED = {  # by how their names begin
    "preset": "only the name of a set of settings",
    "size": "would not fit",
    "channels": "would not fit",
    "network.": "would not fit",
    "discriminator.channels": "would not fit",
    "discriminator.kernel": "would not fit",
    "discriminator.norm": "would not fit",
    "optimizer.kind": "what the other optimiser remembers",
    "moments_memory": "do not remember that many steps",
    "split": "test pictures would be some that it has trained on",
    "split_by": "test pictures would be some that it has trained on",
    "init_from": "has begun elsewhere",
    "colour_profiles": "would have other pixels",
    "fit": "would have other pixels",
    "depth": "would have other pixels",
    "levels": "would have other pixels",
}


def test_the_settings_that_change_nothing_that_is_computed_are_these():
    free = {name for name, rule in ON_CHANGE.items() if rule.free}
    assert free == FREE_SETTINGS
    old, new = preset("fast"), preset("fast", draws=9, log_every_steps=3, lr=0.5)
    assert list(changes(old, new)) == ["lr"]


@pytest.mark.parametrize("name", flatten(dataclasses.asdict(Config())))
def test_each_setting_says_by_itself_whether_a_run_can_change_it(name):
    reason = refusal(name, "another")
    expected = next((why for start, why in REFUSED.items() if name.startswith(start)), None)
    assert (reason is None) == (expected is None)
    assert expected is None or expected in reason


def test_a_run_can_lose_its_discriminator_and_cannot_get_one():
    assert refusal("gan", False) is None
    assert "its checkpoints hold no discriminator" in refusal("gan", True)
