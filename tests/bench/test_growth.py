import os
from itertools import pairwise

import pytest
from toy_sizes import TOY, finite_numbers

from tinyllama.bench import as_json
from tinyllama.bench.growth import measure_growth, sweeps


def test_every_value_is_twice_the_one_before_and_nothing_else_changes():
    planned = sweeps(most_cores=8)
    sizes = {name: [size for _, size, _ in points] for name, points in planned.items()}
    for name, points in planned.items():
        values = [value for value, _, _ in points]
        assert all(later == 2 * earlier for earlier, later in pairwise(values)), name
        assert len(values) >= 4
    for name in ("context", "batch_size"):
        assert [getattr(size, name) for size in sizes[name]] == [value for value, _, _ in planned[name]]
        assert len({size._replace(**{name: 0}) for size in sizes[name]}) == 1
    for size in sizes["hidden_size"]:
        assert size.hidden_size == 32 * size.heads
        assert size.intermediate_size / size.hidden_size == pytest.approx(8 / 3, rel=0.02)


def test_a_machine_whose_cores_are_no_power_of_two_ends_with_all_of_them():
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("The system cannot keep a process to some of its cores.")
    points = sweeps(most_cores=6)["cores"]
    assert [(value, some_cores) for value, _, some_cores in points] == [(1, 1), (2, 2), (4, 4), (6, 6)]
    assert {size.batch_size for _, size, _ in points} == {6}        # a row for each


def test_every_point_is_measured_in_a_process_of_its_own(backend):
    some = 1 if hasattr(os, "sched_setaffinity") else None
    planned = {"context": [(8, TOY._replace(context=8), None), (16, TOY._replace(context=16), None)],
               "cores": [(1, TOY, some)]}
    said = []
    growth = measure_growth(planned, backend=backend.name, say=said.append)
    assert [[point.value for point in points] for points in growth.values()] == [[8, 16], [1]]
    assert some is None or growth["cores"][0].workers == 1
    facts = as_json.growth_as_json(growth)
    assert [point["tokens"] for point in facts["context"]] == [32, 64]
    assert {"/context/step_ms", "/cores/value"} <= set(finite_numbers(facts))
    assert said == ["growth: context = 8", "growth: context = 16", "growth: cores = 1"]
