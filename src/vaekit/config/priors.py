"""One row a prior: what the command line, the builders and the reports need to know of each.

A new prior is a file in `priors`, a row in `PRIORS` and a test. Rows name the code that makes them as "module:name".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from typing_extensions import Doc

from vaekit.config.variants import OBJECTIVES


@dataclass(frozen=True)
class FittedBy:
    """How a prior is fitted to latents, and kept."""

    what: str  # what is fitted, in a sentence
    fit: str  # function of vaekit.priors, (Latents, seed=...) -> a prior that can save itself
    load: str  # class of vaekit.priors with a method `load`
    file: str  # where a run keeps it
    takes_minutes: bool = False  # then it is fitted at the end of a training or by `fit-prior`, and nowhere else
    start: str = ""  # whose held-out loss is 1, where it has one


@dataclass(frozen=True)
class PriorRow:
    """One density of the latents to sample from; in `PRIORS` each is better than those before it."""

    summary: str  # for --help
    short: str  # in the heading of a column: z ~ ...
    title: str  # in the title of a table or figure: z ~ ...
    fitted: FittedBy | None = None
    of_codes: bool = False  # whether only codes have it
    trained: bool = False  # whether it comes with the model from its training: `ObjectiveRow.learned_prior`

    @property
    def has_seen_pictures(self) -> bool:
        """Whether it was fitted or trained, and so could repeat pictures."""
        return self.fitted is not None or self.trained

    @property
    def takes_minutes(self) -> bool:
        """Whether it is there only if it was asked for; others need no fit, or one of seconds."""
        return self.fitted is not None and self.fitted.takes_minutes

    @property
    def of_every_model(self) -> bool:
        """Whether every model has it, or can have it in seconds."""
        return not (self.trained or self.of_codes or self.takes_minutes)


LEARNED = tuple(name for name, row in OBJECTIVES.items() if row.learned_prior)
PRIORS: Mapping[str, PriorRow] = {
    "normal": PriorRow(summary="N(0, I)", short="N(0, I)", title="N(0, I)"),
    "learned": PriorRow(
        summary=f"the one that was trained with the model ({', '.join(LEARNED)})",
        short="learned with the model",
        title="the prior that was trained with the model",
        trained=True,
    ),
    "gaussian": PriorRow(
        summary="one Gaussian with the mean and covariance of the latents of the train pictures",
        short="fitted Gaussian",
        title="the Gaussian with the moments of the latents of train pictures",
        fitted=FittedBy(
            what="a Gaussian",
            fit="gaussian:fit_gaussian",
            load="gaussian:GaussianPrior",
            file="prior-gaussian.safetensors",
        ),
    ),
    "gaussian-mixture": PriorRow(
        summary="several Gaussians",
        short="fitted mixture",
        title="a mixture of Gaussians fitted to the latents of train pictures",
        fitted=FittedBy(
            what="a mixture of Gaussians",
            fit="mixture:fit_mixture",
            load="mixture:GaussianMixturePrior",
            file="prior.safetensors",
        ),
    ),
    "flow": PriorRow(
        summary="a flow of the latents, learned by a small network",
        short="flow",
        title="a flow fitted to the latents of train pictures",
        fitted=FittedBy(
            what="a flow",
            fit="flow_fit:fit_flow",
            load="flow:FlowPrior",
            file="prior-flow.safetensors",
            takes_minutes=True,
            start="the Gaussian's",
        ),
    ),
    "codes": PriorRow(
        summary="a transformer that draws one code after another (of vq and vq2)",
        short="transformer of codes",
        title="a transformer fitted to the codes of train pictures",
        of_codes=True,
        fitted=FittedBy(
            what="a transformer of codes",
            fit="code_fit:fit_codes",
            load="codes:CodePrior",
            file="prior-codes.safetensors",
            takes_minutes=True,
            start="that of codes that know nothing of each other",
        ),
    ),
}
WEIGHTS = "weights_sha256"  # in the metadata of a fitted prior: the weights whose latents it was fitted to
PICTURES = "pictures"  # there: how many it was fitted to
COPIES = "copies"  # there, and in an evaluation: whether its draws repeat training pictures

if TYPE_CHECKING:
    PriorName = str
    FittedName = str
else:  # the choices of the command line and their help
    PriorName = Annotated[
        Literal[tuple(PRIORS)], Doc("; ".join(f"{name}: {row.summary}" for name, row in PRIORS.items()) + ".")
    ]
    FITTED = {name: row.summary for name, row in PRIORS.items() if row.fitted}
    FittedName = Annotated[
        Literal[tuple(FITTED)],
        Doc(f"What new pictures are drawn from. {'; '.join(f'{name}: {what}' for name, what in FITTED.items())}."),
    ]
