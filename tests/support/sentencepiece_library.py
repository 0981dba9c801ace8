"""The library `sentencepiece`: the models that it trains, and what it makes of texts."""

import base64
import io

from bpe_cases import TRAINING
from sentencepiece_files import model_file

from tinyllama.tokenizers.pieces import Kind
from tinyllama.tokenizers.sentencepiece_model import read_sentencepiece

EVERYTHING = [document for documents in TRAINING.values() for document in documents]
PLAIN = {"byte_fallback": True, "remove_extra_whitespaces": False, "vocab_size": 800}
SETTINGS = {
    "plain": PLAIN,
    "no prefix, user-defined pieces": PLAIN | {"add_dummy_prefix": False,
                                               "user_defined_symbols": ["▁▁", "<user>", "the", "▁▁▁▁", "<use"]},
    "no extra spaces, no bytes, user-defined pieces": {
        "vocab_size": 300, "user_defined_symbols": ["<user>", "▁c"], "character_coverage": 0.98, "unk_surface": "[?]"},
    "pieces across spaces": PLAIN | {"split_by_whitespace": False, "vocab_size": 600},
    "other names": PLAIN | {"bos_piece": "[begin]", "eos_piece": "[end]", "unk_id": 2, "bos_id": 0, "eos_id": 1,
                            "pad_id": 3, "control_symbols": ["[turn]"]},
}


def train(name):
    """The bytes of a tokenizer.model."""
    import sentencepiece
    stream = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(EVERYTHING), model_writer=stream, model_type="bpe", minloglevel=2,
        normalization_rule_name="identity", hard_vocab_limit=False, **SETTINGS[name])
    return stream.getvalue()


def with_unused(data, every=3):
    """A model of which every so many pieces may be made and not used."""
    pieces = read_sentencepiece(data).pieces
    longer = [token for token, piece in enumerate(pieces) if piece.kind == Kind.NORMAL and len(piece.text) > 1]
    for token in longer[::every]:
        pieces[token] = pieces[token]._replace(kind=Kind.UNUSED)
    return model_file(pieces)


def models():
    """{name: bytes of a tokenizer.model}, of every kind that is supported."""
    trained = {name: train(name) for name in SETTINGS}
    return trained | {"unused pieces": with_unused(trained["plain"])}


def opened(data):
    import sentencepiece
    return sentencepiece.SentencePieceProcessor(model_proto=data)


def as_text(data):
    return base64.b64encode(data).decode()


def as_bytes(text):
    return base64.b64decode(text)
