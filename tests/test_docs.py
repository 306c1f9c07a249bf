"""The commands and the Python code of the README and the docs, run as they are written there, at a smaller size."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

import vaekit
from vaekit.cli import run
from vaekit.commands import export

ROOT = Path(__file__).parents[1]
README, DOCS = ROOT / "README.md", ROOT / "docs"
GUIDE = DOCS / "guide.md"
PAGES = (README, *sorted(DOCS.glob("*.md")))
SMALL = ("--size 16 --images 16 --batch 4 --device cpu --draws 1 --network.channels 8 --network.max-channels 8").split()
SLOW = {
    "--compile": "no",
    "--seeds": "1",
    "--micro-batch": "2",
    "--minutes": "0.02",
}  # options with a value that is quicker


def blocks(page, language=r"\w*"):
    """The fenced blocks of a language, or all."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def commands(page, program):
    lines = [line.split("#")[0] for block in blocks(page, "console") for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith(program)]


def having(found):
    """The pages in which something is found."""
    return pytest.mark.parametrize("page", [page for page in PAGES if found(page)], ids=lambda page: page.stem)


def quoted_file(block):
    """The file of vaekit that a block of Python quotes, by its first line; None where it is no quotation."""
    found = re.match(r"# (\S+\.py)\n", block)
    return found[1] if found else None


def quoted(page):
    """The blocks of Python that quote a file of vaekit: its name and its lines."""
    return [(name, block.partition("\n")[2]) for block in blocks(page, "python") if (name := quoted_file(block))]


def own(page):
    """The blocks of Python that quote nothing."""
    return [block for block in blocks(page, "python") if not quoted_file(block)]


@pytest.fixture
def here(photos, tmp_path, monkeypatch):
    """A current folder that holds photos/."""
    shutil.copytree(photos, tmp_path / "photos")
    lines = [f"{path.name},{i % 2},{i // 2 % 2}" for i, path in enumerate(sorted(photos.iterdir()))]
    (tmp_path / "photos" / "labels.csv").write_text("\n".join(["file,smiling,glasses", *lines]))
    for folder in ("scans", "celebahq"):
        shutil.copytree(photos, tmp_path / folder)
    for folder in ("bands", "microscope"):
        (tmp_path / folder).mkdir()
        for i in range(20):
            shape = (20, 20, 6) if folder == "bands" else (20, 20)
            array = np.random.default_rng(i).integers(0, 4096, shape).astype(np.uint16)
            np.save(tmp_path / folder / f"{i}.npy", array)
    monkeypatch.chdir(tmp_path)


def test_there_are_two_commands_for_a_fresh_machine_and_make_knows_them():
    assert commands(README, "make") == [["make", "demo"], ["make", "test"]]
    makefile = README.with_name("Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in ("demo", "test"))


def test_every_command_stands_in_the_guide_and_the_main_ones_in_the_readme():
    main = {"train", "sample", "encode", "explore", "export", "evaluate", "compare"}
    assert {command[1] for command in commands(README, "vaekit")} == main
    assert {command[1] for command in commands(GUIDE, "vaekit")} == main | {
        "prepare",
        "data",
        "bench",
        "figures",
        "fit-prior",
        "decode",
        "reconstruct",
        "interpolate",
        "vary",
        "nearest",
        "anomalies",
        "shapes",
    }


def test_the_pages_link_only_to_what_is_there():
    for page in PAGES:
        for link in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def quick(arguments):
    """A command of a page as it is run here."""
    if arguments[0] in ("evaluate", "compare"):
        arguments += ["--features", "none"]  # the feature network takes minutes
    if arguments[0] == "compare" and "--models" not in arguments:
        arguments += ["--models", "standard", "total+gan"]  # all ten take a minute
    if arguments[0] == "sample" and "--count" not in arguments:
        arguments += ["--count", "4"]
    if arguments[0] == "bench":
        arguments += ["--seconds", "0.01"]
    if arguments[0] in ("train", "compare", "bench") and not {"--dry-run", "--resume"} & set(arguments):
        arguments += [*SMALL, "--network.latent-dim", "128" if "hierarchical" in arguments else "16"]
        unread = ["--images"] * ("--minutes" in arguments) + ["--network.max-channels"] * ("paper" in arguments)
        for option in unread:  # which are refused beside those
            at = arguments.index(option)
            del arguments[at : at + 2]
        arguments += [] if "--no-gan" in arguments else "--discriminator.channels 8 8 8 8 8".split()
    return arguments + [part for option, value in SLOW.items() if option in arguments for part in (option, value)]


@pytest.mark.parametrize(
    "pages", [[README, GUIDE], [DOCS / "index.md"], [DOCS / "recipes.md"]], ids=lambda pages: pages[-1].stem
)
def test_the_commands_of_pages_run_one_after_another(here, pages):
    listed = dict.fromkeys(tuple(command) for page in pages for command in commands(page, "vaekit"))
    for _, *arguments in listed:
        if any("hf://" in argument or argument == "--hub" for argument in arguments):
            continue  # there is no network here: tests/export/test_hub.py
        if arguments[0] == "explore" or "--web" in arguments:
            continue  # until Ctrl-C, and with what npm brings: tests/export/test_explorer.py, test_page.py
        with pytest.MonkeyPatch.context() as patch:
            if "int8" in arguments:  # 20 s each, in tests/export/test_precision.py: here the line is only read
                patch.setattr(export, "export_run", lambda *_, **options: options["precision"])
            assert run(quick(arguments)) == 0, arguments


@having(lambda page: any("torchrun" in block for block in blocks(page)))
def test_trainings_under_torchrun_name_options_that_there_are(here, page):
    for block in blocks(page):
        for line in re.findall(r"torchrun .*? -m vaekit (train .*)", block.replace("\\\n", " ")):
            assert run([*shlex.split(line), "--dry-run"]) == 0, line


@having(lambda page: blocks(page, "bash"))
def test_scripts_of_a_page_are_bash(page):
    for block in blocks(page, "bash"):
        assert subprocess.run(["bash", "-n"], input=block, text=True, check=False).returncode == 0


@having(quoted)
def test_what_a_page_quotes_stands_in_the_file(page):
    for name, lines in quoted(page):
        source = (ROOT / "src" / "vaekit" / name).read_text()
        indents = {line[: len(line) - len(line.lstrip())] for line in source.splitlines()}
        assert any(textwrap.indent(lines, indent) in source for indent in indents), f"{name}: {lines}"


def test_every_public_name_stands_on_the_page_of_the_library():
    named = re.findall(r"^::: vaekit\.(\w+)$", (DOCS / "api.md").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(vaekit.__all__)


@pytest.mark.parametrize("name", vaekit.__all__)
def test_docstrings_of_the_library_lose_no_word_as_html(name):
    """What stands in <> is no text there, unless it is code."""
    documented = [getattr(vaekit, name), *vars(getattr(vaekit, name)).values()]
    for doc in (getattr(each, "__doc__", None) or "" for each in documented):
        assert not re.search(r"<[a-z]+>", re.sub(r"`[^`]*`", "", doc))


def test_every_page_stands_in_the_site():
    def files(entry):
        return (
            [entry]
            if isinstance(entry, str)
            else [name for part in entry for inner in part.values() for name in files(inner)]
        )

    nav = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]
    assert sorted(files(nav)) == sorted(page.name for page in PAGES if page != README)


def test_the_site_is_built_without_a_warning_and_asks_no_other_host(tmp_path):
    for name in ("zensical.toml", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(DOCS, tmp_path / "docs")
    (tmp_path / "src").symlink_to(ROOT / "src")
    command = [Path(sys.executable).with_name("zensical"), "build", "--strict"]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    for page in (tmp_path / "site").rglob("*.html"):
        loaded = re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"?([^\" >]+)", page.read_text())
        assert not [address for address in loaded if address.startswith(("http", "//"))], page


def test_the_tour_runs_from_pictures_to_a_page(here):
    """In a kernel of its own, as Jupyter runs it."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(DOCS / "tour.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "commit it without outputs: they show pictures"
    for cell in notebook.cells:
        cell.source = cell.source.replace("minutes=4", "minutes=0.05, batch=4, draws=1, device='cpu'")
        cell.source = cell.source.replace('PICTURES = "elpv"', 'PICTURES = "photos"').replace("channels=1, ", "")
        cell.source = cell.source.replace("size=64", "size=16")
    few = "from vaekit.export import explorer; explorer.FIGURE_IMAGES = 24"  # draws that a page shows
    notebook.cells.insert(0, nbformat.v4.new_code_cell(few))
    if not (ROOT / "src" / "vaekit" / "export" / "page" / "ort").is_dir():
        assert os.environ.get("VAEKIT_BROWSER") != "required"
        assert "web=" in notebook.cells.pop().source  # what npm brings is not here
    NotebookClient(notebook, timeout=300).execute()


@having(own)
def test_the_python_of_a_page_runs(here, page):
    for block in own(page):
        small = vaekit.preset(
            "fast",
            size=16,
            images=8,
            batch=4,
            device="cpu",
            draws=1,
            network=vaekit.config.Network(latent_dim=16, channels=8, max_channels=8),
        )
        shutil.rmtree("runs", ignore_errors=True)  # of the block before
        vaekit.train(small, "photos", "runs/faces")
        shutil.copytree("runs/faces", "runs/first")  # the name on docs/index.md
        names = {"x": torch.zeros(2, 3, 16, 16)}
        block = block.replace("minutes=5", "minutes=0.02").replace(
            'vaekit.preset("fast", size=64, minutes=10)', "small"
        )
        exec(block, names | {"small": small})
