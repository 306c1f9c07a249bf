"""How pictures are to come out: their size and channels, and what is done to get there."""

from __future__ import annotations

from dataclasses import dataclass

FITS = ("crop", "pad", "stretch")
OWN = "own"  # beside them, for pictures that stay as large as they are, and at least as large as a view
DEPTHS = (8, 16)
USUAL_CHANNELS = (1, 3)  # grey and RGB, which every format can be brought to


@dataclass(frozen=True)
class View:
    """Pictures of `channels` x `height` x `width`, each value of 8 or 16 bits (`depth`).

    `fit`: to the shape height : width by cropping to the middle, by black bars, or by stretching. `levels` are the
    values in the files that become black and white, for numbers whose range the files do not say; what lies beyond is
    cut off. `colour_profiles`: bring colours to sRGB.
    """

    height: int
    width: int
    channels: int
    colour_profiles: bool = True
    fit: str = "crop"
    depth: int = 8
    levels: tuple[float, float] | None = None

    @property
    def kind(self) -> str:
        """What its entries of the cache are called after, beside their pictures; empty for the usual view.

        Where values are numbers, those of palettes and inks are colours all the same, which they were not before.
        """
        profiles = "" if self.colour_profiles else "-as-stored"
        fit = "" if self.fit == "crop" else f"-{self.fit}"
        depth = "" if self.depth == 8 else f"-{self.depth}bit"
        levels = "" if self.levels is None else "-from-{!r}-to-{!r}".format(*map(float, self.levels))
        colours = "-colours" if self.takes_range and self.channels in USUAL_CHANNELS else ""
        return profiles + fit + depth + levels + colours

    @property
    def image_bytes(self) -> int:
        """Bytes of one picture."""
        return self.channels * self.height * self.width * self.depth // 8

    @property
    def of_numbers(self) -> bool:
        """Whether the values of files count as numbers, and not as the colours that Pillow makes of them."""
        return self.channels not in USUAL_CHANNELS or self.takes_range

    @property
    def takes_range(self) -> bool:
        """Whether it matters how many bits the values of a file have."""
        return self.depth != 8 or self.levels is not None

    def checked(self) -> View:
        """Itself. Raises `ValueError` for a view that makes no sense."""
        if self.height < 1 or self.width < 1:
            raise ValueError(
                f"the image size is {self.height} x {self.width}; give a height and width of 1 pixel or more"
            )
        if self.channels < 1:
            raise ValueError(f"channels is {self.channels}; choose 1 (grey), 3 (RGB) or as many as the pictures have")
        if self.fit not in FITS or self.depth not in DEPTHS:
            raise ValueError(f"fit {self.fit!r} and depth {self.depth}; choose from {FITS} and {DEPTHS}")
        if self.levels is not None and not self.levels[0] < self.levels[1]:
            raise ValueError(f"levels {self.levels[0]:g} {self.levels[1]:g}; give that of black, then that of white")
        return self
