import numpy as np
import pytest

from tinyllama.data import Tokens, WindowBatches, tokenize
from tinyllama.data.batches import Packing
from tinyllama.tokenizers import CharacterTokenizer


class CodePoints:
    """A tokenizer whose tokens are code points, so that a document can be read in its tokens."""

    def __init__(self, vocab_size=1000, bos_token_id=None, eos_token_id=None):
        self.vocab_size, self.bos_token_id, self.eos_token_id = vocab_size, bos_token_id, eos_token_id

    def encode_to_array(self, text):
        return np.array([ord(character) for character in text], dtype=np.int32)


def assert_same(received, expected):
    """The same tokens and starts, in the same types."""
    for one, other in zip(received, expected, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def sample(dtype=np.uint16):
    """Documents of 3, 0, 4 and 1 tokens."""
    return Tokens(np.array([5, 9, 5, 60_000, 1, 2, 3, 8], dtype=dtype), np.array([0, 3, 3, 7, 8]))


# ---- from text

@pytest.mark.parametrize(("bos", "eos", "ids", "starts"), [
    (None, None, [97, 98, 99, 100, 101], [0, 2, 2, 5]),
    (0, None, [0, 97, 98, 0, 0, 99, 100, 101], [0, 3, 4, 8]),           # token 0 is a token
    (None, 999, [97, 98, 999, 999, 99, 100, 101, 999], [0, 3, 4, 8]),
    (998, 999, [998, 97, 98, 999, 998, 999, 998, 99, 100, 101, 999], [0, 4, 6, 11]),
    (7, 7, [7, 97, 98, 7, 7, 7, 7, 99, 100, 101, 7], [0, 4, 6, 11]),
])
def test_documents_stand_one_after_the_other_between_their_special_tokens(bos, eos, ids, starts):
    tokens = tokenize(["ab", "", "cde"], CodePoints(bos_token_id=bos, eos_token_id=eos))
    assert_same(tokens, (np.array(ids, dtype=np.uint16), np.array(starts, dtype=np.int64)))
    assert tokens.lengths.tolist() == np.diff(starts).tolist()


@pytest.mark.parametrize(("vocab_size", "dtype"), [
    (2, np.uint16), (2**16, np.uint16), (2**16 + 1, np.uint32), (0x110000, np.uint32)])
def test_a_token_takes_16_bits_where_that_is_enough(vocab_size, dtype):
    document = "a" + chr(min(vocab_size, 0x110000) - 1)
    tokens = tokenize([document, document], CodePoints(vocab_size, bos_token_id=vocab_size - 1))
    assert tokens.ids.dtype == dtype
    assert tokens.ids.tolist() == [vocab_size - 1, 97, vocab_size - 1] * 2


@pytest.mark.parametrize(("documents", "starts"), [([], [0]), ([""], [0, 0]), (["", ""], [0, 0, 0])])
def test_nothing_makes_no_tokens(documents, starts):
    assert_same(tokenize(documents, CodePoints()), (np.zeros(0, dtype=np.uint16), np.array(starts)))


def test_the_documents_may_come_one_by_one():
    assert_same(tokenize(iter(["ab", "c"]), CodePoints()), tokenize(["ab", "c"], CodePoints()))


def test_what_the_tokenizer_cannot_encode_is_its_error():
    with pytest.raises(ValueError, match="'z'"):
        tokenize(["abc", "abz"], CharacterTokenizer.train("abc"))


# ---- files

@pytest.mark.parametrize("tokens", [
    sample(), sample(np.uint32), tokenize([""], CodePoints()), tokenize([], CodePoints())],
    ids=["16 bits", "32 bits", "one empty document", "no document"])
def test_what_is_saved_opens_as_it_was(tokens, tmp_path):
    tokens.save(tmp_path / "made" / "here", "train")
    assert sorted(path.name for path in (tmp_path / "made" / "here").iterdir()) == ["train-starts.npy", "train.npy"]
    opened = Tokens.open(str(tmp_path / "made" / "here"), "train")
    assert isinstance(opened.ids, np.memmap)
    assert_same(opened, tokens)
    opened.save(tmp_path / "again", "train")        # out of the files
    assert_same(Tokens.open(tmp_path / "again", "train"), tokens)


def test_several_live_in_one_directory_and_a_name_can_be_saved_anew(tmp_path):
    one, other = sample(), tokenize(["ab", "cde"], CodePoints())
    one.save(tmp_path, "train")
    one.save(tmp_path, "validation")
    other.save(tmp_path, "train")
    assert_same(Tokens.open(tmp_path, "train"), other)
    assert_same(Tokens.open(tmp_path, "validation"), one)


def test_opened_tokens_cannot_be_changed(tmp_path):
    sample().save(tmp_path, "train")
    opened = Tokens.open(tmp_path, "train")
    with pytest.raises(ValueError, match="read-only"):
        opened.ids[0] = 1


@pytest.mark.parametrize("first_rows", [
    lambda tokens: WindowBatches(tokens, batch_size=8, context=64, seed=0).batch(0),
    lambda tokens: Packing(tokens, context=64).rows(range(8)),
], ids=["windows", "packed"])
def test_a_batch_reads_no_more_of_a_file_than_its_rows(first_rows, tmp_path):
    ids, read = np.arange(60_000, dtype=np.uint16), []
    tokens = Tokens(ids, np.arange(0, 60_001, 50))
    tokens.save(tmp_path, "train")
    opened = Tokens.open(tmp_path, "train")

    class Watched(np.memmap):
        def __getitem__(self, key):
            part = super().__getitem__(key)
            read.append(np.size(part))
            return part

        def __array__(self, *args, **kwargs):
            raise AssertionError("read whole")

    watched = opened._replace(ids=opened.ids.view(Watched))
    batch = first_rows(watched)
    assert 2 * 8 * 49 <= sum(read) <= 2 * 8 * 64        # inputs and targets of 8 rows
    for received, expected in zip(batch, first_rows(tokens), strict=True):
        np.testing.assert_array_equal(received, expected)


@pytest.mark.parametrize("name", ["train.npy", "train-starts.npy"])
def test_a_missing_file_is_named(name, tmp_path):
    sample().save(tmp_path, "train")
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name}: expected the tokens of the run"):
        Tokens.open(tmp_path, "train")


@pytest.mark.parametrize("name", ["train.npy", "train-starts.npy"])
def test_a_file_that_was_cut_anywhere_is_refused_and_named(name, tmp_path):
    sample().save(tmp_path, "train")
    whole = (tmp_path / name).read_bytes()
    for size in range(len(whole)):
        (tmp_path / name).write_bytes(whole[:size])
        with pytest.raises(ValueError, match=rf"{name}: expected an array of tokens, got a file that is no array or"):
            Tokens.open(tmp_path, "train")


def write_npz(path):
    with open(path, "wb") as stream:
        np.savez(stream, ids=np.zeros(8, dtype=np.uint16))


@pytest.mark.parametrize("write", [
    lambda path: path.write_text("not tokens but text\n" * 20, encoding="utf-8"),
    lambda path: path.write_bytes(b"PK\x03\x04 is no zip file"),
    write_npz,
    lambda path: np.save(path, np.array([{}, None]), allow_pickle=True),
], ids=["text", "broken zip", "npz", "pickle"])
def test_another_kind_of_file_is_refused_and_named(write, tmp_path):
    sample().save(tmp_path, "train")
    write(tmp_path / "train.npy")
    with pytest.raises(ValueError, match=r"train\.npy: expected an array of tokens, got a file that is no array"):
        Tokens.open(tmp_path, "train")


IDS, STARTS = sample()


@pytest.mark.parametrize(("ids", "starts"), [
    (IDS[:7], STARTS),                                  # of two different runs
    (IDS, STARTS[:-1]),
    (IDS, STARTS[1:]),
    (IDS, np.array([0, 5, 3, 8])),
    (IDS, STARTS[:0]),
    (IDS, STARTS / 1),
    (IDS, STARTS[:, None]),
    (IDS.reshape(2, 4), STARTS),
    (IDS / 1, STARTS),
    (IDS.astype(np.int64), STARTS),
    (STARTS, IDS),
])
def test_arrays_that_do_not_belong_together_are_refused(ids, starts, tmp_path):
    Tokens(ids, starts).save(tmp_path, "train")
    with pytest.raises(ValueError, match=r"expected tokens and .* in train\.npy and train-starts\.npy, got arrays"):
        Tokens.open(tmp_path, "train")
