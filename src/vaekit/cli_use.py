"""The subcommands that use a finished model on pictures of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from vaekit.system.process import own_process, progress


@dataclass(frozen=True)
class Encode:
    """The latents of pictures: mean, std, KL and reconstruction error of each, in one file."""

    run_folder: tyro.conf.Positional[Path]
    """Folder of the run."""
    pictures: tyro.conf.Positional[tuple[str, ...]]
    """Files, folders and other sources."""
    out: Path = Path("latents.npz")
    """.npz, .safetensors or .parquet."""

    def run(self) -> None:
        own_process("auto")
        from vaekit.commands.encode import encode_run

        print(encode_run(self.run_folder, self.pictures, self.out, progress))  # noqa: T201


@dataclass(frozen=True)
class Decode:
    """Pictures of latents that encode wrote, changed or not, one by one into a folder."""

    run_folder: tyro.conf.Positional[Path]
    """Folder of the run."""
    latents: tyro.conf.Positional[Path]
    """What encode wrote."""
    out: Path
    """Empty folder for the pictures."""

    def run(self) -> None:
        own_process("auto")
        from vaekit.commands.encode import decode_run

        print(decode_run(self.run_folder, self.latents, self.out))  # noqa: T201


@dataclass(frozen=True)
class Reconstruct:
    """What the model makes of pictures, one by one into a folder."""

    run_folder: tyro.conf.Positional[Path]
    """Folder of the run."""
    pictures: tyro.conf.Positional[tuple[str, ...]]
    """Files, folders and other sources."""
    out: Path
    """Empty folder for the pictures."""

    tile: tyro.conf.FlagCreatePairsOff[bool] = False
    """Keep the size of pictures larger than the model's: reconstruct them tile by tile."""

    def run(self) -> None:
        own_process("auto")
        from vaekit.commands.encode import reconstruct_run

        print(reconstruct_run(self.run_folder, self.pictures, self.out, progress, self.tile))  # noqa: T201


@dataclass(frozen=True)
class Interpolate:
    """The way from one picture to another, as a film or a strip."""

    run_folder: tyro.conf.Positional[Path]
    """Folder of the run."""
    first: tyro.conf.Positional[Path]
    """A picture."""
    second: tyro.conf.Positional[Path]
    """Another one."""
    out: Path = Path("interpolation.gif")
    """.gif, .webp or .mp4 (with imageio-ffmpeg), or a .png of one row."""
    steps: int = 30
    """Pictures on the way, both ends among them."""
    straight: tyro.conf.FlagCreatePairsOff[bool] = False
    """On the straight line, and not through the flow."""

    def run(self) -> None:
        own_process("auto")
        from vaekit.commands.interpolate import interpolate_run

        way = (self.run_folder, self.first, self.second)
        print(interpolate_run(*way, self.out, self.steps, self.straight))  # noqa: T201


@dataclass(frozen=True)
class Vary:
    """A picture with two entries of its latent moved: fig. 4 of the paper for a picture of one's own."""

    run_folder: tyro.conf.Positional[Path]
    """Folder of the run."""
    picture: tyro.conf.Positional[Path]
    """A picture."""
    out: Path = Path("variants.png")
    """A .png."""
    entries: tuple[int, ...] = ()
    """One or two entries of the latent; by default those that vary most over the training set."""
    towards: str | None = None
    """A label of the run's pictures instead, a class or an attribute: smiling, or smiling=0."""

    def run(self) -> None:
        own_process("auto")
        from vaekit.commands.interpolate import vary_run
        from vaekit.commands.towards import towards_run

        if self.towards is not None:
            if self.entries:
                raise ValueError("--entries or --towards; give one of them")
            print(towards_run(self.run_folder, self.picture, self.towards, self.out, progress))  # noqa: T201
            return

        print(vary_run(self.run_folder, self.picture, self.out, self.entries, progress))  # noqa: T201


@dataclass(frozen=True)
class Nearest:
    """The pictures that are most like one, by their latents."""

    run_folder: tyro.conf.Positional[Path]
    """Folder of the run."""
    picture: tyro.conf.Positional[Path]
    """A picture."""
    pictures: tyro.conf.Positional[tuple[str, ...]]
    """Files and folders to look in."""
    count: int = 8
    """How many to show."""
    out: Path | None = None
    """A .png with the picture and those beside it."""

    def run(self) -> None:
        own_process("auto")
        from vaekit.commands.nearest import nearest_run
        from vaekit.system.files import printable

        for name, distance in nearest_run(self.run_folder, self.picture, self.pictures, self.count, self.out, progress):
            print(f"{distance:.3f}  {printable(name)}")  # noqa: T201


@dataclass(frozen=True)
class Anomalies:
    """Which pictures are unlike those that a model knows, and where: scores as CSV, and a map of each."""

    run_folder: tyro.conf.Positional[Path]
    """Folder of the run."""
    pictures: tyro.conf.Positional[tuple[str, ...]]
    """Files, folders and other sources."""
    out: Path
    """Empty folder for scores.csv, maps/ and highest.png."""
    by: str = "error"
    """Score to sort by: error, local_error, error_by_texture, kl, kl_individual, nll, likelihood_ratio (LLR>1, of
    two levels) or darkness."""

    def run(self) -> None:
        own_process("auto")
        from vaekit.commands.anomalies import anomalies_run

        print(anomalies_run(self.run_folder, self.pictures, self.out, self.by, progress))  # noqa: T201


@dataclass(frozen=True)
class Export:
    """The model for other programs as ONNX, for a browser as a page, or for other people on the Hugging Face Hub."""

    run_folder: tyro.conf.Positional[Path]
    """Folder of the run."""
    onnx: Path | None = None
    """Folder for the encoder, the decoder and a step of the flow as ONNX."""
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    """Of the ONNX files: half the size, or a quarter and faster on CPUs; it says what that costs in dB."""
    pt2: Path | None = None
    """Folder for encoder and decoder as archives of torch.export, which need torch and not vaekit."""
    web: Path | None = None
    """Folder for a page to play with the model in a browser, from any web server and without Python."""
    hub: str | None = None
    """user/name on the Hub: weights, settings, priors, a model card and new pictures."""
    public: tyro.conf.FlagCreatePairsOff[bool] = False
    """Make the repository public where it is new; it is private otherwise."""
    licence: str | None = None
    """Of the model, as the Hub spells them: mit, apache-2.0, cc-by-4.0."""
    show_pictures: tyro.conf.FlagCreatePairsOff[bool] = False
    """Let others see test pictures: upload reconstructions, put latents of test pictures into the page."""

    def run(self) -> None:
        own_process("cpu")
        from vaekit.commands.export import export_run

        options = {
            name: getattr(self, name)
            for name in ("precision", "web", "pt2", "hub", "public", "licence", "show_pictures")
        }
        print(export_run(self.run_folder, self.onnx, progress, **options))  # noqa: T201


@dataclass(frozen=True)
class Explore:
    """The model in the browser of this machine: sliders, ways between pictures, new pictures, latents."""

    run_folder: tyro.conf.Positional[Path]
    """Folder of the run."""
    port: int = 0
    """Of the address; 0 takes any that is free."""
    no_browser: tyro.conf.FlagCreatePairsOff[bool] = False
    """Only say the address."""

    def run(self) -> None:
        own_process("cpu")
        from vaekit.commands.explore import explore_run

        explore_run(self.run_folder, self.port, not self.no_browser, progress)


UseCommand = Encode | Decode | Reconstruct | Interpolate | Vary | Nearest | Anomalies | Export | Explore
USE_COMMANDS = {
    "encode": Encode,
    "decode": Decode,
    "reconstruct": Reconstruct,
    "interpolate": Interpolate,
    "vary": Vary,
    "nearest": Nearest,
    "anomalies": Anomalies,
    "export": Export,
    "explore": Explore,
}
