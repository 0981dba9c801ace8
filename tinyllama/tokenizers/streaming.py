"""Text from tokens as they come, never half a character."""

import codecs


class TextStream:
    """Turns tokens into text one at a time.

        stream = TextStream(tokenizer)
        for token in tokens:
            print(stream.feed(token), end="")
        print(stream.close())

    A character whose bytes come in several tokens is given once it is complete, and bytes that are no text as U+FFFD.
    All that is given, joined, is `tokenizer.decode_bytes(tokens).decode(errors="replace")`: special tokens give
    nothing.

    continues: the tokens go on where another text ends. Then the space that a SentencePiece tokenizer has put before
    its first word, and that decoding leaves out, is a space like any other.
    """

    def __init__(self, tokenizer, continues=False):
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._first = None if continues else []         # the tokens before the first byte that is given

    def feed(self, token):
        """The text that is complete with this token, often "". Raises ValueError where it is no token."""
        data = self._tokenizer.token_bytes(token)
        if self._first is not None and data:
            self._first.append(token)
            data = self._tokenizer.decode_bytes(self._first)
            self._first = None if data else self._first
        return self._decoder.decode(data)

    def close(self):
        """What is left: U+FFFD where the last character is not complete, and else ""."""
        return self._decoder.decode(b"", final=True)
