"""Name-free descriptions of classes by several writers, and the captions composed of them.

``descriptions.json`` holds three parts. ``train``: what the classes are called in general (``kinds``), their ``colours``,
``parts``, ``shape`` and ``place`` (verb phrases of habitat and use), and whole ``sentences`` by writer. ``development``:
one description a class by a further writer, for choices only. ``unseen``: descriptions of the classes that training
never sees, for the report only.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parent / "descriptions.json"
WRITERS = ("first", "second", "third", "fourth")
"""Writers who described every embedded class; the other classes have the first one only, who also gave all attributes."""

# What a class is when nothing else is said about it, by the subgroup of its name.
BARE_KINDS: dict[str, tuple[str, ...]] = {
    "animal-mammal": ("an animal", "a mammal", "a creature", "a wild animal"),
    "animal-bird": ("a bird", "an animal", "a feathered animal", "a waterfowl"),
    "animal-amphibian": ("an animal", "an amphibian", "a creature"),
    "animal-reptile": ("an animal", "a reptile", "a creature"),
    "animal-marine": ("a sea animal", "a marine animal", "a creature of the sea", "a marine mammal"),
    "animal-bug": ("an insect", "a bug", "an animal", "a small creature"),
    "plant-flower": ("a flower", "a plant", "a blossom"),
    "plant-other": ("a plant", "a growing thing", "a piece of nature"),
    "food-fruit": ("a fruit", "a food", "a plant"),
    "food-vegetable": ("a vegetable", "a food", "a plant"),
}
# Kinds of a subgroup that only some of its classes are.
_ONLY_OF = {"a waterfowl": ("duck", "swan", "goose", "penguin"), "a marine mammal": ("whale", "dolphin", "seal")}
_DEFAULT_KINDS = ("a thing", "an object", "a picture")
NOTHING = (
    "a majestic creature",
    "a beautiful creature",
    "a fascinating thing",
    "It is a beautiful and fascinating sight.",
    "It is truly amazing.",
    "a lovely picture",
    "a photo",
    "something wonderful in nature",
    "It is known for its beauty and grace.",
    "one of the most interesting of its kind",
    "It is loved by many people all over the world.",
    "an important part of its environment",
    "a thing",
    "There is something in the picture.",
)
PRAISE = ("a beautiful {}", "a majestic {}", "The {} is fascinating.", "a lovely {}", "The {} is truly amazing.")
TAUTOLOGIES = ("{}", "a {}", "A {} is a {}.", "This is a {}.", "a nice picture of a {}", "The {} is known as a {}.")
# Words that say nothing about a picture, put behind a name.
RANDOM_WORDS = (
    "tuesday meeting nine slowly letter receipt although uptown folder rhythm budget door perhaps motor however switch "
    "archive regular station somebody channel typical hello click share price email account policy number because "
    "yesterday table seven office often copy member letterbox without program sunday report twelve whether cable"
)


@dataclass(frozen=True)
class Description:
    """What is written about one class."""

    kinds: list[str]
    colours: list[str]
    parts: list[str]
    shape: list[str]
    place: list[str]
    sentences: dict[str, list[str]]


def read_part(part: str) -> dict[str, dict[str, Any]]:
    """Return one part of the data file: ``train``, ``development`` or ``unseen``."""
    return json.loads(DATA.read_text(encoding="utf-8"))[part]


def read_descriptions() -> dict[str, Description]:
    """Return the descriptions to train on, by class name."""
    return {name: Description(**entry) for name, entry in read_part("train").items()}


def says_name(name: str, text: str) -> bool:
    """Is a class's name among the words of a text, in the singular or plural?"""
    return re.search(rf"\b{re.escape(name.lower())}(s|es)?\b", text.lower()) is not None


def siblings(first: str, second: str) -> bool:
    """Are two classes so alike that a description of one may be true of the other (``tiger``, ``tiger face``)?"""
    one, two = set(first.lower().split()), set(second.lower().split())
    return one <= two or two <= one


def article(text: str) -> str:
    """Put the indefinite article in front."""
    return ("an " if text[0].lower() in "aeiou" else "a ") + text


def fix_articles(text: str) -> str:
    """Make "a" and "an" agree with the next word, so that a changed text cannot be told by its grammar."""
    text = re.sub(r"\b([Aa])n (?=[^aeiouAEIOU])", r"\1 ", text)
    return re.sub(r"\b([Aa]) (?=[aeiou])(?!uni|one|use)", r"\1n ", text)


def strip_article(text: str) -> str:
    """Drop an article at the front."""
    return re.sub(r"^(a|an|the) ", "", text, flags=re.IGNORECASE)


def join(items: Sequence[str]) -> str:
    """Join items with commas and a last "and"."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def lower_first(text: str) -> str:
    """Return the text with a small first letter."""
    return text[0].lower() + text[1:]


def composed(entry: Description, rng: random.Random) -> str:
    """Compose one name-free description of a class from its attributes."""
    kind, colours = rng.choice(entry.kinds), rng.choice(entry.colours)
    shape, place = rng.choice(entry.shape), rng.choice(entry.place)
    chosen = rng.sample(entry.parts, min(rng.choice((1, 1, 2, 2, 3)), len(entry.parts)))
    parts, colour = join(chosen), colours.split(",")[0]
    return rng.choice(
        (
            f"It has {parts}.",
            f"It is {colours} with {parts}.",
            f"It is {article(colour)} {kind} with {parts}.",
            f"{article(colour)} {kind} with {parts}",
            f"{article(kind)} with {parts}, {colours}",
            f"It is {article(kind)}, {shape}, with {parts}.",
            f"{article(colour)} {kind}, {shape}",
            f"{colours}, {shape}, {parts}",
            f"Its shape: {shape}. It has {parts}.",
            f"This {kind} is {colours}. It has {parts}.",
            f"{article(kind)} that {place}, {colours}, with {chosen[0]}",
            f"It {place}. It is {colours}.",
            f"Its colors are {colours}. It has {parts}.",
            join([strip_article(part) for part in chosen]),
        )
    )


def written(entry: Description) -> dict[str, str]:
    """Return the sentences of all writers, with the writer; those that start with an article also behind "It is"."""
    sentences = {text: writer for writer, texts in entry.sentences.items() for text in texts}
    framed = {
        f"It is {lower_first(text)}": writer
        for text, writer in sentences.items()
        if text.split()[0].lower() in ("a", "an")
    }
    return sentences | framed


def with_name(name: str, text: str, rng: random.Random) -> str:
    """Put the class's name in front of a description, behind it or into it."""
    behind = f"{text} It is a {name}." if text.endswith(".") else f"{text}, a {name}"
    forms = (f"{name}: {text}", f"{name}: {text}", f"A {name}. {text}", f"a {name}, {lower_first(text)}", behind)
    return fix_articles(rng.choice(forms))


def empty_texts(name: str) -> list[str]:
    """Return texts that say the class's name and nothing that can be seen."""
    return [fix_articles(form.format(*[name] * form.count("{}"))) for form in (*TAUTOLOGIES, *PRAISE)]


def with_random_words(name: str, rng: random.Random) -> str:
    """Put random words behind the class's name."""
    return f"{name}: {' '.join(rng.sample(RANDOM_WORDS.split(), rng.randint(4, 8)))}."


def bare_kinds(entry: Mapping[str, Any], description: Description) -> list[str]:
    """Return texts that say no more than what kind of thing a class is."""
    kinds = BARE_KINDS.get(entry["subgroup"], _DEFAULT_KINDS)
    fitting = [kind for kind in kinds if entry["name"] in _ONLY_OF.get(kind, (entry["name"],))]
    return fitting + [article(kind) for kind in description.kinds]
