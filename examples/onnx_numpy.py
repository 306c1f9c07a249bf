"""New pictures and a reconstruction from an exported model, with onnxruntime, numpy and Pillow alone.

python examples/onnx_numpy.py faces-onnx/ picture.png
"""

import sys
from itertools import pairwise

import numpy as np
from onnxruntime import InferenceSession
from PIL import Image

folder, picture = sys.argv[1:3]
encoder, decoder, step = (InferenceSession(f"{folder}/{name}.onnx") for name in ("encoder", "decoder", "prior_step"))
gaussian = np.load(f"{folder}/prior_gaussian.npz")


def save(x_hat, name):  # (C, H, W) in [-1, 1]
    Image.fromarray(((x_hat.clip(-1, 1) + 1) * 127.5).round().astype(np.uint8).transpose(1, 2, 0)).save(name)


side = encoder.get_inputs()[0].shape[2]
x = np.asarray(Image.open(picture).convert("RGB").resize((side, side)), np.float32) / 127.5 - 1
mean, logvar = encoder.run(None, {"x": x.transpose(2, 0, 1)[None]})
save(decoder.run(None, {"z": mean})[0][0], "reconstruction.png")

w = np.random.default_rng(0).standard_normal((4, mean.shape[1]), np.float32)
for a, b in pairwise(np.linspace(0, np.pi / 2, 26, dtype=np.float32)):  # Heun's method along the arc
    slope = step.run(None, {"w": w, "a": np.full(4, a)})[0]
    ahead = step.run(None, {"w": w + (b - a) * slope, "a": np.full(4, b)})[0]
    w = w + (b - a) / 2 * (slope + ahead)
for i, x_hat in enumerate(decoder.run(None, {"z": gaussian["mean"] + w @ gaussian["root"]})[0]):
    save(x_hat, f"new-{i}.png")
