"""tokenizer.json: what we write `tokenizers` reads, what it writes we read, and anything else is refused by name."""

import json
from pathlib import Path

import bpe_library
import pytest
from bpe_cases import ENCODING, TRAINING

import tinyllama as tl
from tinyllama.tokenizers import BytePairTokenizer
from tinyllama.tokenizers.byte_level import ALPHABET, GPT2_PATTERN

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "bpe.json").read_text(encoding="utf-8"))
EVERYTHING = [document for documents in TRAINING.values() for document in documents]
# what Llama 3 cuts a text with: https://github.com/meta-llama/llama3, llama/tokenizer.py
LLAMA3_PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
                  r"|\s*[\r\n]+|\s+(?!\S)|\s+")


@pytest.fixture(scope="module")
def tokenizer():
    return tl.train_tokenizer(EVERYTHING, 408)


def written(document, path):
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def library():
    return pytest.importorskip("tokenizers", reason="The library tokenizers is not installed.").Tokenizer


def assert_same(tokenizer, other):
    assert type(tokenizer) is type(other) is BytePairTokenizer
    assert tokenizer.vocabulary == other.vocabulary
    assert [merge[:4] for merge in tokenizer.merges] == [merge[:4] for merge in other.merges]
    assert tokenizer.special_tokens == other.special_tokens
    assert tokenizer.patterns == other.patterns
    for text in ENCODING:
        assert tokenizer.encode(text) == other.encode(text)


# ---- ours

def test_everything_survives_save_and_load(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "new" / "t.json")
    for loaded in (tl.load_tokenizer(tmp_path / "new" / "t.json"), BytePairTokenizer.load(tmp_path / "new" / "t.json")):
        assert_same(tokenizer, loaded)
        assert loaded.merges == tokenizer.merges        # with the counts
        assert all(type(merge.count) is int for merge in loaded.merges)
        assert (loaded.bos_token_id, loaded.eos_token_id) == (0, 1)


def test_a_directory_gets_tokenizer_json_and_nothing_else(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    tokenizer.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]
    assert_same(tokenizer, tl.load_tokenizer(tmp_path))


@pytest.mark.parametrize("settings", [
    {"counts": [7]}, {"counts": None}, {"bos_token_id": 257, "eos_token_id": 257}, {"whole_words": True},
    {"patterns": ()}, {"patterns": (LLAMA3_PATTERN,)}, {"patterns": (r"\p{N}", GPT2_PATTERN)},
])
def test_every_setting_survives(settings, tmp_path):
    tokenizer = BytePairTokenizer([*(bytes([byte]) for byte in ALPHABET), b"ab", "<s>"], [(b"a", b"b")], **settings)
    tokenizer.save(tmp_path)
    loaded = tl.load_tokenizer(tmp_path)
    assert_same(tokenizer, loaded)
    for name in ("counts", "bos_token_id", "eos_token_id", "whole_words"):
        assert getattr(loaded, name) == getattr(tokenizer, name)


def test_what_we_write_is_what_the_library_wrote_and_our_own_key(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    document = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    ours = document["model"].pop("tinyllama")
    assert ours == {"bos_token_id": 0, "eos_token_id": 1, "counts": [merge.count for merge in tokenizer.merges]}
    document["model"]["merges"] = [merge.split(" ") for merge in document["model"]["merges"]]
    document["decoder"]["add_prefix_space"] = True      # a decoder does not look at it
    assert document == GOLDEN["tokenizer"]


def test_live_the_library_opens_our_file_and_agrees(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    theirs = library().from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.get_vocab_size() == tokenizer.vocab_size
    for text in [*ENCODING, *EVERYTHING]:
        ids = tokenizer.encode(text, allow_special=True)
        assert theirs.encode(text).ids == ids
        assert theirs.decode(ids, skip_special_tokens=False) == tokenizer.decode(ids) == text
    theirs.save(str(tmp_path / "theirs.json"))
    again = tl.load_tokenizer(tmp_path / "theirs.json")
    assert_same(tokenizer, again)
    assert again.counts is None                          # the library drops what it does not know
    assert {merge.count for merge in again.merges} == {None}


def test_live_transformers_opens_our_directory(tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers", reason="The library transformers is not installed.")
    tokenizer.save(tmp_path)
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    for text in ENCODING:
        assert theirs(text)["input_ids"] == tokenizer.encode(text, allow_special=True)


# ---- theirs

@pytest.mark.parametrize("form", [lambda merge: merge, " ".join], ids=["pairs", "strings"])
def test_a_file_of_the_library_gives_the_same_tokenizer(form, tokenizer, tmp_path):
    document = json.loads(json.dumps(GOLDEN["tokenizer"]))
    document["model"]["merges"] = [form(merge) for merge in document["model"]["merges"]]
    loaded = tl.load_tokenizer(written(document, tmp_path / "tokenizer.json"))
    assert_same(tokenizer, loaded)
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.counts) == (None, None, None)
    for text in ENCODING:
        assert loaded.encode(text) == GOLDEN["safe"][text]
        assert loaded.encode(text, allow_special=True) == GOLDEN["ids"][text]


@pytest.mark.parametrize("eos", ["<|end_of_text|>", {"content": "<|end_of_text|>", "lstrip": False}])
def test_the_configuration_beside_a_foreign_file_names_the_tokens_that_begin_and_end_a_text(eos, tmp_path):
    file = written(GOLDEN["tokenizer"], tmp_path / "tokenizer.json")
    written({"bos_token": None, "eos_token": eos, "pad_token": "<pad>"}, tmp_path / "tokenizer_config.json")
    for path in (file, tmp_path):
        loaded = tl.load_tokenizer(path)
        assert (loaded.bos_token_id, loaded.eos_token_id) == (None, 1)


def changed(**changes):
    """The document of a small tokenizer of the library, changed: model__vocab=... changes what is in its model."""
    document = json.loads(json.dumps(GOLDEN["tokenizer"]))
    for name, value in changes.items():
        *where, key = name.split("__")
        place = document
        for part in where:
            place = place[part]
        place[key] = value
    return document


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def sequence(*steps, last=BYTE_LEVEL):
    return {"type": "Sequence", "pretokenizers": [*steps, last]}


def splitting(pattern, behavior="Isolated"):
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": False}


@pytest.mark.parametrize("change", [
    {"pre_tokenizer": BYTE_LEVEL},
    {"pre_tokenizer": sequence(splitting({"Regex": LLAMA3_PATTERN})), "model__ignore_merges": True},
    {"pre_tokenizer": sequence({"type": "Digits", "individual_digits": True}, last=BYTE_LEVEL | {"use_regex": True})},
    {"pre_tokenizer": sequence({"type": "Digits", "individual_digits": False})},
    {"pre_tokenizer": sequence(splitting({"String": "."}), splitting({"Regex": "b|[^a]a"}))},
    {"model__continuing_subword_prefix": "", "model__end_of_word_suffix": "", "model__unk_token": "<|end_of_text|>"},
    {"added_tokens": [{"id": 408, "content": "<|user|>", "single_word": False, "lstrip": False, "rstrip": False,
                       "normalized": False, "special": False}]},
], ids=["no pattern", "llama 3", "digits, then words", "digits", "two patterns", "empty strings", "another token"])
def test_live_other_byte_level_tokenizers_agree_too(change, tmp_path):
    document = changed(**change)
    theirs = library().from_str(json.dumps(document))
    ours = tl.load_tokenizer(written(document, tmp_path / "tokenizer.json"))
    for text in [*ENCODING, *EVERYTHING, "<|user|> hello<|user|>", "IT'S we'LL 1234567 a.b.ca"]:
        assert ours.encode(text, allow_special=True) == theirs.encode(text, add_special_tokens=False).ids, text
    ours.save(tmp_path / "again.json")
    assert_same(ours, tl.load_tokenizer(tmp_path / "again.json"))
    again = library().from_file(str(tmp_path / "again.json"))
    assert all(again.encode(text).ids == ours.encode(text, allow_special=True) for text in EVERYTHING)


BEGINS = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}},
                                                   {"Sequence": {"id": "A", "type_id": 0}}],
          "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
          "special_tokens": {"<|begin_of_text|>": {"id": "<|begin_of_text|>", "ids": [0],
                                                   "tokens": ["<|begin_of_text|>"]}}}
MOVES_OFFSETS = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}


@pytest.mark.parametrize(("processor", "adds_bos"), [
    (None, False), (MOVES_OFFSETS, False), (BEGINS, True),
    ({"type": "Sequence", "processors": [MOVES_OFFSETS, BEGINS]}, True),
    (BEGINS | {"single": BEGINS["single"][1:]}, False),
])
def test_whether_a_text_begins_with_a_token_is_read_and_written(processor, adds_bos, tmp_path):
    document = changed(post_processor=processor)
    loaded = tl.load_tokenizer(written(document, tmp_path / "tokenizer.json"))
    assert (loaded.bos_token_id, loaded.adds_bos) == (0 if adds_bos else None, adds_bos)
    loaded.save(tmp_path / "again.json")
    assert tl.load_tokenizer(tmp_path / "again.json").adds_bos is adds_bos
    theirs, again = library().from_str(json.dumps(document)), library().from_file(str(tmp_path / "again.json"))
    for text in ENCODING:
        ids = loaded.encode(text, bos=adds_bos, allow_special=True)
        assert theirs.encode(text).ids == ids == again.encode(text).ids


def test_where_nobody_says_whether_a_text_begins_with_a_token_nothing_is_said(tokenizer, tmp_path):
    assert tokenizer.adds_bos is None
    tokenizer.save(tmp_path)
    assert tl.load_tokenizer(tmp_path).adds_bos is None


@pytest.mark.parametrize("normalizer", [{"type": "NFC"}, {"type": "Sequence", "normalizers": [{"type": "NFC"}]}])
def test_a_normalizer_is_read_and_written(normalizer, tmp_path):
    loaded = tl.load_tokenizer(written(changed(normalizer=normalizer), tmp_path / "tokenizer.json"))
    loaded.save(tmp_path / "again.json")
    assert loaded.normalization == tl.load_tokenizer(tmp_path / "again.json").normalization == "NFC"
    assert loaded.encode("e\u0301") == loaded.encode("é")


def test_an_added_token_that_merges_make_too_is_both(tmp_path):
    document = changed(model__vocab={"a": 0, "b": 1, "ab": 2, "c": 3}, model__merges=["a b"], added_tokens=[
        {"id": 2, "content": "ab", "single_word": True, "lstrip": False, "rstrip": False, "normalized": False,
         "special": False}])
    loaded = tl.load_tokenizer(written(document, tmp_path / "tokenizer.json"))
    assert loaded.vocabulary == [b"a", b"b", b"ab", b"c"]
    theirs = library().from_str(json.dumps(document))
    for text in ("ab", "abc", "cab", "aab"):
        assert loaded.encode(text) == theirs.encode(text).ids


def test_a_mutated_file_is_refused_or_read_but_breaks_nothing(tmp_path, rng):
    vocab = {"<|begin_of_text|>": 0, "a": 1, "b": 2, "ab": 3}
    document = changed(post_processor=BEGINS, normalizer={"type": "NFC"}, model__vocab=vocab, model__merges=["a b"],
                       added_tokens=[{"id": 0, "content": "<|begin_of_text|>", "special": True}])
    data = written(document, tmp_path / "tokenizer.json").read_bytes()
    outcomes = {"read": 0, "refused": 0}
    for _ in range(3000):
        broken = bytearray(data)
        for _ in range(int(rng.integers(1, 4))):
            broken[int(rng.integers(len(broken)))] = int(rng.choice([*b'{}[]",:019nul ', int(rng.integers(256))]))
        (tmp_path / "tokenizer.json").write_bytes(broken)
        try:
            tl.load_tokenizer(tmp_path)
            outcomes["read"] += 1
        except ValueError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 50


# ---- what is refused

SPECIAL_TOKEN = {"SpecialToken": {"id": "<|end_of_text|>", "type_id": 0}}
TEXT = {"Sequence": {"id": "A", "type_id": 0}}
SMALL = {"<|end_of_text|>": 0, "a": 1, "b": 2, "ab": 3}
SPECIAL = [{"id": 0, "content": "<|end_of_text|>"}]


@pytest.mark.parametrize(("change", "message"), [
    ({"model__type": "WordPiece"}, "type: expected 'BPE' or None, which is all .* got 'WordPiece'"),
    ({"model": None}, "model: expected a JSON object, got None"),
    ({"normalizer": {"type": "NFKC"}}, "normalizer: expected None or 'NFC', .* supported here, got 'NFKC'"),
    ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}},
     "normalizer: expected None or 'NFC', which is all that is supported here, got 'Sequence'"),
    ({"post_processor": "x"}, "post_processor: expected a JSON object, got x"),
    ({"post_processor": {"type": "BertProcessing"}}, "post_processor: expected ByteLevel, or TemplateProcessing"),
    ({"post_processor": {"type": "TemplateProcessing", "single": [SPECIAL_TOKEN, TEXT, SPECIAL_TOKEN]}},
     "at most one special token before the text and none after it, got"),
    ({"post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<none>"}}, TEXT]}},
     "at most one special token before the text and none after it, got"),
    ({"truncation": {"max_length": 5}}, "truncation: expected None, .* got 'an object'"),
    ({"padding": {"pad_id": 5}}, "padding: expected None, .* got 'an object'"),
    ({"model__dropout": 0.1}, "dropout: expected None or 0.0, .* got 0.1"),
    ({"model__end_of_word_suffix": "</w>"}, "end_of_word_suffix: expected None or '', .* got '</w>'"),
    ({"model__continuing_subword_prefix": "##"}, "continuing_subword_prefix: expected None or '', .* got '##'"),
    ({"decoder": None}, "decoder: expected a JSON object, got None"),
    ({"decoder": {"type": "Metaspace"}}, "decoder: expected the type ByteLevel, got 'Metaspace'"),
    ({"pre_tokenizer": None}, "pre_tokenizer: expected a JSON object, got None"),
    ({"pre_tokenizer": {"type": "Whitespace"}}, "pre_tokenizer: expected ByteLevel, .* got {'type': 'Whitespace'}"),
    ({"pre_tokenizer": BYTE_LEVEL | {"add_prefix_space": True}}, "ByteLevel, without add_prefix_space, in the last"),
    ({"pre_tokenizer": {"type": "Sequence"}}, "expected a list of JSON objects as pretokenizers, got None"),
    ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": []}}, "as pretokenizers, got \\[\\]"),
    ({"pre_tokenizer": sequence({"type": "Whitespace"})}, "expected Split .Isolated., Digits or ByteLevel, got"),
    ({"pre_tokenizer": sequence(splitting({"Regex": "a"}, "Removed"))}, "expected Split .Isolated., Digits or"),
    ({"pre_tokenizer": sequence(splitting("a"))}, "expected Split .Isolated., Digits or ByteLevel, got"),
    ({"pre_tokenizer": sequence(splitting({"Regex": "(a"}))}, "expected a regular expression, got '\\(a'"),
    ({"pre_tokenizer": sequence(splitting({"Regex": "(a)"}))}, "captures no group and matches no empty text"),
    ({"pre_tokenizer": sequence(splitting({"Regex": "a*"}))}, "captures no group and matches no empty text"),
    ({"pre_tokenizer": sequence(splitting({"String": ""}))}, "captures no group and matches no empty text"),
    ({"model__vocab": ["a"]}, "vocab: expected a JSON object, got"),
    ({"model__vocab": {"a": 1}, "added_tokens": []}, "vocab: expected the ids 0 to 0, each once, got others"),
    ({"model__vocab": {"a": [0]}, "added_tokens": []}, "vocab: expected the ids 0 to 0, each once, got others"),
    ({"model__vocab": {"a": 0, "b": 0}, "added_tokens": []}, "vocab: expected the ids 0 to 1, each once"),
    ({"model__vocab": {"a b": 0}, "added_tokens": []}, "as Ġ does for a space, got ' ' in 'a b'"),
    ({"added_tokens": "<s>"}, "added_tokens: expected a list of JSON objects, got <s>"),
    ({"added_tokens": ["<s>"]}, "added_tokens: expected a list of JSON objects, got"),
    ({"added_tokens": [{"id": 408}]}, "added_tokens: expected a text as content, got None"),
    ({"added_tokens": [{"content": "<s>"}]}, "vocab: expected the ids 0 to"),
    ({"added_tokens": [{"id": 408, "content": "<s>"}, {"id": 409, "content": "<s>"}]}, "expected the ids 0 to"),
    ({"added_tokens": [{"id": 5, "content": "é", "special": True}]}, "vocab: expected the ids 0 to"),
    ({"model__vocab": SMALL, "added_tokens": SPECIAL, "model__merges": None}, "merges: expected a list, got None"),
    ({"model__vocab": SMALL, "added_tokens": SPECIAL, "model__merges": ["ab"]}, "merges: expected pairs of pieces"),
    ({"model__vocab": SMALL, "added_tokens": SPECIAL, "model__merges": [["a", 1]]}, "merges: expected pairs of pieces"),
    ({"model__vocab": SMALL, "added_tokens": SPECIAL, "model__merges": ["a c"]}, "pieces of the vocabulary, got b'c'"),
    ({"model__vocab": SMALL, "added_tokens": SPECIAL, "model__merges": ["a b", "a b"]}, "expected 2 distinct pairs"),
    ({"model__tinyllama": [1]}, r"tinyllama: expected a JSON object, got \[1\]"),
    ({"model__tinyllama": {"counts": "5"}}, "counts: expected a list of whole numbers or nothing, got 5"),
    ({"model__tinyllama": {"counts": [1, 2.5]}}, "counts: expected a list of whole numbers or nothing, got"),
    ({"model__tinyllama": {"counts": [1]}}, "counts: expected one for each of the 150 merges, got 1"),
    ({"model__tinyllama": {"bos_token_id": "<s>"}}, "bos_token_id: expected None or one of the special tokens"),
])
def test_what_is_not_supported_is_refused_by_name(change, message, tmp_path):
    file = written(changed(**change), tmp_path / "tokenizer.json")
    for load in (tl.load_tokenizer, BytePairTokenizer.load):
        with pytest.raises(ValueError, match=message) as error:
            load(file)
        assert str(error.value).startswith(str(file))


@pytest.mark.parametrize(("content", "message"), [
    ("{", "tokenizer_config.json: expected JSON, got a file that is not"),
    ("[]", r"tokenizer_config.json: expected a JSON object, got \[\]"),
])
def test_a_damaged_configuration_is_refused(content, message, tmp_path):
    file = written(GOLDEN["tokenizer"], tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer_config.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        tl.load_tokenizer(file)


def test_another_kind_of_tokenizer_is_refused(tmp_path):
    written({"type": "characters", "version": 1, "characters": "ab"}, tmp_path / "tokenizer.json")
    with pytest.raises(ValueError, match="model: expected a JSON object, got None"):
        BytePairTokenizer.load(tmp_path)


def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(tokenizer, tmp_path, monkeypatch):
    tokenizer.save(tmp_path)

    def no_replace(source, target):
        raise OSError("the disk is full")

    monkeypatch.setattr("os.replace", no_replace)
    with pytest.raises(OSError, match="the disk is full"):
        tl.train_tokenizer("ab ab", 260).save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]
    assert_same(tokenizer, tl.load_tokenizer(tmp_path))


def test_live_the_library_trains_what_we_read(tokenizer, tmp_path):
    library()
    bpe_library.train(EVERYTHING, 408).save(str(tmp_path / "tokenizer.json"))
    assert_same(tokenizer, tl.load_tokenizer(tmp_path))
