"""The typed result of an evaluation: fields, dictionary and JSON are the same numbers."""

import json

import pytest

from vaekit.reports.evaluation import Evaluation


@pytest.fixture
def evaluation():
    return Evaluation(
        protocol={"version": 1},
        reconstruction={"sampled": {"psnr": 20.0}},
        generation={"normal": {"fid": 3.0}},
        latents={"verdict": {"state": "healthy"}},
        usefulness=None,
        spectra={"original": [1.0, 0.5]},
        warnings=["few pictures"],
        not_measured={"lpips": "no weights"},
        measuring_sec=1.5,
    )


def test_it_is_the_dictionary_of_its_fields(evaluation):
    assert evaluation["reconstruction"]["sampled"]["psnr"] == evaluation.reconstruction["sampled"]["psnr"] == 20.0
    assert list(evaluation) == list(Evaluation.__dataclass_fields__)
    assert json.loads(json.dumps(evaluation)) == dict(evaluation)


def test_json_brings_back_the_same_result(evaluation):
    again = Evaluation.from_json(evaluation.to_json())
    assert again == evaluation
    assert again.verdict["state"] == "healthy"


def test_the_notes_say_what_to_know_and_what_is_missing(evaluation):
    assert evaluation.notes == ["warning: few pictures", "not measured, lpips: no weights"]
