"""Lines that are hard to tokenize, made by a seed: what people type, and what breaks things."""

import random

WORDS = str.split(
    "the of and to dog good you're don't I'll we've they'd it's owning understanding can't O'Neil "
    "internationalization x86_64 3.14159 1,000,000 http://example.com/a?b=c&d=%20 foo@bar.org #tag "
    "C++ <b> </b> && ... --- £5 €10 100% Straße naïve café Ångström déjà Über fiancée"
)
SCRIPTS = str.split(
    "Привет мир хорошо αβγ Ωμέγα Σίσυφος ὀδυσσεύς שלום עולם مرحبا بالعالم كِتَابٌ "
    "नमस्ते दुनिया क्षत्रिय สวัสดีชาวโลก 你好世界漢字 こんにちは カタカナ "
    "日本語ﾊﾟ 한국어 각 ქართული አማርኛ မြန်မာ தமிழ் "
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ﬁ ﷺ ½ ² ① ＦＵＬＬ ｗｉｄｔｈ！ İıŞşĞğ ǅ ẞ ŉ 𠀀𠮷 𩸽"
)
EMOJI = str.split("🙂 👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 🇫🇷🇯🇵 ❤️ 1️⃣ 🧑🏿‍🚀 ☕ 😀😃 🏴󠁧󠁢󠁥󠁮󠁧󠁿")
SPACES = [
    *(" ", "  ", "   ", " " * 17, "\t", "\t\t", "\n", "\r\n", "\x0b", "\x0c", "\x85", "\xa0"),
    *("\u1680", "\u180e", "\u2003", "\u200b", "\u2028", "\u2029", "\u202f", "\u2060", "\u3000"),
    "\ufeff",
]
CONTROLS = [
    *map(chr, range(32)),
    *("\x7f", "\x80", "\x9f", "\xad", "\u0378", "\u200e", "\u200f", "\u202a", "\u202e", "\u2066"),
    *("\ue000", "\ufffd", "\ufffe", "\uffff", "\U000f0000", "\U0010ffff"),
]
COMBINING = list("\u0301\u0308\u0327\u0345\u05b0\u064b\u0e49\u200d\u20dd\u3099\ufe0f")
TYPED = str.split(  # names of special tokens, and what else has a meaning inside a vocabulary
    "[PAD] [UNK] [CLS] [SEP] [MASK] <s> </s> <unk> <pad> <mask> <|endoftext|> <|startoftext|> "
    "<extra_id_0> <extra_id_99> <0x0A> ▁ ##ing [unused1] >>fra<< >> << Ġ </w> �"
)
MARKS = list(".,!?…—“”'\"()\\/`´*¿।。、・")
PLANES = ((32, 127), (0xA0, 0x3000), (0x3000, 0xD800), (0xE000, 0x110000), (0x1F000, 0x1FB00))
FIXED = ["", "   ", "\t", "\n", "\x00", "\u0301", "x" * 5000, "漢" * 300, " " * 300, "▁ ▁", *TYPED]


def hard_lines(n=1000, seed=0):
    """The same lines on every machine."""
    rng = random.Random(seed)
    return [*FIXED, *(_line(rng) for _ in range(n - len(FIXED)))]


def _line(rng):
    parts = [rng.choice(SPACES)] if rng.random() < 0.2 else []
    for _ in range(rng.randrange(1, 12)):
        between = rng.choices([" ", "", rng.choice(SPACES)], [60, 15, 25])[0]
        parts += [_word(rng), between]
    return "".join(parts)


def _word(rng):
    kind = rng.choices(KINDS, WEIGHTS)[0]
    return kind(rng)


def _accented(rng):
    word = rng.choice([*WORDS, *SCRIPTS])
    return "".join(c + "".join(rng.choices(COMBINING, k=rng.randrange(3))) for c in word)


def _anything(rng):
    planes = rng.choices(PLANES, k=rng.randrange(1, 8))
    return "".join(chr(rng.randrange(*plane)) for plane in planes)


def _very_long(rng):
    return "".join(rng.choices("abcdefghij0123456789éß漢", k=rng.randrange(50, 400)))


KINDS = {
    lambda rng: rng.choice(WORDS): 35,
    lambda rng: rng.choice(SCRIPTS): 20,
    lambda rng: rng.choice(EMOJI): 10,
    lambda rng: rng.choice(TYPED): 7,
    lambda rng: rng.choice(CONTROLS): 6,
    lambda rng: rng.choice(MARKS) * rng.randrange(1, 6): 4,
    _accented: 8,
    _anything: 7,
    _very_long: 3,
}
KINDS, WEIGHTS = list(KINDS), list(KINDS.values())
