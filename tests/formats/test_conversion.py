"""From every format that is read to those that are written, the tokenizer with it."""

import json
import shutil

import llama2c_files as files
import models_under_test as mut
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tinyllama as tl
from tinyllama.formats.conversion import convert
from tinyllama.formats.loading import read_checkpoint

IDS = [[3, 1, 12, 7, 3, 0, 5]]
TABLES = "llama2c_tables.safetensors"
TEXT = "the cat sat on the mat, and the cat saw that the mat was flat."


def make(vocab_size=13, dtype="float32", **settings):
    return tl.Llama(tl.LlamaConfig(**files.TINY | dict(vocab_size=vocab_size, **settings)), "numpy", dtype)


def version_0_with_tables(path, rng, **settings):
    """A file whose cosines and sines are none: any bits, those of NaN and of -0 among them."""
    config, weights = files.random_weights(rng, **settings)
    data = files.version_0(config, weights)
    tables = rng.integers(0, 256, 4 * 2 * 11 * 3, dtype=np.uint8).tobytes()
    tables = np.array([np.nan, -0.0], "<f4").tobytes() + b"\1\0\x80\x7f" + tables[12:]        # the last signals
    end = len(data) - (0 if config.tie_word_embeddings else 4 * weights["lm_head.weight"].size)
    path.write_bytes(data[:end - len(tables)] + tables + data[end:])
    return path


def names(directory):
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def source(tmp_path):
    """A directory with a model and a tokenizer that fit together."""
    tokenizer = tl.train_tokenizer(TEXT, 260)
    tl.save(make(260), tmp_path / "source")
    tokenizer.save(tmp_path / "source")
    return tmp_path / "source"


# ---- weights

@pytest.mark.parametrize("version", [0, 1, 2])
@pytest.mark.parametrize("is_tied", [True, False])
def test_a_file_of_llama2c_becomes_a_directory(version, is_tied, tmp_path, rng):
    config, weights = files.random_weights(rng, is_tied=is_tied)
    data = getattr(files, f"version_{version}")(config, weights)
    (tmp_path / "model.bin").write_bytes(data[0] if version == 2 else data)
    done = convert(tmp_path / "model.bin", tmp_path / "made" / "directory")
    beside = [TABLES] if version == 0 else []
    assert done.companions == tuple(beside)
    assert names(done.destination) == ["config.json", *beside, "model.safetensors"]
    assert "tokenizer.bin" in done.no_tokenizer
    expected, got = (tl.load(path, "numpy") for path in (tmp_path / "model.bin", done.destination))
    assert got.config == expected.config
    assert done.parameters == sum(array.size for array in expected.parameters.values())
    np.testing.assert_array_equal(got.logits(IDS), expected.logits(IDS))


def test_a_directory_becomes_a_file_of_llama2c_and_its_tied_head_says_nothing_new(source, tmp_path):
    tl.save(make(tie_word_embeddings=True), source)
    tensors = load_file(source / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    save_file(tensors, source / "model.safetensors")
    done = convert(source, tmp_path / "model.bin")
    assert (done.dtype, done.companions) == ("float32", ())
    np.testing.assert_array_equal(tl.load(tmp_path / "model.bin", "numpy").logits(IDS),
                                  tl.load(source, "numpy").logits(IDS))


@pytest.mark.parametrize("kind", ["float64", "float32", "float16", "bfloat16"])
def test_the_numbers_stay_as_they_are_held_where_nothing_else_is_asked_for(kind, tmp_path):
    tl.save(make(dtype="float64"), tmp_path / "source", kind)
    assert convert(tmp_path / "source", tmp_path / "made").dtype == kind
    before, after = (read_checkpoint(tmp_path / name).tensors for name in ("source", "made"))
    for name, tensor in before.items():
        assert after[name].kind == tensor.kind
        np.testing.assert_array_equal(after[name].read(), tensor.read())


@pytest.mark.parametrize("dtype, kind", [("float32", "F32"), ("float16", "F16"), ("bfloat16", "BF16")])
def test_the_numbers_as_they_were_asked_for(dtype, kind, source, tmp_path):
    assert convert(source, tmp_path / "made", dtype).dtype == dtype
    assert {tensor.kind for tensor in read_checkpoint(tmp_path / "made").tensors.values()} == {kind}


def test_what_is_quantised_becomes_float32(tmp_path, rng):
    data, _ = files.version_2(*files.random_weights(rng))
    (tmp_path / "model.bin").write_bytes(data)
    assert convert(tmp_path / "model.bin", tmp_path / "made").dtype == "float32"
    assert convert(tmp_path / "model.bin", tmp_path / "version_0.bin").dtype == "float32"
    np.testing.assert_array_equal(tl.load(tmp_path / "version_0.bin", "numpy").logits(IDS),
                                  tl.load(tmp_path / "model.bin", "numpy").logits(IDS))


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_a_gguf_file_goes_along_with_its_tokenizer_and_its_template(kind, tmp_path):
    pytest.importorskip("gguf", reason="gguf is not installed, so nobody writes the file that is read here.")
    import chat_models
    source = chat_models.write_gguf(tmp_path / "model.gguf", kind=kind)
    done = convert(source, tmp_path / "made")
    assert (done.dtype, done.companions) == ("float32", ("tokenizer.json", "chat_template.jinja"))
    convert(tmp_path / "made", tmp_path / "model.bin")
    expected = tl.load(source, "numpy").logits(IDS)
    for path in (tmp_path / "made", tmp_path / "model.bin"):
        np.testing.assert_array_equal(tl.load(path, "numpy").logits(IDS), expected)
    assert tl.load_tokenizer(tmp_path / "made").encode(TEXT) == tl.load_tokenizer(source).encode(TEXT)
    assert (tmp_path / "made" / "chat_template.jinja").read_text(encoding="utf-8") == chat_models.TEMPLATE


def test_an_adapter_becomes_the_merged_model(source, tmp_path):
    model = tl.load(source, "numpy", lora=tl.LoraSettings(4))
    mut.randomize({name: array for name, array in model.parameters.items() if ".lora_" in name})
    tl.save_adapter(model, tmp_path / "adapter", base=source)
    shutil.copy(source / "tokenizer.json", tmp_path / "adapter")
    done = convert(tmp_path / "adapter", tmp_path / "made")
    assert names(tmp_path / "made") == ["config.json", "model.safetensors", "tokenizer.json"]
    assert done.parameters == sum(array.size for array in tl.load(source, "numpy").parameters.values())
    convert(tmp_path / "adapter", tmp_path / "model.bin")
    for path in (tmp_path / "made", tmp_path / "model.bin"):
        np.testing.assert_allclose(tl.load(path, "numpy").logits(IDS), model.logits(IDS), rtol=0, atol=1e-4)
    assert np.abs(tl.load(source, "numpy").logits(IDS) - model.logits(IDS)).max() > 0.1


def test_somebody_is_told_how_far_it_is(source, tmp_path):
    told = []
    done = convert(source, tmp_path / "made", watch=lambda done, total: told.append((done, total)))
    assert [total for _, total in told] == [done.parameters] * len(told)
    assert [count for count, _ in told] == sorted({count for count, _ in told})
    assert told[-1] == (done.parameters, done.parameters)


# ---- the tables of llama2.c

@pytest.mark.parametrize("is_tied", [True, False])
def test_there_and_back_is_the_same_file_though_its_tables_are_none(is_tied, tmp_path, rng):
    original = version_0_with_tables(tmp_path / "model.bin", rng, is_tied=is_tied)
    convert(original, tmp_path / "made")
    convert(tmp_path / "made", tmp_path / "copied")
    for source in (tmp_path / "made", tmp_path / "copied", original):
        convert(source, tmp_path / "back.bin", overwrite=True)
        assert (tmp_path / "back.bin").read_bytes() == original.read_bytes()


def test_the_real_file_comes_back_byte_for_byte(shared_data, tmp_path):
    original = shared_data / "stories260K.bin"
    assert convert(original, tmp_path / "made").companions == (TABLES,)
    convert(tmp_path / "made", tmp_path / "back.bin")
    assert (tmp_path / "back.bin").read_bytes() == original.read_bytes()
    convert(tmp_path / "back.bin", tmp_path / "again")
    assert (tmp_path / "again" / TABLES).read_bytes() == (tmp_path / "made" / TABLES).read_bytes()


def test_tables_that_we_would_write_are_not_carried(tmp_path):
    tl.save(make(), tmp_path / "model.bin")
    assert convert(tmp_path / "model.bin", tmp_path / "made").companions == ()
    assert names(tmp_path / "made") == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("tensors, got", [
    ({"cos_and_sin": np.zeros((2, 11, 4), "f4")}, "{'cos_and_sin': ('F32', (2, 11, 4))}"),
    ({"cos_and_sin": np.zeros((2, 11, 3), "f8")}, "{'cos_and_sin': ('F64', (2, 11, 3))}"),
    ({"cos": np.zeros((2, 11, 3), "f4")}, "{'cos': ('F32', (2, 11, 3))}"),
    ({}, "{}"),
])
def test_other_tables_are_refused(tensors, got, tmp_path):
    tl.save(make(), tmp_path / "source")
    save_file(tensors, tmp_path / "source" / TABLES)
    for destination in ("back.bin", "made"):
        with pytest.raises(ValueError) as error:
            convert(tmp_path / "source", tmp_path / destination)
        assert f"{TABLES}: expected {{'cos_and_sin': ('F32', (2, 11, 3))}}, got {got}; without" in str(error.value)
    assert names(tmp_path) == ["source"]


def test_tables_that_are_damaged_are_refused(tmp_path, rng):
    convert(version_0_with_tables(tmp_path / "model.bin", rng), tmp_path / "made")
    whole = (tmp_path / "made" / TABLES).read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "made" / TABLES).write_bytes(whole[:length])
        with pytest.raises(ValueError, match=rf"{TABLES}: expected safetensors, got something else, or"):
            convert(tmp_path / "made", tmp_path / "back.bin")
    (tmp_path / "made" / TABLES).unlink()
    (tmp_path / "made" / TABLES).mkdir()
    with pytest.raises(ValueError, match=rf"{TABLES}: expected safetensors, got something else, or"):
        convert(tmp_path / "made", tmp_path / "back.bin")
    assert names(tmp_path) == ["made", "model.bin"]


# ---- tokenizers

def test_the_files_of_a_directory_go_along_as_they_are(source, tmp_path):
    others = {"tokenizer_config.json": '{"bos_token": "<s>"}', "chat_template.jinja": "{{ messages }}", "notes.txt": ""}
    for name, text in others.items():
        (source / name).write_text(text, encoding="utf-8")
    done = convert(source, tmp_path / "made")
    assert done.companions == ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    assert done.no_tokenizer == ""
    assert names(tmp_path / "made") == ["chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json",
                                        "tokenizer_config.json"]
    for name in done.companions:
        assert (tmp_path / "made" / name).read_bytes() == (source / name).read_bytes()


def test_the_tokenizer_beside_a_file_of_llama2c(shared_data, tmp_path):
    shutil.copy(shared_data / "stories260K.bin", tmp_path / "model.bin")
    shutil.copy(shared_data / "tok512.bin", tmp_path / "tokenizer.bin")
    assert convert(tmp_path / "model.bin", tmp_path / "made").companions == ("tokenizer.json", TABLES)
    expected, got = tl.load_tokenizer(shared_data / "tok512.bin"), tl.load_tokenizer(tmp_path / "made")
    text = "Once upon a time, there was a cat. 猫"
    assert got.encode(text, bos=True) == expected.encode(text, bos=True)
    assert (got.bos_token_id, got.eos_token_id) == (1, 2)


def test_the_tokenizer_that_was_named(source, tmp_path, rng):
    config, weights = files.random_weights(rng, vocab_size=260)
    (tmp_path / "model.bin").write_bytes(files.version_1(config, weights))
    done = convert(tmp_path / "model.bin", tmp_path / "made", tokenizer=source)
    assert done.companions == ("tokenizer.json",)
    assert tl.load_tokenizer(tmp_path / "made").encode(TEXT) == tl.load_tokenizer(source).encode(TEXT)
    config, weights = files.random_weights(rng)
    (tmp_path / "model.bin").write_bytes(files.version_0(config, weights))
    with pytest.raises(ValueError, match="source: expected a tokenizer of 13 tokens, as the model has, got one of 260"):
        convert(tmp_path / "model.bin", tmp_path / "other", tokenizer=source)
    assert not (tmp_path / "other").exists()


def test_a_tokenizer_that_cannot_be_read_is_said_and_the_weights_are_written(tmp_path, rng):
    (tmp_path / "model.bin").write_bytes(files.version_1(*files.random_weights(rng)))
    (tmp_path / "tokenizer.bin").write_bytes(b"no tokenizer")
    done = convert(tmp_path / "model.bin", tmp_path / "made")
    assert "tokenizer.bin: " in done.no_tokenizer
    assert names(tmp_path / "made") == ["config.json", "model.safetensors"]


# ---- what is refused

def test_a_model_that_is_there_is_replaced_only_where_that_is_wanted(source, tmp_path, rng):
    (tmp_path / "model.bin").write_bytes(files.version_1(*files.random_weights(rng)))
    convert(version_0_with_tables(tmp_path / "older.bin", rng, vocab_size=260), tmp_path / "made")
    (tmp_path / "made" / "notes.txt").write_text("mine", encoding="utf-8")
    shutil.copy(source / "tokenizer.json", tmp_path / "made")
    before = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
    with pytest.raises(ValueError, match=r"made: expected a path without a model, got one with config.json, "
                                         rf"model.safetensors, tokenizer.json, {TABLES}; --force replaces it"):
        convert(tmp_path / "model.bin", tmp_path / "made")
    assert {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()} == before

    convert(tmp_path / "model.bin", tmp_path / "made", overwrite=True)
    assert names(tmp_path / "made") == ["config.json", "model.safetensors", "notes.txt"]    # nothing of the other
    assert tl.load(tmp_path / "made").config.vocab_size == 13

    with pytest.raises(ValueError, match=r"model.bin: expected a path without a model, got one with model.bin"):
        convert(tmp_path / "made", tmp_path / "model.bin")
    convert(tmp_path / "made", tmp_path / "model.bin", overwrite=True)


def test_a_directory_with_other_files_is_free(source, tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "notes.txt").write_text("mine", encoding="utf-8")
    convert(source, tmp_path / "made")
    assert "notes.txt" in names(tmp_path / "made")


@pytest.mark.parametrize("destination, dtype, message", [
    ("source", None, "source: expected another path than that of the source, got the same"),
    ("made.gguf", None, "expected a directory, or a file of llama2.c whose name ends in .bin, got a name that ends in"),
    ("taken", None, "taken: expected a directory to save the model in, got a file"),
    ("made", "float8", "dtype: expected one of float32, float16, bfloat16, got 'float8'"),
    ("made.bin", "float16", "dtype: expected float32 for a file of llama2.c, got 'float16'"),
])
def test_where_it_cannot_go(destination, dtype, message, source, tmp_path):
    (tmp_path / "taken").write_text("", encoding="utf-8")
    with pytest.raises(ValueError) as error:
        convert(source, tmp_path / destination, dtype, overwrite=True)
    assert message in str(error.value)
    assert names(tmp_path) == ["source", "taken"]


def test_what_cannot_be_read_or_held_leaves_nothing_behind(source, tmp_path):
    tl.save(make(mlp="gelu"), source)
    with pytest.raises(ValueError, match=r"the format of llama2.c cannot hold this model: mlp: expected 'swiglu'"):
        convert(source, tmp_path / "made.bin")
    settings = json.loads((source / "config.json").read_text(encoding="utf-8"))
    (source / "config.json").write_text(json.dumps(settings | {"vocab_size": 14}), encoding="utf-8")
    with pytest.raises(ValueError, match="the weights are not those that its configuration describes"):
        convert(source, tmp_path / "made")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        convert(tmp_path / "nowhere", tmp_path / "made")
    assert names(tmp_path) == ["source"]


def test_an_adapter_is_replaced_only_where_that_was_asked_for(source, tmp_path):
    model = tl.add_lora(tl.load(source), tl.LoraSettings(2))
    tl.save_adapter(model, tmp_path / "made", base=source)
    with pytest.raises(ValueError, match=r"got one with adapter_config\.json, adapter_model\.safetensors; --force"):
        convert(source, tmp_path / "made")
    convert(source, tmp_path / "made", overwrite=True)
    assert names(tmp_path / "made") == ["config.json", "model.safetensors", "tokenizer.json"]


def test_an_adapter_comes_back_where_the_model_cannot_be_saved(source, tmp_path):
    adapter = tl.add_lora(tl.load(source), tl.LoraSettings(2))
    tl.save_adapter(adapter, tmp_path / "made", base=source)
    before = {file.name: file.read_bytes() for file in (tmp_path / "made").iterdir()}
    model = tl.load(source)
    model.parameters["model.norm.weight"][0] = 1e6
    tl.save(model, tmp_path / "large")
    with pytest.raises(ValueError, match="float16"):
        convert(tmp_path / "large", tmp_path / "made", "float16", overwrite=True)
    assert {file.name: file.read_bytes() for file in (tmp_path / "made").iterdir()} == before
