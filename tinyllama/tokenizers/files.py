"""The file a tokenizer is kept in: JSON, named tokenizer.json.

Its "type" says which tokenizer it holds. Files in the format of the library `tokenizers` have a "model" instead.
"""

import json
import os
from pathlib import Path

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"


def write_document(path, document):
    """Write a JSON document to `path`, or to tokenizer.json in it where `path` is a directory.

    The text is written beside the file and then moved over it, so that a reader sees the old file or the new one and
    never half of one. Folders on the way are made.
    """
    file = tokenizer_file(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def read_document(path):
    """The JSON document in `path`, or in tokenizer.json where `path` is a directory: a dict with a "type" or a "model".

    Raises FileNotFoundError where there is no such file, and ValueError where it is not a tokenizer: not JSON, cut
    short, or JSON of another kind.
    """
    file = tokenizer_file(path)
    if not file.exists():
        raise FileNotFoundError(f"{path}: expected a tokenizer's file or a directory that holds {TOKENIZER_FILE}, got "
                                + ("a directory without it" if file != Path(path) else "a path where nothing is"))
    try:
        document = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:       # not JSON, not even text, or nested without end
        raise ValueError(f"{file}: expected a tokenizer saved as JSON, got a file that is not JSON or was cut short "
                         f"({error})") from error
    if not isinstance(document, dict):
        raise ValueError(f"{file}: expected a JSON object, got JSON of another kind: {str(document)[:40]}")
    if not document.keys() & {"type", "model"}:
        raise ValueError(f'{file}: expected a tokenizer, with a "type" or a "model", got a JSON object with '
                         + (", ".join(f'"{key}"' for key in list(document)[:6]) or "nothing in it"))
    return document


def expect(path, document, key, expected):
    """Raise ValueError unless the document's `key` is one of the `expected` values."""
    if document.get(key) not in expected:
        choices = " or ".join(repr(value) for value in expected)
        raise ValueError(f'{path}: expected "{key}" to be {choices}, got {document.get(key)!r}')


def tokenizer_file(path):
    """The file that `path` means: itself, or tokenizer.json in it where it is a directory."""
    path = Path(path)
    return path / TOKENIZER_FILE if path.is_dir() else path


def token_names_beside(path):
    """The names of special tokens in the tokenizer_config.json that lies beside a tokenizer: {"bos_token": "<s>", ...}.

    Empty where there is no such file. Raises ValueError where it holds something else.
    """
    names = {key: value.get("content") if isinstance(value, dict) else value
             for key, value in config_beside(path).items() if key.endswith("_token")}
    return {key: name for key, name in names.items() if isinstance(name, str)}


def config_beside(path):
    """The tokenizer_config.json that lies beside a tokenizer, as a dict; an empty one where there is no such file.

    Raises ValueError where it holds something else.
    """
    file = tokenizer_file(path).with_name(CONFIG_FILE)
    if not file.exists():
        return {}
    try:
        config = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{CONFIG_FILE}: expected JSON, got a file that is not ({error})") from error
    if not isinstance(config, dict):
        raise ValueError(f"{CONFIG_FILE}: expected a JSON object, got {str(config)[:40]}")
    return config
