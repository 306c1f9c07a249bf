"""What was measured of a finished run, as a typed result and as tables for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vaekit.reports.tables import ABSENT, ANOMALIES, GENERATIONS, Table, by_measure, caveats, is_known
from vaekit.system.files import json_text

RECONSTRUCTION_HEADINGS = {"sampled": "from sampled z", "mean": "from the mean"}
PROBED = ("accuracy", "balanced_accuracy", "auroc", "average_precision")


@dataclass(frozen=True, eq=False)
class Evaluation(dict[str, Any]):
    """Every measure of a finished run; it is also the dictionary of its fields, as evaluation.json has them.

    `protocol`: what gave these numbers. `reconstruction`: measures by name, from `sampled` z and from the `mean`.
    `generation`: the same by prior, and of `train` pictures, which says how near pictures of the same kind come.
    `latents`: see `diagnostics.diagnose`. `usefulness`: probes and anomaly score, None without labels. `spectra`: power
    spectra by set of pictures. `warnings`; `not_measured`: the reasons by name. `measuring_sec`. `by_label`: see
    `measure_by_label`, empty without labels. `disentanglement`: see the measures of that name, empty without factors.
    """

    protocol: dict[str, Any]
    reconstruction: dict[str, dict[str, float]]
    generation: dict[str, dict[str, float]]
    latents: dict[str, Any]
    usefulness: dict[str, Any] | None
    spectra: dict[str, list[float]]
    warnings: list[str]
    not_measured: dict[str, str]
    measuring_sec: float
    by_label: dict[str, dict[str, float]] = field(default_factory=dict)
    disentanglement: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.update(vars(self))

    @property
    def verdict(self) -> Mapping[str, Any]:
        """The verdict on the latents: `state`, `sentence`, `ok` and `warnings`."""
        return self.latents["verdict"]

    @property
    def notes(self) -> list[str]:
        """What a reader of the numbers must know, a line each."""
        return caveats(self.warnings, self.not_measured)

    def to_json(self) -> str:
        """The text of evaluation.json; `Evaluation.from_json` is its inverse."""
        return json_text(self, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Evaluation:
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))

    def markdown(self, notes: bool = True) -> str:
        """The tables and the lines below them, in GitHub's Markdown; `notes` may name places of this machine."""
        tables = [table.markdown() for table in evaluation_tables(self)]
        lines = [*latent_lines(self.latents), *(self.notes if notes else ())]
        return "\n\n".join([*tables, "\n".join(f"- {line}" for line in lines)])


def readable_evaluation(result: Evaluation) -> str:
    """The result for a terminal."""
    tables = [table.text() for table in evaluation_tables(result)]
    latents = "Latents\n  " + "\n  ".join(latent_lines(result.latents))
    return "\n\n".join([*tables, latents, *result.notes])


def latent_lines(latents: Mapping[str, Any]) -> list[str]:
    """What `diagnose` found, in words; of points, whose posteriors have no width, what there is."""
    split, modes = latents["elbo_split"], latents["bimodality"]
    lines = [latents["verdict"]["sentence"]]
    if split is not None:
        lines.append(
            f"KL (eq. 11) {split['kl']:.1f} nats; rate {latents['rate']:.1f}, "
            f"{latents['joint_rate']:.1f} without what correlated entries say twice"
        )
    if (codes := latents.get("codes")) is not None:
        lines.append(
            f"{codes['used']:.0f} of {codes['codes']} codes of a group are used, perplexity {codes['perplexity']:.0f}; "
            f"a picture's hold at most {codes['nats']:.0f} nats, {codes['most']:.0f} if all were used alike"
        )
    diagonal = latents["kl_global"]
    if is_known(diagonal):
        lines.append(f"KL_G (eq. 20) {diagonal:.1f} nats{with_correlations(latents)}")
    else:
        lines.append("KL_G (eq. 20) infinite: an entry is the same for all pictures")
    if split is not None:
        std, most = latents["std"], split["log_num_images"]
        lines += [
            f"mutual information {split['mutual_information']:.2f} of at most log N = {most:.2f} nats; "
            f"KL of the mixture to N(0, I) {split['kl_aggregate']:.1f}",
            f"posterior stds: {std['near_dirac']:.1%} below 0.05, {std['near_prior']:.1%} above 0.95",
        ]
    if modes is not None:
        rule = f"dip test, Benjamini-Hochberg at {modes['level']:.0%}"
        places = modes["median_modes"]
        where = f", their modes at {places[0]:.2f} and {places[1]:.2f} (medians)" if places else ""
        lines.append(f"{modes['count']} of {latents['latent_dim']} entries bimodal ({rule}){where}")
    return lines


def with_correlations(latents: Mapping[str, Any]) -> str:
    """What correlations add to KL_G; nothing where there are fewer pictures than entries, and it is infinite."""
    full = latents["kl_full_gaussian"]
    if not is_known(full):
        return ""
    by_chance = latents["correlations"]["by_chance"]
    share = f"of which about {by_chance:.0f}" if by_chance < full - latents["kl_global"] else "all of which may"
    return f", {full:.1f} with correlations, {share} come by chance"


def evaluation_tables(result: Evaluation) -> list[Table]:
    """The result for people."""
    reconstruction = {RECONSTRUCTION_HEADINGS[kind]: values for kind, values in result.reconstruction.items()}
    generation = {GENERATIONS[kind]: values for kind, values in result.generation.items()}
    useful = [usefulness_table(result.usefulness)] if result.usefulness else []
    useful += [by_label_table(result.by_label)] if result.by_label else []
    if result.disentanglement:
        useful.append(by_measure("How the means follow the factors", {"test pictures": result.disentanglement}))
    title = f"Reconstruction of {result['protocol']['pictures']['num_images']:,} pictures"
    return [by_measure(title, reconstruction), by_measure("Generation, as many", generation), *useful]


def by_label_table(found: Mapping[str, Mapping[str, float]]) -> Table:
    """The accuracy of the probe on test pictures and on new ones, a line for the classes or for each attribute."""
    rows = [
        [name, f"{v['test']:.3f}", f"{v['drawn']:.3f} ± {v['drawn_se']:.3f}", f"{v['majority']:.3f}"]
        for name, v in found.items()
    ]
    columns = ("accuracy", "test pictures", "new pictures by label", "most frequent class")
    return Table("Labels of new pictures (linear probe of the means, learned from train pictures)", columns, rows)


def usefulness_table(scores: Mapping[str, Any]) -> Table:
    """The probes side by side, and the anomaly score below them."""

    def cell(key: str) -> str:
        if key not in scores:
            return ABSENT
        error = scores.get(f"{key}_se")
        return f"{scores[key]:.3f}" + (f" ± {error:.3f}" if error else "")

    def row(name: str) -> list[str]:
        return [name.replace("_", " "), *map(cell, (f"linear_{name}", f"knn_{name}", f"knn_{name}_majority"))]

    names = [name for name in PROBED if f"knn_{name}" in scores]
    anomalies = []
    for name, title in ANOMALIES.items():
        key = "anomaly_auroc" if name == "error" else f"anomaly_{name}_auroc"
        if key in scores:
            found = f"{scores[key]:.3f} ± {scores[f'{key}_se']:.3f}"
            anomalies.append([f"anomalies by {title}, AUROC", found, ABSENT, "0.500"])
    columns = ("", "linear probe", f"{scores['knn_k']} nearest", "most frequent class")
    rows = [*(row(name) for name in names), *anomalies]
    normal = f"normal: {scores['anomaly_normal']}"
    return Table(f"Usefulness of the means ({scores['protocol']}; {normal})", columns, rows)
