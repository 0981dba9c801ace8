"""tokenizer.json with byte fallback: what we write `tokenizers` reads, what it writes we read, the rest is refused."""

import base64
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from llama_json_library import ADDED, NAMES, PREPEND, TO_MARKS, WAYS, metaspace, normalizers, trained, with_added
from sentencepiece_files import BYTES, model_file, normal
from sentencepiece_files import NAMES as NAMED
from varied_texts import varied_texts

import tinyllama as tl
from tinyllama.tokenizers import SentencePieceTokenizer
from tinyllama.tokenizers.added_tokens import AddedToken
from tinyllama.tokenizers.pieces import BYTE_PIECES, Kind, Piece
from tinyllama.tokenizers.sentencepiece_model import read_sentencepiece
from tinyllama.tokenizers.spaces import Spaces

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "sentencepiece.json").read_text(encoding="utf-8"))
DOCUMENT = GOLDEN["json"]["document"]


OF_SENTENCEPIECE = ("no extra spaces, no bytes, user-defined pieces", "unused pieces")      # beyond the other format


def model(name):
    return read_sentencepiece(base64.b64decode(GOLDEN["models"][name]["file"]))


def library():
    return pytest.importorskip("tokenizers", reason="The library tokenizers is not installed.").Tokenizer


def written(document, tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    return tmp_path / "tokenizer.json"


def texts_of(number, seed=0):
    return varied_texts(np.random.default_rng(seed), number)


def assert_same(ours, other):
    assert type(ours) is type(other) is SentencePieceTokenizer
    assert [piece[:2] for piece in ours.pieces] == [piece[:2] for piece in other.pieces]
    for name in ("pairs", "spaces", "special_tokens", "bos_token_id", "eos_token_id", "unknown_text",
                 "whole_words"):
        assert getattr(ours, name) == getattr(other, name), name
    assert sorted(ours.added_tokens) == sorted(other.added_tokens)
    for text in GOLDEN["texts"]:
        assert ours.encode(text, allow_special=True) == other.encode(text, allow_special=True), text
        assert ours.encode(text) == other.encode(text), text


# ---- ours

@pytest.mark.parametrize("name", GOLDEN["models"])
def test_everything_survives_save_and_load(name, tmp_path):
    tokenizer = model(name)
    tokenizer.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]
    assert tl.load_tokenizer(tmp_path).pieces == tokenizer.pieces       # with the scores
    assert_same(tokenizer, tl.load_tokenizer(tmp_path))
    assert_same(tokenizer, SentencePieceTokenizer.load(tmp_path / "tokenizer.json"))


@pytest.mark.parametrize("settings", [
    {"merges": [("a", "b")]}, {"whole_words": True}, {"unknown_text": "?"}, {"bos_token_id": 2, "eos_token_id": 1},
    {"added_tokens": [AddedToken("<s>", 1, True, True, True, True, True)]},
    *({"spaces": Spaces(prefix, split=split, drop_first=drop)} for prefix in ("always", "missing", "first", None)
      for split in (True, False) for drop in (True, False) if not (split and prefix == "always")),
])
def test_every_setting_survives(settings, tmp_path):
    tokenizer = SentencePieceTokenizer([*NAMED, *BYTES, *normal("▁a", "ab", "a", "b", "▁")], **settings)
    tokenizer.save(tmp_path)
    assert_same(tokenizer, tl.load_tokenizer(tmp_path))


@pytest.mark.parametrize("name", [name for name in GOLDEN["models"] if name not in OF_SENTENCEPIECE])
def test_live_the_library_opens_our_file_and_agrees(name, tmp_path):
    tokenizer = model(name)
    tokenizer.save(tmp_path)
    theirs = library().from_file(str(tmp_path / "tokenizer.json"))
    for text in texts_of(2500):
        ids = tokenizer.encode(text, allow_special=True)
        assert theirs.encode(text).ids == ids, text
        if not set(ids) & set(tokenizer.special_tokens.values()):
            assert theirs.decode(ids, skip_special_tokens=False) == tokenizer.decode(ids), text


def test_live_the_library_agrees_on_what_it_can_where_spaces_are_removed(tmp_path):
    """All but user-defined pieces, after which it would put a ▁."""
    tokenizer = model("no extra spaces, no bytes, user-defined pieces")
    tokenizer.save(tmp_path)
    theirs = library().from_file(str(tmp_path / "tokenizer.json"))
    names = [token.text.replace("▁", " ") for token in tokenizer.user_defined()]
    texts = [text for text in texts_of(2500) if "▁" not in text and not any(name in f" {text}" for name in names)]
    assert len(texts) > 1000
    for text in texts:
        assert theirs.encode(text).ids == tokenizer.encode(text, allow_special=True), text


def test_live_the_library_finds_user_defined_pieces_where_a_text_gets_a_prefix_too(tmp_path):
    tokenizer = read_sentencepiece(model_file([*NAMED, *BYTES, *normal("▁a", "a", "▁"),
                                               Piece("<user>", Kind.USER_DEFINED)]))
    tokenizer.save(tmp_path)
    theirs = library().from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.encode("a<user>") == theirs.encode("a<user>").ids == [259, 262]


def test_live_a_real_vocabulary_gives_the_library_the_same_tokens(tmp_path):
    package = importlib.util.find_spec("mistral_common")
    if package is None:
        pytest.skip("The package mistral-common, which holds Mistral's tokenizer.model.v1, is not installed.")
    tokenizer = tl.load_tokenizer(Path(package.origin).parent / "data" / "tokenizer.model.v1")
    tokenizer.save(tmp_path)
    theirs = library().from_file(str(tmp_path / "tokenizer.json"))
    texts = texts_of(10_000)
    for text, encoding in zip(texts, theirs.encode_batch(texts), strict=True):
        assert tokenizer.encode(text, allow_special=True) == encoding.ids, text


def test_live_transformers_opens_our_directory(tmp_path):
    transformers = pytest.importorskip("transformers", reason="The library transformers is not installed.")
    tokenizer = model("plain")
    tokenizer.save(tmp_path)
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    for text in GOLDEN["texts"]:
        assert theirs(text)["input_ids"] == tokenizer.encode(text, allow_special=True)


# ---- theirs

def test_a_file_of_the_library_has_its_tokens(tmp_path):
    loaded = tl.load_tokenizer(written(DOCUMENT, tmp_path))
    for text, ids in zip(GOLDEN["texts"], GOLDEN["json"]["ids"], strict=True):
        assert loaded.encode(text, allow_special=True) == list(map(int, ids.split())), text
    assert loaded.special_tokens.keys() >= set(NAMES)
    assert (loaded.bos_token_id, loaded.eos_token_id) == (None, None)


def test_merges_as_texts_and_as_pairs_are_the_same(tmp_path):
    pairs = tl.load_tokenizer(written(DOCUMENT, tmp_path))
    document = json.loads(json.dumps(DOCUMENT))
    document["model"]["merges"] = [merge if isinstance(merge, str) else " ".join(merge)
                                   for merge in document["model"]["merges"]]
    assert_same(pairs, tl.load_tokenizer(written(document, tmp_path)))


def test_the_configuration_beside_a_foreign_file_names_the_tokens_that_begin_and_end_a_text(tmp_path):
    written(DOCUMENT, tmp_path)
    names = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names), encoding="utf-8")
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        loaded = tl.load_tokenizer(path)
        assert (loaded.bos_token_id, loaded.eos_token_id) == (1, 2)


@pytest.mark.parametrize("way", WAYS)
def test_live_every_way_to_mark_spaces_agrees(way, tmp_path):
    library()
    document = with_added(trained(), ADDED) | WAYS[way]
    theirs = library().from_str(json.dumps(document))
    ours = tl.load_tokenizer(written(document, tmp_path))
    for text in texts_of(1200):
        ids = ours.encode(text, allow_special=True)
        assert ids == theirs.encode(text).ids, text
    ours.save(tmp_path / "again.json")
    assert_same(ours, tl.load_tokenizer(tmp_path / "again.json"))
    again = library().from_file(str(tmp_path / "again.json"))
    for text in GOLDEN["texts"]:
        assert again.encode(text).ids == ours.encode(text, allow_special=True), text


@pytest.mark.parametrize("way", WAYS)
def test_live_special_names_are_text_where_that_is_asked_for(way, tmp_path):
    reader = library()
    document = trained() | WAYS[way]
    theirs = reader.from_str(json.dumps(document))
    theirs.encode_special_tokens = True
    ours = tl.load_tokenizer(written(document, tmp_path))
    for text in texts_of(800, seed=2):
        ids = ours.encode(text)
        assert ids == theirs.encode(text).ids, text
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False), text


def test_live_whole_words_need_no_merges_where_the_file_says_so(tmp_path):
    reader = library()
    document = with_added(trained(), ADDED) | metaspace("always", True)
    document["model"]["merges"] = document["model"]["merges"][::2]
    document["model"]["ignore_merges"] = True
    theirs = reader.from_str(json.dumps(document))
    ours = tl.load_tokenizer(written(document, tmp_path))
    for text in texts_of(800):
        assert ours.encode(text, allow_special=True) == theirs.encode(text).ids, text


# ---- what is refused

def changed(**changes):
    """The document of the library, changed: model__vocab=... changes what is in its model."""
    document = json.loads(json.dumps(DOCUMENT))
    for name, value in changes.items():
        *where, key = name.split("__")
        place = document
        for part in where:
            place = place[part]
        place[key] = value
    return document


def saved(**changes):
    """The document of one of ours, with changes in what only we read."""
    from tinyllama.tokenizers.sentencepiece_json import to_document
    document = json.loads(json.dumps(to_document(model("plain"))))
    document["model"]["tinyllama"] |= changes
    return document


def without_bytes(**changes):
    """The document of the library without the pieces of bytes, and with changes in its model."""
    document = changed(**changes)
    texts = [text for text in document["model"]["vocab"] if text not in BYTE_PIECES]
    vocabulary = document["model"]["vocab"] = {text: token for token, text in enumerate(texts)}
    document["added_tokens"] = [entry | {"id": vocabulary[entry["content"]]} for entry in document["added_tokens"]
                                if entry["content"] in vocabulary]
    return document


def test_unknown_characters_in_a_row_are_one_token_as_the_file_says(tmp_path):
    tokenizer = tl.load_tokenizer(written(without_bytes(model__fuse_unk=True), tmp_path))
    unknown, = (token for token, piece in enumerate(tokenizer.pieces) if piece.kind == Kind.UNKNOWN)
    assert tokenizer.encode("\u1234\u1235").count(unknown) == 1
    tl.load_tokenizer(written(changed(model__fuse_unk=False), tmp_path))       # where every character has bytes


DECODER = "decoder: expected the sequence Replace ▁ by ' ', ByteFallback, Fuse and at most Strip of one space"
WORDS = "normalizer, pre_tokenizer: expected the normalizers Prepend ▁ and Replace ' ' by ▁ alone, or the pre-tokenizer"


@pytest.mark.parametrize(("document", "message"), [
    (changed(model__type="Unigram"), "type: expected 'BPE' or None, which is all that is supported here, got Unigram"),
    (changed(model__dropout=0.1), "dropout: expected None or 0.0, .* got 0.1"),
    (changed(truncation={"max_length": 5}), "truncation: expected None, .* got {'max_length': 5}"),
    (changed(model__end_of_word_suffix="</w>"), "end_of_word_suffix: expected None or '', .* got </w>"),
    (changed(normalizer=None), WORDS),
    (changed(normalizer={"type": "NFKC"}), WORDS),
    (changed(**normalizers(PREPEND)), WORDS),
    (changed(pre_tokenizer={"type": "Metaspace", "replacement": "▁"}), WORDS),
    (changed(normalizer=None, pre_tokenizer={"type": "Whitespace"}), WORDS),
    (changed(**normalizers(PREPEND, TO_MARKS, {"type": "NFC"})), WORDS),
    (changed(**metaspace(["first"], True)), "always, first or never as prepend_scheme, got"),
    (changed(**metaspace("second", True)), "always, first or never as prepend_scheme, got"),
    (changed(normalizer=None, pre_tokenizer={"type": "Metaspace", "replacement": "_"}), "expected ▁ as replacement"),
    (changed(decoder=None), DECODER),
    (changed(decoder={"type": "Metaspace"}), DECODER),
    (changed(decoder={"type": "Sequence", "decoders": 5}), DECODER),
    (without_bytes(model__fuse_unk=False), "fuse_unk: expected True, which is all that is supported here, got False"),
    (changed(model__vocab=[]), "vocab: expected a JSON object, got"),
    (changed(model__vocab={"a": 0, "b": 2}, added_tokens=[]), "vocab: expected the ids 0 to 1, each once, got others"),
    (changed(model__vocab={"a": 0, "b": "1"}, added_tokens=[]), "vocab: expected the ids 0 to 1, each once"),
    (changed(model__merges="a b"), "merges: expected a list, got a b"),
    (changed(model__merges=["ab"]), "merges: expected pairs of pieces, got"),
    (changed(model__merges=[["a", "\u1234"]]), "merges: expected normal pieces, got '\u1234'"),
    (changed(added_tokens="<s>"), "added_tokens: expected a list of JSON objects, got <s>"),
    (changed(added_tokens=[{"content": "<s>"}]), "added_tokens: expected a text as content and a whole number as id"),
    (saved(kinds=[1]), "kinds: expected 800 numbers from 1 to 6, got"),
    (saved(kinds=[9] * 800), "kinds: expected 800 numbers from 1 to 6, got"),
    (saved(kinds=None), "kinds: expected a list, got None"),
    (saved(scores=[0.0]), "scores: expected 800 finite numbers or nothing, got"),
    (saved(scores=["a"] * 800), "scores: expected 800 finite numbers or nothing, got"),
    (saved(scores=[float("nan")] * 800), "scores: expected 800 finite numbers or nothing, got"),
    (saved(scores=[10**400] * 800), "scores: expected 800 finite numbers or nothing, got"),
    (saved(spaces={}), "spaces: expected .* or the like, got {}"),
    (saved(spaces=Spaces("often")._asdict()), "spaces: expected .* or the like, got {'prefix': 'often'"),
    (saved(spaces=Spaces(split=1)._asdict()), "spaces: expected .* or the like, got"),
    (saved(unknown_text=None), "unknown_text: expected a text, got None"),
    (saved(user_defined=None), "user_defined: expected a list, got None"),
    (saved(bos_token_id=True), "bos_token_id: expected None or one of the special tokens"),
    (saved(bos_token_id=5), "bos_token_id: expected None or one of the special tokens"),
])
def test_what_is_not_supported_is_refused_by_name(document, message, tmp_path):
    file = written(document, tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        tl.load_tokenizer(file)
    assert str(error.value).startswith(str(file))


@pytest.mark.parametrize(("content", "message"), [
    ("{", "tokenizer_config.json: expected JSON, got a file that is not"),
    ("[]", r"tokenizer_config.json: expected a JSON object, got \[\]"),
])
def test_a_damaged_configuration_is_refused(content, message, tmp_path):
    file = written(DOCUMENT, tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        tl.load_tokenizer(file)
