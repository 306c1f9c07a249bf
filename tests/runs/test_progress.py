"""How far a run is and how fast: by hand, with a clock that the test sets."""

import dataclasses

import pytest

from vaekit.config.presets import preset
from vaekit.runs.progress import Pace, fraction_done


@pytest.fixture
def clock(monkeypatch):
    """The clock of the process: a list whose only number a test may change."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def counters(images_seen, elapsed_sec):
    return {"step": 0, "images_seen": images_seen, "elapsed_sec": elapsed_sec}


def test_a_run_is_measured_by_its_images_or_by_the_clock():
    config = preset("fast", images=200)
    assert fraction_done(config, counters(50, 9.0)) == 0.25
    assert fraction_done(dataclasses.replace(config, minutes=1.0), counters(50, 9.0)) == 0.15


def test_the_clock_goes_on_where_the_last_process_stopped(clock):
    pace = Pace(preset("fast"), counters(0, 50.0), price=1.0)
    clock[0] += 7
    assert pace.clock() == 57.0


def test_the_rate_is_that_since_the_last_look(clock):
    pace = Pace(preset("fast"), counters(100, 10.0), price=1.0)
    assert pace.images_per_sec(counters(300, 20.0)) == 20.0
    assert pace.images_per_sec(counters(320, 24.0)) == 5.0
    assert pace.images_per_sec(counters(340, 24.0)) > 0, "Windows' clock stands still for 15 ms"


def test_a_checkpoint_is_due_after_so_many_minutes_since_the_last(clock):
    pace = Pace(preset("fast", save_every_minutes=2.0), counters(0, 10.0) | {"step": 1}, price=1.0)
    assert not pace.save_due(130.0, fraction=0.05)
    assert pace.save_due(131.0, fraction=0.05)
    pace.saved(131.0, fraction=0.05)
    assert not pace.save_due(240.0, fraction=0.14)


def test_the_first_checkpoint_is_due_after_a_minute_and_then_ten_over_the_run(clock):
    pace = Pace(preset("fast"), counters(0, 0.0), price=1.0)
    assert not pace.save_due(60.0, fraction=0.001)
    assert pace.save_due(61.0, fraction=0.001)
    pace.saved(61.0, fraction=0.001)
    assert not pace.save_due(150.0, fraction=0.1)
    assert pace.save_due(151.0, fraction=0.102)
    pace.saved(151.0, fraction=0.102)
    assert not pace.save_due(205.0, fraction=0.3)  # a run of a few minutes does not write all the time


def test_no_run_is_more_than_done():
    config = preset("fast", images=5, batch=8)
    assert fraction_done(config, counters(8, 1.0)) == 1.0
    assert fraction_done(dataclasses.replace(config, minutes=1.0), counters(8, 96.0)) == 1.0


def test_time_left_counts_the_price_of_the_discriminator_that_is_still_to_come(clock):
    config = preset("fast", images=1000)
    config = dataclasses.replace(config, discriminator=dataclasses.replace(config.discriminator, start=0.5))
    pace = Pace(config, counters(0, 0.0), price=3.0)
    assert pace.left_sec(counters(100, 1.0), 10.0) == (400 + 500 * 3) / 10
    assert pace.left_sec(counters(600, 1.0), 10.0) == 40.0
    without = Pace(dataclasses.replace(config, gan=False), counters(0, 0.0), price=1.0)
    assert without.left_sec(counters(200, 30.0), 10.0) == 80.0
    timed = Pace(dataclasses.replace(config, minutes=2.0), counters(0, 0.0), price=3.0)
    assert timed.left_sec(counters(200, 30.0), 10.0) == 90.0
