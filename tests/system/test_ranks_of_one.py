"""On one process the collectives change nothing; tests/training/test_ranks.py tests them on several."""

import torch

from vaekit.system.ranks import agree, mean_over_images, sum_over_ranks, which_ranks


def test_on_one_process_sums_are_the_identity(generator):
    x = torch.randn(4, 3, generator=generator)
    assert sum_over_ranks(x) is x
    torch.testing.assert_close(mean_over_images(x), x.mean(0))


def test_one_process_agrees_with_itself_and_has_no_rank_to_name():
    assert agree(1.5, True) == (1.5, True)
    assert which_ranks(True) == ""
