"""Step ``align``: head and text adapter learn what the described classes look like, on cached features and sentences.

Per step: images against one or two captions of every described class; images against captions of their colours;
descriptions above the same ones with an attribute changed; described above named above falsely described; one class
described among the bare names of the others; composites against their captions. Trunk and text tower are frozen.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tools.build_pictograms.captions import caption_weights
from tools.build_pictograms.common import FAMILY_BY_NAME, Work, families_of
from tools.build_pictograms.dataset import Dataset
from tools.build_pictograms.descriptions import TAUTOLOGIES, siblings
from tools.build_pictograms.losses import MAX_SCALE, cross_entropy, margin_loss, pair_loss
from tools.build_pictograms.measure import DescriptionMeasure
from tools.build_pictograms.model import new_adapter, new_tower
from tools.build_pictograms.train import GLOSS_WEIGHTS, learning_rate_factor, set_rate, update_log


@dataclass(frozen=True)
class AlignConfig:
    """Training of head and adapter."""

    steps: int = 1500
    batch: int = 384
    told_batch: int = 96
    learning_rate: float = 1e-3
    adapter_factor: float = 1.5
    weight_decay: float = 0.03
    warmup: int = 20
    clip: float = 1.0
    feature_dropout: float = 0.25
    text_noise: float = 0.02
    # What a described class shows of itself: a name-free description, one with the name, else a caption of ``captions``.
    free_share: float = 0.4
    named_share: float = 0.35
    second_share: float = 0.5
    # Weights of the losses.
    back_weight: float = 0.5
    colour_weight: float = 0.5
    contrast_weight: float = 0.5
    ranking_weight: float = 0.3
    margin: float = 0.03
    named_margin: float = 0.08
    single_weight: float = 0.5
    composite_weight: float = 0.5
    composite_batch: int = 128


CANDIDATES = {"1000 steps": AlignConfig(steps=1000), "1500 steps": AlignConfig()}

# What the setting is chosen by: the mean of these validation measurements.
CHOICE = ("names", "descriptions", "names and descriptions", "one class described", "above colour changed")
# Writers without whom the chosen setting is trained once more, to see how it reads texts of a new hand.
LEFT_OUT = ("fourth",)


class Corpus:
    """Texts and features of the training, drawn at random."""

    def __init__(self, work: Work, dataset: Dataset, rng: random.Random, without: str | None = None) -> None:
        """Read what ``captions``, ``features`` and ``describe`` wrote, leaving out the descriptions of one writer."""
        captions, told = torch.load(work.captions), torch.load(work.descriptions)
        features = torch.load(work.features)
        self.rng = rng
        self.told_offset = len(captions["texts"])
        self.embeddings = F.normalize(torch.cat([captions["embeddings"], told["embeddings"].float()]), dim=-1)
        self.classes: dict[int, dict[str, Any]] = {
            number: block
            | {
                role: [entry for entry in block[role] if entry[3] != without] or block[role]
                for role in ("free", "named")
            }
            for number, block in told["classes"].items()
        }
        self.free_weights = {
            number: list(accumulate(entry[2] for entry in block["free"])) for number, block in self.classes.items()
        }
        self.nothing: list[int] = told["nothing"]
        self.described = torch.tensor(list(self.classes))
        bare = TAUTOLOGIES.index("a {}")
        self.names = [self.told_offset + block["empty"][bare] for block in self.classes.values()]
        self.captions = {
            number: ([text for _, text in entries], list(accumulate(caption_weights(entries, GLOSS_WEIGHTS))))
            for number, entries in enumerate(captions["classes"])
            if entries
        }
        self.colours: dict[int, list[int]] = {image: texts for image, texts in captions["images"].items() if texts}
        self.features: torch.Tensor = features["features"]
        self.views: dict[int, list[int]] = {}
        for place, image in enumerate(features["images"].tolist()):
            self.views.setdefault(image, []).append(place)
        self.composites: tuple[torch.Tensor, list[dict[str, list[int]]]]
        self.composites = features["composites"]["train"]["features"], told["composites"]
        labels = dataset.labels
        rows = dataset.split_rows("train")
        described = torch.isin(labels[rows], torch.tensor(list(self.classes)))
        self.described_rows, self.other_rows = rows[described], rows[~described]
        self.labels: list[int] = labels.tolist()
        self.monochrome = [FAMILY_BY_NAME[family].monochrome for family in dataset.families]
        count = len(dataset.classes)
        self.alike = torch.zeros(count, count, dtype=torch.bool)
        for first in self.classes:
            for second in self.classes:
                if first != second and siblings(dataset.names[first], dataset.names[second]):
                    self.alike[first, second] = True

    def images(self, count: int, generator: torch.Generator) -> list[int]:
        """Draw training images: half of described classes, half of the others."""
        half = count // 2
        pools = ((self.described_rows, half), (self.other_rows, count - half))
        drawn = [pool[torch.randint(len(pool), (size,), generator=generator)] for pool, size in pools]
        return torch.cat(drawn).tolist()

    def view(self, image: int) -> int:
        """Draw one of the feature vectors of an image."""
        return self.rng.choice(self.views[image])

    def caption(self, number: int) -> int:
        """Draw a caption of a class from those of the step ``captions``."""
        texts, cumulated = self.captions[number]
        return self.rng.choices(texts, cum_weights=cumulated)[0]

    def free(self, number: int) -> tuple[int, list[tuple[bool, int]]]:
        """Draw a name-free description of a class, with its false versions."""
        true, false, *_ = self.rng.choices(self.classes[number]["free"], cum_weights=self.free_weights[number])[0]
        return self.told_offset + true, [(colour, self.told_offset + text) for colour, text in false]

    def named(self, number: int) -> tuple[int, list[tuple[bool, int]]]:
        """Draw a description with the class's name, with its false versions."""
        true, false, *_ = self.rng.choice(self.classes[number]["named"])
        return self.told_offset + true, [(colour, self.told_offset + text) for colour, text in false]

    def other(self, number: int, role: str) -> int:
        """Draw a text of a class by its role: ``empty``, ``kinds`` or ``noisy``."""
        return self.told_offset + self.rng.choice(self.classes[number][role])

    def nothing_text(self) -> int:
        """Draw a text that says nothing in particular."""
        return self.told_offset + self.rng.choice(self.nothing)

    def columns(self, labels: list[int], config: AlignConfig) -> tuple[list[int], list[int], list[bool]]:
        """Draw texts of all described classes and of those of the images: numbers, classes, whether name-free."""
        texts, owners, free = [], [], []

        def add(text: int, owner: int, is_free: bool) -> None:
            texts.append(text)
            owners.append(owner)
            free.append(is_free)

        for number in sorted(set(labels) | set(self.classes)):
            if number not in self.classes:
                add(self.caption(number), number, False)
                continue
            chance = self.rng.random()
            if chance < config.free_share:
                add(self.free(number)[0], number, True)
            elif chance < config.free_share + config.named_share:
                add(self.named(number)[0], number, False)
            else:
                add(self.caption(number), number, False)
            if self.rng.random() < config.second_share:
                add(self.caption(number), number, False)
        return texts, owners, free


class Alignment(nn.Module):
    """Head, adapter and logit scale with their losses."""

    def __init__(self, head: nn.Module, log_scale: float, corpus: Corpus, config: AlignConfig, seed: int) -> None:
        """Start with an adapter that changes nothing."""
        super().__init__()
        self.head = head
        torch.manual_seed(seed)
        self.adapter = new_adapter()
        self.log_scale = nn.Parameter(torch.tensor(log_scale))
        self.corpus, self.config = corpus, config
        self.generator = torch.Generator().manual_seed(seed)

    @property
    def scale(self) -> torch.Tensor:
        """Factor of the cosines in the losses."""
        return self.log_scale.exp().clamp(max=MAX_SCALE)

    def encode_images(self, features: torch.Tensor) -> torch.Tensor:
        """Return unit embeddings of trunk features, some of which are dropped."""
        values = features.float()
        keep = torch.rand(values.shape, generator=self.generator) >= self.config.feature_dropout
        return F.normalize(self.head(values * keep / (1 - self.config.feature_dropout)), dim=-1)

    def encode_texts(self, numbers: list[int]) -> torch.Tensor:
        """Return unit embeddings of texts, with a little noise on the sentence embeddings."""
        plain = self.corpus.embeddings[numbers]
        noise = self.config.text_noise * torch.randn(plain.shape, generator=self.generator)
        return self.adapter(plain + noise)

    def class_part(self, vectors: torch.Tensor, labels: list[int]) -> torch.Tensor:
        """Images against captions of all described classes, both ways."""
        texts, owners, free = self.corpus.columns(labels, self.config)
        logits = self.scale * vectors @ self.encode_texts(texts).T
        row, column, number = torch.tensor(labels), torch.tensor(owners), torch.tensor(texts)
        same = (row[:, None] == column[None]).float()
        same = ((same @ (number[:, None] == number[None]).float()) > 0).float()
        # A description of a class may be true of its siblings.
        logits = logits.masked_fill(self.corpus.alike[row][:, column] & torch.tensor(free) & (same == 0), -1e4)
        loss = cross_entropy(logits, same / same.sum(1, keepdim=True))
        shown = same.sum(0) > 0
        back = cross_entropy(logits.T[shown], (same / same.sum(0).clamp(min=1)).T[shown])
        return loss + self.config.back_weight * back

    def colour_part(self, vectors: torch.Tensor, images: list[int]) -> torch.Tensor:
        """Images against captions of their own colours within the batch."""
        kept = [place for place, image in enumerate(images) if image in self.corpus.colours]
        texts = [self.corpus.rng.choice(self.corpus.colours[images[place]]) for place in kept]
        return pair_loss(vectors[kept], self.encode_texts(texts), torch.tensor(texts), self.scale)

    def single_part(self, vectors: torch.Tensor, labels: torch.Tensor, named: torch.Tensor) -> torch.Tensor:
        """Images against the bare names of the described classes, their own class described (cosines ``named``)."""
        own = labels[:, None] == self.corpus.described[None]
        cosines = torch.where(own, named[:, None], vectors @ self.encode_texts(self.corpus.names).T)
        logits = (self.scale * cosines).masked_fill(self.corpus.alike[labels][:, self.corpus.described], -1e4)
        return cross_entropy(logits, own.float())

    def told_parts(self, vectors: torch.Tensor, images: list[int]) -> dict[str, torch.Tensor]:
        """Losses on images of described classes: contrast (an attribute changed), ranking, one class described."""
        corpus, kept, texts = self.corpus, [], []
        for place, image in enumerate(images):
            number = corpus.labels[image]
            (free, free_false), (named, named_false) = corpus.free(number), corpus.named(number)
            false = [
                [text for colour, text in versions if not (colour and corpus.monochrome[image])]
                for versions in (free_false, named_false)
            ]
            if all(false):
                kept.append(place)
                changed = [corpus.rng.choice(versions) for versions in false]
                roles = [corpus.other(number, role) for role in ("empty", "kinds", "noisy")]
                texts.append([free, named, *changed, *roles, corpus.nothing_text()])
        columns = [text for column in zip(*texts, strict=True) for text in column]
        encoded = self.encode_texts(columns).view(8, len(kept), -1)
        free, named, free_false, named_false, empty, kind, noisy, nothing = (encoded * vectors[kept]).sum(-1)
        scale, margin = self.scale, self.config.margin
        contrast = margin_loss(free, free_false, scale) + margin_loss(named, named_false, scale)
        pairs = [
            (named, empty, self.config.named_margin),
            (empty, named_false, margin),
            (empty, noisy, margin),
            (free, kind, margin),
            (kind, nothing, margin),
            (kind, free_false, 0.0),
        ]
        ranking = torch.stack([margin_loss(high, low, scale, least) for high, low, least in pairs]).sum()
        labels = torch.tensor([corpus.labels[images[place]] for place in kept])
        return {
            "contrast": self.config.contrast_weight * contrast,
            "ranking": self.config.ranking_weight * ranking,
            "single": self.config.single_weight * self.single_part(vectors[kept], labels, named),
        }

    def composite_part(self) -> torch.Tensor:
        """Composites against their captions within the batch, and above the false ones."""
        features, captions = self.corpus.composites
        chosen = torch.randint(len(captions), (self.config.composite_batch,), generator=self.generator).tolist()
        forms = [self.corpus.rng.randrange(len(captions[place]["true"])) for place in chosen]
        offset = self.corpus.told_offset
        true, false = (
            [offset + captions[place][role][form] for place, form in zip(chosen, forms, strict=True)]
            for role in ("true", "false")
        )
        vectors = self.encode_images(features[chosen])
        right, wrong = self.encode_texts(true), self.encode_texts(false)
        pairs = pair_loss(vectors, right, torch.tensor(true), self.scale)
        return pairs + margin_loss((vectors * right).sum(1), (vectors * wrong).sum(1), self.scale)

    def loss(self) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the loss of one random batch, with its parts."""
        config = self.config
        images = self.corpus.images(config.batch, self.generator)
        vectors = self.encode_images(self.corpus.features[[self.corpus.view(image) for image in images]])
        told = config.told_batch  # the first half of the batch is of described classes
        parts = {
            "classes": self.class_part(vectors, [self.corpus.labels[image] for image in images]),
            "colours": config.colour_weight * self.colour_part(vectors, images),
            **self.told_parts(vectors[:told], images[:told]),
            "composites": config.composite_weight * self.composite_part(),
        }
        total = torch.stack(list(parts.values())).sum()
        return total, {part: round(value.item(), 3) for part, value in parts.items()}


def optimiser(model: Alignment, config: AlignConfig) -> torch.optim.AdamW:
    """Return AdamW with a higher rate for the adapter and no decay of the scale."""
    groups = [
        (model.head.parameters(), 1.0, config.weight_decay),
        (model.adapter.parameters(), config.adapter_factor, config.weight_decay),
        ([model.log_scale], 1.0, 0.0),
    ]
    return torch.optim.AdamW(
        [
            {"params": list(parameters), "base_lr": config.learning_rate * factor, "weight_decay": decay}
            for parameters, factor, decay in groups
        ],
        lr=config.learning_rate,
        betas=(0.9, 0.98),
    )


def train_alignment(model: Alignment, config: AlignConfig) -> None:
    """Train head and adapter in place."""
    opt = optimiser(model, config)
    started = time.monotonic()
    for step in range(config.steps):
        set_rate(opt, learning_rate_factor(step, config.steps, config.warmup))
        total, parts = model.loss()
        opt.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        opt.step()
        if step % 50 == 49:
            print(f"step {step + 1}, {time.monotonic() - started:.0f} s: {parts}", flush=True)


class AlignmentChooser:
    """Scores a head and an adapter on the validation family with the development texts."""

    def __init__(self, dataset: Dataset, corpus: Corpus) -> None:
        """Gather the validation features."""
        self.measure = DescriptionMeasure(dataset)
        self.rows = dataset.rows(tuple(family.name for family in families_of("validation")), dataset.embedded)
        self.features = corpus.features[self.rows].float()

    @torch.no_grad()
    def score(self, head: nn.Module, adapter: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, Any]:
        """Return the measurements and their mean, by which the setting is chosen."""
        found = self.measure.report(F.normalize(head(self.features), dim=-1), self.rows, adapter)["embedded"]
        return found | {"score": round(float(np.mean([found[kind] for kind in CHOICE])), 2)}


def trained_model(
    work: Work, dataset: Dataset, config: AlignConfig, seed: int, without: str | None = None
) -> tuple[Alignment, dict[str, Any]]:
    """Train head and adapter from the refit tower; return them with the state to store."""
    state = torch.load(work.final)
    tower = new_tower(state["visual"])
    corpus = Corpus(work, dataset, random.Random(seed), without)
    model = Alignment(tower.head, state["log_scale"], corpus, config, seed)
    train_alignment(model, config)
    return model, {
        "visual": tower.state_dict(),
        "adapter": {key: value.detach() for key, value in model.adapter.state_dict().items()},
        "log_scale": min(model.log_scale.item(), math.log(MAX_SCALE)),
    }


def align(work: Work, seed: int) -> None:
    """Train with each candidate setting, keep what scores best on the validation family, leave writers out once."""
    dataset, started = Dataset.load(work), time.monotonic()
    chooser = AlignmentChooser(dataset, Corpus(work, dataset, random.Random(seed)))
    scores = {"before": chooser.score(new_tower(torch.load(work.final)["visual"]).head, nn.Identity())}
    print("before", scores["before"], flush=True)
    states, seconds = {}, {}
    for name, config in CANDIDATES.items():
        begun = time.monotonic()
        model, states[name] = trained_model(work, dataset, config, seed)
        seconds[name] = round(time.monotonic() - begun)
        scores[name] = chooser.score(model.head, model.adapter)
        print(name, scores[name], flush=True)
    best = max(CANDIDATES, key=lambda name: scores[name]["score"])
    left_out = {writer: trained_model(work, dataset, CANDIDATES[best], seed, writer)[1] for writer in LEFT_OUT}
    torch.save({**states[best], "setting": best, "left out": left_out}, work.aligned)
    entry = {
        "settings": {name: asdict(config) for name, config in CANDIDATES.items()},
        "validation": scores,
        "chosen": best,
        "training seconds": seconds,
        "seconds": round(time.monotonic() - started),
    }
    update_log(work, "align", entry)
