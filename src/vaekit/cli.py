"""The command: each subcommand is one function call. Torch is imported only once there is something to do."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from vaekit.config import PRESETS, Config, preset

DONE, OURS, USERS, INTERRUPTED = 0, 1, 2, 130  # exit status: done, our mistake, the user's, Ctrl-C


@dataclass(frozen=True)
class Train:
    """Train a VAE on a folder of pictures: model, log and figures go to a run folder."""

    pictures: tyro.conf.Positional[str | None] = None
    """Folder of pictures, searched recursively, or elpv for the data of the extra "demo"."""
    out: Path | None = None
    """Folder of the run; by default runs/<pictures>-<preset>-<size>."""
    resume: Path | None = None
    """Go on with the run in this folder, with its own settings and pictures."""
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the resolved settings as JSON and stop."""
    config: Annotated[Config, tyro.conf.arg(name="")] = PRESETS["fast"]

    def run(self) -> None:
        if self.dry_run:
            print(self.config.resolved().to_json())  # noqa: T201
            return
        from vaekit.runs import read_pictures
        from vaekit.training import train

        pictures = self.pictures
        if pictures is None and self.resume is not None:
            pictures = read_pictures(self.resume).folder
        if pictures is None:
            raise ValueError(
                "no pictures: give a folder, as in `vaekit train photos/`, or `vaekit train elpv` for the demo data"
            )
        train(self.config, pictures, self.resume or self.out, resume=self.resume is not None)


@dataclass(frozen=True)
class Figures:
    """Draw the figures of a finished run again, from its own test pictures or from other ones."""

    run_folder: tyro.conf.Positional[Path]
    """Folder of the run."""
    pictures: tyro.conf.Positional[str | None] = None
    """Folder of pictures to draw from instead of the run's own."""

    def run(self) -> None:
        from vaekit.runs import draw_run

        for path in draw_run(self.run_folder, self.pictures):
            print(path)  # noqa: T201


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 the user's mistake, 1 ours."""
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def run(arguments: list[str]) -> int:
    """Run one command; the user's mistakes become one line on stderr."""
    try:
        command = parse(arguments)
        command.run()
    except (ValueError, OSError) as error:
        report(error)
        return USERS
    except ArithmeticError as error:  # NonFiniteLoss, without importing torch for its name
        report(error)
        return OURS
    except KeyboardInterrupt:
        return INTERRUPTED
    return DONE


def parse(arguments: list[str]) -> Train | Figures:
    """The command with its settings: those given, over those of the preset or of the run that is resumed."""
    defaults = Train(config=default_config(arguments))
    train = Annotated[Train, tyro.conf.subcommand("train", default=defaults)]
    figures = Annotated[Figures, tyro.conf.subcommand("figures")]
    return tyro.cli(train | figures, prog="vaekit", args=arguments)


def default_config(arguments: list[str]) -> Config:
    """What the settings on the command line change: a preset's, or those of the run to resume."""
    resumed = value_of("--resume", arguments)
    if resumed is not None:
        from vaekit.runs import read_config

        return read_config(Path(resumed))
    return preset(value_of("--preset", arguments) or "fast")


def value_of(flag: str, arguments: list[str]) -> str | None:
    """The value given to a flag, as `--flag value` or `--flag=value`; None without it."""
    for i, argument in enumerate(arguments):
        if argument == flag and i + 1 < len(arguments):
            return arguments[i + 1]
        if argument.startswith(flag + "="):
            return argument.partition("=")[2]
    return None


def report(error: Exception) -> None:
    """One line that says what is wrong."""
    print(f"vaekit: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
