"""What a VLM reads of a description: the whole text, or what it says besides the name of its class.

A bare class name scores high with CLIP-like models, so that a text with the name in it is paid for the name
(docs/rewards.md has the figures). The other readings take that out:

    as_written      the description
    nameless        the description without the name of its class: `strip_name`
    framed          what that adds to the name: the score of "NAME: description." minus that of "NAME."
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ex2.base.errors import UserError, did_you_mean
from ex2.texts.class_names import strip_name

READINGS = ("as_written", "nameless", "framed")


@dataclass(frozen=True)
class Reading:
    """One reading, or several with their shares.

    Attributes:
        shares: Names of readings with their shares.
    """

    shares: tuple[tuple[str, float], ...] = (("as_written", 1.0),)

    @classmethod
    def of(cls, names: Sequence[str], weights: Sequence[float] | None = None) -> Reading:
        """Readings by name; without weights, equal shares of them.

        Raises:
            UserError: No reading, an unknown one or one given twice, or weights that do not fit.
        """
        for name in names:
            if name not in READINGS:
                hint = did_you_mean(name, READINGS)
                raise UserError(f"reading={name} is unknown: choose among {', '.join(READINGS)}.{hint}")
        if not names or len(set(names)) < len(names):
            raise UserError(f"reading={' '.join(names) or 'nothing'}: name each reading once, for example nameless.")
        weights = [1 / len(names)] * len(names) if weights is None else weights
        if len(weights) != len(names) or not all(weight > 0 for weight in weights):
            raise UserError(
                f"reading_weights={' '.join(map(str, weights))}: give a positive weight for each of the {len(names)} readings."
            )
        return cls(tuple(zip(names, map(float, weights), strict=True)))

    @property
    def as_written(self) -> bool:
        """Whether descriptions are read as they are, and nothing else."""
        return [name for name, _ in self.shares] == ["as_written"]

    def __str__(self) -> str:
        if len(self.shares) == 1:
            return self.shares[0][0]
        return " + ".join(f"{weight:g} {name}" for name, weight in self.shares)

    def score(self, score: Callable[[list[str]], Any], texts: Sequence[str], class_names: Sequence[str]) -> Any:
        """The score of each text, as it is read.

        Args:
            score: Scores N texts, each for its class; gives a tensor or an array (N,).
            texts: N descriptions.
            class_names: The class name of each.
        """
        parts = [weight * _read(name, score, texts, class_names) for name, weight in self.shares]
        return sum(parts[1:], start=parts[0])


def _read(reading: str, score: Callable[[list[str]], Any], texts: Sequence[str], class_names: Sequence[str]) -> Any:
    if reading == "as_written":
        return score(list(texts))
    if reading == "nameless":
        return score([nameless(text, name) for text, name in zip(texts, class_names, strict=True)])
    framed = score([in_frame(text, name) for text, name in zip(texts, class_names, strict=True)])
    return framed - score([f"{name}." for name in class_names])


AS_WRITTEN = Reading()
NAMELESS = Reading((("nameless", 1.0),))


@lru_cache(maxsize=2**16)
def nameless(text: str, class_name: str) -> str:
    """A description without the name of its class."""
    return strip_name(text, class_name)


def in_frame(text: str, class_name: str) -> str:
    """What a description says besides its name, behind the name: "NAME: description."."""
    rest = nameless(text, class_name)
    return f"{class_name}: {rest}" + ("" if rest.endswith((".", "!", "?")) else ".")


def check_names(reading: Reading, class_names: Sequence[str]) -> None:
    """Refuse class names that cannot be taken out of a text.

    Raises:
        UserError: A nameless reading of a class whose name has no word to find it by.
    """
    if "nameless" not in dict(reading.shares):
        return
    for name in class_names:
        if not any(letter.isalnum() for letter in name) or strip_name(name, name) == name:
            raise UserError(
                f"reading=nameless: the class name {name!r} has no word that could be taken out of a text; rename the class, or "
                "read descriptions as_written."
            )
