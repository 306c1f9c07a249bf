"""Build the sdist and, from it, the wheel; look into both; use the wheel in an empty venv of each Python that is here.

`make release-check` runs it. It needs npm for the explorer's page, and the registries of Python packages.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
IN_WHEEL = (
    "vaekit/py.typed",
    "vaekit/export/page/index.html",
    "vaekit/export/page/worker.js",
    "vaekit/export/page/ort/ort.js",
    "vaekit/export/page/ort/ort-wasm-simd-threaded.wasm",
    "vaekit/export/page/ort/VERSION",
    "vaekit/export/page/LICENCE-onnxruntime-web.txt",
)
SMOKE = Path(__file__).with_name("smoke.py")


def run(*command: str | Path, **options: object) -> None:
    """Run a command that must succeed, without what the environment says of other vaekits."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([str(part) for part in command], check=True, env=environment, **options)  # type: ignore[call-overload]


def main() -> int:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        builder = venv(Path(sys.executable), folder / "builder")
        run(builder, "-m", "pip", "install", "--quiet", "build", "twine")
        print("building sdist and wheel", flush=True)
        run(builder, "-m", "build", "--outdir", folder / "dist", ROOT, stdout=subprocess.DEVNULL)
        run(builder, "-m", "twine", "check", "--strict", *(folder / "dist").iterdir())
        (wheel,), (sdist,) = (list((folder / "dist").glob(kind)) for kind in ("*.whl", "*.tar.gz"))
        check_contents(wheel, sdist)
        for python in PYTHONS:
            found = shutil.which(f"python{python}")
            if found is None or subprocess.run([found, "--version"], capture_output=True).returncode:
                print(f"Python {python} is not here: not checked")
                continue
            print(f"Python {python}: the wheel in an empty venv", flush=True)
            fresh = venv(Path(found), folder / f"venv{python}")
            run(fresh, "-m", "pip", "install", "--quiet", f"{wheel}[onnx]")
            run(fresh, SMOKE, cwd=folder)
    return 0


def venv(python: Path, folder: Path) -> Path:
    """The Python of a new virtual environment."""
    run(python, "-m", "venv", folder)
    return folder / ("Scripts" if os.name == "nt" else "bin") / "python"


def check_contents(wheel: Path, sdist: Path) -> None:
    """Stop where a file is missing, or where one is there that should not be."""
    version = re.search(r'__version__ = "(.+)"', (ROOT / "src/vaekit/__init__.py").read_text())
    assert version is not None
    assert f"-{version[1]}-" in wheel.name, f"{wheel.name} is not of version {version[1]}"
    with zipfile.ZipFile(wheel) as files:
        names = set(files.namelist())
    missing = [name for name in IN_WHEEL if name not in names]
    assert not missing, f"the wheel lacks {missing}"
    foreign = [name for name in names if not name.startswith(("vaekit/", f"vaekit-{version[1]}.dist-info/"))]
    assert not foreign, f"the wheel has {foreign}"
    with tarfile.open(sdist) as files:
        packed = {name.partition("/")[2] for name in files.getnames()}
    assert {"pyproject.toml", "LICENSE", "README.md", "scripts/page_runtime.py", "hatch_build.py"} <= packed
    for path in (wheel, sdist):
        print(f"{path.name}: {path.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    sys.exit(main())
