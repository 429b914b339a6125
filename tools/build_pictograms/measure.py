"""What a tower and an adapter make of names, descriptions, changed descriptions and texts that say nothing.

The texts are those of the development set (and of the unseen classes); no training step sees them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch

from tools.build_pictograms.common import EMBEDDED_CLASSES, EVAL_PROMPT, UNSEEN_CLASSES
from tools.build_pictograms.contrast import change_colours, change_pattern
from tools.build_pictograms.dataset import Dataset
from tools.build_pictograms.descriptions import bare_kinds, fix_articles, read_descriptions, read_part
from tools.build_pictograms.text import TextTower

# Words that no training text puts behind a name, and praise that none of them has.
RANDOM_WORDS = (
    "monday committee seven quickly paper invoice because downtown upload melody tax window maybe engine therefore "
    "button history random parking nobody signal average"
)
EMPTY_PRAISE = "a magnificent and charming wonder"
TEXT_SEED = 5
CHANGES = ("colour", "part", "pattern")

Texts = dict[str, list[str | None]]
"""One text a class by kind; None where a class has none of the kind."""


def description(entry: dict[str, str], parts: str = "parts") -> str:
    """Return the name-free sentence of one held-out description."""
    return f"It is {entry['general']}; {entry[parts]}."


def text_kinds(names: tuple[str, ...], free: list[str], rng: random.Random) -> Texts:
    """Return the texts about some classes that can be made of their names and descriptions."""
    texts: Texts = {
        "name": [EVAL_PROMPT.format(name) for name in names],
        "description": list(free),
        "name and description": [f"{name}: {text}" for name, text in zip(names, free, strict=True)],
        "name and random words": [f"{name}: {' '.join(rng.sample(RANDOM_WORDS.split(), 7))}." for name in names],
        "A NAME is a NAME.": [fix_articles(f"A {name} is a {name}.") for name in names],
        "empty praise": [EMPTY_PRAISE] * len(names),
        "colour changed": [change_colours(text, rng) for text in free],
        "pattern changed": [change_pattern(text, rng) for text in free],
    }
    return texts


def named_changes(names: tuple[str, ...], texts: Texts) -> Texts:
    """Return the changed descriptions behind the names."""
    return {
        f"name, {change} changed": [
            None if text is None else f"{name}: {text}"
            for name, text in zip(names, texts[f"{change} changed"], strict=True)
        ]
        for change in CHANGES
        if f"{change} changed" in texts
    }


def embedded_texts(dataset: Dataset) -> Texts:
    """Return the development texts of the embedded classes."""
    rng, held_out, trained = random.Random(TEXT_SEED), read_part("development"), read_descriptions()
    texts = text_kinds(EMBEDDED_CLASSES, [description(held_out[name]) for name in EMBEDDED_CLASSES], rng)
    texts["part changed"] = [description(held_out[name], "false_parts") for name in EMBEDDED_CLASSES]
    entries = [dataset.classes[number] for number in dataset.embedded]
    texts["bare kind"] = [bare_kinds(entry, trained[entry["name"]])[0] for entry in entries]
    return texts | named_changes(EMBEDDED_CLASSES, texts)


def unseen_texts() -> Texts:
    """Return the texts of the classes that training never sees."""
    held_out = read_part("unseen")
    return text_kinds(
        UNSEEN_CLASSES, [description(held_out[name]) for name in UNSEEN_CLASSES], random.Random(TEXT_SEED)
    )


def percent(hits: torch.Tensor) -> float:
    """Return the share of true values in per cent."""
    return round(100 * hits.float().mean().item(), 1)


class TextSet:
    """The texts about some classes with their plain sentence embeddings."""

    def __init__(self, texts: Texts, tower: TextTower) -> None:
        """Embed all texts."""
        self.embeddings = {kind: tower.embed([text or "" for text in items]) for kind, items in texts.items()}
        self.given = {kind: torch.tensor([text is not None for text in items]) for kind, items in texts.items()}

    def measure(
        self, images: torch.Tensor, places: torch.Tensor, adapt: Callable[[torch.Tensor], torch.Tensor]
    ) -> dict[str, Any]:
        """Return accuracies, mean cosines and wins over changed texts of images with given places of their classes."""
        texts = {kind: adapt(embeddings) for kind, embeddings in self.embeddings.items()}
        own = {kind: (images * embeddings[places]).sum(1) for kind, embeddings in texts.items()}
        names = images @ texts["name"].T

        def among_names(kind: str) -> float:
            """Accuracy with the text of one class among the bare names of the others."""
            scores = names.scatter(1, places[:, None], own[kind][:, None])
            return percent(scores.argmax(1) == places)

        def accuracy(kind: str) -> float:
            return percent((images @ texts[kind].T).argmax(1) == places)

        def beats(kind: str, lower: str) -> float:
            return percent((own[kind] > own[lower])[self.given[lower][places]])

        changes = [change for change in CHANGES if f"{change} changed" in texts]
        result: dict[str, Any] = {
            "images": len(images),
            "names": accuracy("name"),
            "descriptions": accuracy("description"),
            "names and descriptions": accuracy("name and description"),
            "one class described": among_names("name and description"),
            "one class with random words": among_names("name and random words"),
            "names and random words": accuracy("name and random words"),
            "cosines": {kind: round(value[self.given[kind][places]].mean().item(), 3) for kind, value in own.items()},
        }
        for change in changes:
            result[f"above {change} changed"] = beats("description", f"{change} changed")
            if f"name, {change} changed" in texts:
                result[f"named above {change} changed"] = beats("name and description", f"name, {change} changed")
        return result


class DescriptionMeasure:
    """Measures towers and adapters on the held-out descriptions."""

    def __init__(self, dataset: Dataset) -> None:
        """Embed the development texts and those of the unseen classes."""
        self.tower = tower = TextTower()
        self.dataset = dataset
        self.sets = {
            "embedded": (dataset.embedded, TextSet(embedded_texts(dataset), tower)),
            "unseen": (dataset.unseen, TextSet(unseen_texts(), tower)),
        }

    def report(
        self, embeddings: torch.Tensor, rows: torch.Tensor, adapt: Callable[[torch.Tensor], torch.Tensor]
    ) -> dict[str, Any]:
        """Return the measurements of images, numbered ``rows``, within each set of classes."""
        labels = self.dataset.labels[rows].tolist()
        result = {}
        for title, (classes, texts) in self.sets.items():
            position = {number: place for place, number in enumerate(classes)}
            places = torch.tensor([position.get(label, -1) for label in labels])
            kept = places >= 0
            result[title] = texts.measure(embeddings[kept], places[kept], adapt)
        return result

    def writer_accuracy(
        self, embeddings: torch.Tensor, rows: torch.Tensor, adapt: Callable[[torch.Tensor], torch.Tensor], writer: str
    ) -> float:
        """Return the accuracy of a writer's name-free sentences: one of each class at a time, in their order."""
        written = [read_descriptions()[name].sentences[writer] for name in EMBEDDED_CLASSES]
        position = {number: place for place, number in enumerate(self.dataset.embedded)}
        places = torch.tensor([position.get(label, -1) for label in self.dataset.labels[rows].tolist()])
        images, places = embeddings[places >= 0], places[places >= 0]
        hits = []
        for sentences in zip(*written, strict=False):
            texts = adapt(self.tower.embed(list(sentences)))
            hits.append((images @ texts.T).argmax(1) == places)
        return percent(torch.cat(hits))


@torch.no_grad()
def composite_wins(
    vectors: torch.Tensor, items: list[dict[str, Any]], tower: TextTower, adapt: Callable[[torch.Tensor], torch.Tensor]
) -> dict[str, float]:
    """Return how often a composite is nearer to a true caption than to the same one with its attribute changed."""
    texts = sorted({text for item in items for role in ("true", "false") for text in item[role]})
    encoded = dict(zip(texts, adapt(tower.embed(texts)), strict=True))
    wins: dict[str, list[bool]] = {}
    for vector, item in zip(vectors, items, strict=True):
        for true, false in zip(item["true"], item["false"], strict=True):
            won = bool((encoded[true] - encoded[false]) @ vector > 0)
            wins.setdefault(item["what"], []).append(won)
    return {what: round(100 * sum(won) / len(won), 1) for what, won in sorted(wins.items())}
