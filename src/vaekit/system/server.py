"""A folder of files for the browser of this machine."""

from __future__ import annotations

import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "worker-src 'self'; base-uri 'none'; form-action 'none'"
)


class Files(SimpleHTTPRequestHandler):
    """The files of a folder, to this machine alone; with the headers that let WebAssembly use several threads."""

    # Not by the tables of the machine: some of them take JavaScript for text, and a browser then does not run it.
    extensions_map = {  # noqa: RUF012
        ".html": "text/html",
        ".js": "text/javascript",
        ".css": "text/css",
        ".svg": "image/svg+xml",
        ".json": "application/json",
        ".wasm": "application/wasm",
        "": "application/octet-stream",
    }

    def do_GET(self) -> None:
        if self.own_host():
            super().do_GET()

    def do_HEAD(self) -> None:
        if self.own_host():
            super().do_HEAD()

    def own_host(self) -> bool:
        """Whether it was asked for under a name of this machine: else a page of elsewhere could read the files."""
        name = self.headers.get("Host", "").partition(":")[0]
        if name in (HOST, "localhost"):
            return True
        self.send_error(403, "not under this name")
        return False

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Content-Security-Policy", POLICY)  # for the worker too, which that of the page does not bind
        self.send_header("Cache-Control", "no-store")  # on the same port there may be another run tomorrow
        super().end_headers()

    def list_directory(self, path: Any) -> None:
        self.send_error(404)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """One that says nothing of browsers that leave."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def server_of(folder: Path, port: int = 0) -> ThreadingHTTPServer:
    """A server of a folder on this machine's own address, not started; with port 0 on any that is free.

    Raises `ValueError` for a port that cannot be had.
    """
    try:
        return Server((HOST, port), partial(Files, directory=str(folder)))
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"port {port} cannot be had ({error}); give another one, or none for any that is free"
        ) from error


def address_of(server: ThreadingHTTPServer) -> str:
    """Where a browser finds it."""
    return f"http://{HOST}:{server.server_address[1]}/"
