"""Chat templates: how a model wants a conversation written, as a Jinja template that comes with it.

    template = load_chat_template("SmolLM2.gguf", tokenizer)
    ids = encode_chat(tokenizer, template, [{"role": "user", "content": "Hello"}])

**A template is a stranger's program.** Jinja's sandbox keeps it from Python's insides, but a loop or a product can
still take all time and memory. So it is rendered in a process of its own, with little memory, a few seconds and no
right to write files, and what it writes is bounded.

**A message is a stranger's text.** It may hold "<|im_end|>", which must not end a turn. Once the text is rendered,
nobody can tell who wrote what. So signs of which the names of special tokens are made are replaced in the messages, by
characters that nobody uses, before the template is rendered; what is then found in the text is the template's. After
the search they are put back. See `encode_chat`.
"""

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

from tinyllama.gguf_header import MAGIC, read_header
from tinyllama.tokenizers.files import CONFIG_FILE, config_beside

SECONDS = 10
MEMORY = 512 << 20              # bytes of address space, the interpreter's own included
CHARACTERS = 4_000_000          # of a rendered text, and of a template

RENDERER = Path(__file__).with_name("chat_renderer.py")
TEMPLATE_FILE = "chat_template.jinja"
GGUF_KEY = "tokenizer.chat_template"

_PRIVATE_USE = range(0xF0000, 0xFFFFE)          # code points that stand for nothing
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")       # what starting Python may need


class ChatTemplate:
    """A template, and the names of the tokens that it may call bos_token and eos_token.

    source: the template. bos, eos: texts, or None where the model has none.
    Raises ValueError where the source is no text or is too long.
    """

    def __init__(self, source, bos=None, eos=None):
        if not isinstance(source, str) or len(source) > CHARACTERS:
            raise ValueError(f"chat template: expected a text of at most {CHARACTERS:,} characters, "
                             f"got {str(source)[:40]!r}")
        self.source = source
        self.bos = bos
        self.eos = eos

    def render(self, messages, add_generation_prompt=True):
        """The text of a conversation.

        messages: [{"role": "user", "content": "..."}, ...]. add_generation_prompt: end with what comes before an
        answer. Raises ValueError where the template is no Jinja, does what it may not, uses too much, or refuses the
        messages, as many do where user and assistant do not take turns.
        """
        _check_messages(messages)
        return _text(self._render([messages], add_generation_prompt)[0])

    def _render(self, conversations, add_generation_prompt):
        """What became of each conversation, all in one process: [{"text": ...} or {"error": ...}]."""
        names = {"bos_token": self.bos, "eos_token": self.eos}
        request = {
            "template": self.source, "conversations": conversations,
            "variables": {"add_generation_prompt": add_generation_prompt, "tools": None, "documents": None}
                         | {name: text for name, text in names.items() if text is not None},
            "memory": MEMORY, "seconds": SECONDS, "characters": CHARACTERS,
            "import_path": [folder for folder in sys.path if folder],
        }
        return _ask_renderer(json.dumps(request).encode(), most=(12 * CHARACTERS + 100) * len(conversations))

    def __repr__(self):
        return f"<ChatTemplate of {len(self.source)} characters>"


def encode_chat(tokenizer, template, messages, add_generation_prompt=True):
    """The tokens of a conversation: the special tokens that the template writes are tokens, those in messages text.

    Of the messages' characters, those signs that the names of special tokens are made of are hidden: each is replaced
    by one that stands for nothing and is nowhere in the conversation. No name that is found can then hold a sign of a
    message, nor end or begin in one. With the signs put back, the text must be the one that `template.render` gives:
    a template may look into the messages, as one does that cuts out what is between <think> and </think>. Where the
    text is another, only whole names are hidden, of all added tokens that the template mentions, or else of the
    special ones.

    An added token that the file does not call special is treated as special where the template mentions it, and is
    found in messages too where it does not.
    Returns [int]. Raises ValueError where rendering does, and where a template does something to the name of a special
    token in a message, so that what is whose cannot be told.
    """
    _check_messages(messages)
    special = {token.text for token in tokenizer.added_tokens if token.special}
    names = special | {token.text for token in tokenizer.added_tokens
                       if token.text in template.source and _signs(token.text)}
    others = {token.text for token in tokenizer.added_tokens} - names
    hide = _hiding(names, _characters_of(messages) | set(template.source))
    shown = {ord(mark): sign for sign, mark in hide.items()}
    variants = [_changed(messages, lambda text: _translated(text, hide)),
                *(_changed(messages, _name_hider(some, hide)) for some in (names, special))]
    plain, *hidden = template._render([messages, *variants], add_generation_prompt)
    text = _text(plain)
    for result in hidden:
        if result.get("text", "").translate(shown) == text:
            return tokenizer.encode_masked(_reveal(result["text"], text, others, names), shown)
    raise ValueError("messages: expected no names of special tokens that the chat template looks for, got some among "
                     f"{', '.join(sorted(name for name in special if name in str(messages))[:5])}")


def _text(result):
    if "error" in result:
        raise ValueError(f"chat template: {result['error']}")
    return result["text"]


def load_chat_template(path, tokenizer):
    """The chat template of a model, or None where it has none.

    path: a directory or a file in it, with chat_template.jinja or chat_template in tokenizer_config.json, or a GGUF
    file. tokenizer: names the tokens that begin and end a text.
    Raises ValueError where the files hold something else.
    """
    source = _find_source(Path(path))
    if source is None:
        return None
    names = {token: text for text, token in tokenizer.special_tokens.items()}
    return ChatTemplate(source, names.get(tokenizer.bos_token_id), names.get(tokenizer.eos_token_id))


def _find_source(path):
    if path.is_file():
        with path.open("rb") as file:
            if file.read(len(MAGIC)) == MAGIC:
                return read_header(path).metadata.get(GGUF_KEY)
    file = (path if path.is_dir() else path.parent) / TEMPLATE_FILE
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{file}: expected a text in UTF-8, got something else ({error})") from error
    source = config_beside(path).get("chat_template")
    if isinstance(source, list):
        named = {entry.get("name"): entry.get("template") for entry in source if isinstance(entry, dict)}
        if "default" not in named:
            raise ValueError(f"{CONFIG_FILE}: expected a chat template named default, got {', '.join(map(str, named))}")
        return named["default"]
    return source


# ---- hiding

def _hiding(names, used):
    """{sign: a character that is not used}, for the signs in the names, and for all of a name that has no sign."""
    signs = set()
    for name in names:
        signs |= _signs(name) or set(name)
    unused = (chr(code) for code in _PRIVATE_USE if chr(code) not in used)
    return dict(zip(sorted(signs), unused, strict=False))


def _signs(name):
    return {character for character in name if not character.isalnum() and not character.isspace()}


def _reveal(hidden, plain, others, names):
    """The text with nothing hidden in the names `others`, unless more or less of `names` could be found then.

    hidden, plain: the same text, character by character, with signs hidden and without.
    """
    parts, end = [], 0
    for match in _any_of(others).finditer(plain):
        parts += hidden[end:match.start()], match[0]
        end = match.end()
    shown = "".join([*parts, hidden[end:]])
    return shown if _found(names, shown) == _found(names, hidden) else hidden


def _found(names, text):
    return [match.span() for match in _any_of(names).finditer(text)]


def _translated(text, hide):
    return text.translate({ord(sign): mark for sign, mark in hide.items()})


def _name_hider(names, hide):
    """A function that hides the signs in whole names."""
    finder = _any_of(names)
    return lambda text: finder.sub(lambda match: _translated(match[0], hide), text)


def _any_of(names):
    """An expression that finds the names, the longest of those that begin at one place; of none it finds nothing."""
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))) or "(?!)")


def _changed(value, change):
    """A conversation with `change` made to every text in it. The names of its parts, like "content", stay."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_changed(item, change) for item in value]
    if isinstance(value, dict):
        return {key if key.isidentifier() else change(key): _changed(item, change) for key, item in value.items()}
    return value


def _characters_of(value):
    return set(json.dumps(value, ensure_ascii=False))


def _check_messages(messages):
    if not isinstance(messages, list) or not messages or not all(
            isinstance(message, dict) and isinstance(message.get("role"), str) for message in messages):
        raise ValueError('messages: expected a list of {"role": ..., "content": ...}, at least one, '
                         f"got {str(messages)[:80]}")
    try:
        json.dumps(messages, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"messages: expected texts, numbers, lists and dicts, got something else ({error})") from error


# ---- the other process

def _ask_renderer(request, most):
    """What the renderer answers to a request. At most `most` bytes of it are read."""
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    with subprocess.Popen([sys.executable, "-I", str(RENDERER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, env=environment) as process:
        timer = threading.Timer(SECONDS, process.kill)
        timer.start()
        try:
            answer = _exchange(process, request, most)
        finally:
            late = not timer.is_alive()
            timer.cancel()
            process.kill()
    if late:
        raise ValueError(f"chat template: it took more than {SECONDS} s")
    try:
        return json.loads(answer)
    except (ValueError, RecursionError) as error:
        raise ValueError("chat template: it made the process that renders it break down, perhaps for want of memory"
                         ) from error


def _exchange(process, request, most):
    try:
        process.stdin.write(request)
        process.stdin.close()
    except OSError:             # it ended before it had read everything; what it wrote, if anything, tells why
        pass
    return process.stdout.read(most)
