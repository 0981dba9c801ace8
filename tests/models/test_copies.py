"""A deep copy of a model, as one keeps the best so far."""

import copy

import models_under_test as mut
import numpy as np

import tinyllama as tl


def test_a_copy_gives_the_same_and_goes_its_own_way():
    model = mut.tiny_model()
    kept = copy.deepcopy(model)
    before = model.logits(mut.IDS)
    assert np.array_equal(kept.logits(mut.IDS), before)
    model.loss_and_grads(mut.IDS, mut.TARGETS)
    tl.AdamW(model).step()
    assert np.array_equal(kept.logits(mut.IDS), before)
    assert not np.array_equal(model.logits(mut.IDS), before)


def test_a_copy_learns_in_the_buffer_that_its_layers_read():
    kept = copy.deepcopy(mut.tiny_model(frozen=["model.embed_tokens.*"]))
    before = kept.logits(mut.IDS)
    assert all(np.shares_memory(kept.parameters[name], kept.parameters.trainable)
               for name in kept.loss_and_grads(mut.IDS, mut.TARGETS)[1])
    tl.AdamW(kept).step()
    assert not np.array_equal(kept.logits(mut.IDS), before)
    assert "model.embed_tokens.weight" not in kept.loss_and_grads(mut.IDS, mut.TARGETS)[1]
