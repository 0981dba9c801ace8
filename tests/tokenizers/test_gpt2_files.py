"""vocab.json and merges.txt, or encoder.json and vocab.bpe: the files in which GPT-2's kind of tokenizer came first."""

import json

import pytest

import tinyllama as tl
from tinyllama.tokenizers import patterns
from tinyllama.tokenizers.byte_level import GPT2_PATTERN, PRINTABLE

VOCAB = {character: token for token, character in enumerate(PRINTABLE)} | {"ab": 256, "abĠ": 257, "<|endoftext|>": 258}
MERGES = "#version: 0.2\na b\nab Ġ\n"
PAIRS = [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")]
CHAT = {"259": {"content": "<|im_end|>", "special": True, "lstrip": False, "rstrip": True},
        "260": {"content": "<tool>", "special": False}}


def write(folder, vocab=VOCAB, merges=MERGES, config=None, names=PAIRS[0]):
    for name, content in zip(names, (vocab, merges), strict=True):
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name).write_text(text, encoding="utf-8")
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.mark.parametrize("names", PAIRS)
def test_a_folder_or_the_first_file_of_it_is_read(names, tmp_path):
    write(tmp_path, names=names)
    for path in (tmp_path, tmp_path / names[0]):
        tokenizer = tl.load_tokenizer(path)
        assert tokenizer.encode("abab<|endoftext|>", allow_special=True) == [256, 256, 258]
        assert [merge[1:4] for merge in tokenizer.merges] == [(b"a", b"b", b"ab"), (b"ab", b" ", b"ab ")]
        assert tokenizer.patterns == (GPT2_PATTERN,)
        assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.adds_bos) == (258, 258, False)


def test_a_tokenizer_json_goes_first(tmp_path):
    tl.train_tokenizer("ab ab", 259).save(write(tmp_path))
    assert tl.load_tokenizer(tmp_path).vocab_size == 259
    assert tl.load_tokenizer(tmp_path / "vocab.json").special_tokens == {"<|endoftext|>": 258}


def test_the_configuration_beside_tells_the_class_and_the_added_tokens(tmp_path):
    write(tmp_path, config={"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": CHAT, "bos_token": None,
                            "eos_token": "<|im_end|>"})
    tokenizer = tl.load_tokenizer(tmp_path)
    assert (tokenizer.patterns, tokenizer.normalization) == ((patterns.QWEN2_PATTERN,), "NFC")
    assert tokenizer.special_tokens == {"<|endoftext|>": 258, "<|im_end|>": 259}
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (None, 259)
    assert tokenizer.encode("ab<|im_end|>  <tool>", allow_special=True) == [256, 259, 260]
    tokenizer.save(tmp_path / "tokenizer.json")
    again = tl.load_tokenizer(tmp_path)
    assert again.added_tokens == tokenizer.added_tokens
    assert (again.patterns, again.normalization, again.adds_bos) == (tokenizer.patterns, "NFC", False)


def test_the_configuration_beside_tells_whether_a_text_begins_with_a_token(tmp_path):
    write(tmp_path, config={"bos_token": "<|endoftext|>", "add_bos_token": True})
    assert tl.load_tokenizer(tmp_path).adds_bos is True


@pytest.mark.parametrize(("settings", "message"), [
    ({"vocab": "{"}, "vocab.json: expected a vocabulary as JSON, got a file that is not JSON or was cut short"),
    ({"vocab": "[]"}, "saved as JSON, SentencePiece|vocab.json: expected a JSON object of pieces and their ids"),
    ({"vocab": {"a": "b"}}, "vocab.json: expected a JSON object of pieces and their ids, got"),
    ({"vocab": {"a": 1}}, "vocab.json: merges: expected pieces|vocab.json: vocab: expected the ids 0 to"),
    ({"merges": "a b c\n"}, "merges.txt: expected two pieces a line, got 'a b c' as merge 0"),
    ({"merges": "a b\nq r\n"}, "vocab.json: merges: expected pieces of the vocabulary, got b'qr'"),
    ({"config": {"tokenizer_class": "T5Tokenizer"}},
     "tokenizer_config.json: expected the tokenizer_class GPT2Tokenizer or Qwen2Tokenizer, got 'T5Tokenizer'"),
    ({"config": {"added_tokens_decoder": {"x": {}}}}, "expected added_tokens_decoder to map ids to JSON objects"),
])
def test_bad_files_are_refused_by_name(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        tl.load_tokenizer(write(tmp_path, **settings))


def test_merges_that_are_no_text_are_refused(tmp_path):
    (write(tmp_path) / "merges.txt").write_bytes(b"a b\n\xff\xfe")
    with pytest.raises(ValueError, match=r"merges\.txt: expected a text in UTF-8, got something else"):
        tl.load_tokenizer(tmp_path)
