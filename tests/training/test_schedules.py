import itertools
import math

import pytest

from tinyllama.training import warmup_cosine


def rates(*, peak=2.0, warmup_steps=10, total_steps=50, steps=None, **settings):
    """The learning rate of every step of a run."""
    return [warmup_cosine(step, peak=peak, warmup_steps=warmup_steps, total_steps=total_steps, **settings)
            for step in range(steps or total_steps)]


def test_the_warm_up_is_a_straight_line_to_the_peak():
    assert rates()[:10] == pytest.approx([0.2 * step for step in range(1, 11)])


def test_after_the_warm_up_it_only_falls_and_ends_at_the_final_fraction():
    after = rates(final_fraction=0.25)[10:]
    assert after[0] == 2.0
    assert all(later < earlier for earlier, later in itertools.pairwise(after))
    assert after[-1] == pytest.approx(0.5)


def test_half_way_down_it_is_half_way_between():
    assert rates(warmup_steps=9, total_steps=50)[29] == pytest.approx((2.0 + 0.2) / 2)      # 20 of 40 steps
    quarter = rates(warmup_steps=9, total_steps=50)[19]
    assert quarter == pytest.approx(0.2 + 1.8 * (1 + math.sqrt(0.5)) / 2)


@pytest.mark.parametrize(("final_fraction", "last"), [(0.0, 0.0), (0.1, 0.2), (1.0, 2.0)])
def test_the_last_step_has_the_final_fraction(final_fraction, last):
    assert rates(final_fraction=final_fraction)[-1] == pytest.approx(last, abs=1e-15)


def test_without_a_warm_up_the_first_step_has_the_peak():
    assert rates(warmup_steps=0)[0] == 2.0
    assert rates(warmup_steps=0)[-1] == pytest.approx(0.2)


@pytest.mark.parametrize("warmup_steps", [50, 200])
def test_a_warm_up_as_long_as_the_run_only_rises(warmup_steps):
    rising = rates(warmup_steps=warmup_steps)
    assert all(later > earlier for earlier, later in itertools.pairwise(rising))
    assert rising[-1] == pytest.approx(2.0 * 50 / warmup_steps)


def test_a_run_of_one_step_and_a_warm_up_of_all_but_one():
    assert rates(warmup_steps=0, total_steps=1) == [2.0]
    assert rates(warmup_steps=1, total_steps=1) == [2.0]
    assert rates(warmup_steps=3, total_steps=4)[2:] == [2.0, 2.0]


def test_a_run_that_goes_on_stays_at_the_end():
    assert rates(steps=60)[49:] == pytest.approx([0.2] * 11)
