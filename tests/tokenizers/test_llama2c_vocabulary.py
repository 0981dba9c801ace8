"""llama2.c's tokenizer.bin."""

import json
import struct

import pytest
from sentencepiece_files import llama2c_file, llama2c_pieces

import tinyllama as tl
from tinyllama.tokenizers.pieces import Kind, Piece
from tinyllama.tokenizers.spaces import Spaces

SMALL = llama2c_pieces(" a", " ", "a")


def written(data, tmp_path):
    (tmp_path / "any name").write_bytes(data)
    return tmp_path / "any name"


def test_the_text_of_a_real_model_has_its_tokens_and_the_tokens_their_text(shared_data):
    golden = json.loads((shared_data / "stories260K_golden.json").read_text(encoding="utf-8"))
    tokenizer = tl.load_tokenizer(shared_data / "tok512.bin")
    assert tokenizer.vocab_size == 512
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    assert tokenizer.encode(golden["text_200"], bos=True) == golden["greedy_ids_200"]
    assert tokenizer.decode(golden["greedy_ids_200"][1:]) == golden["text_200"]
    assert b"".join(map(tokenizer.token_bytes, golden["greedy_ids_200"])).decode() == " " + golden["text_200"]


def test_every_piece_is_read(tmp_path):
    tokenizer = tl.load_tokenizer(written(llama2c_file(SMALL), tmp_path))
    assert tokenizer.pieces[:3] == [Piece("<unk>", Kind.UNKNOWN), Piece("<s>", Kind.CONTROL),
                                    Piece("</s>", Kind.CONTROL)]
    assert tokenizer.pieces[3] == Piece("<0x00>", Kind.BYTE)
    assert tokenizer.pieces[259:] == [Piece("▁a"), Piece("▁", score=-1.0), Piece("a", score=-2.0)]
    assert tokenizer.spaces == Spaces()
    assert tokenizer.encode("a a\n", bos=True) == [1, 259, 259, 3 + 0x0A]
    assert tokenizer.encode("</s>", allow_special=True) == [2]


def test_a_directory_is_not_searched_for_it(tmp_path):
    (tmp_path / "tokenizer.bin").write_bytes(llama2c_file(SMALL))
    with pytest.raises(FileNotFoundError, match=r"holds tokenizer\.json or tokenizer\.model, got a directory without"):
        tl.load_tokenizer(tmp_path)
    assert tl.load_tokenizer(tmp_path / "tokenizer.bin").vocab_size == 262


def entry(text, length=None, score=0.0):
    return struct.pack("<fi", score, len(text) if length is None else length) + text


@pytest.mark.parametrize(("data", "message"), [
    (llama2c_file(SMALL)[:-1], "expected token 261 to have .* and 0 left in the file, got a length of 1"),
    (llama2c_file(SMALL)[:-3], "expected 8 bytes for token 261 at offset .* got 6: the file was cut short"),
    (llama2c_file(SMALL) + entry(b"", 1 << 30), "token 262 to have from 1 to 6 bytes, .* got a length of 1073741824"),
    (llama2c_file(SMALL) + entry(b"a", -1), "expected token 262 to have .* got a length of -1"),
    (llama2c_file(SMALL) + entry(b""), "expected token 262 to have .* got a length of 0"),
    (llama2c_file(SMALL) + entry(b"\xff"), "token 262: expected text in UTF-8, got byte 0xff"),
    (llama2c_file(SMALL) + entry(b"b", score=float("nan")), "pieces: expected finite scores, got nan for 'b'"),
    (llama2c_file([*SMALL, (" a", 0.0)]), "pieces: expected distinct texts, got '▁a' 2 times"),
    (llama2c_file(SMALL[:200]), "expected the tokens 3 to 258 to be <0x00> to <0xFF>, got 200 tokens, 197 of them"),
    (llama2c_file([*SMALL[:3], ("x", 0.0), *SMALL[4:]]), "expected the tokens 3 to 258 .* got 262 tokens, 255 of them"),
])
def test_a_damaged_file_is_refused(data, message, tmp_path):
    file = written(data, tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        tl.load_tokenizer(file)
    assert str(error.value).startswith(str(file))


def test_a_model_of_llama2c_is_no_tokenizer(shared_data):
    with pytest.raises(ValueError, match=r"stories260K\.bin: expected "):
        tl.load_tokenizer(shared_data / "stories260K.bin")
