"""The report of a comparison: which prior's pictures stand for a model."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from vaekit.reports.comparison import Entry, best_prior


def entries(*generations):
    return [Entry(Path("run"), SimpleNamespace(generation=generation)) for generation in generations]


FAR, NEAR = {"fd_effnet": 200.0, "sliced_wasserstein": 1.0}, {"fd_effnet": 100.0, "sliced_wasserstein": 2.0}


@pytest.mark.parametrize(
    ("runs", "best"),
    [
        ([{"normal": FAR, "gaussian": NEAR}], "gaussian"),
        ([{"normal": NEAR, "gaussian": FAR}], "normal"),  # and not the one that ought to be better
        ([{"normal": {"sliced_wasserstein": 1.0}, "gaussian": {"sliced_wasserstein": 2.0}}], "normal"),
        ([{"normal": {"fd_effnet": 300.0}, "flow": FAR}, {"normal": NEAR, "flow": FAR}], "normal"),  # of both seeds
        ([{"normal": FAR, "flow": NEAR}, {"normal": FAR}], "normal"),  # one seed has no flow
        ([{"normal": FAR, "gaussian": {"fd_effnet": None}}], "normal"),  # what was not finite
        ([{"normal": FAR, "train": NEAR, "posteriors": NEAR}], "normal"),  # no priors
        ([{"normal": {}, "gaussian": {}}], "normal"),  # nothing was measured
        ([{"normal": FAR, "flow": NEAR | {"copies": 1.0}, "gaussian": FAR | {"fd_effnet": 150.0}}], "gaussian"),
        ([{"normal": FAR | {"copies": 1.0}}], "normal"),  # all of them copy
        ([{"normal": {"fd_effnet": None, "sliced_wasserstein": 1.0}, "flow": NEAR}], "flow"),
    ],
)
def test_a_model_shows_the_prior_whose_pictures_are_nearest_over_all_seeds(runs, best):
    assert best_prior(entries(*runs)) == best
