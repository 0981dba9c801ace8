"""SentencePiece's tokenizer.model: what we read from it, and what is refused by name."""

import pytest
from sentencepiece_files import BYTES, NAMES, field, message, model_file, normal, varint

import tinyllama as tl
from tinyllama.tokenizers import SentencePieceTokenizer
from tinyllama.tokenizers.pieces import Kind, Piece
from tinyllama.tokenizers.protobuf import BYTES as TEXT
from tinyllama.tokenizers.protobuf import FIXED32, VARINT, fields, read
from tinyllama.tokenizers.spaces import Spaces

PIECES = [*NAMES, *BYTES, *normal("▁a", "▁", "a"), Piece("<user>", Kind.USER_DEFINED), Piece("b", Kind.UNUSED, -4.0)]


def written(data, tmp_path):
    (tmp_path / "any name").write_bytes(data)
    return tmp_path / "any name"


def test_every_piece_is_read_with_its_kind_and_score(tmp_path):
    tokenizer = tl.load_tokenizer(written(model_file(PIECES), tmp_path))
    assert type(tokenizer) is SentencePieceTokenizer
    assert tokenizer.pieces == PIECES
    assert tokenizer.special_tokens == {"<unk>": 0, "<s>": 1, "</s>": 2}
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    assert tokenizer.spaces == Spaces("always", remove_extra=False, drop_first=True)
    assert tokenizer.encode("a<user>a") == [259, 262, 261]


def test_live_the_library_reads_our_files_as_we_do():
    library = pytest.importorskip("sentencepiece", reason="The library sentencepiece is not installed.")
    theirs = library.SentencePieceProcessor(model_proto=model_file(PIECES))
    assert [theirs.id_to_piece(token) for token in range(len(PIECES))] == [piece.text for piece in PIECES]
    assert [theirs.get_score(token) for token in range(len(PIECES))] == [piece.score for piece in PIECES]


@pytest.mark.parametrize(("normalizer", "expected"), [
    ({}, Spaces("always", remove_extra=False, drop_first=True)),
    ({3: 0}, Spaces(None, remove_extra=False, drop_first=False)),
    ({4: 1}, Spaces("always", remove_extra=True, drop_first=True)),
    ({3: 0, 4: 1}, Spaces(None, remove_extra=True, drop_first=True)),
    ({1: b"identity", 2: b"", 5: 1}, Spaces("always", remove_extra=False, drop_first=True)),
])
def test_the_rules_for_spaces_are_read(normalizer, expected, tmp_path):
    assert tl.load_tokenizer(written(model_file(PIECES, normalizer=normalizer), tmp_path)).spaces == expected


def test_what_a_file_does_not_say_is_as_in_the_library(tmp_path):
    entries = [message({1: piece.text.encode(), 3: int(piece.kind)}) for piece in NAMES] + [message({1: b"a"})]
    data = b"".join(field(1, entry) for entry in entries) + field(2, message({3: 2}))
    tokenizer = tl.load_tokenizer(written(data, tmp_path))
    assert tokenizer.pieces[3] == Piece("a", Kind.NORMAL, 0.0)
    assert tokenizer.spaces == Spaces("always", remove_extra=True, drop_first=True)
    assert tokenizer.unknown_text == " ⁇ "


def test_names_of_their_own_are_read(tmp_path):
    pieces = [Piece("<unk>", Kind.UNKNOWN), Piece("[a]", Kind.CONTROL), Piece("[b]", Kind.CONTROL), *normal("▁")]
    data = model_file(pieces, trainer={44: b"??", 46: b"[b]", 47: b"[a]"})
    tokenizer = tl.load_tokenizer(written(data, tmp_path))
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.decode([0])) == (2, 1, "??")
    tokenizer = tl.load_tokenizer(written(model_file(pieces), tmp_path))
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (None, None)


def test_fields_that_are_not_known_are_passed_over(tmp_path):
    data = model_file(PIECES) + field(4, b"self test") + field(99, 7) + field(98, 1.5) + varint(97 << 3 | 1) + b"8" * 8
    assert tl.load_tokenizer(written(data, tmp_path)).pieces == PIECES


def with_piece(entry):
    return model_file(NAMES) + field(1, entry)


@pytest.mark.parametrize(("data", "message"), [
    (model_file(PIECES, trainer={3: 1}), "model_type: expected a BPE model, .* got unigram"),
    (model_file(PIECES, trainer={3: 9}), "model_type: expected a BPE model, .* got 9"),
    (model_file(PIECES, normalizer={2: b"nmt_nfkc"}), "normalizer: expected none or identity, .* 8 bytes of rules"),
    (model_file(PIECES, denormalizer={2: b"rules"}), "normalizer: expected none or identity, .* 5 bytes of rules"),
    (model_file(PIECES, normalizer={5: 0}), "spaces: expected them to be marked .* got them unmarked"),
    (model_file(PIECES, trainer={24: 1}), "spaces: expected them to be .* got them behind words"),
    (model_file(PIECES, trainer={35: 0}), "byte_fallback: expected pieces of bytes .* got pieces without it"),
    (model_file(NAMES, trainer={35: 1}), "byte_fallback: expected pieces of bytes .* got it without pieces"),
    (model_file([*BYTES, *normal("a")]), "pieces: expected one that stands for unknown characters, got none in 257"),
    (model_file([*NAMES, *normal("a", "a")]), "pieces: expected distinct texts, got 'a' 2 times"),
    (model_file([*NAMES, *BYTES[:9]]), "pieces: expected none of bytes, or one for each of the 256, got 9"),
    (with_piece(message({1: b"\xff"})), "piece 3: expected text in UTF-8, got byte 0xff"),
    (with_piece(message({1: b"a", 3: 7})), "pieces: expected the kind of piece 3 to be 1 to 6, got 7"),
    (with_piece(message({1: b"a", 2: float("inf")})), "pieces: expected finite scores, got inf for 'a'"),
    (with_piece(message({1: 5})), "expected field 1 to be bytes, got a whole number"),
    (with_piece(b"\x0a\x05ab"), "expected 5 bytes in field 1 at offset 2, got 2"),
    (model_file(NAMES) + varint(1 << 3 | 2) + varint(1 << 60) + b"a", f"expected {1 << 60} bytes in field 1 at offset"),
    (model_file(NAMES) + b"\x0a" + b"\xff" * 10, "expected a whole number of at most ten bytes before offset"),
    (model_file(NAMES) + b"\x0a\xff", "expected a whole number at offset .* got the end of the message"),
    (model_file(NAMES) + b"\x0b", "expected a field of type 0, 1, 2 or 5 before offset .* got type 3"),
    (model_file(NAMES) + field(1, 3), "expected field 1 of the model to be a message, got a number"),
    (model_file(PIECES)[:200], "expected .* got"),
])
def test_what_is_not_supported_or_damaged_is_refused_by_name(data, message, tmp_path):
    file = written(data, tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        tl.load_tokenizer(file)
    assert str(error.value).startswith(str(file))


# ---- the wire format

def test_fields_are_read_one_after_the_other():
    assert list(fields(b"")) == []
    data = field(1, 300) + field(2, b"ab") + field(3, 1.5) + varint(4 << 3 | 1) + b"12345678"
    assert list(fields(data)) == [(1, 0, 300), (2, 2, b"ab"), (3, 5, b"\x00\x00\xc0\x3f"), (4, 1, b"12345678")]
    assert read(data, number=(1, VARINT), text=(2, TEXT), score=(3, FIXED32), absent=(9, VARINT)) \
        == {"number": 300, "text": b"ab", "score": 1.5}
    assert read(field(1, 1) + field(1, 2), number=(1, VARINT)) == {"number": 2}


@pytest.mark.parametrize("number", [0, 1, 127, 128, 16383, 16384, 2**32, 2**64 - 1])
def test_whole_numbers_of_every_size_are_read(number):
    assert list(fields(field(5, number))) == [(5, 0, number)]
