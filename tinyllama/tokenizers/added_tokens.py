"""Added tokens: texts that are one token each, found before anything else is cut, as <|im_end|> is."""

import functools
import re
from typing import NamedTuple

import regex

SPACES = frozenset("\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
                   "\u2028\u2029\u202f\u205f\u3000")        # Unicode's White_Space

_WORD = regex.compile(r"\w")


class AddedToken(NamedTuple):
    """A text that is one token, and when it is.

    special: it steers the model and is found only where special tokens are allowed; one that is not special, such as
    a run of spaces, is found in every text. left_strip, right_strip: it swallows the white space before it, or after.
    single_word: it is found only where no letter, digit or underscore touches it. normalized: it is looked for in the
    text as the normalization leaves it, not in the text as it came.
    """

    text: str
    token: int
    special: bool = True
    left_strip: bool = False
    right_strip: bool = False
    single_word: bool = False
    normalized: bool = False


class AddedTokens:
    """Finds added tokens in a text, as the library `tokenizers` does: of several that begin at one place, the longest.

    tokens: [AddedToken].
    """

    def __init__(self, tokens):
        self._tokens = {token.text: token for token in tokens}
        self._has_special = any(token.special for token in tokens)
        self._has_others = not all(token.special for token in tokens)

    def split(self, text, allow_special=False):
        """Cut a text at the added tokens in it: a list of str, none of them empty, and of AddedToken.

        With allow_special=False the special ones are text.
        """
        if not (self._has_others or (allow_special and self._has_special)):
            return [text] if text else []
        parts, end = [], 0
        for match in self._finder.finditer(text):
            start, stop = match.span()
            token = self._tokens[match[0]]
            if start < end or (token.special and not allow_special):
                continue            # inside the white space that the one before has swallowed, or no more than text
            if token.single_word and ((start and _WORD.match(text, start - 1)) or _WORD.match(text, stop)):
                continue
            while token.left_strip and start > end and text[start - 1] in SPACES:
                start -= 1
            while token.right_strip and stop < len(text) and text[stop] in SPACES:
                stop += 1
            if start > end:
                parts.append(text[end:start])
            parts.append(token)
            end = stop
        if end < len(text):
            parts.append(text[end:])
        return parts

    @functools.cached_property
    def _finder(self):
        return re.compile("|".join(map(re.escape, sorted(self._tokens, key=len, reverse=True))))
