"""Step ``describe``: captions of the described classes, their false versions and empty texts, with sentence embeddings."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import torch

from tools.build_pictograms.captions import TextTable
from tools.build_pictograms.common import Work
from tools.build_pictograms.contrast import changed
from tools.build_pictograms.dataset import Dataset
from tools.build_pictograms.descriptions import (
    NOTHING,
    WRITERS,
    Description,
    bare_kinds,
    composed,
    empty_texts,
    says_name,
    siblings,
    with_name,
    with_random_words,
    written,
)
from tools.build_pictograms.features import described_classes
from tools.build_pictograms.text import cached_embeddings

# Composed descriptions of a class, of those that a writer described in sentences and of the others; texts with the name.
COMPOSED, COMPOSED_OTHER = 60, 10
NAMED, NAMED_OTHER = 30, 5
# False versions kept of each description, and texts with random words of each class.
CHANGES = 2
NOISY = 8
# A writer's sentence is drawn as often as this many composed descriptions.
WRITTEN_WEIGHT = 3.0

Captions = list[tuple[str, list[tuple[bool, str]], float, str]]
"""True text, its false versions (with whether the colours were changed), weight, writer."""


def own_random(seed: int, *texts: str) -> random.Random:
    """Return a generator that depends on texts alone, so that other texts change nothing for these."""
    return random.Random(f"{seed} {texts}")


def descriptions_of(name: str, entry: Description, others: list[Description], count: int, seed: int) -> Captions:
    """Return the name-free descriptions of a class with false versions: all written ones, ``count`` composed ones."""
    rng, texts = own_random(seed, name), dict[str, tuple[float, str]]()
    for _ in range(8 * count):
        text = composed(entry, rng)
        if len(texts) < count and not says_name(name, text):
            texts.setdefault(text, (1.0, WRITERS[0]))
    texts |= {text: (WRITTEN_WEIGHT, writer) for text, writer in written(entry).items()}
    return [(text, false_versions(text, entry, others, seed), *rest) for text, rest in texts.items()]


def false_versions(text: str, entry: Description, others: list[Description], seed: int) -> list[tuple[bool, str]]:
    """Return up to CHANGES false versions of a text, each with another attribute changed."""
    rng = own_random(seed, text)
    versions = list(changed(text, entry, rng.choice(others), rng).items())
    chosen = rng.sample(versions, min(CHANGES, len(versions)))
    return [(attribute == "colour", version) for attribute, version in chosen]


def named_versions(name: str, captions: Captions, count: int, seed: int) -> Captions:
    """Put the name to some descriptions, heavier ones rather, and in the same form to their false versions."""

    def place(caption: tuple[str, Any, float, str]) -> float:
        return own_random(seed, name, caption[0]).random() ** (1 / caption[2])

    def named(text: str, model: str) -> str:
        return with_name(name, text, own_random(seed, model))

    return [
        (named(true, true), [(colour, named(text, true)) for colour, text in false], weight, writer)
        for true, false, weight, writer in sorted(captions, key=place, reverse=True)[:count]
    ]


def class_block(
    entry: Mapping[str, Any], description: Description, others: list[Description], seed: int
) -> dict[str, Any]:
    """Return all texts about one described class, by their role in the training."""
    name, core = entry["name"], len(description.sentences) > 1
    free = descriptions_of(name, description, others, COMPOSED if core else COMPOSED_OTHER, seed)
    return {
        "free": free,
        "named": named_versions(name, free, NAMED if core else NAMED_OTHER, seed),
        "empty": empty_texts(name),
        "kinds": bare_kinds(entry, description),
        "noisy": [with_random_words(name, own_random(seed, name, str(number))) for number in range(NOISY)],
    }


def numbered(block: Mapping[str, Any], add: Callable[[str], int]) -> dict[str, Any]:
    """Replace the texts of a block by their numbers."""
    result: dict[str, Any] = {
        role: [
            (add(true), [(colour, add(text)) for colour, text in false], *rest) for true, false, *rest in block[role]
        ]
        for role in ("free", "named")
    }
    return result | {role: [add(text) for text in block[role]] for role in ("empty", "kinds", "noisy")}


def build_descriptions(work: Work, seed: int) -> None:
    """Write the texts about the described classes and the captions of the composites with their embeddings."""
    dataset = Dataset.load(work)
    described = described_classes(dataset)
    table = TextTable()
    classes = {}
    for number, description in described.items():
        entry = dataset.classes[number]
        others = [
            other
            for which, other in described.items()
            if not siblings(entry["name"], dataset.names[which]) and not set(other.kinds) & set(description.kinds)
        ]
        classes[number] = numbered(class_block(entry, description, others, seed), table.add)
    nothing = [table.add(text) for text in NOTHING]
    composites = [
        {role: [table.add(text) for text in item[role]] for role in ("true", "false")}
        for item in torch.load(work.features)["composites"]["train"]["items"]
    ]
    texts = list(table.numbers)
    print(f"{len(classes)} described classes, {len(texts)} different texts", flush=True)
    embeddings = cached_embeddings(work, texts)
    torch.save(
        {
            "texts": texts,
            "embeddings": embeddings,
            "classes": classes,
            "nothing": nothing,
            "composites": composites,
        },
        work.descriptions,
    )
