import functools
import itertools
import math

import numpy as np
import pytest

from tinyllama.training import learning_rate_at

EVERY_SCHEDULE = pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])


def rates(schedule="cosine", *, peak=2.0, warmup_steps=10, total_steps=50, final_fraction=0.1, steps=None,
          rate=learning_rate_at):
    """The learning rate of every step of a run."""
    return [rate(step, schedule=schedule, peak=peak, warmup_steps=warmup_steps, total_steps=total_steps,
                 final_fraction=final_fraction) for step in range(steps or total_steps)]


def check_joints(schedule, rate=learning_rate_at):
    """By hand: a warm-up of 4 steps to the peak 2.0, and 8 more steps of which the last has a quarter of it."""
    received = rates(schedule, warmup_steps=4, total_steps=13, final_fraction=0.25, steps=16, rate=rate)
    assert received[:4] == [0.5, 1.0, 1.5, 2.0]
    half, quarter = {"constant": (2.0, 2.0), "linear": (1.25, 1.625),
                     "cosine": (1.25, 1.25 + 0.75 * math.sqrt(0.5))}[schedule]
    assert received[4] == 2.0                           # the first step after the warm-up
    assert received[6] == pytest.approx(quarter, abs=1e-15)
    assert received[8] == pytest.approx(half, abs=1e-15)
    assert received[12:] == [2.0 if schedule == "constant" else 0.5] * 4        # the last step, and beyond the run


@EVERY_SCHEDULE
def test_the_values_at_the_joints(schedule):
    check_joints(schedule)


WRONG = {
    "the warm-up begins at 0": lambda step, **settings: learning_rate_at(
        step, **settings) - settings["peak"] / settings["warmup_steps"] * (step < settings["warmup_steps"]),
    "the warm-up is a step too long": lambda step, **settings: learning_rate_at(
        step, **settings | {"warmup_steps": settings["warmup_steps"] + 1}),
    "the end is a step too early": lambda step, **settings: learning_rate_at(
        step, **settings | {"total_steps": settings["total_steps"] - 1}),
    "it starts a step late": lambda step, **settings: learning_rate_at(max(step - 1, 0), **settings),
    "it goes to zero": lambda step, **settings: learning_rate_at(step, **settings | {"final_fraction": 0.0}),
    "progress counts the warm-up": lambda step, **settings: learning_rate_at(
        step, **settings | ({} if step < settings["warmup_steps"] else {"warmup_steps": 0})),
}


@pytest.mark.parametrize("label", WRONG)
def test_a_wrong_schedule_is_found(label):
    with pytest.raises(AssertionError):
        check_joints("linear", rate=WRONG[label])


def warmup_cosine(step, *, peak, warmup_steps, total_steps, final_fraction):
    """The schedule of the first runs, whose numbers must not change."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = min((step - warmup_steps) / max(total_steps - 1 - warmup_steps, 1), 1.0)
    low = peak * final_fraction
    return low + (peak - low) * (1 + math.cos(math.pi * progress)) / 2


@pytest.mark.parametrize(("peak", "warmup_steps", "total_steps", "final_fraction"), [
    (1e-3, 100, 2000, 0.1), (3e-4, 0, 37, 0.0), (0.02, 10, 80, 0.1), (1e-3, 50, 20, 0.1)])
def test_the_cosine_has_the_same_numbers_as_ever(peak, warmup_steps, total_steps, final_fraction):
    settings = {"peak": peak, "warmup_steps": warmup_steps, "total_steps": total_steps,
                "final_fraction": final_fraction, "steps": total_steps + 5}
    expected = rates(**settings, rate=lambda step, schedule, **others: warmup_cosine(step, **others))
    assert rates("cosine", **settings) == expected


@EVERY_SCHEDULE
def test_the_warm_up_is_a_straight_line_to_the_peak(schedule):
    assert rates(schedule)[:10] == pytest.approx([0.2 * step for step in range(1, 11)])
    assert rates(schedule)[9] == 2.0


@EVERY_SCHEDULE
@pytest.mark.parametrize("final_fraction", [0.0, 0.25, 1.0])
def test_after_the_warm_up_it_never_rises_and_never_jumps(schedule, final_fraction):
    after = rates(schedule, total_steps=1010, final_fraction=final_fraction)[9:]
    falls = [earlier - later for earlier, later in itertools.pairwise(after)]
    assert after[0] == after[1] == 2.0
    assert all(fall >= 0 for fall in falls)
    assert max(falls) < 1.6 * 2.0 / 1000                # the cosine at its steepest is π/2 times as steep as the line


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_it_falls_in_every_step(schedule):
    assert all(later < earlier for earlier, later in itertools.pairwise(rates(schedule)[10:]))


def test_a_constant_rate_is_the_peak_to_the_bit():
    for peak in np.random.default_rng(0).uniform(0, 1e-2, 20):
        assert rates("constant", peak=peak)[10:] == [peak] * 40


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize(("final_fraction", "last"), [(0.0, 0.0), (0.1, 0.2), (1.0, 2.0)])
def test_the_last_step_has_the_final_fraction(schedule, final_fraction, last):
    assert rates(schedule, final_fraction=final_fraction)[-1] == pytest.approx(last, abs=1e-15)


@EVERY_SCHEDULE
def test_without_a_warm_up_the_first_step_has_the_peak(schedule):
    assert rates(schedule, warmup_steps=0)[0] == 2.0


@EVERY_SCHEDULE
@pytest.mark.parametrize("warmup_steps", [50, 200])
def test_a_warm_up_as_long_as_the_run_only_rises(schedule, warmup_steps):
    rising = rates(schedule, warmup_steps=warmup_steps)
    assert all(later > earlier for earlier, later in itertools.pairwise(rising))
    assert rising[-1] == pytest.approx(2.0 * 50 / warmup_steps)


@EVERY_SCHEDULE
def test_a_run_of_one_step_and_a_warm_up_of_all_but_one(schedule):
    of_this = functools.partial(rates, schedule)
    assert of_this(warmup_steps=0, total_steps=1) == [2.0]
    assert of_this(warmup_steps=1, total_steps=1) == [2.0]
    assert of_this(warmup_steps=3, total_steps=4)[2:] == [2.0, 2.0]


def test_a_schedule_of_another_name_is_refused_in_every_step():
    for step in (0, 20):
        with pytest.raises(ValueError, match="schedule: expected one of 'constant', 'linear', 'cosine', got 'step'"):
            learning_rate_at(step, schedule="step", peak=1.0, warmup_steps=10, total_steps=50, final_fraction=0.1)
