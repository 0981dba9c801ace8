"""Texts of every kind that a tokenizer may meet."""

PLANES = [(0x20, 0x7F), (0x61, 0x7B), (0x61, 0x7B), (0x09, 0x0E), (0x20, 0x21), (0x20, 0x21), (0xA0, 0x250),
          (0x300, 0x370), (0x370, 0x600), (0x900, 0x980), (0x2000, 0x2070), (0x2581, 0x2582), (0x4E00, 0xA000),
          (0xAC00, 0xD7A4), (0x1F300, 0x1F700), (0x0, 0xD800), (0xE000, 0x110000)]
PARTS = ["the", "The", " and", "ing", "er", " ", "  ", "    ", "\n", "\n\n", "\t", "\r\n", "▁", "▁▁", "é", "e\u0301",
         "Å", "A\u030a", "ñ", "ﬁ", "你好", "世界", "안녕", "नमस्ते", "مرحبا", "שלום", "🦙", "👩‍👩‍👧‍👦", "👍🏽", "🇨🇦",
         "❤️", "\u200d",
         "def f(x):", "    return x\n", "for (int i = 0; i < n; i++) {", "</div>", "==", "===", "-", "->", "#", "0",
         "2024", "3.14", "1,000", "x_1", "http://a.b/c?d=e", "\\n", "\"", "'s", "don't", ".", "...", "!", "a", "ha",
         "na", "o", "ll", "\x00", "\x7f", "\u00a0", "\u3000", "\ufeff", "\ufffd", "<0x0A>", "<s>", "</s>", "<unk>",
         "<user>", "<use", "@@", "@@@", "@@@x", "antidisestablishmentarianism", "Donaudampfschifffahrt", "q" * 40]


def varied_texts(rng, number, planes=PLANES):
    """That many texts: characters of all planes, or parts of words, of code and of blanks, some of them repeated."""
    texts = ["", " ", "  ", "▁", " ▁ ", *PARTS]
    while len(texts) < number:
        size = int(rng.integers(0, 24))
        if rng.random() < 0.4:
            texts.append("".join(chr(rng.integers(*planes[i])) for i in rng.integers(len(planes), size=size)))
        else:
            parts = [PARTS[i] for i in rng.integers(len(PARTS), size=size // 2)]
            texts.append("".join(part * int(rng.choice([1, 1, 1, 1, 2, 3, 7])) for part in parts))
    return texts
