import pytest

from tinyllama.bench.quartiles import quartiles


@pytest.mark.parametrize(("values", "expected"), [
    ([3.0], (3.0, 3.0)), ([1.0, 2.0], (1.25, 1.75)), ([5.0, 1.0, 4.0, 2.0, 3.0], (2.0, 4.0))])
def test_a_quarter_of_the_values_lies_outside_on_either_side(values, expected):
    assert quartiles(values) == expected
