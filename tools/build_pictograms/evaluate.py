"""Measuring a tower: classification, cosines of probe texts, colours; the final report on all splits."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch

from tools.build_pictograms.captions import PIXEL_STEP
from tools.build_pictograms.colours import PALETTE, main_colours
from tools.build_pictograms.common import (
    CHATTER_TEXTS,
    EMBEDDED_CLASSES,
    EVAL_PROMPT,
    FAMILY_BY_NAME,
    GENERIC_TEXT,
    PROBES,
    SPURIOUS_WITH_NAME,
    Work,
    families_of,
)
from tools.build_pictograms.dataset import Dataset
from tools.build_pictograms.model import Tower, encode_images, new_tower
from tools.build_pictograms.text import TextTower
from tools.build_pictograms.wordnet import WordNet


def topk_accuracy(images: torch.Tensor, texts: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Return the share of images (per cent) whose own text is the best and among the best five."""
    similarity = images @ texts.T
    rank = (similarity > similarity.gather(1, labels[:, None])).sum(1)
    return {f"top{k}": round(100 * (rank < k).float().mean().item(), 1) for k in (1, 5)}


class EvaluationTexts:
    """Embeddings of all texts that evaluation needs, computed once."""

    def __init__(self, work: Work, dataset: Dataset) -> None:
        """Embed names, glosses and probe texts."""
        tower = TextTower()
        wordnet = WordNet(work.wordnet)
        self.names = tower.embed([EVAL_PROMPT.format(name) for name in dataset.names])
        glosses = []
        for number in dataset.embedded:
            entry = dataset.classes[number]
            sense = wordnet.find(entry["name"], entry["subgroup"], entry["group"])
            glosses.append(f"{entry['name']}: {sense.gloss}" if sense else EVAL_PROMPT.format(entry["name"]))
        self.glosses = tower.embed(glosses)
        probes = {
            "name": [EVAL_PROMPT.format(probe.name) for probe in PROBES],
            "name and visual description": [f"{probe.name}: {probe.visual}" for probe in PROBES],
            "click to enlarge photo of NAME": [SPURIOUS_WITH_NAME.format(probe.name) for probe in PROBES],
            "visual description without name": [probe.visual for probe in PROBES],
            "habitat without name": [probe.habitat for probe in PROBES],
        }
        self.probes = {kind: tower.embed(texts) for kind, texts in probes.items()}
        self.generic = tower.embed([GENERIC_TEXT])
        self.chatter = tower.embed(list(CHATTER_TEXTS))
        coloured = [f"a {colour} {name}" for name in EMBEDDED_CLASSES for colour in PALETTE]
        self.coloured = tower.embed(coloured).view(len(EMBEDDED_CLASSES), len(PALETTE), -1)


class Evaluator:
    """Evaluates towers on chosen design families."""

    def __init__(self, work: Work) -> None:
        """Load the images and embed the texts."""
        self.dataset = Dataset.load(work)
        self.texts = EvaluationTexts(work, self.dataset)

    def _within(
        self, embeddings: torch.Tensor, labels: torch.Tensor, classes: list[int], texts: torch.Tensor
    ) -> dict[str, Any]:
        """Classify the images of some classes among the texts of these classes."""
        position = {number: place for place, number in enumerate(classes)}
        places = torch.tensor([position.get(label, -1) for label in labels.tolist()])
        kept = places >= 0
        return topk_accuracy(embeddings[kept], texts, places[kept]) | {"images": int(kept.sum())}

    def classification(self, embeddings: torch.Tensor, rows: torch.Tensor) -> dict[str, Any]:
        """Return the accuracies of the images ``rows`` (which may include unseen classes)."""
        data, names = self.dataset, self.texts.names
        labels = data.labels[rows]
        seen = ~torch.isin(labels, torch.tensor(data.unseen))
        return {
            "embedded": self._within(embeddings, labels, data.embedded, names[data.embedded]),
            "embedded, name and gloss": self._within(embeddings, labels, data.embedded, self.texts.glosses),
            "all": topk_accuracy(embeddings[seen], names, labels[seen]) | {"images": int(seen.sum())},
            "unseen": self._within(embeddings, labels, data.unseen, names[data.unseen]),
        }

    def cosines(self, embeddings: torch.Tensor, rows: torch.Tensor) -> dict[str, float]:
        """Return the mean cosine of the probe classes' images with each type of probe text."""
        classes = self.dataset.class_numbers(tuple(probe.name for probe in PROBES))
        position = {number: place for place, number in enumerate(classes)}
        places = torch.tensor([position.get(label, -1) for label in self.dataset.labels[rows].tolist()])
        images, places = embeddings[places >= 0], places[places >= 0]
        own = places[:, None] == torch.arange(len(PROBES))[None, :]
        result = {kind: (images @ texts.T)[own].mean().item() for kind, texts in self.texts.probes.items()}
        visual = images @ self.texts.probes["visual description without name"].T
        result["visual description of another class"] = visual[~own].mean().item()
        result[GENERIC_TEXT] = (images @ self.texts.generic.T).mean().item()
        result["page chatter"] = (images @ self.texts.chatter.T).mean().item()
        return {kind: round(value, 3) for kind, value in result.items()} | {"images": len(images)}

    def visual_choice(self, embeddings: torch.Tensor, rows: torch.Tensor) -> dict[str, Any]:
        """Return how often an image finds its own visual description (without name) among those of the probes."""
        classes = self.dataset.class_numbers(tuple(probe.name for probe in PROBES))
        texts = self.texts.probes["visual description without name"]
        return self._within(embeddings, self.dataset.labels[rows], classes, texts)

    def colours(self, embeddings: torch.Tensor, rows: torch.Tensor) -> dict[str, Any]:
        """Return how often "a COLOUR NAME" scores higher with the main colour than with one the image lacks."""
        position = {number: place for place, number in enumerate(self.dataset.embedded)}
        palette = list(PALETTE)
        won = compared = 0
        for embedding, row in zip(embeddings, rows.tolist(), strict=True):
            place = position.get(int(self.dataset.labels[row]))
            if place is None or FAMILY_BY_NAME[self.dataset.families[row]].monochrome:
                continue
            pixels = self.dataset.images[row, :, ::PIXEL_STEP, ::PIXEL_STEP].permute(1, 2, 0).numpy()
            present = main_colours(pixels)
            scores = self.texts.coloured[place] @ embedding
            absent = torch.tensor([colour not in present for colour in palette])
            won += int((scores[palette.index(present[0])] > scores[absent]).sum())
            compared += int(absent.sum())
        return {"true colour wins": round(100 * won / max(compared, 1), 1), "comparisons": compared}

    def report(self, tower: Tower, families: tuple[str, ...]) -> dict[str, Any]:
        """Return all measurements over the images of some families taken together."""
        rows = self.dataset.rows(families)
        embeddings = encode_images(tower, self.dataset.images[rows])
        return self.classification(embeddings, rows) | {
            "cosines": self.cosines(embeddings, rows),
            "visual description among 16": self.visual_choice(embeddings, rows),
            "colours": self.colours(embeddings, rows),
        }

    def validation_score(self, tower: Tower) -> dict[str, float]:
        """Return the validation accuracies and their mean, by which every choice is made."""
        rows = self.dataset.split_rows("validation")
        result = self.classification(encode_images(tower, self.dataset.images[rows]), rows)
        parts = {kind: result[kind]["top1"] for kind in ("embedded", "embedded, name and gloss", "all")}
        return parts | {"score": round(float(np.mean(list(parts.values()))), 2)}


def evaluate(work: Work) -> None:
    """Evaluate the chosen tower: train families (for reference), validation, and test, this once."""
    evaluator = Evaluator(work)
    tower = new_tower(torch.load(work.final)["visual"])
    results: dict[str, Any] = {}
    for split in ("validation", "test"):
        names = tuple(family.name for family in families_of(split))
        results[split] = {"families": names, **evaluator.report(tower, names)}
        for name in names:
            if len(names) > 1:
                results[name] = evaluator.report(tower, (name,))
    rows = evaluator.dataset.rows(tuple(f.name for f in families_of("train")), evaluator.dataset.embedded)
    embeddings = encode_images(tower, evaluator.dataset.images[rows])
    results["train"] = {"embedded": evaluator.classification(embeddings, rows)["embedded"]}
    results["classes"] = len(evaluator.dataset.classes)
    results["images"] = {
        split: len(evaluator.dataset.split_rows(split)) for split in ("train", "validation", "test")
    } | {"all": len(evaluator.dataset.labels)}
    work.results.write_text(json.dumps(results, indent=1), encoding="utf-8")
    print(json.dumps(results, indent=1))
