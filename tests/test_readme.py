"""The commands and the Python code of the README and of the guide, run as they are written there, at a smaller size."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import vaekit
from vaekit.cli import run

README = Path(__file__).parents[1] / "README.md"
PAGES = (README, README.parent / "docs" / "guide.md")
SMALL = (
    "--size 16 --images 16 --batch 4 --device cpu --draws 1 --network.latent-dim 16 --network.channels 8 "
    "--network.max-channels 8 --discriminator.channels 8 8 8 8 8"
).split()


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def commands(page, program):
    lines = [line.split("#")[0] for block in blocks(page, "console") for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith(program)]


@pytest.fixture
def here(photos, tmp_path, monkeypatch):
    """A current folder that holds photos/."""
    shutil.copytree(photos, tmp_path / "photos")
    lines = [f"{path.name},{i % 2},{i // 2 % 2}" for i, path in enumerate(sorted(photos.iterdir()))]
    (tmp_path / "photos" / "labels.csv").write_text("\n".join(["file,smiling,glasses", *lines]))
    shutil.copytree(photos, tmp_path / "scans")
    for folder in ("bands", "microscope"):
        (tmp_path / folder).mkdir()
        for i in range(20):
            array = (
                np.random.default_rng(i).integers(0, 4096, (20, 20, 6 if folder == "bands" else 3)).astype(np.uint16)
            )
            np.save(tmp_path / folder / f"{i}.npy", array)
    monkeypatch.chdir(tmp_path)


def test_there_are_two_commands_for_a_fresh_machine_and_make_knows_them():
    assert commands(README, "make") == [["make", "demo"], ["make", "test"]]
    makefile = README.with_name("Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in ("demo", "test"))


def test_every_command_stands_in_the_guide_and_the_main_ones_in_the_readme():
    main = {"train", "sample", "encode", "explore", "export", "evaluate", "compare"}
    assert {command[1] for command in commands(README, "vaekit")} == main
    assert {command[1] for command in commands(PAGES[1], "vaekit")} == main | {
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
    }


def test_the_pages_link_only_to_what_is_there():
    for page in (*PAGES, *README.parent.joinpath("docs").glob("*.md")):
        for link in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_commands_of_both_pages_run_one_after_another(here):
    listed = dict.fromkeys(tuple(command) for page in PAGES for command in commands(page, "vaekit"))
    for _, *arguments in listed:
        if any("hf://" in argument or argument == "--hub" for argument in arguments):
            continue  # there is no network here: tests/export/test_hub.py
        if arguments[0] == "explore" or "--web" in arguments:
            continue  # until Ctrl-C, and with what npm brings: tests/export/test_explorer.py, test_page.py
        if arguments[0] in ("evaluate", "compare"):
            arguments += ["--features", "none"]  # the feature network takes minutes
        if arguments[0] == "bench":
            arguments += ["--seconds", "0.01"]
        if arguments[0] in ("train", "compare", "bench") and not {"--dry-run", "--resume"} & set(arguments):
            arguments += SMALL
        if "--minutes" in arguments:
            arguments += ["--minutes", "0.02"]
        assert run(arguments) == 0, arguments


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_python_of_a_page_runs(here, page):
    for block in blocks(page, "python"):
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
        names = {"x": torch.zeros(2, 3, 16, 16)}
        block = block.replace("minutes=5", "minutes=0.02").replace('vaekit.preset("released", size=64)', "small")
        exec(block, names | {"small": small})
