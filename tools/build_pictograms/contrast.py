"""False versions of true descriptions: one attribute (colours, parts, pattern or shape) is changed."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence

from tools.build_pictograms.descriptions import Description, fix_articles, join, strip_article

# Colour words, each with the words too near to it to count as a change.
NEAR_COLOURS = {
    "red": "pink orange crimson scarlet brown reddish",
    "reddish": "red pink orange crimson scarlet brown",
    "crimson": "red pink scarlet",
    "scarlet": "red pink crimson orange",
    "orange": "red yellow brown golden tan ginger amber",
    "amber": "orange yellow golden brown",
    "yellow": "golden gold orange beige",
    "golden": "yellow orange brown beige gold",
    "gold": "yellow orange brown beige golden",
    "green": "teal",
    "teal": "green blue",
    "blue": "teal purple violet bluish",
    "bluish": "blue teal purple violet",
    "purple": "violet pink blue",
    "violet": "purple pink blue",
    "pink": "red purple violet rosy",
    "rosy": "pink red",
    "brown": "orange tan beige golden red chestnut",
    "chestnut": "brown",
    "tan": "beige brown orange sandy",
    "beige": "tan white brown yellow cream",
    "cream": "white beige",
    "sandy": "tan beige brown yellow",
    "ginger": "orange brown",
    "black": "gray grey dark brown",
    "white": "beige gray grey cream pale",
    "gray": "white black grey",
    "grey": "white black gray",
}
COLOUR_TARGETS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "gray")
PATTERNS = {
    "striped": ("spotted", "checkered", "plain"),
    "banded": ("spotted", "checkered", "plain"),
    "spotted": ("striped", "checkered", "plain"),
    "dotted": ("striped", "checkered", "plain"),
    "speckled": ("striped", "checkered", "plain"),
    "patched": ("striped", "checkered", "plain"),
    "stripes": ("dots", "squares", "stars"),
    "bands": ("dots", "squares", "stars"),
    "bars": ("dots", "squares", "stars"),
    "spots": ("stripes", "squares", "zigzags"),
    "dots": ("stripes", "squares", "zigzags"),
    "speckles": ("stripes", "squares", "zigzags"),
    "patches": ("stripes", "dots", "zigzags"),
    "blotches": ("stripes", "dots", "zigzags"),
    "spiral": ("square", "flat"),
    "coiled": ("straight", "flat"),
    "smooth": ("spiny", "hairy"),
    "fluffy": ("bald", "scaly"),
    "woolly": ("bald", "scaly"),
    "furry": ("scaly", "bald"),
    "feathered": ("furry", "scaly"),
    "scaly": ("furry", "feathered"),
    "prickly": ("smooth", "fluffy"),
    "spiky": ("smooth", "fluffy"),
    "shiny": ("dull", "hairy"),
}
SHAPES = {
    "long": ("short", "stubby"),
    "short": ("long", "very long"),
    "tall": ("low", "flat"),
    "big": ("tiny", "small"),
    "large": ("tiny", "small"),
    "huge": ("tiny", "small"),
    "small": ("huge", "enormous"),
    "tiny": ("huge", "enormous"),
    "little": ("huge", "enormous"),
    "thin": ("thick", "fat"),
    "slim": ("thick", "fat"),
    "thick": ("thin", "slim"),
    "round": ("square", "triangular"),
    "oval": ("square", "triangular"),
    "pointed": ("blunt", "flat"),
    "curved": ("straight",),
    "curly": ("straight",),
    "triangular": ("round", "square"),
    "one": ("six", "three"),
    "two": ("five", "seven"),
    "four": ("nine", "two"),
    "six": ("two", "twelve"),
    "eight": ("two", "four"),
}


def _any_word(words: Mapping[str, object]) -> re.Pattern[str]:
    return re.compile(r"\b(" + "|".join(words) + r")\b", re.IGNORECASE)


def _like(word: str, replacement: str) -> str:
    """Return the replacement with a capital letter where the word has one."""
    return replacement.capitalize() if word[0].isupper() else replacement


COLOUR_WORD, PATTERN_WORD, SHAPE_WORD = _any_word(NEAR_COLOURS), _any_word(PATTERNS), _any_word(SHAPES)


def near(first: str, second: str) -> bool:
    """Are two colour words too alike for one to contradict the other?"""
    return (
        first == second
        or second in NEAR_COLOURS.get(first, "").split()
        or first in NEAR_COLOURS.get(second, "").split()
    )


def change_colours(text: str, rng: random.Random) -> str | None:
    """Replace every colour word by one far from it and from the others; None if there is none."""
    words = sorted({word.lower() for word in COLOUR_WORD.findall(text)})
    table: dict[str, str] = {}
    for word in words:
        taken = set(table.values())
        free = [t for t in COLOUR_TARGETS if t not in taken and not any(near(t, other) for other in words)]
        free = free or [t for t in COLOUR_TARGETS if not near(t, word) and t not in words]
        table[word] = rng.choice(free)
    swapped = COLOUR_WORD.sub(lambda match: _like(match[1], table[match[1].lower()]), text)
    return fix_articles(swapped) if words else None


def change_parts(text: str, entry: Description, other: Description, rng: random.Random) -> str | None:
    """Replace the parts that a text mentions by parts of another class; None if no part is found.

    In a writer's sentence whatever stands behind "with" or "has" counts as parts.
    """
    found = [part for part in entry.parts if part in text or strip_article(part) in text]
    if found:
        found = found[: len(other.parts)][:2]
        for part, new in zip(found, rng.sample(other.parts, len(found)), strict=True):
            whole = part in text
            text = text.replace(part if whole else strip_article(part), new if whole else strip_article(new))
        return fix_articles(text)
    match = re.search(r"^(.*?\b(?:with|has|have)) [^.]*(\.?)$", text)
    if match is None:
        return None
    return f"{match[1]} {join(rng.sample(other.parts, min(2, len(other.parts))))}{match[2]}"


def _change_words(text: str, pattern: re.Pattern[str], table: Mapping[str, Sequence[str]], rng: random.Random) -> str:
    return fix_articles(pattern.sub(lambda match: _like(match[1], rng.choice(table[match[1].lower()])), text))


def change_pattern(text: str, rng: random.Random) -> str | None:
    """Replace words of pattern and surface by contrary ones; None if there is none."""
    return _change_words(text, PATTERN_WORD, PATTERNS, rng) if PATTERN_WORD.search(text) else None


def change_shape(text: str, rng: random.Random) -> str | None:
    """Replace words of shape, size and number by contrary ones; None if there is none."""
    return _change_words(text, SHAPE_WORD, SHAPES, rng) if SHAPE_WORD.search(text) else None


def changed(text: str, entry: Description, other: Description, rng: random.Random) -> dict[str, str]:
    """Return the false versions of a text by what was changed, as far as it can be."""
    versions = {
        "colour": change_colours(text, rng),
        "part": change_parts(text, entry, other, rng),
        "pattern": change_pattern(text, rng),
        "shape": change_shape(text, rng),
    }
    return {kind: version for kind, version in versions.items() if version is not None and version != text}
