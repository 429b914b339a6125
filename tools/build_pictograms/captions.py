"""Step ``captions``: texts about every class and every training image, with their sentence embeddings."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tools.build_pictograms.colours import main_colours
from tools.build_pictograms.common import FAMILY_BY_NAME, NAME_PROMPTS, Work
from tools.build_pictograms.dataset import Dataset
from tools.build_pictograms.text import TextTower
from tools.build_pictograms.wordnet import WordNet

Caption = tuple[str, str]
"""Kind and text."""

# Share of each kind of class caption in training; a class spreads a kind's share evenly over its captions of that kind.
CAPTION_WEIGHTS = {
    "name": 0.42,
    "gloss": 0.18,
    "clause": 0.10,
    "tags": 0.10,
    "tag": 0.04,
    "synonym": 0.05,
    "hypernym": 0.09,
    "subgroup": 0.02,
}
_CLAUSE_BREAK = re.compile(r"[,;]| having | with | and | that | which | characterized by | used | resembling ")
PIXEL_STEP = 3


def gloss_clauses(gloss: str, limit: int = 5) -> list[str]:
    """Split a gloss into its clauses of at least two words and nine letters."""
    parts = (part.strip(" ,;") for part in _CLAUSE_BREAK.split(re.sub(r"\([^)]*\)", "", gloss)))
    return [part for part in parts if len(part.split()) >= 2 and len(part) > 8][:limit]


def class_captions(entry: Mapping[str, Any], wordnet: WordNet) -> list[Caption]:
    """Return the captions of a class from its name, tags, subgroup and WordNet sense."""
    name = entry["name"]
    captions: list[Caption] = [("name", prompt.format(name)) for prompt in NAME_PROMPTS]
    sense = wordnet.find(name, entry["subgroup"], entry["group"])
    if sense:
        captions += [("gloss", sense.gloss), ("gloss", f"{name}: {sense.gloss}")]
        captions += [("synonym", f"a {word}") for word in sense.words[:4] if word.lower() != name.lower()]
        hypernyms = wordnet.hypernym_names(sense)
        captions += [("hypernym", f"a {word}") for word in hypernyms]
        captions += [("hypernym", f"{name}, a kind of {word}") for word in hypernyms[:1]]
        captions += [("clause", clause) for clause in gloss_clauses(sense.gloss)]
    tags = [tag for tag in entry["tags"] if tag.lower() != name.lower()]
    if tags:
        captions += [("tags", ", ".join(tags[:8])), ("tags", f"{name}: {', '.join(tags[:5])}")]
        captions += [("tag", tag) for tag in tags[:6]]
    if entry["subgroup"]:
        captions.append(("subgroup", entry["subgroup"].replace("-", ", ")))
    return captions


def caption_weights(captions: Sequence[Caption], shares: Mapping[str, float] = CAPTION_WEIGHTS) -> list[float]:
    """Return the sampling weight of each caption of a class."""
    counts = Counter(kind for kind, _ in captions)
    return [shares[kind] / counts[kind] for kind, _ in captions]


def image_captions(entry: Mapping[str, Any], colours: Sequence[str], monochrome: bool) -> list[str]:
    """Return the captions of one image: its class with the colours seen in the drawing."""
    name = entry["name"]
    kind = entry["subgroup"].split("-")[0]
    if monochrome:
        return [
            f"a black and white drawing of a {name}",
            f"a black silhouette of a {kind or 'thing'}",
            f"black and white {name}",
        ]
    if not colours:
        return []
    pair = " and ".join(colours[:2])
    thing = kind if kind in ("animal", "plant", "food") else "thing"
    return [
        f"a {pair} {name}",
        f"{name}, mostly {colours[0]}",
        f"a {pair} {thing}",
        f"colors: {', '.join(colours)}",
    ]


def colour_and_clause(name: str, colours: Sequence[str], monochrome: bool, clause: str) -> str:
    """Return a caption that joins the colours of an image with a clause about its class."""
    look = "black and white" if monochrome else " and ".join(colours[:2])
    return f"a {look} {name}, {clause}"


class TextTable:
    """Numbers for texts: the same text gets the same number."""

    def __init__(self) -> None:
        """Start empty."""
        self.numbers: dict[str, int] = {}

    def add(self, text: str) -> int:
        """Return the number of a text, giving it the next one if it is new."""
        return self.numbers.setdefault(text, len(self.numbers))


def build_captions(work: Work, seed: int) -> None:
    """Write the captions of all trainable classes and training images with their embeddings."""
    rng = random.Random(seed)
    dataset = Dataset.load(work)
    wordnet = WordNet(work.wordnet)
    unseen = set(dataset.unseen)
    table = TextTable()
    by_class: list[list[tuple[str, int]]] = []
    clauses: list[list[str]] = []
    for number, entry in enumerate(dataset.classes):
        captions = [] if number in unseen else class_captions(entry, wordnet)
        by_class.append([(kind, table.add(text)) for kind, text in captions])
        clauses.append([text for kind, text in captions if kind == "clause"])
    by_image: dict[int, list[int]] = {}
    for row in dataset.split_rows("train").tolist():
        label = int(dataset.labels[row])
        monochrome = FAMILY_BY_NAME[dataset.families[row]].monochrome
        pixels = dataset.images[row, :, ::PIXEL_STEP, ::PIXEL_STEP].permute(1, 2, 0).numpy()
        colours = main_colours(pixels)
        texts = image_captions(dataset.classes[label], colours, monochrome)
        if texts and clauses[label]:
            clause = rng.choice(clauses[label])
            texts.append(colour_and_clause(dataset.names[label], colours, monochrome, clause))
        by_image[row] = [table.add(text) for text in texts]
    texts = list(table.numbers)
    print(f"{sum(map(bool, clauses))} classes with a gloss, {len(texts)} different texts", flush=True)
    embeddings = TextTower().embed(texts, verbose=True)
    torch.save({"texts": texts, "embeddings": embeddings, "classes": by_class, "images": by_image}, work.captions)
