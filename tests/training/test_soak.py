"""A run holds as many tensors, objects and open files at its end as at its beginning."""

import dataclasses
import gc
import os
from functools import partial

import pytest
import torch
from rich.console import Console

from vaekit.commands.train import measure_and_draw
from vaekit.data.cache import prepare
from vaekit.data.loader import HeldOut, Stream, split
from vaekit.runs.log import RunLog
from vaekit.training.loop import train_loop
from vaekit.training.state import build_state, fabric_of


class CountingLog(RunLog):
    """Counts what is alive whenever the run writes its losses: the same place of every such step."""

    def write(self, record):
        super().write(record)
        if "l1" in record:
            gc.collect()
            objects = gc.get_objects()
            tensors = sum(issubclass(type(thing), torch.Tensor) for thing in objects)
            self.counts[int(record["step"])] = tensors, len(os.listdir("/dev/fd")), len(objects)


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="no /dev/fd to list open files in")
def test_a_run_of_hundreds_of_steps_piles_up_nothing(tiny, photos, tmp_path):
    config = dataclasses.replace(
        tiny, images=4 * 240, log_every_steps=40, save_every_minutes=0.01, micro_batch=2, moments_memory=3
    )
    fabric, prepared = fabric_of(config), prepare(photos, 16, 16, 3)
    train_indices, test_indices = split(prepared.names, config.split)
    stream = Stream(prepared.images, train_indices, config.seed, config.flip)
    with CountingLog(tmp_path, 0, Console(quiet=True)) as log:
        log.counts = {}
        state = build_state(fabric, config)
        held_out = HeldOut(prepared.images, test_indices)
        inspect = partial(measure_and_draw, fabric, config, state, held_out, tmp_path, log)
        train_loop(fabric, config, state, stream, tmp_path, log, inspect)

    tensors, files, objects = zip(*(log.counts[step] for step in (160, 200, 240)), strict=True)  # with discriminator
    assert len(set(tensors)) == 1, tensors
    assert max(files) - min(files) <= 2, files  # other threads open and close one now and then; a leak is 40
    assert objects[-1] - objects[0] < 80, objects  # fewer than one a step
