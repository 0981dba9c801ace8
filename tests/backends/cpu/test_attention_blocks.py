"""Attention in blocks: every mask, lengths around the size of a block, several blocks of rows and heads, and memory."""

import itertools
import tracemalloc

import numpy as np
import pytest
from rounding import check_against_readable

pytest.importorskip("numba", reason="Numba is not installed.")

from tinyllama.backends import load_backend
from tinyllama.backends.cpu import attention, attention_blocks, attention_fused
from tinyllama.course.cases import Case

BACKEND = load_backend("numba")
LENGTHS = (31, 32, 33, 63, 64, 65, 130)
HEADS = [(4, 4), (4, 2), (3, 1)]            # H, KV


def draw(heads=(4, 2), queries=130, keys=130, head_dim=5, value_dim=5, batch=3, **settings):
    rng = np.random.default_rng(queries + keys)
    arrays = (rng.normal(size=(batch, heads[0], queries, head_dim)), rng.normal(size=(batch, heads[1], keys, head_dim)),
              rng.normal(size=(batch, heads[1], keys, value_dim)))
    return Case("attention", f"{heads} {queries} {keys} {settings.keys()}", arrays, settings)


def masks(queries, keys, batch=3):
    """Each setting on its own and together with others, as a number and as an array, with rows that see nothing."""
    rng = np.random.default_rng(0)
    in_order = {"query_document": np.sort(rng.integers(0, 4, (batch, queries)), axis=1),
                "key_document": np.sort(rng.integers(0, 4, (batch, keys)), axis=1)}
    in_no_order = {name: rng.permuted(documents, axis=1) for name, documents in in_order.items()}
    for causal, window, start, length in itertools.product(
            (False, True), (None, 1, 40), (None, 9, np.array([0, 70, 300])), (None, 50, np.array([keys, 0, 3]))):
        settings = {"causal": causal, "window": window, "query_start": start, "key_length": length}
        yield {name: value for name, value in settings.items() if value is not None}
    for documents in (in_order, in_no_order):
        for others in ({}, {"causal": True}, {"causal": True, "window": 40, "key_length": 77}, {"window": 20},
                       {"query_start": np.array([0, 7, 90]), "causal": True}):
            yield documents | others


def use(monkeypatch, path, queries, block_bytes=2**19):
    """Compute in compiled code alone, or in blocks of so many bytes in Python, with so many queries a block."""
    if path == "blocks":
        monkeypatch.setattr(attention, "product_address", lambda dtype: None)
        monkeypatch.setattr(attention_blocks, "BLOCK_BYTES", block_bytes)
    elif attention.product_address("float32") is None:
        pytest.skip("NumPy's BLAS is none that a kernel can call.")
    monkeypatch.setattr(attention_blocks, "BLOCK_QUERIES", queries)
    monkeypatch.setattr(attention_fused, "BLOCK_QUERIES", queries)


PATHS = [("fused", 32), ("blocks", 64, 1), ("blocks", 64, 2**17)]


@pytest.fixture(params=PATHS, ids=["in one call", "one head a block", "a few heads a block"])
def path(request, monkeypatch):
    use(monkeypatch, *request.param)


@pytest.mark.parametrize("mask", list(masks(65, 130)), ids=lambda mask: ", ".join(mask))
def test_every_mask(path, mask):
    check_against_readable(BACKEND, draw(queries=65, keys=130, **mask))


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("length", LENGTHS)
def test_lengths_around_the_size_of_a_block(path, length, heads):
    check_against_readable(BACKEND, draw(heads, length, length, causal=True))
    check_against_readable(BACKEND, draw(heads, length, 17))


@pytest.mark.parametrize("settings", [{"scale": 0.9}, {"scale": -0.4}, {"scale": 0.0}, {}], ids=str)
@pytest.mark.parametrize("sizes", [{"head_dim": 1}, {"value_dim": 3}, {"value_dim": 9}, {"queries": 1}, {"keys": 1},
                                   {"batch": 1}], ids=str)
def test_sizes_and_scales(path, sizes, settings):
    check_against_readable(BACKEND, draw(**sizes, causal=sizes.get("keys") != 1, **settings))


def run(case):
    y, cache = BACKEND.attention_forward(*case.arrays, **case.settings)
    dy = np.asarray(np.random.default_rng(1).normal(size=y.shape), dtype=y.dtype)
    first, second = (BACKEND.attention_backward(dy, cache) for _ in range(2))
    for mine, again in zip(first, second, strict=True):
        np.testing.assert_array_equal(again, mine)
    return y, *first


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_size_of_the_blocks_changes_only_the_rounding(monkeypatch, dtype):
    case = draw(causal=True, window=70, key_length=np.array([130, 0, 77])).astype(dtype)
    whole = run(case)
    for way in (("fused", 1), ("fused", 7), ("fused", 200),
                ("blocks", 1, 1), ("blocks", 7, 1), ("blocks", 64, 10**9), ("blocks", 200, 1), ("blocks", 200, 10**9)):
        use(monkeypatch, *way)
        for received, expected in zip(run(case), whole, strict=True):
            tolerance = 64 * np.finfo(dtype).eps * np.max(np.abs(expected))
            np.testing.assert_allclose(received, expected, rtol=0, atol=tolerance)


def test_hidden_keys_that_are_huge_or_infinite_hide_as_well(path):
    """The readable version asks for finite numbers there; a kernel that never reads them needs no such promise."""
    case = draw(causal=True, key_length=50)
    y = run(case)[0]
    q, k, v = (array.copy() for array in case.arrays)
    k[:, :, 50:], v[:, :, 50:] = 1e30, 1e30
    np.testing.assert_array_equal(run(case._replace(arrays=(q, k, v)))[0], y)


def test_values_without_features_give_gradients_of_zero(path):
    """Where nothing depends on the scores, nothing may come out of memory that nobody has written."""
    q, k, v = draw(value_dim=0, causal=True).arrays
    y, cache = BACKEND.attention_forward(q, k, v, causal=True)
    old = [np.full(q.shape, np.nan) for _ in range(8)]          # which the next arrays of this size may be made of
    del old
    dq, dk, dv = BACKEND.attention_backward(y, cache)
    assert (y.shape, dv.shape) == ((*q.shape[:3], 0), v.shape)
    assert not dq.any() and not dk.any()


def peak(length):
    """The bytes that forward and backward take at most, beyond their arguments."""
    rng = np.random.default_rng(0)
    q, k, v, dy = (rng.normal(size=(1, 1, length, 8)).astype(np.float32) for _ in range(4))
    tracemalloc.start()
    _, cache = BACKEND.attention_forward(q, k, v, causal=True)
    BACKEND.attention_backward(dy, cache)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


def test_memory_grows_with_the_length_and_not_with_its_square(path):
    peak(256)                                                   # compiles
    assert peak(4096) <= 4.2 * peak(1024)
    assert peak(4096) > 4096 * 8 * 4                            # it does see NumPy's arrays


# --- wrong versions ---------------------------------------------------------------------------------------------------


def test_a_mask_that_is_off_by_one_is_found(monkeypatch):
    right = attention._visible_keys

    def one_more(*args):
        first, stop, in_one_piece = right(*args)
        return first, np.minimum(stop + 1, 130), in_one_piece

    monkeypatch.setattr(attention, "_visible_keys", one_more)
    with pytest.raises(AssertionError, match="times the bound"):
        check_against_readable(BACKEND, draw(causal=True))


def test_the_bounds_of_another_row_are_found(monkeypatch):
    right = attention._visible_keys

    def of_the_first_row(*args):
        first, stop, in_one_piece = right(*args)
        return *(np.repeat(bound[:1], len(bound), axis=0) for bound in (first, stop)), in_one_piece

    monkeypatch.setattr(attention, "_visible_keys", of_the_first_row)
    with pytest.raises(AssertionError, match="times the bound"):
        check_against_readable(BACKEND, draw(causal=True, key_length=np.array([130, 50, 3])))


def test_a_block_that_overwrites_what_others_added_is_found(monkeypatch):
    class Forgetful(np.ndarray):
        def __iadd__(self, other):
            self[...] = other
            return self

    use(monkeypatch, "blocks", 64)
    right = attention_blocks._Block.of_keys
    monkeypatch.setattr(attention_blocks._Block, "of_keys", lambda block, x: right(block, x).view(Forgetful))
    with pytest.raises(AssertionError, match="times the bound"):
        check_against_readable(BACKEND, draw(causal=True))


def test_a_product_that_overwrites_what_others_added_is_found(monkeypatch):
    def forgetful(address, transpose_a, shape, a, lda, b, ldb, beta, c, ldc):
        product(address, transpose_a, shape, a, lda, b, ldb, 0, c, ldc)

    product = attention_fused.product
    use(monkeypatch, "fused", 32)
    for name in ("_forward", "_backward"):
        monkeypatch.setattr(attention_fused, name, getattr(attention_fused, name).py_func)
    case = draw(queries=40, keys=40, causal=True)
    check_against_readable(BACKEND, case)
    monkeypatch.setattr(attention_fused, "product", forgetful)
    with pytest.raises(AssertionError, match="times the bound"):
        check_against_readable(BACKEND, case)
