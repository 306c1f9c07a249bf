"""Changes that vaekit's commands make to their own process. A library must not: its process belongs to the caller."""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from vaekit.system.memory import keep_freed_memory
from vaekit.system.processors import processors


def own_process(device: str, ranks: int = 1) -> None:
    """Set up the process of a command that computes on `device` ("auto" or a name): faster, with fewer tracebacks.

    Threads are as many as processors may be used, shared by `ranks` processes on this machine.

    Call it before anything imports Lightning Fabric. Raises `ValueError` for a device that is not here.
    """
    with import_blocked("torchmetrics"):
        import lightning_fabric  # noqa: F401  # torchmetrics is a third of the time to the first step

    from vaekit.system.devices import available, limit_threads

    if available(device) == "cpu":
        keep_freed_memory()
    limit_threads(max(1, processors() // ranks))
    silence_libtiff()
    if getattr(warnings.showwarning, "func", None) is not in_one_line:
        warnings.showwarning = partial(in_one_line, warnings.showwarning)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # the summary of a command says the same
    if getattr(threading.excepthook, "func", None) is not without_tensorboard:
        threading.excepthook = partial(without_tensorboard, threading.excepthook)


def progress(line: str) -> None:
    """Print one line of progress to stderr, since stdout is for results."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201


def silence_libtiff() -> None:
    """Keep Pillow's libtiff from writing to the terminal, where its wheel brings one: what fails is told anyway.

    A folder of odd TIFFs gives a thousand lines of it.
    """
    package = importlib.util.find_spec("PIL")
    if package is None or package.origin is None:
        return
    for path in Path(package.origin).parent.with_name("pillow.libs").glob("libtiff*"):
        with suppress(OSError, AttributeError):
            library = ctypes.CDLL(str(path))
            library.TIFFSetErrorHandler(None)
            library.TIFFSetWarningHandler(None)


def in_one_line(
    show: Callable[..., object], message: Warning | str, category: type[Warning], *where: Any, **more: Any
) -> None:
    """Print a `UserWarning`, which all of vaekit's are, as one line without a file and a place in it."""
    if category is UserWarning:
        print(f"WARNING: {message}", file=sys.stderr, flush=True)  # noqa: T201
    else:
        show(message, category, *where, **more)


@contextmanager
def import_blocked(package: str) -> Iterator[None]:
    """Let imports do without a package, as if it were not installed; one that is imported already stays.

    Lightning Fabric imports torchmetrics, and with it scipy and torchvision, for its version alone.
    """
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]  # what Python takes for "there is none"
    try:
        yield
    finally:
        del sys.modules[package]


def without_tensorboard(
    excepthook: Callable[[threading.ExceptHookArgs], object], args: threading.ExceptHookArgs
) -> None:
    """Do what `threading.excepthook` does, except for a file that TensorBoard's thread cannot write.

    The next record raises that error too, and the run's log reports it in one line. A traceback from another thread
    could be printed in the middle of the last line of a run. The hook stays for the whole process, since the thread may
    still raise when its writer has been closed.
    """
    of_tensorboard = type(args.thread).__module__.partition(".")[0] == "tensorboard"
    if not (of_tensorboard and issubclass(args.exc_type, OSError)):
        excepthook(args)
