"""Which formats Pillow reads here."""

from __future__ import annotations

import importlib
import importlib.util
from contextlib import suppress
from functools import cache

from PIL import Image

# Only these decoders run, whatever the name of a file: Pillow would pass PostScript under any name to Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM", "HEIF", "JXL")
PLUGINS = ("pillow_heif", "pillow_jxl")  # of phones and cameras; the extra `formats`


def extra_readers() -> tuple[str, ...]:
    """What is installed beside Pillow: with another set of these the same folder may hold other pictures."""
    return tuple(name for name in (*PLUGINS, "tifffile", "pydicom") if importlib.util.find_spec(name) is not None)


@cache
def readable_formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow reads, with its plugins where they are installed."""
    Image.init()
    for plugin in PLUGINS:
        with suppress(ImportError):
            module = importlib.import_module(plugin)
            if hasattr(module, "register_heif_opener"):
                module.register_heif_opener()
    return tuple(name for name in FORMATS if name in Image.OPEN)
