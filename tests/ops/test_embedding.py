import numpy as np
import pytest


@pytest.fixture
def table(rng):
    return rng.normal(size=(6, 4))


def test_each_id_reads_its_row(ops, table):
    y, _ = ops.embedding_forward(np.array([[2, 0, 5], [5, 2, 3]]), table)
    np.testing.assert_array_equal(y, [[table[2], table[0], table[5]], [table[5], table[2], table[3]]])


def test_the_gradients_of_repeated_tokens_add_up(ops, table, rng):
    ids = np.array([[2, 0, 2], [2, 2, 3]])
    _, cache = ops.embedding_forward(ids, table)
    dy = rng.normal(size=(2, 3, 4))
    expected = np.zeros_like(table)
    for row, position in np.ndindex(ids.shape):
        expected[ids[row, position]] += dy[row, position]
    np.testing.assert_allclose(ops.embedding_backward(dy, cache), expected, rtol=1e-14, atol=0)
    assert not expected[[1, 4, 5]].any()                # tokens that did not occur


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_ids_may_be_integers_of_any_size(ops, table, dtype):
    y, cache = ops.embedding_forward(np.array([3, 1, 3], dtype=dtype), table)
    np.testing.assert_array_equal(y, table[[3, 1, 3]])
    np.testing.assert_array_equal(ops.embedding_backward(np.ones((3, 4)), cache)[:, 0], [0, 1, 0, 2, 0, 0])


@pytest.mark.parametrize("ids", [np.array([1.0, 2.0]), np.array([True, False])], ids=["floats", "booleans"])
def test_ids_must_be_integers(ops, table, ids):
    with pytest.raises(TypeError, match=f"ids: expected integers, got an array of {ids.dtype}"):
        ops.embedding_forward(ids, table)
