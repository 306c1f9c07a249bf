"""Runs of earlier versions load, give what they gave, and go on.

tests/kept has a small run of each format that there was, named after the day and commit that wrote it, with what its
own code computed of it (expected.npz). A change of a format adds one; none is ever changed or taken away.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from vaekit import VAE, read_picture
from vaekit.cli import run as command
from vaekit.data.sources.folder import Folder
from vaekit.runs.folder import prepared_for, read_run_config
from vaekit.runs.log import last_counters

KEPT = Path(__file__).parents[1] / "kept"
RUNS = sorted(path for path in KEPT.iterdir() if (path / "model.safetensors").is_file())


@pytest.fixture
def kept(request, tmp_path):
    """A copy of a kept run, beside its pictures."""
    shutil.copytree(request.param, tmp_path / "run")
    shutil.copytree(KEPT / "photos", tmp_path / "photos")
    path = tmp_path / "run" / "pictures.json"
    about = json.loads(path.read_text()) | {"folder": str(tmp_path / "photos")}
    if "crc32" not in about:  # the oldest know their pictures by the times of the files alone
        about["fingerprint"] = prepared_for(read_run_config(tmp_path / "run"), Folder(tmp_path / "photos")).fingerprint
    path.write_text(json.dumps(about))
    return tmp_path / "run"


every_run = pytest.mark.parametrize("kept", RUNS, ids=lambda path: path.name, indirect=True)


def test_there_are_runs_of_before():
    assert len(RUNS) >= 5


@every_run
def test_a_run_of_before_gives_what_it_gave(kept):
    vae, expected = VAE.from_pretrained(kept), np.load(kept / "expected.npz")
    x = torch.cat([read_picture(path, vae) for path in sorted((KEPT / "photos").iterdir())[:3]])
    posterior = vae.encode(x)
    found = {"mean": posterior.mean, "logvar": posterior.logvar, "x_hat": vae.decode(posterior.mean)}
    for name in expected.files:
        if name.startswith("z-"):
            prior = vae.priors[name.removeprefix("z-")]
            found[name] = prior.sample(4, torch.Generator().manual_seed(0))
        np.testing.assert_allclose(found[name].numpy(), expected[name], atol=2e-4, rtol=1e-4, err_msg=name)


@every_run
def test_a_run_of_before_is_measured_and_sampled(kept):
    assert command(["evaluate", str(kept), "--features", "none"]) == 0
    assert command(["sample", str(kept), "--count", "4"]) == 0


@every_run
def test_a_run_of_before_goes_on(kept):
    if not (kept / "checkpoints").is_dir():
        pytest.skip("its checkpoint was not kept: 1 MB")
    assert command(["train", "--resume", str(kept), "--change-settings", "--images", "32"]) == 0
    assert last_counters(kept)["images_seen"] == 32
