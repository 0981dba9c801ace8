import pytest

from tinyllama.tokenizers.byte_level import ALPHABET, PRINTABLE, from_printable, printable, split_words


def test_every_byte_has_a_character_of_its_own_that_can_be_seen():
    assert len(set(PRINTABLE)) == 256
    assert all(character.isprintable() and not character.isspace() for character in PRINTABLE)
    assert from_printable(PRINTABLE) == bytes(range(256))
    assert printable(b" caf\xc3\xa9\n\x00!") == "ĠcafÃ©ĊĀ!"


def test_the_alphabet_is_in_the_order_of_the_characters():
    assert printable(ALPHABET) == "".join(sorted(PRINTABLE))
    assert (ALPHABET[:3], ALPHABET[188:190], ALPHABET[-1:]) == (b'!"#', b"\x00\x01", b"\xad")


def test_live_the_characters_are_those_of_the_library():
    tokenizers = pytest.importorskip("tokenizers", reason="The library tokenizers is not installed.")
    assert set(tokenizers.pre_tokenizers.ByteLevel.alphabet()) == set(PRINTABLE)
    [(text, _)] = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(
        "\x00\x1f aé你🦙\x7f\u00ad")
    assert text == printable("\x00\x1f aé你🦙\x7f\u00ad".encode())


def test_a_character_that_stands_for_no_byte_is_named():
    with pytest.raises(ValueError, match="as Ġ does for a space, got ' ' in 'a b'"):
        from_printable("a b")


@pytest.mark.parametrize(("text", "words"), [
    ("", []),
    ("To be, or not", ["To", " be", ",", " or", " not"]),
    ("it's IT'S we'll", ["it", "'s", " IT", "'", "S", " we", "'ll"]),
    ("a  b   c", ["a", " ", " b", "  ", " c"]),
    ("a\n\nb \n c  ", ["a", "\n", "\n", "b", " \n", " c", "  "]),
    ("x1y22 333!", ["x", "1", "y", "22", " 333", "!"]),
    ("你好，世界 🦙🦙", ["你好", "，", "世界", " 🦙🦙"]),
    ("a\u00a0\u3000b", ["a", "\u00a0", "\u3000", "b"]),
    ("\udc80a", ["\udc80", "a"]),
])
def test_a_text_is_cut_into_words(text, words):
    assert split_words(text) == words
    assert "".join(split_words(text)) == text


def test_patterns_cut_one_after_the_other_and_keep_what_lies_between():
    assert split_words("ab12 3c", [r"\p{N}"]) == ["ab", "1", "2", " ", "3", "c"]
    assert split_words("ab12 3c", [r"\p{N}", r"[a-z]"]) == ["a", "b", "1", "2", " ", "3", "c"]
    assert split_words("ab12\n3c", []) == ["ab12\n3c"]
    assert split_words("", [r"\p{N}"]) == []
    assert split_words("\n\n", ["a|b"]) == ["\n\n"]
