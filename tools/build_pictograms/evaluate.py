"""Measuring a tower: classification, cosines of probe texts, colours, descriptions; the final report on all splits."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

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
    Split,
    Work,
    families_of,
)
from tools.build_pictograms.dataset import Dataset
from tools.build_pictograms.measure import DescriptionMeasure, composite_wins
from tools.build_pictograms.model import Tower, encode_images, new_adapter, new_tower
from tools.build_pictograms.text import TextTower
from tools.build_pictograms.wordnet import WordNet

Adapt = Callable[[torch.Tensor], torch.Tensor]


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

    @torch.no_grad()
    def adapted(self, adapt: Adapt) -> EvaluationTexts:
        """Return the same texts behind a text adapter."""
        other = copy.copy(self)
        other.names, other.glosses, other.coloured = adapt(self.names), adapt(self.glosses), adapt(self.coloured)
        other.generic, other.chatter = adapt(self.generic), adapt(self.chatter)
        other.probes = {kind: adapt(texts) for kind, texts in self.probes.items()}
        return other


class Evaluator:
    """Evaluates towers on chosen design families."""

    def __init__(self, work: Work, adapt: Adapt | None = None) -> None:
        """Load the images and embed the texts, with or without a text adapter."""
        self.dataset = Dataset.load(work)
        self.texts = EvaluationTexts(work, self.dataset)
        if adapt is not None:
            self.texts = self.texts.adapted(adapt)

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


@torch.no_grad()
def describe_report(work: Work, state: dict[str, Any], dataset: Dataset, split: Split) -> dict[str, Any]:
    """Return what the aligned model makes of descriptions on one split, beside the model before that training.

    Sentences of the writers who were left out of one more training are read by that training's model.
    """
    measure = DescriptionMeasure(dataset)
    rows = dataset.rows(tuple(family.name for family in families_of(split)), dataset.embedded + dataset.unseen)
    images = dataset.images[rows]

    def embedded(visual: dict[str, torch.Tensor]) -> torch.Tensor:
        return encode_images(new_tower(visual), images)

    before = embedded(torch.load(work.final)["visual"])
    tower, adapter = new_tower(state["visual"]), new_adapter(state["adapter"])
    block = torch.load(work.features)["composites"][split]
    vectors = F.normalize(tower.head(block["features"].float()), dim=-1)
    return {
        "before": measure.report(before, rows, torch.nn.Identity()),
        "after": measure.report(encode_images(tower, images), rows, adapter),
        "new writers": {
            writer: {
                "before": measure.writer_accuracy(before, rows, torch.nn.Identity(), writer),
                "after": measure.writer_accuracy(
                    embedded(other["visual"]), rows, new_adapter(other["adapter"]), writer
                ),
            }
            for writer, other in state["left out"].items()
        },
        "composites": composite_wins(vectors, block["items"], measure.tower, adapter),
    }


def evaluate(work: Work) -> None:
    """Evaluate the chosen tower and adapter: train families (for reference), validation, and test, this once."""
    state = torch.load(work.aligned)
    evaluator = Evaluator(work, new_adapter(state["adapter"]))
    tower = new_tower(state["visual"])
    results: dict[str, Any] = {}
    splits: tuple[Split, ...] = ("validation", "test")
    for split in splits:
        names = tuple(family.name for family in families_of(split))
        results[split] = {"families": names, **evaluator.report(tower, names)}
        results[split]["descriptions"] = describe_report(work, state, evaluator.dataset, split)
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
