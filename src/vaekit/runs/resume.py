"""Whether a folder can take a run, and whether the run in it can go on."""

from __future__ import annotations

import shlex
from pathlib import Path

from vaekit.config.changes import changes, refusal
from vaekit.config.settings import Config
from vaekit.config.variants import OBJECTIVES
from vaekit.data.cache import Prepared
from vaekit.models.vae import WEIGHTS_FILE
from vaekit.runs.checkpoint import all_checkpoints, counters, newest_usable
from vaekit.runs.folder import read_pictures, read_run_config
from vaekit.runs.log import read_records
from vaekit.runs.progress import fraction_done

REPORT_FILE = "report.json"  # of a comparison
CHANGE = "have them from here on with --resume --change-settings"


def check_free(run: Path) -> None:
    """Raise `ValueError` if `run` holds a run that saved something."""
    check_no_comparison(run)
    if all_checkpoints(run) or (run / WEIGHTS_FILE).exists():
        raise ValueError(f"{run} already holds a run; add --resume to go on with it, or give another --out")


def check_no_comparison(run: Path) -> None:
    """Raise `ValueError` if a comparison lies in a folder: its report and figures have the names of a run's."""
    if (run / REPORT_FILE).exists():
        raise ValueError(f"{run} holds a comparison; give another --out, or one of the runs in it")


def resume_command(run: Path) -> str:
    """What to type to go on with a run."""
    return f"vaekit train --resume {shlex.quote(str(run))}"


def check_resumable(run: Path, config: Config, change_settings: bool = False) -> tuple[Path | None, list[str]]:
    """The newest checkpoint of `run` that can be used, and what is wrong with those after it; None before the first.

    Raises `ValueError` if none of them can be used, or if the settings are not its own and may not be changed.
    """
    check_no_comparison(run)
    if not all_checkpoints(run):
        if (run / WEIGHTS_FILE).exists():
            raise ValueError(f"{run} holds a model and no checkpoint to go on from; give another --out")
        return None, []
    saved = read_run_config(run)
    check_settings(run, saved, config, change_settings)
    newest, problems = newest_usable(run, saved, config)
    if newest is None:
        raise ValueError(f"no checkpoint to go on from: {'; '.join(problems)}; start anew with another --out")
    return newest, problems


def over(run: Path, config: Config, newest: Path) -> bool:
    """Whether the run came to its end: the model is there, and the log has its last measurement."""
    done = counters(newest)
    measured = any(record["step"] == done["step"] and "test/verdict" in record for record in read_records(run))
    return fraction_done(config, done) >= 1 and measured and (run / WEIGHTS_FILE).is_file()


def check_settings(run: Path, saved: Config, config: Config, change_settings: bool = False, cure: str = CHANGE) -> None:
    """Raise `ValueError` if settings that decide what is computed differ from those of the run, by name.

    With `change_settings`, raise only for those that a run cannot change: the others apply from here on.
    """
    changed = changes(saved, config)
    before, after = OBJECTIVES[saved.objective], OBJECTIVES[config.objective]
    if changed and not change_settings:
        listed = "; ".join(f"{name} was {old!r}, now {new!r}" for name, (old, new) in changed.items())
        impossible = before.network != after.network or any(refusal(name, new) for name, (_, new) in changed.items())
        or_change = "" if impossible and cure == CHANGE else f", or {cure}"
        raise ValueError(f"{run} began with other settings: {listed}; leave these out to go on as it began{or_change}")
    if before.network != after.network:
        begin = f" with --init-from {run}" if before.two_levels == after.two_levels else ""
        raise ValueError(
            f"{run} cannot change objective from {saved.objective!r} to {config.objective!r}: other networks, "
            f"or other latents; begin another run{begin}"
        )
    for name, (old, new) in changed.items():
        reason = refusal(name, new)
        if reason is not None:
            raise ValueError(f"{run} cannot change {name} from {old!r} to {new!r}: {reason}")


def finished(run: Path, config: Config) -> bool:
    """Whether `run` holds a run with these settings that came to its end. Raises `ValueError` for other settings."""
    if not all_checkpoints(run):
        return False
    check_settings(run, read_run_config(run), config, cure="give the comparison another --out")
    newest, _ = newest_usable(run, config)
    return newest is not None and over(run, config, newest)


def check_same_pictures(run: Path, prepared: Prepared) -> None:
    """Raise `ValueError` if `run` began with other pictures than `prepared`.

    It would not be known which of those it has trained on. The same pixels in the same order are the same pictures,
    wherever they lie.
    """
    before = read_pictures(run)
    if not before.matches(prepared):
        raise ValueError(
            f"{run} began with other pictures than the {len(prepared)} now in {prepared.place}: with "
            f"{before.num_images} in {before.folder} as they were; bring those back, or give another --out"
        )
