"""What a description talks about: categories, attribute tags, clauses, and the protocol of the judges that tell them apart.

A judge looks at clauses; what a whole text is about follows from its clauses by one rule that all judges share
(`of_text`). The definitions that people and judges work by are in docs/judge.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ex2.base.errors import UserError

CATEGORIES = ("visual", "habitat", "kind", "non_visual", "spurious", "name_echo")
"""Order of the probabilities that judges give."""

INFORMATIVE = CATEGORIES[:4]
"""What tells something about the class; `spurious` fits any class, and `name_echo` only says the name again."""

TAGS: dict[str, tuple[str, ...]] = {
    "visual": ("colour", "shape", "size", "texture", "pattern", "part", "material"),
    "habitat": ("place", "climate", "origin"),
    "kind": ("kind_of_thing",),
    "non_visual": (
        "behaviour", "diet", "sound", "taste_smell", "use", "history", "name", "symbolism", "character", "performance",
        "life_cycle",
    ),
    "spurious": ("boilerplate", "photo_page", "praise", "chatter"),
    "name_echo": ("repetition",),
}  # fmt: skip
"""Attribute tags of each category."""

ALL_TAGS = tuple(tag for tags in TAGS.values() for tag in tags)

ABSTAIN_BELOW = 0.4
"""A judgement whose most likely category has a lower probability than this counts as unsure (category None): of six categories,
one can be clearly the likeliest with less than half."""


@dataclass(frozen=True)
class Passage:
    """One description cut into clauses, and the class it is about."""

    class_name: str
    clauses: tuple[str, ...]

    @classmethod
    def of(cls, class_name: str, text: str) -> Passage:
        """The passage that `text` about `class_name` is."""
        return cls(class_name, split_clauses(text))


@dataclass(frozen=True)
class Judgement:
    """What one clause or text is about.

    Attributes:
        probabilities: Probability of each category, in the order of `CATEGORIES`; they sum to 1.
        tags: Attribute tags, in the order of `ALL_TAGS`.
    """

    probabilities: tuple[float, ...]
    tags: tuple[str, ...] = ()

    @property
    def best(self) -> str:
        """The most likely category."""
        return CATEGORIES[max(range(len(CATEGORIES)), key=self.probabilities.__getitem__)]

    @property
    def probability(self) -> float:
        """Probability of the most likely category."""
        return max(self.probabilities)

    @property
    def category(self) -> str | None:
        """The most likely category, None where the judge is unsure (`ABSTAIN_BELOW`)."""
        return self.best if self.probability >= ABSTAIN_BELOW else None


class Judge(Protocol):
    """Tells what clauses are about.

    Attributes:
        name: Its spec, e.g. ``local`` or ``openai:gpt-4o-mini``; records and reports name it.
    """

    name: str

    def judge(self, passages: Sequence[Passage], *, progress: bool = True) -> list[tuple[Judgement, ...]]:
        """For each passage the judgements of its clauses, in their order."""
        ...


def of_text(clauses: Sequence[Judgement]) -> Judgement:
    """What a whole text is about, given its clauses.

    Each category's probability is its mean over the clauses: a text is about something to the extent that its clauses are,
    however many there are. Tags are the union.
    """
    assert clauses, "a text has at least one clause"
    means = tuple(sum(column) / len(clauses) for column in zip(*(c.probabilities for c in clauses), strict=True))
    found = {tag for clause in clauses for tag in clause.tags}
    return Judgement(means, tuple(tag for tag in ALL_TAGS if tag in found))


# ---------------------------------------------------------------- clauses

_SENTENCE_END = re.compile(r"(?<=[.!?;:])\s+|(?<=[.!?;:][\"')\]])\s+|\s+(?=[-–—]+\s)")
_ADVERBS = (
    r"(?:(?:also|often|usually|typically|commonly|mainly|mostly|primarily|sometimes|frequently|widely|originally|generally|"
    r"well|best|still|only)\s+)*"
)
_FACTS = (
    r"(?:found|native|seen|used|known|located|grown|kept|bred|eaten|served|sold|built|manufactured|designed|named|called|"
    r"popular|common|endemic|widespread|active|able|capable|prized|valued|cultivated|hunted|pollinated|enjoyed)\b"
)
_VERBS = r"(?:can|may|lives?|living|grows?|growing|feeds?|eats?|hunts?|nests?|thrives?|inhabits?|breeds?|belongs?|needs?|uses?)\b"
_BE = r"(?:is|are|was|were|has\s+been|have\s+been)"
_LOOKS = rf"(?:{_BE}|has|have|had|looks?|appears?|gives?|makes?)\b"
# "legs which are thin" is about the legs; "a bird which is found in marshes" says a second thing about the bird.
_FACT_OF_ALL = rf"(?:which|who|that)\s+(?:{_BE}\s+{_ADVERBS}{_FACTS}|{_ADVERBS}{_VERBS})"
_RELATIVE = rf"{_FACT_OF_ALL}|(?:which|who)\s+(?!{_ADVERBS}{_LOOKS})\w+|where\b"
_CLAUSE = (
    r"(?:it|its|it's|they|their|he|she|this|these|is|are|has|have|with|without|often|usually|typically|commonly|originally|"
    rf"features?|known|found|native|used|{_VERBS})\b"
)
_STARTS = (
    rf"{_RELATIVE}|(?:and|but|so)\s+{_CLAUSE}|{_CLAUSE}|(?:while|whereas|although|though|but|because|since|so|making|giving|"
    r"featuring|having|located|covered|characterized|characterised)\b"
)
# A comma ends a clause only where what follows can stand as one: "tall, green leaves" and "fur, and a tail" stay whole.
_COMMA = re.compile(rf"(?<=,)\s+(?={_STARTS})", re.IGNORECASE)
_CONJUNCTION = re.compile(
    rf"\s+(?={_RELATIVE}|(?:and|but|while|whereas|because|although)\s+{_CLAUSE}|"
    r"with\s+(?:a|an|its|their|two|four|six|eight|long|short|large|small|big|bright|dark)\b)",
    re.IGNORECASE,
)
_BARE_HEAD = re.compile(r"(?:(?:an?|the)\s+)?[\w'’]+", re.IGNORECASE)
"""A head that says nothing without what follows: "A bird" of "A bird with yellow legs"."""
_ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|etc|vs|approx|St|Mr|Mrs|Dr|No|Inc|Co|Ltd)\.$", re.IGNORECASE)
_SHORTEST = 2  # words; a shorter piece goes to its neighbour


def split_clauses(text: str) -> tuple[str, ...]:
    """Cut a text into clauses: sentences, and within them the parts that say a thing of their own.

    Rules, not a parser: cheap, the same for every judge, and good enough to tell "with orange fur" from "that lives in
    Siberia". The tail of a list, a relative clause that tells how its head looks, and a bare head stay with what they belong
    to. Joined by blanks the clauses are the text again, white space collapsed.
    """
    pieces: list[str] = []
    for sentence in _sentences(text):
        for part in _COMMA.split(sentence):
            pieces += [piece for piece in _CONJUNCTION.split(part) if piece.strip()]
    clauses: list[str] = []
    for piece in pieces:
        piece = piece.strip()
        short = clauses and min(len(piece.split()), len(clauses[-1].split())) < _SHORTEST
        if clauses and (short or _BARE_HEAD.fullmatch(clauses[-1])):
            clauses[-1] = f"{clauses[-1]} {piece}"
        else:
            clauses.append(piece)
    return tuple(clauses) or (" ".join(text.split()),)


def _sentences(text: str) -> list[str]:
    sentences: list[str] = []
    for piece in _SENTENCE_END.split(" ".join(text.split())):
        if sentences and _ABBREVIATION.search(sentences[-1]):
            sentences[-1] = f"{sentences[-1]} {piece}"
        else:
            sentences.append(piece)
    return [sentence for sentence in sentences if sentence and sentence.strip()]


def check_category(value: object, where: str) -> str:
    """`value` if it is a category; else a UserError that starts with `where`."""
    if value not in CATEGORIES:
        raise UserError(f"{where}: category {value!r} is none of {', '.join(CATEGORIES)}")
    return str(value)


def tags_by_category(tags: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    """Tags sorted into the categories that they belong to; categories without any are left out."""
    sorted_in = {category: tuple(tag for tag in own if tag in tags) for category, own in TAGS.items()}
    return {category: found for category, found in sorted_in.items() if found}
