"""Texts to train on and to encode. Each would show a mistake of its own, and most are full of ties."""

TRAINING = {
    "one letter, in runs": ["a " + "aa aaa aaaa aaaaa " * 3 + "aaaaaaa aaaaaaaaaaaaaaa" + "b" * 40],
    "two letters, all ties": ["ab ba aab abb bab aba bba baab abab ababab bbaabb babababa"],
    "a run at the end of a word": ["xaaa yaaaa xaa zaaaaa axaa aaxaaa"],
    "every word once": ["the quick brown fox jumps over a lazy dog while seven wizards box my jolt of quartz"],
    "words in other orders": ["dog god dg og do go gd odg gdo", "god dog og gd", "dgo"],
    "contractions": ["it's they're we've I'm he'll she'd don't can't IT'S 's's're'"],
    "digits": ["1 22 333 4444 1234 12345 2024 1999 3.14159 1,000,000 ½ Ⅷ ٣٤٥ 1a2b3c"],
    "blanks": ["a  b   c    d\n\n\ne\t\tf \n g\r\n\r\nh \u00a0 \u3000i  ", "  \n", "\n\n\n\n", "   x"],
    "chinese": ["你好，世界。你好你好世界你好，我们在世界上。人人人人人，天天向上，好好学习。"],
    "emoji": ["🦙🦙🦙 👩‍👩‍👧‍👦 🇨🇦🇨🇺 ❤️❤️ 🦙🦙 👍🏽👍🏽👍🏿 :-) :-( ¯\\_(ツ)_/¯"],
    "many scripts": ["Ça va? naïve façade — Привет, привет! Γειά σου κόσμε नमस्ते नमस्ते 안녕하세요 שלום مرحبا"],
    "signs": ["<|end_of_text|> ... !!! ??? {[()]} == != <= => // /* */ #### ---- ____ \x00\x01\x7f\u00ad"],
    "documents": ["ab", "abab", "b", "ab ab", "", "ba", "a" * 9, "the cat", "the cat sat", "on the mat"],
}

ENCODING = [
    "", " ", "a", "To be, or not to be: that is the question.", "aaaaaaaaaaaaaaaaaaa", "ababababbabaab",
    "the  cat   sat\n\n\non the\tmat ", "Ça va? 你好，世界 🦙👩‍👩‍👧‍👦", "it's IT'S don't 'll",
    "1234567890 ½", "\x00\x7f\u00ad\u2028",
    "<|begin_of_text|>the end<|end_of_text|>", "नमस्ते 안녕하세요 שלום مرحبا", "xaaa yaaaa", "   leading and trailing   ",
]
