"""A conversation with a model: what was said, how that is written down for the model, and the next answer."""

import math

from tinyllama.generation.timing import Timing
from tinyllama.generation.writing import as_text, require_known_tokens
from tinyllama.tokenizers.chat_template import encode_chat

# Names of tokens that end a turn in templates, which a configuration may leave out.
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<|end_of_turn|>", "<end_of_turn>", "<|eom_id|>")
ROOM = 4            # the part of the context that an answer may count on is 1 / ROOM


class Templated:
    """Conversations as a chat template writes them; see `encode_chat`."""

    stop, continues = None, False

    def __init__(self, tokenizer, template):
        self.tokenizer, self.template = tokenizer, template

    def encode(self, messages):
        """The tokens of a conversation, up to where the answer begins."""
        return encode_chat(self.tokenizer, self.template, messages)

    @property
    def ends(self):
        """The tokens that end a turn."""
        return [token for name, token in self.tokenizer.special_tokens.items()
                if name in TURN_ENDS and name in self.template.source]


class Plain:
    """Conversations as a play has them, for a model without a template: "User: ...", "Assistant: ...".

    The answer ends before `stop`, where the model would write the next line of the user.
    """

    stop, continues, ends = "\nUser:", True, ()

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def encode(self, messages):
        """The tokens of a conversation, up to where the answer begins."""
        lines = [message["content"] if message["role"] == "system" else
                 f"{message['role'].capitalize()}: {message['content']}" for message in messages]
        return self.tokenizer.encode("\n".join([*lines, "Assistant:"]), bos=self.tokenizer.bos_token_id is not None)


class Conversation:
    """What a user and a model have said, in turns, and a session that remembers what the model has read of it.

    model, tokenizer: a `Llama` and its tokenizer. template: its `ChatTemplate`, or None for `Plain`. system: what the
    model is told before all turns. end_tokens: those that end an answer beside the configuration's and the template's.
    capacity: how many tokens of it are remembered; None is the context of the model.

    turns: [(message, answer)]. Raises ValueError where the tokenizer is not the model's.
    """

    def __init__(self, model, tokenizer, template=None, *, system=None, end_tokens=(), capacity=None):
        require_known_tokens(tokenizer, model.config)
        self.model, self.tokenizer, self.system = model, tokenizer, system
        self.form = Plain(tokenizer) if template is None else Templated(tokenizer, template)
        ends = {*model.config.end_tokens, *end_tokens, *self.form.ends, tokenizer.eos_token_id} - {None}
        self.end_tokens = sorted(ends)
        self.session = model.new_session(capacity)
        self.turns = []

    def reset(self):
        """Forget all turns; the system's message stays."""
        self.turns = []

    def answer(self, message, *, max_new_tokens=1024, **sampling):
        """An `Answer` to a message, which writes itself while it is iterated over; sampling: as in `Llama.generate`.

        Where the context has too little room for the message and an answer, the oldest half of the turns is forgotten,
        if need be again. Raises ValueError for a message that is too long even then, and what the tokenizer, the
        template and `Llama.generate` raise; nothing has changed then.
        """
        ids, turns = self._fit(message, max_new_tokens)
        limit = self.session.capacity - len(ids) + 1        # the last one that is drawn need not fit
        read = len(ids) - self.session.common(ids)
        tokens = self.model.generate(ids, min(max_new_tokens, limit), end_tokens=self.end_tokens, session=self.session,
                                     **sampling)
        forgotten, self.turns = len(self.turns) - len(turns), turns
        return Answer(self, message, tokens, prompt_tokens=len(ids), read=read, forgotten=forgotten, limit=limit)

    def messages(self, turns):
        """The messages of some turns, as a template wants them."""
        messages = [] if self.system is None else [{"role": "system", "content": self.system}]
        for message, answer in turns:
            messages += [{"role": "user", "content": message}, {"role": "assistant", "content": answer}]
        return messages

    def _fit(self, message, max_new_tokens):
        """(the tokens of the conversation with the message, the turns that are in them)."""
        turns, capacity = self.turns, self.session.capacity
        while True:
            ids = self.form.encode([*self.messages(turns), {"role": "user", "content": message}])
            if len(ids) + min(max_new_tokens, capacity // ROOM) <= capacity + 1 or (not turns and len(ids) <= capacity):
                return ids, turns
            if not turns:
                raise ValueError(f"message: expected at most {capacity} tokens, as the context holds, with all that is "
                                 f"written around it, got {len(ids)}")
            turns = turns[math.ceil(len(turns) / 2):]


class Answer:
    """An answer to a message: iterating over it writes it, piece by piece, and then the turn is remembered.

    So it is where the iteration is broken off, with what was written until then; a turn without an answer is forgotten.

    text: what was written so far. prompt_tokens: of the conversation, of which `read` went through the model anew.
    forgotten: how many turns were. timing: a `Timing` of the tokens. is_full: whether the context ended the answer.
    is_complete: whether the model did.
    """

    def __init__(self, conversation, message, tokens, *, prompt_tokens, read, forgotten, limit):
        self.prompt_tokens, self.read, self.forgotten = prompt_tokens, read, forgotten
        self.text, self.timing, self.is_complete, self._limit = "", Timing(), False, limit
        self._conversation, self._message, self._tokens = conversation, message, tokens

    @property
    def is_full(self):
        """Whether it ended because the context is full."""
        return not self.is_complete and self.timing.count == self._limit

    def __iter__(self):
        form, conversation = self._conversation.form, self._conversation
        pieces = as_text(self._until_the_end(), conversation.tokenizer, continues=form.continues)
        if form.stop is not None:
            pieces = self._before(form.stop, pieces)
        try:
            for piece in pieces:
                self.text += piece
                yield piece
        finally:
            if self.text:
                conversation.turns = [*conversation.turns, (self._message, self.text)]

    def _until_the_end(self):
        """The tokens of the answer, but for the one that ends it."""
        for token in self.timing.watch(self._tokens):
            if token in self._conversation.end_tokens:
                self.is_complete = True
                return
            yield token

    def _before(self, stop, pieces):
        """The text before `stop`, without spaces at its beginning; what may become `stop` is held back."""
        held = ""
        for piece in pieces:
            text, found, _ = (held + piece).partition(stop)
            size = 0 if found else next((n for n in range(len(stop) - 1, 0, -1) if text.endswith(stop[:n])), 0)
            text, held = text[:len(text) - size], text[len(text) - size:]
            if text := text if self.text else text.lstrip():
                yield text
            if found:
                self.is_complete = True
                return
        if held := held if self.text else held.lstrip():
            yield held
