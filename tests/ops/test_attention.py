"""Both versions of attention, materialised and tiled, against a loop over single numbers."""

import itertools

import numpy as np
import pytest
from brute_force import slow_attention, visible_keys
from on_host import arrays_in, relative_error

from tinyllama.course.cases import cases
from tinyllama.ops import attention_tiled_forward
from tinyllama.ops.attention_mask import AttentionMask

BATCH, HEADS, KEY_HEADS, QUERIES, KEYS, HEAD_DIM, VALUE_DIM = 2, 4, 2, 4, 6, 3, 5
BOTH = pytest.mark.parametrize("op", ["attention", "attention_tiled"])
TILES = (1, 2, 3, 5, 64)                # with and without a remainder, and larger than the whole
DOCUMENTS = {"query_document": np.array([[0, 0, 1, 1], [2, 0, 1, 1]]),
             "key_document": np.array([[0, 0, 0, 1, 1, 3], [0, 1, 1, 1, 2, 0]])}


def every_mask():
    """All combinations of the settings, each absent, as one number, and as one number a row where that is allowed."""
    for causal, window, start, length, documents in itertools.product(
            (False, True), (None, 1, 3), (None, 2, np.array([2, 0])), (None, 3, np.array([6, 0])), (None, DOCUMENTS)):
        settings = {"causal": causal, "window": window, "query_start": start, "key_length": length}
        yield {name: value for name, value in settings.items() if value is not None} | (documents or {})


def name_of(mask):
    values = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in mask.items()
              if "document" not in name}
    return ", ".join(f"{name}={value}" for name, value in values.items()) + ", documents" * ("key_document" in mask)


EVERY_MASK = pytest.mark.parametrize("mask", list(every_mask()), ids=name_of)


@pytest.fixture
def qkv(rng):
    return draw(rng)


def draw(rng, batch=BATCH, heads=HEADS, key_heads=KEY_HEADS, queries=QUERIES, keys=KEYS):
    return (rng.normal(size=(batch, heads, queries, HEAD_DIM)), rng.normal(size=(batch, key_heads, keys, HEAD_DIM)),
            rng.normal(size=(batch, key_heads, keys, VALUE_DIM)))


@EVERY_MASK
def test_both_equal_the_loop_under_every_mask(ops, qkv, rng, mask):
    expected = slow_attention(*qkv, **mask)
    y, cache = ops.attention_forward(*qkv, **mask)
    assert relative_error(y, expected) <= 1e-13
    dy = rng.normal(size=y.shape)
    gradients = ops.attention_backward(dy, cache)
    blind = ~np.any(visible_keys((BATCH, QUERIES, KEYS), **mask), axis=-1)                  # (B, Tq)
    assert not y.swapaxes(1, 2)[blind].any()
    assert not gradients[0].swapaxes(1, 2)[blind].any()
    unseen = ~np.any(visible_keys((BATCH, QUERIES, KEYS), **mask), axis=1)                  # (B, Tk)
    assert not gradients[1].swapaxes(1, 2)[unseen].any()
    assert not gradients[2].swapaxes(1, 2)[unseen].any()
    for tile in TILES:
        tiled_y, cache = ops.attention_tiled_forward(*qkv, **mask, tile=tile)
        assert relative_error(tiled_y, expected) <= 1e-13
        for tiled, whole in zip(ops.attention_tiled_backward(dy, cache), gradients, strict=True):
            np.testing.assert_allclose(tiled, whole, rtol=1e-11, atol=1e-14)


def test_the_masks_above_include_blind_queries_and_unseen_keys():
    visible = [visible_keys((BATCH, QUERIES, KEYS), **mask) for mask in every_mask()]
    assert len(visible) == 108
    assert any(not v.any(axis=-1).all() for v in visible)
    assert any(not v.any(axis=1).all() for v in visible)
    assert all(v.any() for v in visible)


@BOTH
def test_what_is_hidden_has_no_influence(ops, qkv, op):
    """Not a small one: hidden keys and values may be huge without moving a single bit."""
    q, k, v = qkv
    mask = {"causal": True, "query_start": 1, "key_length": np.array([4, 3])}
    hidden = ~np.any(visible_keys((BATCH, QUERIES, KEYS), **mask), axis=1)[:, None, :, None]        # (B, 1, Tk, 1)
    y, _ = getattr(ops, f"{op}_forward")(q, k, v, **mask)
    other, _ = getattr(ops, f"{op}_forward")(q, np.where(hidden, 1e30, k), np.where(hidden, 1e30, v), **mask)
    np.testing.assert_array_equal(other, y)


@BOTH
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_scores_do_not_overflow(ops, rng, op, dtype):
    q, k, v = (x.astype(dtype) for x in draw(rng, queries=KEYS))
    y, cache = getattr(ops, f"{op}_forward")(1e4 * q, 1e2 * k, v, causal=True, **({"tile": 2} if "tiled" in op else {}))
    assert np.all(np.isfinite(y))
    assert all(np.all(np.isfinite(gradient)) for gradient in getattr(ops, f"{op}_backward")(y, cache))


@BOTH
@pytest.mark.parametrize("key_heads", [1, 2])
def test_grouped_queries_equal_repeated_key_heads(ops, rng, op, key_heads):
    q, k, v = draw(rng, key_heads=key_heads)
    group = HEADS // key_heads
    y, cache = getattr(ops, f"{op}_forward")(q, k, v, causal=True)
    repeated_y, repeated_cache = getattr(ops, f"{op}_forward")(q, np.repeat(k, group, 1), np.repeat(v, group, 1),
                                                               causal=True)
    np.testing.assert_allclose(repeated_y, y, rtol=1e-13, atol=1e-15)
    dy = rng.normal(size=y.shape)
    dq, dk, dv = getattr(ops, f"{op}_backward")(dy, cache)
    repeated = getattr(ops, f"{op}_backward")(dy, repeated_cache)
    np.testing.assert_allclose(dq, repeated[0], rtol=1e-12, atol=1e-15)
    for received, copies in ((dk, repeated[1]), (dv, repeated[2])):
        summed = copies.reshape(BATCH, key_heads, group, *copies.shape[2:]).sum(axis=2)
        np.testing.assert_allclose(received, summed, rtol=1e-12, atol=1e-14)


@BOTH
def test_one_key_passes_its_value_on_and_nothing_can_be_learned_about_where_to_look(ops, rng, op):
    q, k, v = draw(rng, queries=1, keys=1)
    y, cache = getattr(ops, f"{op}_forward")(q, k, v, causal=True)
    np.testing.assert_allclose(y, np.repeat(v, 2, axis=1), rtol=1e-15)
    dy = rng.normal(size=y.shape)
    dq, dk, dv = getattr(ops, f"{op}_backward")(dy, cache)
    assert np.max(np.abs(dq)) < 1e-14
    assert np.max(np.abs(dk)) < 1e-14
    np.testing.assert_allclose(dv, dy.reshape(BATCH, KEY_HEADS, 2, 1, VALUE_DIM).sum(axis=2), rtol=1e-14)


@BOTH
def test_many_queries_equal_the_same_queries_one_by_one(ops, rng, op):
    """What a cache of keys and values relies on: a prefill is the same tokens one at a time."""
    q, k, v = draw(rng, queries=KEYS)
    whole, _ = getattr(ops, f"{op}_forward")(q, k, v, causal=True)
    for t in range(KEYS):
        step, _ = getattr(ops, f"{op}_forward")(q[:, :, t:t + 1], k[:, :, :t + 1], v[:, :, :t + 1], causal=True,
                                                query_start=t)
        np.testing.assert_allclose(step[:, :, 0], whole[:, :, t], rtol=1e-13)
        padded, _ = getattr(ops, f"{op}_forward")(q[:, :, t:t + 1], k, v, key_length=t + 1)
        np.testing.assert_allclose(padded[:, :, 0], whole[:, :, t], rtol=1e-13)


@BOTH
def test_packed_documents_equal_the_documents_on_their_own(ops, rng, op):
    q, k, v = draw(rng, batch=1, queries=6)
    document = np.array([[7, 7, 7, 7, 3, 3]])
    packed, _ = getattr(ops, f"{op}_forward")(q, k, v, causal=True, query_document=document, key_document=document)
    for part in (slice(0, 4), slice(4, 6)):
        alone, _ = getattr(ops, f"{op}_forward")(q[:, :, part], k[:, :, part], v[:, :, part], causal=True)
        np.testing.assert_allclose(packed[:, :, part], alone, rtol=1e-13)


@BOTH
def test_the_scale_multiplies_the_scores(ops, qkv, op):
    q, k, v = qkv
    y, _ = getattr(ops, f"{op}_forward")(q, k, v, scale=0.9)
    np.testing.assert_allclose(y, getattr(ops, f"{op}_forward")(0.9 * np.sqrt(HEAD_DIM) * q, k, v)[0], rtol=1e-13)


def test_the_tiled_cache_grows_with_the_length_and_not_with_its_square(rng):
    length = 64
    arguments = draw(rng, heads=2, key_heads=1, queries=length, keys=length)
    _, cache = attention_tiled_forward(*arguments, causal=True, tile=8)
    assert len(arrays_in(cache)) >= 5
    assert max(array.size for array in arrays_in(cache)) < length * length
    _, twice = attention_tiled_forward(*draw(rng, heads=2, key_heads=1, queries=2 * length, keys=2 * length), tile=8)
    assert sum(a.size for a in arrays_in(twice)) == 2 * sum(a.size for a in arrays_in(cache))


def test_the_cases_of_the_tiled_version_take_several_tiles():
    for plain, tiled in zip(cases("attention"), cases("attention_tiled"), strict=True):
        assert plain.label == tiled.label
        assert tiled.settings["tile"] < min(tiled.arrays[0].shape[2], tiled.arrays[1].shape[2])


def mask_of_numbers():
    return [mask for mask in every_mask() if not any(isinstance(value, np.ndarray) for value in mask.values())]


def tiles_of(length, size):
    return [range(start, min(start + size, length)) for start in range(0, length, size)]


@EVERY_MASK
def test_a_tile_is_skipped_only_if_it_shows_nothing(mask):
    visible = visible_keys((BATCH, QUERIES, KEYS), **mask)
    for size in (1, 2, 3):
        for rows, columns in itertools.product(tiles_of(QUERIES, size), tiles_of(KEYS, size)):
            if AttentionMask(**mask).hides_all(rows, columns):
                assert not visible[:, rows.start:rows.stop, columns.start:columns.stop].any()


@pytest.mark.parametrize("mask", [mask for mask in mask_of_numbers() if len(mask) > 1 and "key_length" not in mask],
                         ids=name_of)
def test_every_tile_that_plain_numbers_hide_is_skipped(mask):
    """Half of the tiles of causal attention show nothing: skipping them is half of the work saved."""
    length = 8
    visible = visible_keys((1, length, length), **mask)[0]
    skipped = 0
    for rows, columns in itertools.product(tiles_of(length, 2), tiles_of(length, 2)):
        nothing = not visible[rows.start:rows.stop, columns.start:columns.stop].any()
        assert AttentionMask(**mask).hides_all(rows, columns) == nothing
        skipped += nothing
    assert skipped > 0 or mask == {"causal": False, "query_start": 2}


@BOTH
@pytest.mark.parametrize(("changed", "message"), [
    ({"k": (2, 2, 6, 4)}, r"k: expected \(B, KV, Tk, D\) with B=2 and D=3 as in q, got \(2, 2, 6, 4\)"),
    ({"k": (1, 2, 6, 3)}, r"k: expected \(B, KV, Tk, D\) with B=2 and D=3 as in q, got \(1, 2, 6, 3\)"),
    ({"k": (2, 6, 3)}, r"k: expected \(B, KV, Tk, D\)"),
    ({"v": (2, 2, 5, 5)}, r"v: expected the first three dimensions of k, \(2, 2, 6\), got \(2, 2, 5, 5\)"),
    ({"v": (2, 1, 6, 5)}, r"v: expected the first three dimensions of k"),
    ({"v": (2, 2, 6)}, r"v: expected the first three dimensions of k"),
    ({"k": (2, 3, 6, 3), "v": (2, 3, 6, 5)}, "q: its 4 heads cannot be divided among the 3 heads of k"),
    ({"window": 0}, "window: expected at least 1, got 0"),
    ({"query_document": np.zeros((2, 4), int)}, "query_document and key_document: expected both or neither"),
    ({"key_document": np.zeros((2, 6), int)}, "query_document and key_document: expected both or neither"),
    ({"query_document": np.zeros((2, 6), int), "key_document": np.zeros((2, 6), int)},
     r"query_document: expected the shape \(2, 4\), got \(2, 6\)"),
    ({"query_document": np.zeros((2, 4), int), "key_document": np.zeros((1, 6), int)},
     r"key_document: expected the shape \(2, 6\), got \(1, 6\)"),
])
def test_what_does_not_fit_is_named(ops, op, changed, message):
    shapes = {"q": (BATCH, HEADS, QUERIES, HEAD_DIM), "k": (BATCH, KEY_HEADS, KEYS, HEAD_DIM),
              "v": (BATCH, KEY_HEADS, KEYS, VALUE_DIM)}
    q, k, v = (np.zeros(changed.get(name, shape)) for name, shape in shapes.items())
    with pytest.raises(ValueError, match=message):
        getattr(ops, f"{op}_forward")(q, k, v, **{name: value for name, value in changed.items() if name not in "qkv"})
