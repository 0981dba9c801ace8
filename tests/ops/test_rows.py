"""A batch equals its rows one by one, whichever the operation; no rows give nothing, one token is enough."""

import numpy as np
import pytest
from on_host import as_tuple, relative_error

from tinyllama.course.cases import cases

ROWS_OF_SETTINGS = {"targets", "query_start", "key_length", "query_document", "key_document"}
LOSSES = {"cross_entropy", "mse", "binary_cross_entropy"}
TOKENS_MEET = {"attention", "attention_tiled", "dropout"}   # or their places matter
EVERY_CASE = pytest.mark.parametrize("case", cases(), ids=lambda case: f"{case.op}, {case.label}")


def has_rows(case, position):
    """Whether the argument at that position has the batch as its first dimension; weights and biases have not."""
    return position == 0 or case.op.startswith("attention")


def take(case, part):
    """The case with `part` of its batch: a slice of rows, or of rows and tokens."""
    arrays = tuple(array[part] if has_rows(case, i) else array for i, array in enumerate(case.arrays))
    settings = {name: value[part] if name in ROWS_OF_SETTINGS and isinstance(value, np.ndarray) else value
                for name, value in case.settings.items()}
    if case.op == "rope" and case.settings["cos"].ndim == 4:        # (B, 1, T, D/2): tables of each row's own positions
        settings |= {name: case.settings[name][part] for name in ("cos", "sin")}
    if case.op == "dropout":
        settings["first_row"] = settings.get("first_row", 0) + part.start
    return case._replace(arrays=arrays, settings=settings)


def with_the_divisor_of_the_whole(case):
    """A part of a batch must be told what the whole is divided by."""
    if case.op not in LOSSES or "divisor" in case.settings:
        return case
    targets = case.settings["targets"]
    count = np.sum(targets != case.settings.get("ignore_index", -100)) if case.op == "cross_entropy" else targets.size
    return case._replace(settings={**case.settings, "divisor": int(count)})


@EVERY_CASE
def test_a_batch_equals_its_rows_one_by_one(ops, case):
    case = with_the_divisor_of_the_whole(case)
    y, gradients, dy = ops.run(case)
    rows = [slice(b, b + 1) for b in range(len(case.arrays[0]))]
    parts = [ops.run(take(case, row), dy if case.op in LOSSES else dy[row])[:2] for row in rows]
    together = np.sum if case.op in LOSSES else np.concatenate
    assert relative_error(together([part_y for part_y, _ in parts]), y) <= 1e-13
    of_rows = [has_rows(case, i) for i, array in enumerate(case.arrays) if array is None or array.dtype.kind == "f"]
    for i, gradient in enumerate(gradients):
        if gradient is not None:
            by_rows = [part[i] for _, part in parts]
            together = np.concatenate(by_rows) if of_rows[i] else np.sum(by_rows, axis=0)
            assert relative_error(together, gradient) <= 1e-13


@EVERY_CASE
def test_no_rows_give_no_results_and_weights_without_gradient(ops, case):
    empty = take(case, slice(0, 0))
    y, gradients, _ = ops.run(empty)
    whole_y, whole, _ = ops.run(case)
    assert y.shape == ((0, *whole_y.shape[1:]) if case.op not in LOSSES else ())
    assert y.dtype == whole_y.dtype
    assert case.op not in LOSSES or y == 0
    of_rows = [has_rows(case, i) for i, array in enumerate(case.arrays) if array is None or array.dtype.kind == "f"]
    for gradient, of_whole, has_no_rows in zip(gradients, whole, of_rows, strict=True):
        if of_whole is not None:
            assert gradient.shape == ((0, *of_whole.shape[1:]) if has_no_rows else of_whole.shape)
            assert not gradient.any()


@pytest.mark.parametrize("case", [case for case in cases() if case.op not in LOSSES | TOKENS_MEET | {"rope"}],
                         ids=lambda case: f"{case.op}, {case.label}")
def test_one_token_gives_what_it_gives_among_others(ops, case):
    one = (slice(0, 1),) * (case.arrays[0].ndim - (0 if case.op == "embedding" else 1))
    y, cache = getattr(ops, f"{case.op}_forward")(*case.arrays, **case.settings)
    dy = np.zeros_like(y)                       # the only gradient that arrives is that of the token
    dy[one] = np.random.default_rng(2).normal(size=dy[one].shape)
    expected = as_tuple(getattr(ops, f"{case.op}_backward")(dy, cache))
    token_y, received, _ = ops.run(take(case, one), dy[one])
    assert relative_error(token_y, y[one]) <= 1e-13
    for i, (mine, among_others) in enumerate(zip(received, expected, strict=True)):
        if mine is not None:
            has_tokens = i == 0 and case.op != "embedding"
            assert relative_error(mine, among_others[one] if has_tokens else among_others) <= 1e-13
