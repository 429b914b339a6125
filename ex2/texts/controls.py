"""Texts changed on purpose, which descriptions are compared with: scrambled, about another class, edited, random words."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from ex2.texts.class_names import strip_name
from ex2.texts.questions import TEMPLATE

WAFFLES_PER_CLASS = 8  # texts of the random-words control at most


def scrambled(text: str, seed: int) -> str:
    """The words of a text in random order."""
    words = text.split()
    random.Random(f"{seed}:{text}").shuffle(words)
    return " ".join(words)


def random_words(class_names: Sequence[str], pool: Sequence[str], per_class: int, seed: int) -> list[tuple[int, str]]:
    """Class id and text, `per_class` texts a class: the template with two random words of the descriptions.

    WaffleCLIP's control (Roth et al. 2023, arXiv:2306.07282): where it does as well, what the descriptions say does not matter.
    """
    words = sorted({word.strip(".,;:!?\"'()").casefold() for text in pool for word in text.split()} - {""})
    words = words or ["it"]  # of descriptions that are nothing but punctuation
    generator = random.Random(seed)
    return [
        (class_id, f"{TEMPLATE.replace('{}', name)}, which has {generator.choice(words)}, {generator.choice(words)}.")
        for class_id, name in enumerate(class_names)
        for _ in range(per_class)
    ]


def swapped(class_ids: Sequence[int], seed: int) -> list[int]:
    """For each text the id of another class that it is tried on: one random cyclic order of the classes that occur."""
    classes = sorted(set(class_ids))
    random.Random(seed).shuffle(classes)
    following = dict(zip(classes, classes[1:] + classes[:1], strict=True))
    return [following[class_id] for class_id in class_ids]


def some_of_each_class(class_ids: Sequence[int], most: int, seed: int) -> list[int]:
    """Ascending positions of at most `most` texts of each class, drawn by seed."""
    members: dict[int, list[int]] = {}
    for position, class_id in enumerate(class_ids):
        members.setdefault(class_id, []).append(position)
    generator = random.Random(seed)
    return sorted(i for own in members.values() for i in generator.sample(own, min(most, len(own))))


def renamed(text: str, old: str, new: str) -> str:
    """A text with the name of its class replaced by another."""
    return strip_name(text, old, stand_in=new)


COLOURS = (
    "red", "orange", "yellow", "golden", "brown", "black", "green", "blue", "purple", "pink", "white", "silver", "grey", "gray",
)  # fmt: skip
PLACES = (
    "ocean", "sea", "river", "lake", "pond", "beach", "reef", "coast", "forest", "jungle", "rainforest", "desert", "savanna",
    "meadow", "mountain", "garden", "farm", "house", "kitchen", "city",
)  # fmt: skip


def recoloured(text: str) -> str | None:
    """A text with every colour replaced by another one, always the same; None where it names none."""
    return _replaced(text, _OTHER_COLOUR)


def moved(text: str) -> str | None:
    """A text with every place replaced by another one, always the same; None where it names none."""
    return _replaced(text, _OTHER_PLACE)


def _turned(words: Sequence[str]) -> dict[str, str]:
    """Each word and the one that is half of the list away: what is near in the list is alike."""
    half = len(words) // 2
    return {word: words[(place + half) % len(words)] for place, word in enumerate(words)}


def _plural(place: str) -> str:
    if place.endswith("y"):
        return f"{place[:-1]}ies"
    return f"{place}es" if place.endswith("ch") else f"{place}s"


_OTHER_COLOUR = _turned(COLOURS)
_OTHER_PLACE = _turned(PLACES) | {_plural(word): _plural(other) for word, other in _turned(PLACES).items()}


def _replaced(text: str, other: dict[str, str]) -> str | None:
    changed = re.sub(rf"\b({'|'.join(other)})\b", lambda found: other[found[0].casefold()], text, flags=re.IGNORECASE)
    return changed if changed != text else None
