"""A finished run in the browser."""

from __future__ import annotations

import os
import tempfile
import threading
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vaekit.commands.export import page_of
from vaekit.export.explorer import check_built, is_of, write_what_is_always_there
from vaekit.system.hub import names_repository
from vaekit.system.locks import held
from vaekit.system.ranks import check_one_process
from vaekit.system.server import address_of, server_of

FOLDER = "explorer"  # in a run

Say = Callable[[str], object]


def explore_run(run: str | Path, port: int = 0, browser: bool = True, say: Say = lambda line: None) -> None:
    """Serve the page of a run to the browser of this machine, and open it there; returns after Ctrl-C.

    The page is written to `run`/explorer, where it is not there yet or of another state of the run; of a run that can
    only be read into a folder that goes at the end. With port 0 any that is free is taken. Raises `ValueError` for a
    folder without a model and a port that cannot be had.
    """
    check_one_process("explore")
    check_built()
    if names_repository(run):
        raise ValueError(f"{run} is a name on the Hub; write its page with vaekit export {run} --web FOLDER")
    with place_of_page(Path(run)) as folder, server_of(folder, port) as server:
        with held(folder.with_name(f".{FOLDER}.lock")):  # another that would write it waits
            if is_of(folder, Path(run)):
                write_what_is_always_there(folder)
            else:
                page_of(run, folder, show_pictures=True, say=say)
        try:
            say(f"{address_of(server)} shows {run}; Ctrl-C ends it")
            if browser:  # in a thread, since a browser of the terminal returns when it is closed
                threading.Thread(target=webbrowser.open, args=(address_of(server),), daemon=True).start()
            server.serve_forever()
        except KeyboardInterrupt:
            say("closed")


@contextmanager
def place_of_page(run: Path) -> Iterator[Path]:
    """Where the page of a run is kept: in the run, or, where that cannot be written, for now."""
    folder = run / FOLDER
    if run.is_dir() and os.access(folder if folder.exists() else run, os.W_OK):
        yield folder
        return
    with tempfile.TemporaryDirectory() as place:
        yield Path(place) / FOLDER
