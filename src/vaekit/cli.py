"""The command line: each subcommand is one function call. Torch is imported only by a subcommand that needs it."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Union, cast

import tyro

from vaekit import __version__
from vaekit.cli_data import DATA_COMMANDS, DataCommand
from vaekit.cli_use import USE_COMMANDS, UseCommand
from vaekit.config.drawing import Drawing
from vaekit.config.measuring import Measuring
from vaekit.config.presets import PRESETS, check_all_is_read, check_one_length, model_config, preset
from vaekit.config.priors import FittedName
from vaekit.config.settings import Config
from vaekit.config.variants import MODELS, ModelNames
from vaekit.system.process import own_process, progress

DONE, INTERNAL_ERROR, USER_ERROR, INTERRUPTED = 0, 1, 2, 130  # exit status


@dataclass(frozen=True)
class Train:
    """Train a VAE on a folder of pictures: model, log and figures go to a run folder."""

    pictures: tyro.conf.Positional[str | None] = None
    """Folder of pictures, searched recursively; list (.txt), array (.npy), shards (.tar), hf://user/name; or elpv."""
    out: Path | None = None
    """Folder of the run; by default runs/<pictures>-<preset>-<size>."""
    resume: tyro.conf.FlagCreatePairsOff[bool] = False
    """Go on with a run, `train --resume runs/photos`, or start it; what is not given is as it was."""
    change_settings: tyro.conf.FlagCreatePairsOff[bool] = False
    """Go on although settings given here are not those that the run began with."""
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the resolved settings as JSON and stop."""
    config: Annotated[Config, tyro.conf.arg(name="")] = PRESETS["fast"]

    def run(self) -> None:
        if not self.resume:
            check_all_is_read(self.config)
        if self.dry_run:
            print(self.config.resolved().to_json())  # noqa: T201
            return
        own_process(self.config.device, self.config.devices)
        from vaekit.commands.train import train
        from vaekit.runs.folder import is_gone, read_pictures

        pictures = self.pictures
        if pictures is None and self.resume:
            pictures = read_pictures(self.folder()).folder
            if is_gone(pictures):
                where = f"vaekit train FOLDER --resume --out {self.folder()}"
                raise ValueError(f"the pictures of {self.folder()} are no longer in {pictures}; say where: {where}")
        if pictures is None:
            raise ValueError(
                "no pictures: give a folder, as in `vaekit train photos/`, or `vaekit train elpv` for the demo data"
            )
        train(self.config, pictures, self.out, self.resume, self.change_settings)

    def folder(self) -> Path:
        """The folder of the run."""
        if self.out is not None:
            return self.out
        if self.pictures is None:
            raise ValueError("go on with which run? name its folder, as in `vaekit train --resume runs/photos`")
        from vaekit.data.sources.naming import source_of
        from vaekit.runs.folder import default_run

        return default_run(self.config, source_of(self.pictures))


@dataclass(frozen=True)
class Figures:
    """Draw the figures of a finished run again, from its own test pictures or from other ones."""

    run_folder: tyro.conf.Positional[Path]
    """Folder of the run."""
    pictures: tyro.conf.Positional[str | None] = None
    """Folder of pictures to draw from instead of the run's own."""
    out: Path | None = None
    """Folder for the figures; by default they go into the run."""

    def run(self) -> None:
        from vaekit.commands.draw import draw_run

        for path in draw_run(self.run_folder, self.pictures, self.out, say=progress):
            print(path)  # noqa: T201


@dataclass(frozen=True)
class Evaluate:
    """Measure a finished run: reconstruction, generation, latents and usefulness, as evaluation.json and a table."""

    run_folder: tyro.conf.Positional[Path]
    """Folder of the run."""
    pictures: tyro.conf.Positional[str | None] = None
    """Folder of pictures to measure with instead of the run's own test pictures."""
    measuring: Annotated[Measuring, tyro.conf.arg(name="")] = field(default_factory=Measuring)
    seed: int = 0
    """Seeds noise, samples and projections."""
    out: Path | None = None
    """Folder for the results; by default that of the run."""

    def run(self) -> None:
        own_process("auto")
        from vaekit.commands.evaluate import evaluate_run
        from vaekit.reports.evaluation import readable_evaluation

        measuring = dataclasses.asdict(self.measuring)
        options: dict[str, Any] = {"seed": self.seed, "out": self.out}
        result = evaluate_run(self.run_folder, self.pictures, say=progress, **options, **measuring)
        print(readable_evaluation(result))  # noqa: T201


@dataclass(frozen=True)
class Sample:
    """Draw new pictures from a finished run."""

    run_folder: tyro.conf.Positional[Path]
    """Folder of the run."""
    drawing: Annotated[Drawing, tyro.conf.arg(name="")] = field(default_factory=Drawing)
    count: int = 64
    """How many."""
    seed: int = 0
    """Another seed, other pictures."""
    out: Path | None = None
    """Empty folder for single pictures; by default they go into one, in the figures of the run."""

    def run(self) -> None:
        own_process("auto")
        from vaekit.commands.sample import sample_run

        drawing = dataclasses.asdict(self.drawing)
        chosen: dict[str, Any] = {"num_images": self.count, "seed": self.seed, "out": self.out}
        print(sample_run(self.run_folder, say=progress, **chosen, **drawing))  # noqa: T201


@dataclass(frozen=True)
class FitPrior:
    """Fit a density to the latents of a finished run, to draw new pictures from: again, longer, or for an old run."""

    run_folder: tyro.conf.Positional[Path]
    """Folder of the run."""
    kind: FittedName | None = None
    """What to fit; by default what the run ended with: codes for vq and vq2, else flow."""
    minutes: float | None = None
    """How long to fit a flow or a transformer; by default about a tenth of the time that the training took, or more
    after a short one."""

    def run(self) -> None:
        own_process("auto")
        from vaekit.commands.fit_prior import fit_prior_run

        print(fit_prior_run(self.run_folder, self.kind, self.minutes, progress))  # noqa: T201


@dataclass(frozen=True)
class Compare:
    """Train several objectives alike, with and without discriminator, and put them side by side in a report.

    Takes all settings of train; what a model sets itself is overridden. The same command goes on where it stopped.
    """

    pictures: tyro.conf.Positional[str]
    """Folder of pictures, searched recursively, or elpv for the data of the extra "demo"."""
    out: Path | None = None
    """Folder of the comparison; by default runs/compare-<pictures>-<preset>-<size>."""
    models: ModelNames = MODELS
    seeds: int = 1
    """Repeat everything with this many seeds, counting up from --seed, and give means and standard deviations."""
    both: tyro.conf.FlagCreatePairsOff[bool] = False
    """Each of the models without and with the discriminator."""
    measuring: Annotated[Measuring, tyro.conf.arg(name="")] = field(default_factory=Measuring)
    config: Annotated[Config, tyro.conf.arg(name="")] = PRESETS["fast"]

    def run(self) -> None:
        check_one_length(self.config)
        for model in self.models:  # a slip of the pen is told before torch is loaded
            model_config(self.config, model)
        own_process(self.config.device)
        from vaekit.commands.compare import compare

        measuring = dataclasses.asdict(self.measuring)
        print(  # noqa: T201
            compare(self.config, self.pictures, self.out, self.models, self.seeds, self.both, say=progress, **measuring)
        )


@dataclass(frozen=True)
class Bench:
    """Time the training step on this machine: how long would the whole run take? Takes all settings of train."""

    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print everything as JSON."""
    seconds: float = 10.0
    """How long to time each kind of step."""
    config: Annotated[Config, tyro.conf.arg(name="")] = PRESETS["fast"]

    def run(self) -> None:
        check_one_length(self.config)
        own_process(self.config.device)
        from vaekit.commands.bench import bench, readable_bench
        from vaekit.system.files import json_text

        result = bench(self.config, self.seconds)
        print(json_text(result, indent=2) if self.json else readable_bench(self.config, result))  # noqa: T201


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with a status: 0 done, 2 an error of the user, 1 an internal error.

    A training that Ctrl-C or SIGTERM stopped is saved, and exits with 130 or 143.
    """
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def run(arguments: list[str]) -> int:
    """Run one command; the user's mistakes become one line on stderr."""
    if arguments == ["--version"]:
        print(f"vaekit {__version__}")  # noqa: T201
        return DONE
    try:
        command = parse(arguments)
        command.run()
    except BrokenPipeError:  # `vaekit ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except (ValueError, OSError) as error:
        report(error)
        return USER_ERROR
    except ArithmeticError as error:  # NonFiniteLoss, without importing torch for its name
        report(error)
        return INTERNAL_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED
    return DONE


Command = Train | Bench | Evaluate | Sample | FitPrior | Compare | Figures | DataCommand | UseCommand


def parse(arguments: list[str]) -> Command:
    """The command with its settings: those given, over those of the preset or of the run that goes on."""
    fresh = Train(config=preset(value_of("--preset", arguments) or "fast"))
    if arguments[:1] != ["train"] or "--resume" not in arguments:
        return parse_over(fresh, arguments)
    from vaekit.runs.folder import CONFIG_FILE, is_run, read_run_config

    out, begun = value_of("--out", arguments), value_of("--init-from", arguments)
    named = next((argument for argument in arguments[1:] if argument != begun and is_run(argument)), None)
    if out is None and named is not None:
        arguments = [argument for argument in arguments if argument != named]
    run = Path(out or named or cast(Train, parse_over(fresh, arguments)).folder())
    if not (run / CONFIG_FILE).is_file() and cast(Train, parse_over(fresh, arguments)).pictures is not None:
        return parse_over(fresh, arguments)  # nothing to go on with yet: it is started
    return parse_over(Train(out=run, config=read_run_config(run)), arguments)


def parse_over(default: Train, arguments: list[str]) -> Command:
    """The command; what the command line leaves out is as in `default`."""
    train = Annotated[Train, tyro.conf.subcommand("train", default=default)]
    compare = Annotated[Compare, tyro.conf.subcommand("compare", default=Compare(tyro.MISSING, config=default.config))]
    bench = Annotated[Bench, tyro.conf.subcommand("bench", default=Bench(config=default.config))]
    kinds = {"evaluate": Evaluate, "sample": Sample, "fit-prior": FitPrior, "figures": Figures}
    others = [
        Annotated[kind, tyro.conf.subcommand(name)] for name, kind in (kinds | DATA_COMMANDS | USE_COMMANDS).items()
    ]
    return tyro.cli(Union[train, others[0], compare, *others[1:], bench], prog="vaekit", args=arguments)  # type: ignore


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
