"""Where the weights lie, what they begin as, and which of them are frozen."""

import models_under_test as mut
import numpy as np
import pytest

from tinyllama.backends import load_backend
from tinyllama.models import Llama
from tinyllama.nn import Declaration, Parameters

NUMPY = load_backend("numpy")
DECLARATIONS = [
    Declaration("table.weight", (5, 3), std=0.5),
    Declaration("norm.weight", (3,), fill=1.0, decays=False),
    Declaration("qkv.weight", (7, 3), std=0.1, parts=(("q.weight", 4), ("k.weight", 1), ("v.weight", 2))),
    Declaration("qkv.bias", (7,), decays=False, parts=(("q.bias", 4), ("k.bias", 1), ("v.bias", 2))),
    Declaration("out.weight", (3, 4), std=0.1),
]
NAMES = ["table.weight", "norm.weight", "q.weight", "k.weight", "v.weight", "q.bias", "k.bias", "v.bias", "out.weight"]


def make(declarations=DECLARATIONS, **settings):
    return Parameters(declarations, NUMPY, **{"dtype": "float64"} | settings)


def first_element(view, buffer):
    """Where in its buffer a view begins, in elements."""
    return (view.ctypes.data - buffer.ctypes.data) // buffer.itemsize


def padding(parameters):
    """Booleans for the trainable buffer: True where no parameter lies."""
    free = np.ones(parameters.trainable.size, dtype=bool)
    for view in parameters.values():
        start = first_element(view, parameters.trainable)
        free[start:start + view.size] = False
    return free


# ---- places

@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_array_begins_on_a_cache_line(dtype):
    parameters = make(dtype=dtype)
    buffer, grads = parameters.new_gradients()
    for views, flat in ((parameters, parameters.trainable), (grads, buffer)):
        for declaration in DECLARATIONS:
            assert views[declaration.name].ctypes.data % 64 == 0, declaration.name
            assert np.shares_memory(views[declaration.name], flat)
            assert views[declaration.name].dtype == dtype


def test_weights_that_decay_come_first():
    parameters = make()
    for name in NAMES:
        decays = name.endswith("weight") and not name.startswith("norm")
        assert (first_element(parameters[name], parameters.trainable) < parameters.decaying) == decays, name
    assert 0 < parameters.decaying < parameters.trainable.size


def test_the_matrices_of_a_model_decay_and_its_norms_and_biases_do_not():
    parameters = mut.tiny_model(norm="layernorm", mlp_bias=True, attention_bias=True, positions="learned").parameters
    decaying = [name for name, array in parameters.items()
                if first_element(array, parameters.trainable) < parameters.decaying]
    assert decaying == [name for name, array in parameters.items() if array.ndim == 2]


@pytest.mark.parametrize("kind, rows", [("weight", (4, 1, 2)), ("bias", (4, 1, 2))])
def test_parts_lie_next_to_each_other_and_the_whole_is_their_view(kind, rows):
    parameters = make()
    q, k, v, whole = (parameters[f"{name}.{kind}"] for name in ("q", "k", "v", "qkv"))
    assert tuple(map(len, (q, k, v))) == rows
    np.testing.assert_array_equal(whole, np.concatenate([q, k, v]))
    assert first_element(k, q) == q.size
    assert first_element(v, k) == k.size
    k[...] = 42.0
    np.testing.assert_array_equal(whole[4], np.broadcast_to(42.0, whole[4].shape))


def test_arrays_do_not_overlap():
    parameters = make()
    for number, name in enumerate(NAMES):
        parameters[name][...] = number
    for number, name in enumerate(NAMES):
        assert np.all(parameters[name] == number), name


def test_gradients_have_the_same_places_as_the_weights():
    parameters = make()
    buffer, grads = parameters.new_gradients()
    assert buffer.shape == parameters.trainable.shape
    assert not buffer.any()
    for name in [*NAMES, "qkv.weight", "qkv.bias"]:
        assert grads[name].shape == parameters[name].shape
        assert first_element(grads[name], buffer) == first_element(parameters[name], parameters.trainable)


def test_each_call_makes_gradients_of_its_own():
    parameters = make()
    one, other = parameters.new_gradients()[0], parameters.new_gradients()[0]
    assert not np.shares_memory(one, other)


def test_padding_is_zero_and_stays_zero():
    model = mut.tiny_model(hidden_size=13, head_dim=4, norm="layernorm", attention_bias=True)
    parameters, free = model.parameters, padding(model.parameters)
    assert free.any()
    moments = np.zeros((2, parameters.trainable.size))
    for step in range(1, 4):
        model.loss_and_grads(mut.IDS, mut.TARGETS)
        assert not model.gradient[free].any()
        model.backend.adamw_step(parameters.trainable, model.gradient, *moments, step=step, learning_rate=0.1,
                                 betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
        assert not parameters.trainable[free].any()
    assert np.isfinite(parameters.trainable).all()


# ---- names

def test_iteration_gives_each_parameter_once_in_the_order_of_the_declarations():
    parameters = make()
    assert list(parameters) == NAMES
    assert len(parameters) == len(NAMES)
    assert [array.shape for array in parameters.values()] == [parameters[name].shape for name in NAMES]


def test_fused_views_are_found_but_not_listed():
    parameters = make()
    assert "qkv.weight" in parameters
    assert "qkv.weight" not in list(parameters)
    assert "nothing" not in parameters
    with pytest.raises(KeyError):
        parameters["nothing"]


def test_a_tied_name_is_the_same_view():
    parameters = make(other_names={"head.weight": "table.weight"})
    _, grads = parameters.new_gradients()
    for views in (parameters, grads):
        assert "head.weight" in views
        assert "head.weight" not in list(views)
        assert np.shares_memory(views["head.weight"], views["table.weight"])
        assert views["head.weight"].shape == views["table.weight"].shape


def test_a_name_declared_twice_is_one_parameter_with_the_first_declaration():
    twice = [*DECLARATIONS, Declaration("table.weight", (5, 3), std=100.0)]
    parameters = make(twice)
    assert sorted(parameters) == sorted(NAMES)
    assert parameters.trainable.size == make().trainable.size
    assert np.abs(parameters["table.weight"]).max() < 10


def test_a_name_declared_twice_keeps_its_first_place():
    assert list(make([*DECLARATIONS, DECLARATIONS[0]])) == NAMES


def test_the_names_of_a_llama_are_those_of_hugging_face_from_bottom_to_top():
    block = ["input_layernorm.weight", "self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight",
             "self_attn.o_proj.weight", "post_attention_layernorm.weight", "mlp.gate_proj.weight",
             "mlp.up_proj.weight", "mlp.down_proj.weight"]
    expected = ["model.embed_tokens.weight", *(f"model.layers.{i}.{name}" for i in range(2) for name in block),
                "model.norm.weight", "lm_head.weight"]
    assert list(mut.tiny_model().parameters) == expected


def test_tied_and_shared_weights_are_listed_from_bottom_to_top():
    names = list(mut.tiny_model(tie_word_embeddings=True, num_hidden_layers=3, num_unique_layers=2).parameters)
    assert names[0] == "model.embed_tokens.weight"
    assert names[-1] == "model.norm.weight"
    assert names.index("model.layers.0.mlp.up_proj.weight") < names.index("model.layers.1.mlp.up_proj.weight")


def test_add_adds_and_none_adds_nothing():
    _, grads = make().new_gradients()
    grads.add("norm.weight", np.array([1.0, 2.0, 3.0]))
    grads.add("norm.weight", np.array([10.0, 20.0, 30.0]))
    grads.add("norm.weight", None)
    grads.add("no such name", None)
    np.testing.assert_array_equal(grads["norm.weight"], [11.0, 22.0, 33.0])


# ---- initial values

def test_the_seed_decides_the_values():
    np.testing.assert_array_equal(make(seed=3).trainable, make(seed=3).trainable)
    assert not np.array_equal(make(seed=3).trainable, make(seed=4).trainable)


def test_every_array_is_drawn_anew():
    drawn = np.concatenate([make(seed=3)[name].ravel() / std for name, std in (
        ("table.weight", 0.5), ("qkv.weight", 0.1), ("out.weight", 0.1))])
    assert len(set(drawn.round(9))) == drawn.size


def test_the_values_do_not_depend_on_the_dtype():
    single, double = make(dtype="float32", seed=3), make(dtype="float64", seed=3)
    for name in NAMES:
        np.testing.assert_array_equal(single[name], double[name].astype(np.float32))
    assert np.any(double["table.weight"] != single["table.weight"])     # drawn in float64


def test_freezing_does_not_change_the_values():
    plain, frozen = make(seed=3), make(seed=3, frozen=("table.*", "*.bias"))
    for name in NAMES:
        np.testing.assert_array_equal(plain[name], frozen[name])


def test_without_a_seed_nothing_is_drawn():
    parameters = make(seed=None)
    for name in NAMES:
        assert np.all(parameters[name] == (1.0 if name == "norm.weight" else 0.0)), name


def test_where_no_spread_is_asked_for_all_values_are_equal():
    parameters = make()
    assert np.all(parameters["norm.weight"] == 1.0)
    assert np.all(parameters["q.bias"] == 0.0)


def initial_spread(name, **changes):
    config = mut.tiny_config(**{"vocab_size": 100, "hidden_size": 64, "intermediate_size": 80, "head_dim": 24,
                                "num_hidden_layers": 3, "initializer_range": 0.05, "max_position_embeddings": 50,
                                "embedding_initializer_range": 0.3} | changes)
    weight = Llama(config, dtype="float64", seed=1).parameters[name]
    assert abs(np.mean(weight)) < 4 * np.std(weight) / np.sqrt(weight.size)
    return np.std(weight)


@pytest.mark.parametrize("name, expected", [
    ("model.embed_tokens.weight", 0.3),
    ("lm_head.weight", 0.05),
    ("model.layers.0.self_attn.q_proj.weight", 0.05),
    ("model.layers.1.self_attn.k_proj.weight", 0.05),
    ("model.layers.2.self_attn.v_proj.weight", 0.05),
    ("model.layers.0.mlp.gate_proj.weight", 0.05),
    ("model.layers.2.mlp.up_proj.weight", 0.05),
    ("model.layers.0.self_attn.o_proj.weight", 0.05 / np.sqrt(6)),      # 2 · 3 layers add to the residual stream
    ("model.layers.2.mlp.down_proj.weight", 0.05 / np.sqrt(6)),
])
def test_the_spread_of_the_first_weights_is_the_configured_one(name, expected):
    assert initial_spread(name) == pytest.approx(expected, rel=0.08)


@pytest.mark.parametrize("name, changes, expected", [
    ("lm_head.weight", {"tie_word_embeddings": True}, 0.3),
    ("model.embed_positions.weight", {"positions": "learned"}, 0.3),
    ("model.embed_tokens.weight", {"embedding_initializer_range": None}, 0.05),
    ("model.layers.0.mlp.down_proj.weight", {"mlp": "gelu"}, 0.05 / np.sqrt(6)),
    ("model.layers.0.mlp.down_proj.weight", {"num_unique_layers": 1}, 0.05 / np.sqrt(6)),
])
def test_the_spread_where_the_configuration_is_another(name, changes, expected):
    assert initial_spread(name, **changes) == pytest.approx(expected, rel=0.08)


def test_norms_begin_at_one_and_biases_at_zero():
    parameters = Llama(mut.tiny_config(norm="layernorm", mlp_bias=True, attention_bias=True)).parameters
    vectors = {name: array for name, array in parameters.items() if array.ndim == 1}
    assert len(vectors) == 2 * (4 + 4 + 3) + 2      # a block: two norms, q k v o, gate up down; and the last norm
    for name, array in vectors.items():
        assert np.all(array == (1.0 if name.endswith("norm.weight") else 0.0)), name


# ---- frozen

def test_frozen_weights_live_apart_and_have_no_gradient():
    parameters = make(frozen=("table.weight", "?.weight"))
    _, grads = parameters.new_gradients()
    frozen = ["table.weight", "q.weight", "k.weight", "v.weight"]
    assert list(parameters) == NAMES
    assert sorted(grads) == sorted(set(NAMES) - set(frozen))
    for name in [*frozen, "qkv.weight"]:
        assert name not in grads
        assert np.shares_memory(parameters[name], parameters.frozen)
        assert not np.shares_memory(parameters[name], parameters.trainable)
    for declaration in DECLARATIONS:
        assert parameters[declaration.name].ctypes.data % 64 == 0
    assert parameters.trainable.size < make().trainable.size


def test_a_tied_name_of_a_frozen_weight_is_frozen():
    parameters = make(frozen=("table.weight",), other_names={"head.weight": "table.weight"})
    assert np.shares_memory(parameters["head.weight"], parameters.frozen)
    assert "head.weight" not in parameters.new_gradients()[1]


def test_a_pattern_that_matches_nothing_is_an_error():
    with pytest.raises(ValueError, match=r"frozen: no parameter is named like 'tabel\.\*'"):
        make(frozen=("norm.*", "tabel.*"))


@pytest.mark.parametrize("pattern", ["q.weight", "[qk].weight", "v.*"])
def test_a_part_of_a_fused_array_cannot_be_frozen_alone(pattern):
    with pytest.raises(ValueError, match=r"frozen: expected all or none of q\.(weight|bias), k\..*match only some"):
        make(frozen=(pattern,))


def test_everything_may_be_frozen():
    parameters = make(frozen=("*",))
    buffer, grads = parameters.new_gradients()
    assert parameters.trainable.size == buffer.size == parameters.decaying == len(grads) == 0
    assert len(parameters) == len(NAMES)
