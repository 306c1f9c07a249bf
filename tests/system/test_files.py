"""Files that are whole, for everybody whom the umask lets, and JSON that every reader takes."""

import json
import math
import os
import re
import stat
from pathlib import Path

import pytest
import torch

from vaekit.reports.evaluation import Evaluation
from vaekit.system.files import json_text, write_json, write_tensors, write_text
from vaekit.system.locks import held


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_every_file_has_the_mode_that_the_umask_gives(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_tensors({"x": torch.zeros(2)}, tmp_path / "tensors")
        write_text("x", tmp_path / "text")
        write_json({}, tmp_path / "json")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o666 & ~umask}


def test_text_is_the_same_bytes_on_every_system():
    """Windows has an encoding of its own, and other ends of lines: a checkpoint would not have its own checksums."""
    for path in (Path(__file__).parents[2] / "src").rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        calls = re.findall(r"\.(?:read_text|write_text)\((?:[^()]|\([^()]*\))*\)", source)
        for call in calls:
            assert "encoding=" in call, (path, call)
            assert "newline=" in call or "write_text" not in call, (path, call)


def test_numbers_that_are_not_finite_are_null_at_any_depth():
    value = {"a": math.nan, "b": [1.0, -math.inf, {"c": (math.inf, 2, "text", None, True)}]}
    assert json.loads(json_text(value)) == {"a": None, "b": [1.0, None, {"c": [None, 2, "text", None, True]}]}


def test_an_evaluation_with_such_a_number_is_json_and_can_be_read_and_shown():
    measured = {"sampled": {"l1": 0.1, "psnr": math.inf, "laplacian_ratio": math.nan}}
    protocol = {"pictures": {"num_images": 2}}
    result = Evaluation(protocol, measured, {}, {}, None, {}, [], {}, 1.0)

    def refuse(constant):
        raise AssertionError(constant)

    json.loads(result.to_json(), parse_constant=refuse)
    assert Evaluation.from_json(result.to_json()).reconstruction["sampled"]["psnr"] is None


def test_a_lock_that_another_holds_is_not_ours_and_is_free_when_it_is_given_back(tmp_path):
    with held(tmp_path / "lock") as first:
        assert first
        with held(tmp_path / "lock", wait=False) as second:
            assert not second
    with held(tmp_path / "lock", wait=False) as third:
        assert third


def test_where_there_can_be_no_lock_the_cure_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot lock .*; do this"), held(tmp_path / "file" / "lock", cure="do this"):
        pass


def test_a_file_that_cannot_be_written_is_named_as_the_user_knows_it(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OSError, match=r"evaluation\.json") as caught:
        write_json({}, tmp_path / "file" / "evaluation.json")
    assert "unfinished" not in str(caught.value)
