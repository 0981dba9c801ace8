"""How spaces become part of the pieces: each is written ▁ (U+2581), and most tokenizers put one before the text."""

import re
from typing import NamedTuple

MARK = "▁"
PREFIXES = ("always", "missing", "first", None)

_EVERY_MARK = re.compile(f"{MARK}[^{MARK}]*|[^{MARK}]+")
_EVERY_RUN = re.compile(f"{MARK}*[^{MARK}]+|{MARK}+")


class Spaces(NamedTuple):
    """The rules of one tokenizer.

    prefix: where a ▁ is put before a text, so that its first word looks like the others: "always" (SentencePiece's
    dummy prefix), "missing" (only where the text does not begin with a space), "first" (the same, but not after a
    special token), or None.
    remove_extra: spaces at both ends are dropped, and of several in the middle one stays.
    split: no piece holds more than one ▁, which comes first in it.
    drop_first: decoding leaves out the space that begins a text.
    """

    prefix: str | None = "always"
    remove_extra: bool = False
    split: bool = False
    drop_first: bool = True

    def check(self):
        """Raise ValueError for rules that no file can describe."""
        if self.prefix not in PREFIXES:
            raise ValueError(f"spaces: expected a prefix among {PREFIXES}, got {self.prefix!r}")
        if (self.split and self.prefix == "always") or (self.remove_extra and (self.split or self._is_late)):
            raise ValueError('spaces: expected split without the prefix "always", and remove_extra without split and '
                             f'with the prefix "always" or None, got {self}')

    @property
    def _is_late(self):
        """Whether spaces are marked after normalized added tokens are looked for."""
        return self.prefix in ("missing", "first")

    def normalize(self, text):
        """The text in which normalized added tokens are looked for; with marks where the prefix is "always" or None."""
        if self._is_late:
            return text
        if self.remove_extra:
            text = re.sub("  +", " ", text.strip(" "))
        if not text:
            return ""
        marked = (MARK if self.prefix else "") + text.replace(" ", MARK)
        return marked.rstrip(MARK) if self.remove_extra else marked

    def mark(self, text, is_first):
        """A normalized stretch without added tokens, with all its marks. is_first: nothing stands before it."""
        marked = text.replace(" ", MARK)
        if self.prefix == "missing" or (self.prefix == "first" and is_first):
            return marked if marked.startswith(MARK) else MARK + marked
        return marked

    def words(self, marked, may_cut):
        """Cut a stretch into words that no piece crosses; joined, they are the stretch again.

        may_cut: no piece has a ▁ after another character, so that every run of ▁ begins a word.
        """
        if self.split:
            return _EVERY_MARK.findall(marked)
        return _EVERY_RUN.findall(marked) if may_cut else [marked]
