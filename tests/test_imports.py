"""Imports point one way, and the command does not wait for torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vaekit

SOURCE = Path(vaekit.__file__).parent
# A module imports only from floors below its own; data/ keeps its own order: loader and cache -> sources.
FLOORS = [
    {
        "chain",
        "config",
        "collectives",
        "files",
        "memory",
        "muon",
        "pixels",
        "signals",
        "data.sources",
        "runlog",
        "tables",
    },
    {"posterior", "metrics", "resnetv2", "pixelshuffle", "mosaic", "devices", "schedule", "models"}
    | {"distances", "features", "bimodality", "priors", "data.cache", "data.loader", "data.labels"},
    {"objectives", "patchgan", "charts", "data", "diagnostics", "picturesets", "probes", "theory"},
    {"vae"},
    {"evaluation", "checkpoint", "figures", "flops", "step"},
    {"runs"},
    {"training", "sampling"},
    {"assessment", "benchmark", "report"},
    {"comparison"},
    {"cli"},
    {"__main__", ""},
]


def module_name(path):
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vaekit"):
            inner = node.module.removeprefix("vaekit").removeprefix(".")
            # `from vaekit import checkpoint` names modules, `from vaekit.vae import VAE` names things
            yield from [inner] if inner else [alias.name for alias in node.names]


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=module_name)
def test_a_module_imports_only_from_lower_floors(path):
    floor = {name: i for i, names in enumerate(FLOORS) for name in names}
    name = module_name(path)
    for other in imported(path):
        assert floor[other] < floor[name], f"{name} imports {other}, which is not on a lower floor"


def test_every_public_name_exists_and_is_listed_once():
    assert sorted(vaekit.__all__) == sorted(vaekit.HOMES)
    for name in vaekit.__all__:
        assert getattr(vaekit, name).__doc__, f"{name} has no docstring"


def test_public_functions_do_not_turn_into_modules_after_their_module_is_imported():
    import vaekit.evaluation
    import vaekit.training

    assert vaekit.train is vaekit.training.train
    assert vaekit.evaluate is vaekit.evaluation.evaluate


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'fit'"):
        vaekit.fit  # noqa: B018


FIRST_STEP = """
import sys, torch
from vaekit import preset
from vaekit.config import Network
from vaekit.devices import make_fabric
from vaekit.step import train_step
from vaekit.training import build_objective, build_state

config = preset("fast", size=8, device="cpu", precision="fp32", network=Network(latent_dim=16, channels=8))
fabric = make_fabric(config)
state = build_state(fabric, config)
x = torch.zeros(2, 3, 8, 8)
train_step(fabric, state, build_objective(config), x, torch.randn(2, 16), adversarial=True, clip=3.0)
print(*sys.modules)
"""


def test_the_first_step_of_a_training_does_not_wait_for_what_only_measuring_and_drawing_need():
    finished = subprocess.run([sys.executable, "-c", FIRST_STEP], check=True, capture_output=True, text=True)
    unneeded = {"matplotlib", "scipy", "sklearn", "torchmetrics", "torchvision"}
    assert not unneeded & set(finished.stdout.split())


def test_help_and_dry_run_do_not_import_torch():
    code = (
        "import sys; from vaekit.cli import run\n"
        "run(['train', 'photos', '--dry-run'])\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
