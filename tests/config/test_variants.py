"""The names of models in a comparison."""

import re

import pytest

from vaekit.config.presets import folder_name, model_config, preset
from vaekit.config.variants import MODELS


@pytest.fixture
def config():
    return preset("fast", size=16, images=100).resolved()


def test_every_model_sets_its_objective_and_leaves_the_rest(config):
    for name in MODELS:
        settings = model_config(config, name)
        assert settings.gan == name.endswith("+gan")
        assert (settings.network, settings.images, settings.seed) == (config.network, config.images, config.seed)
    chosen = {name: model_config(config, name) for name in ("total", "standard", "beta")}
    assert (chosen["total"].objective, chosen["total"].moments) == ("global", "total")
    assert (chosen["standard"].objective, chosen["beta"].objective) == ("standard", "beta")


def test_a_model_may_have_settings_of_its_own(config):
    settings = model_config(config, "means+gan:weights.kl-individual=0.1,lr=0.001,optimizer.clip=none,flip=False")
    assert (settings.weights.kl_individual, settings.lr, settings.optimizer.clip) == (0.1, 0.001, None)
    assert settings.gan
    assert not settings.flip
    for norm in ("batch", "none"):
        assert model_config(config, f"samples+gan:discriminator.norm={norm}").discriminator.norm == norm


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vqvae", "unknown model 'vqvae'; choose from paper, samples, means, total, standard, beta"),
        ("means:speed=3", "unknown setting 'speed=3'"),
        ("means:lr", "unknown setting 'lr'"),
        ("means:weights=3", "unknown setting 'weights=3'"),
        ("means:lr=fast", "lr is 'fast'"),
        ("means:batch=1", "give --batch 2 or more"),
    ],
)
def test_what_is_no_model_is_refused_with_what_there_is(config, name, message):
    with pytest.raises(ValueError, match=message):
        model_config(config, name)


def test_different_models_go_to_different_folders():
    names = [*MODELS, "means:weights.kl_individual=0.1", "means:weights.kl_individual=0.2", "means:lr=1"]
    folders = {folder_name(name) for name in names}
    assert len(folders) == len(names)
    assert not any("/" in folder or ":" in folder for folder in folders)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("flip=perhaps", "setting flip is 'perhaps', not true or false"),
        ("batch=1.5", "setting batch is 1.5, not a whole number"),
        ("lr=high", "setting lr is 'high', not a number"),
        ("network.kind=vgg", "setting network.kind is 'vgg', not pixelshuffle or resnetv2"),
        ("minutes=soon", "setting minutes is 'soon', not a number or none"),
        ("size=large", "setting size is 'large', not a whole number or 2 values"),
    ],
)
def test_a_value_of_another_kind_is_refused_in_words(setting, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        model_config(preset("fast"), f"standard:{setting}")
