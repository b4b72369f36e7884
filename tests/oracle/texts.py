"""Three documents of different lengths, and what they must contain for every statistic to have targets.

Repeated words (same token, induction), several sentences with quotes and brackets at their ends, punctuation inside
and between words, characters of several bytes, a number with a point that ends no sentence, a sign that is part
punctuation and part not.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

LONG = (
    'The clerk counted the keys, and the keys counted nothing. "Where is the seventh key?" asked the clerk. '
    "The seventh key (the small one!) lay under the seventh book; the book lay under the lamp.\n"
    "At 3.14 seconds past noon – so the café's clock said – the lamp went out… Nobody counted the lamps! "
    'The clerk counted the keys again: one key, two keys, three keys, and the seventh key. "Where is the lamp?" '
    "asked the night porter. The night porter counted the books, and the books counted nothing. "
    "“Lamps do not walk,” said the clerk; “keys do.” So the clerk and the night porter walked from book to book "
    "(there were forty-two of them) and under every book lay a key, and under every key a small lamp."
)
MIDDLE = (
    "A query asks and a key answers. Does the query know the key? No; the query asks every key, and every key "
    "answers (some of them loudly). A key that nobody asks answers nothing =)"
)
SHORT = "Keys, keys, keys! Who counted the keys? The clerk."
TEXTS = [LONG, MIDDLE, SHORT]
BRIEF = [LONG[:420], MIDDLE, SHORT]  # for models of six attention calls, to save time

# Only for a tokenizer that has them: an unknown sign (never special), and a special token inside the text.
STRANGE = [*TEXTS[:2], "Keys 𓀀 and keys 𓀀 again. The [MASK] counted the keys, the [MASK] counted the clerk!"]


def pictures() -> list[Image.Image]:
    """Three pictures of different shapes, smooth enough that patches differ and neighbours resemble each other."""
    out = []
    for seed, (height, width) in enumerate([(16, 24), (30, 20), (9, 40)]):
        noise = np.random.default_rng(seed).uniform(0, 255, (height // 3 + 1, width // 3 + 1, 3))
        small = Image.fromarray(noise.astype(np.uint8))
        out.append(small.resize((width, height), Image.Resampling.BICUBIC))
    return out
