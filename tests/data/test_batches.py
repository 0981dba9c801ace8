from collections import Counter
from itertools import islice, pairwise

import numpy as np
import pytest
from models_under_test import assert_same_gradients, copies, tiny_model

from tinyllama.data import (
    Batch,
    PackedBatches,
    Tokens,
    WindowBatches,
    are_short,
    first_documents,
    packed_batches,
    validation_windows,
)
from tinyllama.data.batches import Packing

LENGTHS = [4, 1, 9, 0, 2, 17, 3, 6, 2, 12, 5, 1, 7]     # of documents; one target less than tokens, where there is one


def of_lengths(lengths):
    """Documents in which a token is its own position in the text, so that a row shows where it lies."""
    starts = np.cumsum([0, *lengths])
    return Tokens(np.arange(starts[-1], dtype=np.uint32), starts)


TEXT = of_lengths([1000])
SHORT = of_lengths(LENGTHS)


def windows(tokens=TEXT, batch_size=3, context=5, seed=7):
    return WindowBatches(tokens, batch_size=batch_size, context=context, seed=seed)


def packed(tokens=SHORT, batch_size=3, context=8, seed=7):
    return PackedBatches(tokens, batch_size=batch_size, context=context, seed=seed)


def validation(tokens=TEXT, batch_size=3, context=5, batches=2):
    return validation_windows(tokens, batch_size=batch_size, context=context, batches=batches)


def once(tokens=SHORT, batch_size=3, context=8):
    return packed_batches(tokens, batch_size=batch_size, context=context)


def assert_same(received, expected):
    """The same rows, or the same lists of batches."""
    assert len(received) == len(expected)
    for one, other in zip(received, expected, strict=True):
        if isinstance(one, Batch):
            assert_same(one, other)
        else:
            np.testing.assert_array_equal(one, other)


def document_of(tokens, place):
    """The number of the document in which a token lies, found one after the other."""
    return next(i for i, (start, end) in enumerate(pairwise(tokens.starts)) if start <= place < end)


def targets_of(tokens):
    """What there is to predict: a Counter of (token, the token after it in its document)."""
    return Counter((i, i + 1) for start, end in pairwise(tokens.starts.tolist()) for i in range(start, end - 1))


def predicted(*batches):
    """What some batches ask for: a Counter of (token, target)."""
    return Counter((int(token), int(target)) for ids, targets, _ in batches
                   for token, target in zip(ids.flat, targets.flat, strict=True) if target != -100)


def pieces_of(batch):
    """The pieces in the rows of a batch, each a list of its inputs and its last target."""
    pieces = []
    for ids, targets, documents in zip(*batch, strict=True):
        for document in np.unique(documents[documents >= 0]):
            here = np.flatnonzero(documents == document)
            assert np.all(np.diff(here) == 1), "a document lies in one stretch"
            pieces.append([*ids[here].tolist(), int(targets[here[-1]])])
    return pieces


def assert_is_packed_well(batch, context):
    """What holds for every batch of packed rows of `of_lengths`, whatever lies in which."""
    for array in batch:
        assert array.shape == batch.ids.shape
        assert array.dtype == np.int64
        assert array.flags.c_contiguous
    assert batch.ids.shape[1] == context
    is_free = batch.documents == -1
    assert not batch.ids[is_free].any()
    np.testing.assert_array_equal(batch.targets == -100, is_free)       # a place is free or has a target
    np.testing.assert_array_equal(batch.targets[~is_free], batch.ids[~is_free] + 1)


# ---- random windows

def test_a_batch_has_its_shape_and_targets_one_step_ahead():
    inputs, targets, documents = windows().batch(0)
    for array in (inputs, targets):
        assert array.shape == (3, 5)
        assert array.dtype == np.int64
        assert array.flags.c_contiguous
    assert documents is None                # there is only one
    np.testing.assert_array_equal(targets, inputs + 1)
    np.testing.assert_array_equal(inputs, windows().starts(0)[:, None] + np.arange(5))


@pytest.mark.parametrize("make", [windows, packed])
def test_a_batch_is_a_function_of_seed_and_step(make):
    one, other = make(), make()
    expected = [one.batch(step) for step in range(20)]
    for step in reversed(range(20)):        # in another order, and again
        for _ in range(2):
            assert_same(other.batch(step), expected[step])
    assert_same(make(seed=np.int64(7)).batch(np.int64(3)), expected[3])
    np.random.seed(5)                       # noqa: NPY002  nobody draws from what all share
    assert_same(make().batch(12), expected[12])
    expected[0].ids[...] = -1               # whoever changes a batch changes nobody else's
    expected[0].targets[...] = -1
    assert_same(one.batch(0), other.batch(0))


@pytest.mark.parametrize("make", [windows, packed])
def test_a_step_is_an_integer(make):
    with pytest.raises(TypeError, match="integer"):
        make().batch(1.0)
    with pytest.raises(TypeError, match="integer"):
        make(seed=1.5)


def test_these_are_the_windows_that_earlier_runs_saw():
    # If this changes, a run that is resumed no longer sees the text it would have seen.
    assert windows().starts(0).tolist() == [806, 273, 627]
    assert windows().starts(1).tolist() == [757, 661, 816]
    assert windows(SHORT, context=8).starts(0).tolist() == WindowBatches(
        of_lengths([sum(LENGTHS)]), batch_size=3, context=8, seed=7).starts(0).tolist()


def test_seeds_steps_and_rows_all_matter():
    starts = [tuple(windows(seed=seed).starts(step)) for seed in range(-2, 3) for step in range(20)]
    assert len(set(starts)) == len(starts)
    assert len({start for row in starts for start in row}) > 200


@pytest.mark.parametrize("size", [6, 7, 20])
def test_every_window_is_reached_and_no_other(size):
    batches = windows(of_lengths([size]))
    starts = {int(start) for step in range(200) for start in batches.starts(step)}
    assert starts == set(range(size - 5))


def test_every_window_is_equally_likely():
    batches = windows(of_lengths([15]), batch_size=50)      # 10 places to start
    counts = np.bincount(np.concatenate([batches.starts(step) for step in range(400)]), minlength=10)
    expected = 400 * 50 / 10
    chi_square = np.sum((counts - expected) ** 2 / expected)
    assert chi_square < 27.9                        # exceeded once in a thousand, with 9 degrees of freedom


@pytest.mark.parametrize("lengths", [LENGTHS, [6, 6], [1] * 12, [0, 11, 0, 0], [0, 0, 4, 5, 0, 3, 0]])
@pytest.mark.parametrize("make", [windows, validation])
def test_no_window_predicts_across_documents(lengths, make):
    tokens = of_lengths(lengths)
    batches = list(validation(tokens, context=7, batches=4)) if make is validation else [
        windows(tokens, context=7).batch(step) for step in range(30)]
    for ids, targets, documents in batches:
        assert documents.shape == (3, 7)
        assert documents.dtype == np.int64
        for row in range(3):
            homes = [document_of(tokens, place) for place in ids[row]]
            expected = [place + 1 if place + 1 < len(tokens.ids) and document_of(tokens, place + 1) == home else -100
                        for place, home in zip(ids[row].tolist(), homes, strict=True)]
            np.testing.assert_array_equal(ids[row], ids[row, 0] + np.arange(7))
            assert targets[row].tolist() == expected
            for i in range(7):
                for j in range(7):
                    assert (documents[row, i] == documents[row, j]) == (homes[i] == homes[j])


# ---- evenly spaced windows

def test_training_never_sees_a_token_of_the_validation_windows():
    train, held_back = of_lengths([900]), Tokens(TEXT.ids[900:], np.array([0, 100]))
    batches = windows(train, batch_size=12)
    seen = {int(token) for step in range(300) for array in batches.batch(step)[:2] for token in array.flat}
    held_out = {int(token) for batch in validation(held_back, batches=6) for array in batch[:2] for token in array.flat}
    assert seen == set(range(900))          # all of it, targets included
    assert held_out <= set(range(900, 1000))


def test_validation_windows_are_evenly_spaced_from_end_to_end():
    batches = list(validation(batch_size=12, context=4, batches=20))
    assert len(batches) == 20
    for inputs, targets, documents in batches:
        assert inputs.shape == targets.shape == (12, 4)
        assert inputs.dtype == targets.dtype == np.int64
        assert documents is None
        np.testing.assert_array_equal(targets, inputs + 1)
    starts = np.concatenate([batch.ids[:, 0] for batch in batches])
    assert starts[0] == 0
    assert batches[-1].targets[-1, -1] == TEXT.ids[-1]
    assert set(np.diff(starts)) <= {4, 5}           # no overlap: 240 windows of 4 fit into 1000 tokens
    assert_same(list(validation(batch_size=12, context=4, batches=20)), batches)


def test_validation_windows_of_a_short_text_overlap():
    batches = list(validation(of_lengths([7]), batch_size=2))
    assert [batch.ids[:, 0].tolist() for batch in batches] == [[0, 0], [0, 1]]
    ((inputs, targets, _),) = validation(of_lengths([6]), batch_size=1, batches=1)
    assert inputs.tolist() == [[0, 1, 2, 3, 4]]
    assert targets.tolist() == [[1, 2, 3, 4, 5]]


# ---- what is refused

@pytest.mark.parametrize(("settings", "message"), [
    ({"batch_size": 0}, "batch_size: expected an integer of at least 1, got 0"),
    ({"batch_size": 2.5}, "batch_size: expected an integer of at least 1, got 2.5"),
    ({"context": 0}, "context: expected an integer of at least 1, got 0"),
    ({"context": -3}, "context: expected an integer of at least 1, got -3"),
    ({"context": "8"}, "context: expected an integer of at least 1, got '8'"),
])
@pytest.mark.parametrize("make", [windows, packed, validation, once])
def test_sizes_that_are_none_are_refused_at_once(make, settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


@pytest.mark.parametrize(("lengths", "count"), [([5], 5), ([2, 0, 3], 5), ([], 0), ([0], 0)])
@pytest.mark.parametrize("make", [windows, validation])
def test_a_text_shorter_than_a_window_is_refused(make, lengths, count):
    message = rf"tokens: expected at least 6, a context of 5 and one .* got {count}; use a longer text or a smaller"
    with pytest.raises(ValueError, match=message):
        make(of_lengths(lengths))


def test_validation_windows_need_at_least_one_batch():
    with pytest.raises(ValueError, match="batches: expected an integer of at least 1, got 0"):
        validation(batches=0)


@pytest.mark.parametrize(("lengths", "documents", "rows"), [
    ([9, 9], 2, 2), ([3] * 12, 12, 3), ([25], 1, 3), ([1, 0, 1], 3, 0), ([], 0, 0)])
def test_documents_that_do_not_fill_a_batch_are_refused(lengths, documents, rows):
    message = f"tokens: expected documents that fill 4 rows of 8, .* got {documents} documents that fill {rows}; use"
    with pytest.raises(ValueError, match=message):
        packed(of_lengths(lengths), batch_size=4)
    if rows:
        assert packed(of_lengths(lengths), batch_size=rows).batch(0).ids.shape == (rows, 8)


# ---- packed rows

@pytest.mark.parametrize("context", [1, 3, 8, 20])
@pytest.mark.parametrize("seed", [-1, 0, 7])
def test_an_epoch_has_every_target_of_every_document_once(context, seed):
    batches = packed(batch_size=1, context=context, seed=seed)
    rows = len(batches.packing)
    for epoch in range(3):
        seen = [batches.batch(step) for step in range(epoch * rows, (epoch + 1) * rows)]
        assert predicted(*seen) == targets_of(SHORT)
        for batch in seen:
            assert_is_packed_well(batch, context)


def random_documents(rng, count=300):
    return of_lengths(np.maximum(rng.geometric(1 / 12, count) - 1, 0))


@pytest.mark.parametrize("context", [5, 16, 64])
def test_packing_loses_nothing_of_many_documents(context, rng):
    tokens = random_documents(rng)
    for packing in (Packing(tokens, context=context), Packing(tokens, context=context, seed=3)):
        batch = packing.rows(range(len(packing)))
        assert_is_packed_well(batch, context)
        assert predicted(batch) == targets_of(tokens)


def test_a_document_that_fits_stays_whole_and_a_longer_one_is_cut_with_one_token_in_common():
    batch = Packing(SHORT, context=8, seed=7).rows(range(len(Packing(SHORT, context=8, seed=7))))
    expected = []
    for start, end in pairwise(SHORT.starts.tolist()):
        for first in range(start, end - 1, 8):          # 17 tokens: 0 to 8 and 8 to 16
            expected.append(list(range(first, min(first + 9, end))))
    assert sorted(pieces_of(batch)) == expected
    assert [len(piece) for piece in expected] == [4, 9, 2, 9, 9, 3, 6, 2, 9, 4, 5, 7]


def test_these_are_the_rows_as_they_look():
    # Documents of 4, 1, 3 and 7 tokens in rows of 5: the first and the third share a row, the last is cut.
    packing = Packing(of_lengths([4, 1, 3, 7]), context=5)
    ids, targets, documents = packing.rows([0, 1, 2])
    assert len(packing) == 3
    assert ids.tolist() == [[0, 1, 2, 5, 6], [8, 9, 10, 11, 12], [13, 0, 0, 0, 0]]
    assert targets.tolist() == [[1, 2, 3, 6, 7], [9, 10, 11, 12, 13], [14, -100, -100, -100, -100]]
    assert documents.tolist() == [[0, 0, 0, 1, 1], [0, 0, 0, 0, 0], [0, -1, -1, -1, -1]]


def test_each_piece_goes_to_the_fullest_row_with_room():
    # Rows of 10. The piece of 2 fits into all three rows and goes to the one with 3 free places, not to that with 5.
    packing = Packing(of_lengths([6, 8, 10, 3]), context=10)
    assert (packing.rows([0, 1, 2]).documents >= 0).sum(axis=1).tolist() == [5, 9, 9]


@pytest.mark.parametrize("context", [7, 40])
def test_packing_is_that_of_a_slow_search(context, rng):
    tokens = random_documents(rng)
    targets = np.maximum(tokens.lengths - 1, 0).tolist()
    used = []                               # places of each row
    for length in (piece for n in targets for piece in [context] * (n // context) + [n % context] if piece):
        fitting = [i for i, taken in enumerate(used) if taken + length <= context]
        if fitting:
            used[max(fitting, key=used.__getitem__)] += length
        else:
            used.append(length)
    packing = Packing(tokens, context=context)
    assert sorted((packing.rows(range(len(packing))).documents >= 0).sum(axis=1)) == sorted(used)


@pytest.mark.parametrize(("mean", "context", "share"), [(8, 64, 0.98), (40, 64, 0.9), (150, 64, 0.9), (20, 256, 0.99)])
def test_few_places_stay_free(mean, context, share, rng):
    tokens = of_lengths(rng.geometric(1 / mean, 2000) + 1)
    for seed in (None, 0):
        packing = Packing(tokens, context=context, seed=seed)
        filled = (tokens.lengths - 1).sum() / (len(packing) * context)
        assert share < filled <= 1


def test_many_documents_in_long_rows_are_packed_tightly(rng):
    packing = Packing(of_lengths(rng.integers(20, 90, 40_000)), context=16_384, seed=0)
    assert len(packing) == 131      # 130.5 would be full


def test_these_are_the_rows_that_earlier_runs_saw():
    # If this changes, a run that is resumed no longer sees the text it would have seen.
    def first_tokens(batch):
        """Where each piece begins, row by row."""
        return [[piece[0] for piece in pieces_of(Batch(*(array[row:row + 1] for array in batch)))] for row in range(3)]
    assert len(packed().packing) == 8
    assert first_tokens(packed().batch(0)) == [[5], [0], [16]]
    assert first_tokens(packed().batch(1)) == [[44], [56, 52, 42], [24]]
    assert first_tokens(packed().batch(5)) == [[36, 14], [16], [0]]
    assert first_tokens(packed(seed=-7).batch(0)) == [[52, 14, 56], [62, 33], [16]]


def rows_of_epoch(batches, epoch):
    """The rows of an epoch, each as a tuple of its inputs. `batches` has batches of one row."""
    rows = len(batches.packing)
    return [tuple(batches.batch(step).ids[0]) for step in range(epoch * rows, (epoch + 1) * rows)]


def test_each_epoch_has_the_same_rows_in_another_order(rng):
    batches = packed(random_documents(rng, 200), batch_size=1, context=32)
    epochs = [rows_of_epoch(batches, epoch) for epoch in range(4)]
    for epoch in epochs:
        assert sorted(epoch) == sorted(epochs[0])
    stay = [sum(a == b for a, b in zip(one, other, strict=True)) for one, other in pairwise(epochs)]
    assert max(stay) <= 8                   # of about 70; one stays on average, and more than 8 once in a million


def test_each_seed_has_other_rows_in_another_order(rng):
    tokens = random_documents(rng, 200)
    epochs = [rows_of_epoch(packed(tokens, batch_size=1, context=32, seed=seed), 0)
              for seed in (-7, -1, 0, 1, 7, 2**40)]
    assert len({epoch[0] for epoch in epochs}) == len(epochs)
    for i, one in enumerate(epochs):
        for other in epochs[:i]:
            shared = len(set(one) & set(other))
            assert shared < len(one) / 3    # other documents lie together; pieces that fill a row are the same


def test_a_batch_reaches_over_the_end_of_an_epoch():
    rows = len(packed().packing)
    assert rows % 3                         # else none reaches over
    singles = packed(batch_size=1)
    for step in range(3 * rows):
        expected = [singles.batch(row) for row in range(3 * step, 3 * step + 3)]
        assert_same(packed().batch(step), [np.concatenate(arrays) for arrays in zip(*expected, strict=True)])


# ---- every target once

@pytest.mark.parametrize(("batch_size", "context"), [(1, 1), (2, 8), (3, 8), (7, 5), (100, 30)])
@pytest.mark.parametrize("lengths", [LENGTHS, [30], [2] * 9, [0, 1, 3]])
def test_an_evaluation_predicts_every_target_once(lengths, batch_size, context):
    tokens = of_lengths(lengths)
    batches = list(once(tokens, batch_size, context))
    assert predicted(*batches) == targets_of(tokens)
    for batch in batches:
        assert_is_packed_well(batch, context)
    assert {len(batch.ids) for batch in batches[:-1]} <= {batch_size}
    assert 1 <= len(batches[-1].ids) <= batch_size
    assert_same(list(once(tokens, batch_size, context)), batches)


@pytest.mark.parametrize("lengths", [[], [0], [1, 0, 1]])
def test_where_nothing_can_be_predicted_there_is_no_batch(lengths):
    assert list(once(of_lengths(lengths))) == []


def test_an_evaluation_packs_a_batch_at_a_time():
    batches = once(of_lengths([9] * 100), batch_size=2)
    assert [batch.ids[:, 0].tolist() for batch in islice(batches, 2)] == [[0, 9], [18, 27]]


# ---- choosing

@pytest.mark.parametrize(("limit", "count"), [
    (0, 1), (3, 1), (4, 1), (5, 2), (13, 2), (14, 4), (15, 4), (16, 5), (68, 12), (69, 13), (1000, 13)])
def test_the_first_documents_are_as_many_as_the_limit_allows(limit, count):
    # 4, 1, 9, 0, 2, ... tokens: 4, 5, 14, 14, 16 together
    first = first_documents(SHORT, limit)
    assert first.lengths.tolist() == LENGTHS[:count]
    assert first.ids.tolist() == list(range(sum(LENGTHS[:count])))


@pytest.mark.parametrize(("lengths", "context", "short"), [
    ([9], 8, True), ([10], 8, False),               # 9 tokens have 8 targets
    ([9, 10], 8, True), ([9, 10, 10], 8, False), ([10, 9, 9], 8, True), ([1000, 0, 2, 1000], 8, True)])
def test_documents_are_short_where_half_of_them_fit(lengths, context, short):
    assert are_short(of_lengths(lengths), context) == short


# ---- what a model makes of it

WORDS = np.random.default_rng(1).integers(0, 13, sum(LENGTHS)).astype(np.uint16)


def alone(tokens, context):
    """(inputs, targets) of each document by itself, (1, T) each, and of each piece of those that are too long."""
    for start, end in pairwise(tokens.starts.tolist()):
        for first in range(start, end - 1, context):
            last = min(first + context, end - 1)
            yield (tokens.ids[places].astype(np.int64)[None] for places in (slice(first, last),
                                                                           slice(first + 1, last + 1)))


@pytest.mark.parametrize("context", [8, 11, 19])
def test_the_loss_of_packed_rows_is_the_sum_of_that_of_their_documents(context):
    tokens, model = SHORT._replace(ids=WORDS), tiny_model(max_position_embeddings=19)
    packing = Packing(tokens, context=context, seed=2)
    ids, targets, documents = packing.rows(range(len(packing)))
    assert (documents == -1).any()                                      # there are free places
    assert (documents.max(axis=1) >= 2).any()                           # and rows of several documents
    loss, grads = model.loss_and_grads(ids, targets, 1, documents=documents)
    grads = copies(grads)
    expected, accumulate = 0.0, False
    for inputs, outputs in alone(tokens, context):
        part, sums = model.loss_and_grads(inputs, outputs, 1, accumulate=accumulate)
        expected, accumulate = expected + part, True
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    assert_same_gradients(grads, sums)


def test_the_loss_of_windows_is_that_of_the_parts_of_documents_in_them():
    tokens, model = SHORT._replace(ids=WORDS), tiny_model(max_position_embeddings=19)
    ids, targets, documents = windows(tokens, batch_size=6, context=19).batch(0)
    expected = 0.0
    for row, start in enumerate(windows(tokens, batch_size=6, context=19).starts(0)):
        inside = Tokens(WORDS, np.unique([start, *tokens.starts, start + 20]).clip(start, start + 20))
        expected += sum(model.loss(*pair, divisor=1) for pair in alone(inside, 19))
        assert targets[row].max() >= 0
    np.testing.assert_allclose(model.loss(ids, targets, divisor=1, documents=documents), expected, rtol=1e-12)


# ---- wrong versions

def without_last_targets(batch):
    """Each document loses its last target."""
    is_last = np.diff(batch.documents, axis=1, append=-2) != 0
    return batch._replace(targets=np.where(is_last, -100, batch.targets))


def across_documents(batch):
    """The target of a token is the next one in the row, whosever it is."""
    targets = np.roll(batch.ids, -1, axis=1)
    return batch._replace(targets=np.where(batch.documents >= 0, targets, -100))


def without_mask(batch):
    """All tokens of a row see one another."""
    return batch._replace(documents=np.zeros_like(batch.documents))


def with_targets_in_free_places(batch):
    """Padding is trained on."""
    return batch._replace(targets=np.where(batch.targets == -100, 0, batch.targets))


def with_a_row_twice(batch):
    """A row takes the place of another."""
    return Batch(*(np.concatenate([array[:-1], array[:1]]) for array in batch))


WRONG = [without_last_targets, across_documents, without_mask, with_targets_in_free_places, with_a_row_twice]


@pytest.mark.parametrize("spoil", WRONG)
def test_a_wrong_packing_would_be_noticed(spoil):
    packing = Packing(SHORT, context=11, seed=2)
    right = packing.rows(range(len(packing)))
    wrong = spoil(right)

    def check(batch):
        assert_is_packed_well(batch, 11)
        assert predicted(batch) == targets_of(SHORT)
        assert sorted(pieces_of(batch)) == sorted(pieces_of(right))
    check(right)
    with pytest.raises(AssertionError):
        check(wrong)


@pytest.mark.parametrize("spoil", WRONG)
def test_a_wrong_packing_would_change_the_loss(spoil):
    packing = Packing(SHORT._replace(ids=WORDS), context=11, seed=2)
    model, right = tiny_model(max_position_embeddings=11), packing.rows(range(len(packing)))
    losses = [model.loss(ids, targets, divisor=1, documents=documents)
              for ids, targets, documents in (right, spoil(right))]
    assert abs(losses[1] / losses[0] - 1) > 1e-4            # where the right one agrees to 1e-12
