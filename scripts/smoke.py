"""Use an installed vaekit from its command line, in the current folder: train, sample, measure, encode, export."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

SMALL = [
    "--size",
    "16",
    "--images",
    "24",
    "--batch",
    "4",
    "--device",
    "cpu",
    "--network.latent-dim",
    "16",
    "--network.channels",
    "8",
]
COMMANDS = (
    ["train", "smoke-pictures", "--out", "smoke-run", *SMALL],
    ["train", "--resume", "smoke-run"],
    ["sample", "smoke-run", "--count", "4", "--out", "smoke-new"],
    ["evaluate", "smoke-run", "--features", "none"],
    ["encode", "smoke-run", "smoke-pictures", "--out", "smoke.npz"],
    ["export", "smoke-run", "--web", "smoke-page"],
)


def main() -> None:
    import vaekit

    assert "site-packages" in str(vaekit.__file__), f"this is not an installed vaekit: {vaekit.__file__}"
    random = np.random.default_rng(0)
    Path("smoke-pictures").mkdir()
    for i in range(20):
        coarse = Image.fromarray(random.integers(0, 256, (3, 3, 3), dtype=np.uint8))
        coarse.resize((20, 20), Image.Resampling.BICUBIC).save(f"smoke-pictures/{i:02d}.png")
    for command in COMMANDS:
        done = subprocess.run([sys.executable, "-m", "vaekit", *command], capture_output=True, text=True)
        assert done.returncode == 0, f"vaekit {' '.join(command)}\n{done.stderr}"
    assert len(list(Path("smoke-new").glob("*.png"))) == 4
    assert len(np.load("smoke.npz")["mean"]) == 20
    assert Path("smoke-page/model/decoder.onnx").is_file()
    print(f"vaekit {vaekit.__version__} on Python {sys.version.split()[0]}: all commands work")


if __name__ == "__main__":
    main()
