"""From a folder of pictures to batches of uint8 pixels: decoded once, read in shuffled order."""

from vaekit.data.cache import Prepared, prepare
from vaekit.data.loader import HeldOut, Stream, split
from vaekit.data.sources import UnreadablePicture, find_pictures, read_picture, resolve_source

__all__ = [
    "HeldOut",
    "Prepared",
    "Stream",
    "UnreadablePicture",
    "find_pictures",
    "prepare",
    "read_picture",
    "resolve_source",
    "split",
]
