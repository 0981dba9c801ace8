"""What each layer computes, in plain words of NumPy, and how layers find their parameters."""

import models_under_test as mut
import numpy as np
import pytest

from tinyllama.backends import load_backend
from tinyllama.backends.threads import run_in_threads
from tinyllama.nn import (
    MLP,
    Attention,
    Block,
    Context,
    Dropout,
    Embedding,
    LayerNorm,
    LearnedPositions,
    Linear,
    RMSNorm,
    RotaryTable,
    SinusoidalPositions,
    SwiGLU,
)

NUMPY = load_backend("numpy")
X = np.random.default_rng(5).normal(size=(2, 5, 6))
POSITIONS = np.array([[0, 1, 2, 3, 4], [2, 3, 4, 5, 6]])


def rotation(positions=slice(0, 5), length=32, **settings):
    table = RotaryTable(length, 4, **{"theta": 100.0, "scaling": None, "backend": NUMPY, "dtype": "float64"} | settings)
    cos, sin = table.at(positions)
    return Context(cos=cos, sin=sin)


def bound(layer):
    mut.bind(layer)
    return layer


# ---- linear, MLPs, norms

def test_linear_multiplies_and_adds():
    layer = bound(Linear("linear", 6, 9, bias=True))
    weight, bias = layer.parameters["linear.weight"], layer.parameters["linear.bias"]
    np.testing.assert_allclose(layer.forward(X)[0], np.einsum("bti,oi->bto", X, weight) + bias)


def test_a_linear_layer_in_parts_is_its_parts_side_by_side():
    layer = bound(Linear("linear", 6, 9, bias=True, parts={"a": 4, "b": 5}))
    p = layer.parameters
    parts = [X @ p[f"{name}.weight"].T + p[f"{name}.bias"] for name in "ab"]
    np.testing.assert_allclose(layer.forward(X)[0], np.concatenate(parts, axis=-1))
    assert list(p) == ["a.weight", "b.weight", "a.bias", "b.bias"]


def test_swiglu_gates_with_the_first_half():
    layer = bound(SwiGLU("mlp", 6, 7))
    gate, up, down = (layer.parameters[f"mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
    g = X @ gate.T
    np.testing.assert_allclose(layer.forward(X)[0], (g / (1 + np.exp(-g)) * (X @ up.T)) @ down.T)


def test_an_mlp_bends_between_two_products():
    layer = bound(MLP("mlp", 6, 7, activation="relu", bias=True))
    p = layer.parameters
    h = np.maximum(X @ p["mlp.up_proj.weight"].T + p["mlp.up_proj.bias"], 0)
    np.testing.assert_allclose(layer.forward(X)[0], h @ p["mlp.down_proj.weight"].T + p["mlp.down_proj.bias"])


@pytest.mark.parametrize("eps", [1e-5, 0.5])
def test_norms(eps):
    rms, layer = bound(RMSNorm("norm", 6, eps=eps)), bound(LayerNorm("norm", 6, eps=eps))
    expected = X / np.sqrt(np.mean(X**2, axis=-1, keepdims=True) + eps) * rms.parameters["norm.weight"]
    np.testing.assert_allclose(rms.forward(X)[0], expected)
    centred = X - X.mean(axis=-1, keepdims=True)
    expected = centred / np.sqrt(X.var(axis=-1, keepdims=True) + eps) * layer.parameters["norm.weight"]
    np.testing.assert_allclose(layer.forward(X)[0], expected + layer.parameters["norm.bias"])


def test_embedding_looks_up_rows():
    layer = bound(Embedding("table", 7, 6))
    ids = np.array([[3, 0], [3, 6]])
    np.testing.assert_array_equal(layer.forward(ids)[0], layer.parameters["table.weight"][ids])


# ---- positions

def test_learned_positions_add_the_vector_of_each_position():
    layer = bound(LearnedPositions("positions", 8, 6))
    y, _ = layer.forward(X, POSITIONS)
    np.testing.assert_allclose(y, X + layer.parameters["positions.weight"][POSITIONS])


def test_sinusoidal_positions_are_sines_and_cosines_and_have_no_parameters():
    layer = SinusoidalPositions(8, 6, std=0.3)
    assert len(mut.bind(layer)) == 0
    added = layer.forward(X, POSITIONS)[0] - X
    for feature in range(6):
        wave = np.cos if feature % 2 else np.sin
        angles = POSITIONS / 10000 ** (2 * (feature // 2) / 6)
        np.testing.assert_allclose(added[..., feature], 0.3 * wave(angles), atol=1e-15)


def test_rotary_tables_at_a_slice_and_at_an_array_agree():
    from_slice = rotation(slice(2, 7))
    from_array = rotation(np.array([[2, 3, 4, 5, 6], [0, 1, 2, 3, 4]]))
    assert from_slice.cos.shape == (5, 2)
    assert from_array.cos.shape == (2, 1, 5, 2)
    for name in ("cos", "sin"):
        np.testing.assert_array_equal(getattr(from_array, name)[0, 0], getattr(from_slice, name))
        np.testing.assert_array_equal(getattr(from_array, name)[1, 0], getattr(rotation(slice(0, 5)), name))


def test_rotary_tables_hold_the_cosine_and_sine_of_position_times_frequency():
    context = rotation(slice(3, 6))
    np.testing.assert_allclose(context.cos, np.cos(np.outer([3, 4, 5], [1.0, 0.1])))
    np.testing.assert_allclose(context.sin, np.sin(np.outer([3, 4, 5], [1.0, 0.1])))


def test_rotary_tables_are_computed_in_float64_and_stored_in_the_dtype_of_the_model():
    single, double = rotation(slice(30, 32), dtype="float32"), rotation(slice(30, 32))
    assert single.cos.dtype == single.sin.dtype == np.float32
    np.testing.assert_array_equal(single.sin, double.sin.astype(np.float32))


def test_rotary_tables_are_computed_when_they_are_needed_up_to_the_next_power_of_two():
    table = RotaryTable(10**12, 4, theta=100.0, scaling=None, backend=NUMPY, dtype="float64")
    few = table.at(slice(2, 5))[0]
    assert len(table.tables(3)[0]) == 8
    more = table.at(slice(0, 9))[0]
    assert len(table.tables(3)[0]) == 16
    np.testing.assert_array_equal(few, more[2:5])
    np.testing.assert_array_equal(table.at(np.array([[40], [7]]), 64)[0][1, 0, 0], more[7])


def test_rotary_tables_end_with_the_context():
    table = RotaryTable(11, 4, theta=100.0, scaling=None, backend=NUMPY, dtype="float64")
    assert [len(array) for array in table.tables(9)] == [11, 11]
    assert [len(array) for array in table.tables()] == [11, 11]
    assert [len(array) for array in table.tables(500)] == [11, 11]


def test_rotary_tables_that_grow_in_several_threads_are_right_in_each():
    expected = rotation(slice(0, 4096), length=4096).sin
    for _ in range(20):
        table = RotaryTable(4096, 4, theta=100.0, scaling=None, backend=NUMPY, dtype="float64")
        ends = [5, 4096, 300, 17, 4000, 64]
        tables = run_in_threads([lambda end=end, table=table: table.at(slice(0, end))[1] for end in ends])
        for end, sin in zip(ends, tables, strict=True):
            np.testing.assert_array_equal(sin, expected[:end])


# ---- attention

def attend_slowly(layer, x, visible, cos=None, sin=None):
    """Attention one head and one query at a time, for one row x: (T, hidden)."""
    p, dim = layer.parameters, layer.head_dim

    def heads(name):
        y = x @ p[f"attention.{name}_proj.weight"].T + p[f"attention.{name}_proj.bias"]
        y = y.reshape(len(x), -1, dim)                                          # (T, heads, D)
        if f"attention.{name}_norm.weight" not in p:
            return y
        return y / np.sqrt(np.mean(y**2, axis=-1, keepdims=True) + 0.3) * p[f"attention.{name}_norm.weight"]

    def rotate(z, t):
        if cos is None:
            return z
        pairs = z[:dim // 2] + 1j * z[dim // 2:]                                # half-split pairing
        turned = pairs * (cos[t] + 1j * sin[t])
        return np.concatenate([turned.real, turned.imag])

    q, k, v = heads("q"), heads("k"), heads("v")
    y = np.zeros((len(x), layer.heads, dim))
    for head in range(layer.heads):
        shared = head // (layer.heads // layer.key_value_heads)
        for i in range(len(x)):
            seen = [j for j in range(len(x)) if visible(i, j)]
            scores = np.array([rotate(q[i, head], i) @ rotate(k[j, shared], j) for j in seen]) / np.sqrt(dim)
            weights = np.exp(scores) / np.exp(scores).sum()
            y[i, head] = sum(w * v[j, shared] for w, j in zip(weights, seen, strict=True))
    return y.reshape(len(x), -1) @ p["attention.o_proj.weight"].T + p["attention.o_proj.bias"]


@pytest.mark.parametrize("key_value_heads", [6, 3, 1])
@pytest.mark.parametrize("rotates", [True, False])
@pytest.mark.parametrize("window", [None, 1, 3])
def test_attention_by_loops(key_value_heads, rotates, window):
    layer = bound(Attention("attention", 6, heads=6, key_value_heads=key_value_heads, head_dim=4, window=window,
                            bias=True))
    context = rotation() if rotates else Context()
    y, _ = layer.forward(X, context)
    for row, x in enumerate(X):
        expected = attend_slowly(layer, x, lambda i, j: j <= i and (window is None or i - j < window),
                                 context.cos, context.sin)
        np.testing.assert_allclose(y[row], expected, atol=1e-12)


@pytest.mark.parametrize("rotates", [True, False])
def test_attention_normalises_each_head_of_q_and_k_before_it_is_rotated(rotates):
    layer = bound(Attention("attention", 6, heads=6, key_value_heads=3, head_dim=4, bias=True, qk_norm=True,
                            norm_eps=0.3))
    context = rotation() if rotates else Context()
    y, _ = layer.forward(X, context)
    for row, x in enumerate(X):
        expected = attend_slowly(layer, x, lambda i, j: j <= i, context.cos, context.sin)
        np.testing.assert_allclose(y[row], expected, atol=1e-12)


def test_attention_does_not_look_into_another_document():
    layer = bound(Attention("attention", 6, heads=6, key_value_heads=3, head_dim=4, bias=True))
    documents = np.array([[0, 0, 0, 1, 1], [5, 2, 2, 5, 2]])
    y, _ = layer.forward(X, Context(documents=documents))
    for row, x in enumerate(X):
        expected = attend_slowly(layer, x, lambda i, j: j <= i and documents[row, i] == documents[row, j])  # noqa: B023
        np.testing.assert_allclose(y[row], expected, atol=1e-12)


def test_only_distances_matter_to_rotated_attention():
    layer = bound(Attention("attention", 6, heads=6, key_value_heads=3, head_dim=4))
    here, there = rotation(slice(0, 5)), rotation(slice(20, 25))
    assert not np.allclose(here.cos, there.cos)
    np.testing.assert_allclose(layer.forward(X, here)[0], layer.forward(X, there)[0], atol=1e-12)


def test_parameters_of_attention():
    parameters = mut.bind(Attention("attention", 6, heads=6, key_value_heads=3, head_dim=4, bias=True))
    shapes = {name: array.shape for name, array in parameters.items()}
    assert shapes == {"attention.q_proj.weight": (24, 6), "attention.k_proj.weight": (12, 6),
                      "attention.v_proj.weight": (12, 6), "attention.q_proj.bias": (24,),
                      "attention.k_proj.bias": (12,), "attention.v_proj.bias": (12,),
                      "attention.o_proj.weight": (6, 24), "attention.o_proj.bias": (6,)}


def test_the_bias_of_o_has_a_setting_of_its_own():
    biases = {"attention.q_proj.bias", "attention.k_proj.bias", "attention.v_proj.bias"}
    for bias, output_bias, expected in ((True, False, biases), (False, True, {"attention.o_proj.bias"}),
                                        (True, None, biases | {"attention.o_proj.bias"}), (False, None, set())):
        layer = Attention("attention", 6, heads=6, key_value_heads=3, head_dim=4, bias=bias, output_bias=output_bias)
        assert {name for name in mut.bind(layer) if name.endswith("bias")} == expected


def test_norms_of_q_and_k_are_parameters_of_one_head():
    parameters = mut.bind(Attention("attention", 6, heads=6, key_value_heads=3, head_dim=4, qk_norm=True))
    assert {name: array.shape for name, array in parameters.items() if "norm" in name} == {
        "attention.q_norm.weight": (4,), "attention.k_norm.weight": (4,)}


# ---- dropout

def test_dropout_without_a_key_or_a_rate_hands_its_input_on():
    training = Context(dropout=(1, 2, 3))
    assert bound(Dropout(0.5, "mlp")).forward(X, Context())[0] is X
    assert bound(Dropout(0.0, "mlp")).forward(X, training)[0] is X


def test_dropout_drops_at_its_rate_and_scales_the_rest():
    ones = np.ones((100, 50))
    y, _ = bound(Dropout(0.25, "mlp")).forward(ones, Context(dropout=(1, 2, 3)))
    assert set(np.unique(y)) == {0.0, 1 / 0.75}
    assert np.mean(y == 0) == pytest.approx(0.25, abs=0.03)


def test_every_site_layer_and_number_of_the_key_has_a_mask_of_its_own():
    ones = np.ones((10, 50))
    masks = set()
    for site in ("embedding", "attention", "mlp"):
        for layer in range(3):
            for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)):
                y, _ = bound(Dropout(0.5, site)).forward(ones, Context(layer=layer, dropout=key))
                masks.add(y.tobytes())
    assert len(masks) == 3 * 3 * 4


def test_the_mask_of_a_row_belongs_to_its_number_in_the_whole_batch():
    layer, ones = bound(Dropout(0.5, "mlp")), np.ones((6, 4, 5))
    whole, _ = layer.forward(ones, Context(dropout=(1, 2, 3)))
    shard, _ = layer.forward(ones[:2], Context(dropout=(1, 2, 3), first_row=4))
    np.testing.assert_array_equal(shard, whole[4:])


def test_an_unknown_site_is_an_error():
    with pytest.raises(ValueError):
        Dropout(0.5, "kitchen")


# ---- blocks

def test_a_block_adds_attention_and_then_the_mlp():
    block = bound(Block(attention_norm=RMSNorm("one", 6), attention=Attention("attention", 6, heads=6,
                                                                             key_value_heads=3, head_dim=4),
                        attention_dropout=Dropout(0.0, "attention"), mlp_norm=LayerNorm("two", 6),
                        mlp=SwiGLU("mlp", 6, 7), mlp_dropout=Dropout(0.0, "mlp")))
    context = rotation()
    x = X + block.attention.forward(block.attention_norm.forward(X)[0], context)[0]
    x = x + block.mlp.forward(block.mlp_norm.forward(x)[0])[0]
    np.testing.assert_array_equal(block.forward(X, context)[0], x)


def test_children_are_found_in_attributes_and_in_lists():
    inner = Linear("inner", 6, 6)
    outer = mut.Twice(inner)
    outer.more = [RMSNorm("norm", 6), LayerNorm("other", 6)]
    assert list(outer.children()) == [inner, *outer.more]
    parameters = mut.bind(outer)
    assert list(parameters) == ["inner.weight", "norm.weight", "other.weight", "other.bias"]
    assert all(layer.parameters is parameters for layer in outer.children())
