"""A finished run in the browser."""

from __future__ import annotations

import webbrowser
from collections.abc import Callable
from pathlib import Path

from vaekit.commands.export import page_of
from vaekit.config.variants import PRIORS
from vaekit.export.card import EVALUATION_FILE
from vaekit.export.explorer import ABOUT, MODEL, check_built, write_what_is_always_there
from vaekit.models.kept import WEIGHTS_FILE
from vaekit.system.ranks import check_one_process
from vaekit.system.server import address_of, server_of

FOLDER = "explorer"  # in a run


def explore_run(
    run: str | Path, port: int = 0, browser: bool = True, say: Callable[[str], object] = lambda line: None
) -> None:
    """Serve the page of a run to the browser of this machine, and open it there; returns after Ctrl-C.

    The page is written to `run`/explorer, where it is not there yet or older than the model. With port 0 any that is
    free is taken. Raises `ValueError` for a folder without a model and a port that cannot be had.
    """
    check_one_process("explore")
    check_built()
    folder = Path(run) / FOLDER
    with server_of(folder, port) as server:
        if is_older(folder / MODEL / ABOUT, Path(run)):
            say("writing the page, half a minute")
            page_of(run, folder, show_pictures=True, say=say)
        else:
            write_what_is_always_there(folder)  # a newer vaekit may have a newer one
        say(f"{address_of(server)} shows {run}; Ctrl-C ends it")
        if browser:
            webbrowser.open(address_of(server))
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("closed")


def is_older(page: Path, run: Path) -> bool:
    """Whether a page is older than what it shows of a run."""
    if not page.is_file():
        return True
    names = [WEIGHTS_FILE, EVALUATION_FILE, *(row.fitted.file for row in PRIORS.values() if row.fitted is not None)]
    changed = [(run / name).stat().st_mtime for name in names if (run / name).is_file()]
    return page.stat().st_mtime < max(changed, default=0)
