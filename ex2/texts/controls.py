"""Texts changed on purpose, which descriptions are compared with: scrambled, about another class, renamed, random words."""

from __future__ import annotations

import random
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
