"""A package imports only from packages on lower floors, and `vaekit --help` does not wait for torch."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import vaekit

SOURCE = Path(vaekit.__file__).parent
FLOORS = (  # a package imports only from packages on lower floors
    {"", "__main__", "cli", "cli_data", "cli_use"},
    {"commands"},
    {"training", "export"},
    {"measures", "objectives", "reports", "runs"},
    {"data", "models", "priors"},
    {"config", "networks", "system"},
)
FLOOR = {package: i for i, packages in enumerate(FLOORS) for package in packages}


def package_of(path):
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def imported_packages(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("vaekit."))


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_package_imports_only_from_lower_floors(path):
    package = package_of(path)
    if FLOOR[package] == 0:
        return  # the command and the list of public names may import from every package
    for other in set(imported_packages(path)) - {package}:
        assert FLOOR[other] > FLOOR[package], f"{package} imports {other}, which is not on a lower floor"


def module_of(path):
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(("vaekit", *(part for part in parts if part != "__init__")))


def test_no_modules_import_each_other_in_a_circle():
    paths = {module_of(path): path for path in SOURCE.rglob("*.py")}
    imported = {
        module: {
            name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom)
            for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
            if name in paths and name not in (module, "vaekit")
        }
        for module, path in paths.items()
    }
    tuple(graphlib.TopologicalSorter(imported).static_order())  # raises CycleError with the circle


def test_every_public_name_exists_and_is_listed_once():
    assert sorted(vaekit.__all__) == sorted(vaekit.HOMES)
    for name in vaekit.__all__:
        assert getattr(vaekit, name).__doc__, f"{name} has no docstring"


def test_no_public_name_is_a_module_too():
    modules = {path.stem for path in SOURCE.iterdir()}
    assert not modules & set(vaekit.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'fit'"):
        vaekit.fit  # noqa: B018


FIRST_STEP = """
import sys
from vaekit.system.process import own_process

own_process("cpu")
import torch
import vaekit.commands.train
from vaekit import preset
from vaekit.config.groups import Network
from vaekit.training.state import fabric_of
from vaekit.training.step import train_step
from vaekit.objectives.build import build_objective
from vaekit.training.state import build_state

config = preset("fast", size=8, device="cpu", precision="fp32", network=Network(latent_dim=16, channels=8))
fabric = fabric_of(config)
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
