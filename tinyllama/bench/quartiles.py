"""How far measurements lie apart."""

import statistics


def quartiles(values):
    """(low, high): a quarter of the values lie below the one, a quarter above the other. Of one value, itself twice."""
    if len(values) == 1:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high
