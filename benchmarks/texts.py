"""Sentences to measure with: the standard library's own documentation, so that every machine has the same."""

import pydoc_data.topics
import random


def sentences(count: int, fewest: int, most: int) -> list[str]:
    """Stretches of `fewest` to `most` words, the same ones in every run."""
    draw = random.Random(0)
    words = " ".join(pydoc_data.topics.topics.values()).split()
    starts = [draw.randrange(len(words) - most) for _ in range(count)]
    return [" ".join(words[start : start + draw.randint(fewest, most)]) for start in starts]
