"""What else hears of a training while it goes on: functions of the caller, and services that keep experiments."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from vaekit.config.plain import flatten
from vaekit.config.settings import Config
from vaekit.system.files import in_one_line, write_json
from vaekit.system.ranks import object_from_rank_zero

PROJECT = "vaekit"
IDS_FILE = "tracking.json"  # in the run: under what each service keeps it, so that a run that goes on is one there
LONGEST = 500  # characters of a setting, as MLflow takes them

Record = Mapping[str, float | str]
OnStep = Callable[[Record], object]
OnMeasure = Callable[[Record, Sequence[Path]], object]


class Watcher(Protocol):
    """Hears of a training, in the process of rank 0."""

    def step(self, record: Record) -> None:
        """A record of the log: losses by name, `step`, `images_seen`."""

    def measured(self, record: Record, figures: Sequence[Path]) -> None:
        """What was measured on test pictures, names with test/ before them, and the figures that were drawn."""

    def close(self, failed: bool = False) -> None:
        """The training is over or stopped, or has `failed`."""


@dataclasses.dataclass(frozen=True)
class Callbacks:
    """Functions of the caller. What they raise ends the training."""

    on_step: OnStep | None = None
    on_measure: OnMeasure | None = None

    def step(self, record: Record) -> None:
        if self.on_step is not None:
            self.on_step(record)

    def measured(self, record: Record, figures: Sequence[Path]) -> None:
        if self.on_measure is not None:
            self.on_measure(record, figures)

    def close(self, failed: bool = False) -> None:
        pass


class WandB:
    """Weights & Biases, or Trackio, which has the same interface: losses and measures as charts, figures as media."""

    def __init__(self, package: Any, run: Path, config: Config) -> None:
        self.package = package
        name = package.__name__
        options = {"resume": "allow"}
        if name == "wandb":
            own = ids_of(run).get(name) or uuid4().hex[:8]
            options |= {"id": own, "dir": str(run)}
        package.init(project=PROJECT, name=run.name, config=settings_of(config), **options)
        if name == "wandb":
            keep_id(run, name, own)

    def step(self, record: Record) -> None:
        self.package.log(numbers(record), step=int(record["step"]))

    def measured(self, record: Record, figures: Sequence[Path]) -> None:
        images = {f"figures/{path.stem}": self.package.Image(str(path)) for path in figures}
        self.package.log(numbers(record) | images, step=int(record["step"]))

    def close(self, failed: bool = False) -> None:
        self.package.finish(**({"exit_code": 1} if failed and self.package.__name__ == "wandb" else {}))


class MLflow:
    """MLflow: settings as parameters, losses and measures as metrics, figures as artifacts."""

    def __init__(self, package: Any, run: Path, config: Config) -> None:
        self.package = package
        package.set_experiment(PROJECT)
        known = ids_of(run).get("mlflow")
        started = package.start_run(run_id=known, run_name=None if known else run.name)
        keep_id(run, "mlflow", started.info.run_id)
        if known is None:
            package.log_params({name: str(value)[:LONGEST] for name, value in settings_of(config).items()})

    def step(self, record: Record) -> None:
        self.package.log_metrics(numbers(record), step=int(record["step"]))

    def measured(self, record: Record, figures: Sequence[Path]) -> None:
        self.step(record)
        for path in figures:
            self.package.log_artifact(str(path), "figures")

    def close(self, failed: bool = False) -> None:
        self.package.end_run("FAILED" if failed else "FINISHED")


SERVICES: Mapping[str, Callable[[Any, Path, Config], Watcher]] = {"wandb": WandB, "trackio": WandB, "mlflow": MLflow}


class Guarded:
    """A service that is told of a training, and whose faults are a line and no end of it."""

    def __init__(self, name: str, watcher: Watcher, say: Callable[[str], object]) -> None:
        self.name, self.say = name, say
        self.watcher: Watcher | None = watcher

    def step(self, record: Record) -> None:
        self.tell(lambda watcher: watcher.step(record))

    def measured(self, record: Record, figures: Sequence[Path]) -> None:
        self.tell(lambda watcher: watcher.measured(record, figures))

    def close(self, failed: bool = False) -> None:
        self.tell(lambda watcher: watcher.close(failed))

    def tell(self, of: Callable[[Watcher], object]) -> None:
        """Tell it something; after a fault nothing more."""
        if self.watcher is None:
            return
        try:
            of(self.watcher)
        except Exception as error:  # whatever a service raises: the training is worth more
            self.watcher = None
            self.say(f"WARNING: {self.name} is told nothing from here on: {in_one_line(error)}")


def tracker(name: str, run: Path, config: Config, say: Callable[[str], object]) -> Watcher:
    """The service `name` for a run. Raises `ValueError` where its package is missing, or it cannot be reached."""
    try:
        package = import_module(name)
    except ImportError as error:
        raise ValueError(f'--track {name} needs {name}; run: pip install "vaekit[{name}]"') from error
    try:
        return Guarded(name, SERVICES[name](package, run, config), say)
    except Exception as error:  # of its own kinds: no account, no network, a store of another version
        raise ValueError(f"{name} cannot track this run: {in_one_line(error)}") from error


def settings_of(config: Config) -> dict[str, Any]:
    """The settings by dotted name."""
    return flatten(dataclasses.asdict(config))


def numbers(record: Record) -> dict[str, float]:
    """The numbers of a record, those of a training with train/ before them, as TensorBoard has them."""
    found = {name: value for name, value in record.items() if name != "step" and not isinstance(value, str)}
    return {name if "/" in name else f"train/{name}": float(value) for name, value in found.items()}


def ids_of(run: Path) -> dict[str, str]:
    """Under what the services keep a run, by name; empty for one that none knows yet."""
    path = run / IDS_FILE
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def keep_id(run: Path, name: str, own: str) -> None:
    """Keep under what a service has a run."""
    write_json(ids_of(run) | {name: own}, run / IDS_FILE)


def tracked(run: Path, config: Config, first: bool, say: Callable[[str], object]) -> list[Watcher]:
    """What is told of a run beside its log, in the process of rank 0; every rank calls it, and learns where it fails.

    Raises `ValueError` where the package of the service is missing, or it cannot be reached.
    """
    found: list[Watcher] = []
    problem = ""
    if config.track is not None and first:
        try:
            found.append(tracker(config.track, run, config, say))
        except ValueError as error:
            problem = str(error)
    problem = object_from_rank_zero(problem)
    if problem:
        raise ValueError(problem)
    return found
