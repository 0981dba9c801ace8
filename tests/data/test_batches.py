import numpy as np
import pytest

from tinyllama.data import Batches, split, validation_windows

IDS = np.arange(1000, dtype=np.int32)       # a token is its own position, so that a window shows where it lies


def make(ids=IDS, batch_size=3, context=5, seed=7):
    return Batches(ids, batch_size=batch_size, context=context, seed=seed)


def test_a_batch_has_its_shape_and_targets_one_step_ahead():
    inputs, targets = make().batch(0)
    for array in (inputs, targets):
        assert array.shape == (3, 5)
        assert array.dtype == np.int64
        assert array.flags.c_contiguous
    np.testing.assert_array_equal(targets, inputs + 1)
    np.testing.assert_array_equal(inputs, make().starts(0)[:, None] + np.arange(5))


def test_a_batch_is_a_function_of_seed_and_step():
    one, other = make(), make()
    expected = [one.batch(step) for step in range(20)]
    for step in reversed(range(20)):        # in another order, and again
        for _ in range(2):
            np.testing.assert_array_equal(other.batch(step), expected[step])
    np.testing.assert_array_equal(make(seed=np.int64(7)).batch(np.int64(3)), expected[3])


def test_these_are_the_windows_that_earlier_runs_saw():
    # If this changes, a run that is resumed no longer sees the text it would have seen.
    assert make().starts(0).tolist() == [806, 273, 627]
    assert make().starts(1).tolist() == [757, 661, 816]


def test_seeds_steps_and_rows_all_matter():
    starts = [tuple(make(seed=seed).starts(step)) for seed in range(-2, 3) for step in range(20)]
    assert len(set(starts)) == len(starts)
    assert len({start for row in starts for start in row}) > 200


@pytest.mark.parametrize("size", [6, 7, 20])
def test_every_window_is_reached_and_no_other(size):
    batches = make(IDS[:size])
    starts = {int(start) for step in range(200) for start in batches.starts(step)}
    assert starts == set(range(size - 5))


def test_every_window_is_equally_likely():
    batches = make(IDS[:15], batch_size=50)         # 10 places to start
    counts = np.bincount(np.concatenate([batches.starts(step) for step in range(400)]), minlength=10)
    expected = 400 * 50 / 10
    chi_square = np.sum((counts - expected) ** 2 / expected)
    assert chi_square < 27.9                        # exceeded once in a thousand, with 9 degrees of freedom


def test_the_ids_may_be_a_list_or_a_file(tmp_path):
    path = tmp_path / "ids.npy"
    np.save(path, IDS.astype(np.uint16))
    expected = make().batch(4)
    np.testing.assert_array_equal(make(IDS.tolist()).batch(4), expected)
    np.testing.assert_array_equal(make(np.load(path, mmap_mode="r")).batch(4), expected)


@pytest.mark.parametrize(("settings", "message"), [
    ({"ids": IDS[:5]}, r"ids: expected at least 6 tokens, a context of 5 .* got 5"),
    ({"ids": []}, r"ids: expected at least 6 tokens, .* got 0"),
    ({"ids": IDS.reshape(10, 100)}, r"ids: expected one row of tokens, .* shape \(10, 100\)"),
    ({"ids": IDS / 1}, "ids: expected integers, got float64"),
    ({"batch_size": 0}, "batch_size: expected an integer of at least 1, got 0"),
    ({"batch_size": 2.5}, "batch_size: expected an integer of at least 1, got 2.5"),
    ({"context": 0}, "context: expected an integer of at least 1, got 0"),
    ({"context": -3}, "context: expected an integer of at least 1, got -3"),
])
@pytest.mark.parametrize("call", [make, lambda ids=IDS, batch_size=3, context=5: validation_windows(
    ids, batch_size=batch_size, context=context, batches=2)], ids=["Batches", "validation_windows"])
def test_what_cannot_be_cut_into_windows_is_refused(call, settings, message):
    with pytest.raises(ValueError, match=message):
        call(**settings)


def test_split_takes_the_end_for_validation():
    train, validation = split(IDS)
    np.testing.assert_array_equal(np.concatenate([train, validation]), IDS)
    assert len(validation) == 100
    assert np.shares_memory(train, IDS)
    assert [len(part) for part in split(range(1_115_394))] == [1_003_854, 111_540]      # as nanoGPT splits this text
    assert [len(part) for part in split(IDS, 0.25)] == [750, 250]
    assert [len(part) for part in split(IDS, 0)] == [1000, 0]


@pytest.mark.parametrize("fraction", [-0.1, 1, 1.5, float("nan")])
def test_split_refuses_a_fraction_that_is_none(fraction):
    with pytest.raises(ValueError, match="validation_fraction: expected 0 <= validation_fraction < 1"):
        split(IDS, fraction)


def test_training_never_sees_a_token_of_the_validation_windows():
    train, validation = split(IDS)
    batches = make(train, batch_size=12)
    seen = {int(token) for step in range(300) for array in batches.batch(step) for token in array.flat}
    held_out = {int(token) for pair in validation_windows(validation, batch_size=3, context=5, batches=6)
                for array in pair for token in array.flat}
    assert seen == set(range(900))          # all of it, targets included
    assert held_out <= set(range(900, 1000))


def test_validation_windows_are_evenly_spaced_from_end_to_end():
    pairs = list(validation_windows(IDS, batch_size=12, context=4, batches=20))
    assert len(pairs) == 20
    for inputs, targets in pairs:
        assert inputs.shape == targets.shape == (12, 4)
        assert inputs.dtype == targets.dtype == np.int64
        np.testing.assert_array_equal(targets, inputs + 1)
    starts = np.concatenate([inputs[:, 0] for inputs, _ in pairs])
    assert starts[0] == 0
    assert pairs[-1][1][-1, -1] == IDS[-1]
    assert set(np.diff(starts)) <= {4, 5}           # no overlap: 240 windows of 4 fit into 1000 tokens
    again = list(validation_windows(IDS, batch_size=12, context=4, batches=20))
    np.testing.assert_array_equal(again, pairs)


def test_validation_windows_of_a_short_text_overlap():
    pairs = list(validation_windows(IDS[:7], batch_size=2, context=5, batches=2))
    assert [inputs[:, 0].tolist() for inputs, _ in pairs] == [[0, 0], [0, 1]]
    ((inputs, targets),) = validation_windows(IDS[:6], batch_size=1, context=5, batches=1)
    assert inputs.tolist() == [[0, 1, 2, 3, 4]]
    assert targets.tolist() == [[1, 2, 3, 4, 5]]


def test_validation_windows_need_at_least_one_batch():
    with pytest.raises(ValueError, match="batches: expected an integer of at least 1, got 0"):
        validation_windows(IDS, batch_size=2, context=5, batches=0)
