"""A text file that lists pictures, a path a line, as a source of them in that order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vaekit.data.sources.base import Listing
from vaekit.data.sources.folder import identity_of

SUFFIXES = (".txt", ".lst", ".list")


@dataclass(frozen=True)
class ListFile:
    """Paths of pictures, one a line, relative to the folder of the list; lines that begin with # are remarks."""

    path: Path

    @property
    def place(self) -> str:
        """The path of the list."""
        return str(self.path)

    @property
    def title(self) -> str:
        """The name of the list without its suffix."""
        return self.path.stem

    @property
    def folder(self) -> Path:
        """The folder of the list."""
        return self.path.parent

    def list_pictures(self) -> Listing:
        """The lines in their order, each once. Raises `ValueError` for a list without any, and for missing files."""
        try:
            lines = [line.strip() for line in self.path.read_text(encoding="utf-8-sig").splitlines()]
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.path} is no UTF-8 text; give a list of pictures, a path a line") from error
        paths = [Path(line) for line in lines if line and not line.startswith("#")]
        names = tuple(dict.fromkeys(path.as_posix() for path in paths))
        if not names:
            raise ValueError(f"{self.path} lists no picture; give a path a line")
        missing = [name for name in names if not (self.folder / name).is_file()]
        if missing:
            raise ValueError(
                f"{len(missing):,} of the {len(names):,} pictures that {self.path} lists are not there, the first is "
                f"{self.folder / missing[0]}; paths are relative to the folder of the list"
            )
        return Listing(names, identity_of(self.folder, names))

    def read(self, name: str) -> bytes:
        """The bytes of a file."""
        return (self.folder / name).read_bytes()
