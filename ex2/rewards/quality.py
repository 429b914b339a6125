"""Text quality rewards: small terms against texts that a VLM likes but nobody can read. Each value lies in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ex2.texts.class_names import mentions
from ex2.texts.questions import completion_text
from ex2.texts.tautologies import says_nothing


def distinct_share(words: list[str], n: int = 2) -> float:
    """Distinct n-grams over n-grams of one text, 1 for texts with fewer than n + 1 words (nothing can repeat)."""
    grams = list(zip(*(words[i:] for i in range(n)), strict=False))
    return len(set(grams)) / len(grams) if grams else 1.0


def no_repetition(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
    """Share of distinct word pairs in a text: 1 without repetition, near 0 for one phrase over and over."""
    return [distinct_share(completion_text(completion).lower().split()) for completion in completions]


def whole_sentence(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
    """1 for a text of at least three words that ends a sentence, else 0: against texts cut at the token limit."""
    texts = [completion_text(completion).rstrip("\"')]”’") for completion in completions]
    return [float(text.endswith((".", "!", "?")) and len(text.split()) >= 3) for text in texts]


def says_something(prompts: list[Any], completions: list[Any], class_name: list[str], **columns: Any) -> list[float]:
    """0 for a text that says nothing but name, kind and praise ("A crab is a majestic creature."), else 1."""
    texts = [completion_text(completion) for completion in completions]
    return [float(not says_nothing(text, name)) for text, name in zip(texts, class_name, strict=True)]


def names_once(prompts: list[Any], completions: list[Any], class_name: list[str], **columns: Any) -> list[float]:
    """1 for a text that has the name of its class at most once, 1/n for one that has it n times.

    Where the VLM reads texts without the name, the name costs nothing there: "A rabbit is a furry rabbit with rabbit ears."
    """
    texts = [completion_text(completion) for completion in completions]
    return [1 / max(mentions(text, name), 1) for text, name in zip(texts, class_name, strict=True)]


QUALITY_REWARDS: dict[str, Callable[..., list[float]]] = {
    "no_repetition": no_repetition,
    "whole_sentence": whole_sentence,
    "says_something": says_something,
    "names_once": names_once,
}
