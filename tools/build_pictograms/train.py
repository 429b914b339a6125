"""Steps ``head``, ``finetune`` and ``refit``: training the image tower against the locked text tower.

Schedules count optimiser steps, never time. Every choice (schedule, checkpoint, captions of the refit) is made on the
validation family.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from tools.build_pictograms.augment import augment
from tools.build_pictograms.captions import CAPTION_WEIGHTS
from tools.build_pictograms.common import BUILD_DATE, Work
from tools.build_pictograms.dataset import Dataset
from tools.build_pictograms.evaluate import Evaluator
from tools.build_pictograms.losses import CaptionLoss
from tools.build_pictograms.model import (
    Tower,
    freeze_stages,
    imagenet_tower,
    new_tower,
    split_forward,
    trunk_features,
)

# Captions of the head refit: fewer bare names, more glosses.
GLOSS_WEIGHTS = {
    "name": 0.25,
    "gloss": 0.32,
    "clause": 0.16,
    "tags": 0.10,
    "tag": 0.03,
    "synonym": 0.04,
    "hypernym": 0.08,
    "subgroup": 0.02,
}


@dataclass(frozen=True)
class HeadConfig:
    """Training of the head alone on trunk features."""

    epochs: int
    learning_rate: float
    weight_decay: float
    feature_dropout: float
    warmup: int
    start_scale: float
    batch: int = 1024
    image_weight: float = 0.5
    shares: dict[str, float] = field(default_factory=lambda: dict(CAPTION_WEIGHTS))


@dataclass(frozen=True)
class FinetuneConfig:
    """Training of the tower above the frozen stages."""

    steps: int = 800
    batch: int = 128
    learning_rate: float = 8e-4
    trunk_factor: float = 0.6
    weight_decay: float = 0.03
    warmup: int = 40
    average: float = 0.995
    frozen_stages: int = 3
    clip: float = 1.0
    start_scale: float = 25.0
    image_weight: float = 0.5
    validate_every: int = 200


HEAD = HeadConfig(epochs=25, learning_rate=1e-3, weight_decay=0.01, feature_dropout=0.1, warmup=25, start_scale=20.0)
FINETUNE_CANDIDATES = {"800 steps": FinetuneConfig(), "1200 steps": FinetuneConfig(steps=1200)}


def refit_candidates(scale: float) -> dict[str, HeadConfig]:
    """Return the settings of the refit that the validation family chooses among."""
    base = HeadConfig(12, 4e-4, 0.03, 0.25, 0, scale)
    return {
        "name captions": base,
        "gloss captions": HeadConfig(12, 4e-4, 0.03, 0.25, 0, scale, shares=GLOSS_WEIGHTS),
        "gloss captions, image captions x 2": HeadConfig(
            12, 4e-4, 0.03, 0.25, 0, scale, image_weight=1.0, shares=GLOSS_WEIGHTS
        ),
    }


def learning_rate_factor(step: int, steps: int, warmup: int) -> float:
    """Return the factor of the learning rate at a step: linear warm-up times cosine decay to 2 per cent."""
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    return rise * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def batches(rows: torch.Tensor, size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Yield full batches of shuffled rows without end."""
    while True:
        order = rows[torch.randperm(len(rows), generator=generator)]
        for start in range(0, len(rows) - size + 1, size):
            yield order[start : start + size]


def optimiser(groups: list[dict[str, Any]], log_scale: torch.Tensor, rate: float) -> torch.optim.AdamW:
    """Return AdamW over parameter groups and the logit scale (which is not decayed)."""
    groups = [*groups, {"params": [log_scale], "lr": rate, "weight_decay": 0.0}]
    result = torch.optim.AdamW([{**group, "base_lr": group["lr"]} for group in groups], betas=(0.9, 0.98))
    return result


def set_rate(opt: torch.optim.Optimizer, factor: float) -> None:
    """Scale the learning rate of every group."""
    for group in opt.param_groups:
        group["lr"] = group["base_lr"] * factor


def read_log(work: Work) -> dict[str, Any]:
    """Return what the steps have recorded so far."""
    return json.loads(work.log.read_text(encoding="utf-8")) if work.log.is_file() else {}


def update_log(work: Work, step: str, entry: Any) -> None:
    """Record what a step measured."""
    work.log.write_text(json.dumps(read_log(work) | {step: entry}, indent=1), encoding="utf-8")


def train_head(
    head: nn.Module,
    views: list[torch.Tensor],
    rows: torch.Tensor,
    loss: CaptionLoss,
    config: HeadConfig,
    generator: torch.Generator,
) -> float:
    """Train a head in place on trunk features (one tensor a view, one row a training image); return the log scale."""
    log_scale = torch.tensor(math.log(config.start_scale), requires_grad=True)
    group = {
        "params": list(head.parameters()),
        "lr": config.learning_rate,
        "weight_decay": config.weight_decay,
    }
    opt = optimiser([group], log_scale, config.learning_rate)
    steps = config.epochs * (len(rows) // config.batch)
    places = batches(torch.arange(len(rows)), config.batch, generator)
    for step in range(steps):
        set_rate(opt, learning_rate_factor(step, steps, config.warmup))
        place = next(places)
        view = views[int(torch.randint(len(views), (1,), generator=generator))]
        keep = torch.rand(len(place), view.shape[1], generator=generator) >= config.feature_dropout
        features = view[place] * keep / (1 - config.feature_dropout)
        total, first, second = loss(F.normalize(head(features), dim=-1), rows[place], log_scale, generator)
        opt.zero_grad()
        total.backward()
        opt.step()
        if step == steps - 1 or step % 50 == 0:
            print(f"head step {step + 1} of {steps}: class loss {first:.3f}, pair loss {second:.3f}", flush=True)
    return log_scale.item()


def train_initial_head(work: Work, seed: int) -> None:
    """Train the head on the frozen ImageNet trunk."""
    started = time.monotonic()
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    dataset = Dataset.load(work)
    rows = dataset.split_rows("train")
    loss = CaptionLoss(torch.load(work.captions), dataset.labels, HEAD.image_weight)
    tower = imagenet_tower()
    features = trunk_features(tower, dataset.images[rows])
    log_scale = train_head(tower.head, [features], rows, loss, HEAD, generator)
    torch.save({"visual": tower.state_dict(), "log_scale": log_scale}, work.head)
    seconds = round(time.monotonic() - started)
    score = Evaluator(work).validation_score(tower)
    update_log(work, "trained", BUILD_DATE)
    entry = {"config": asdict(HEAD), "train images": len(rows), "seconds": seconds, "validation": score}
    update_log(work, "head", entry)
    print(entry)


def parameter_groups(tower: Tower, config: FinetuneConfig) -> list[dict[str, Any]]:
    """Return the trainable parameters in groups: trunk or head, decayed (matrices) or not (vectors)."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in tower.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name.startswith("trunk"), parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": config.learning_rate * (config.trunk_factor if in_trunk else 1.0),
            "weight_decay": config.weight_decay if decayed else 0.0,
        }
        for (in_trunk, decayed), parameters in groups.items()
    ]


@torch.no_grad()
def update_average(average: Tower, tower: Tower, step: int, decay: float) -> None:
    """Move the averaged weights towards the current ones (the normalisation statistics never change)."""
    decay = min(decay, (1 + step) / (10 + step))
    for slow, fast in zip(average.parameters(), tower.parameters(), strict=True):
        if fast.requires_grad:
            slow.lerp_(fast, 1 - decay)


def finetune_candidate(work: Work, seed: int, config: FinetuneConfig, target: Path) -> list[dict[str, Any]]:
    """Fine-tune the tower with augmentation; keep the averaged weights that score best on the validation family.

    The tower stays in evaluation mode, so that batch normalisation keeps the ImageNet statistics. Returns what each
    validation measured.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    dataset = Dataset.load(work)
    evaluator = Evaluator(work)
    rows = dataset.split_rows("train")
    loss = CaptionLoss(torch.load(work.captions), dataset.labels, config.image_weight)
    tower = new_tower(torch.load(work.head)["visual"])
    freeze_stages(tower, config.frozen_stages)
    average = copy.deepcopy(tower)
    log_scale = torch.tensor(math.log(config.start_scale), requires_grad=True)
    opt = optimiser(parameter_groups(tower, config), log_scale, config.learning_rate)
    trained = [parameter for group in opt.param_groups for parameter in group["params"]]
    supply = batches(rows, config.batch, generator)
    started, paused = time.monotonic(), 0.0
    history: list[dict[str, Any]] = []
    for step in range(1, config.steps + 1):
        set_rate(opt, learning_rate_factor(step - 1, config.steps, config.warmup))
        chosen = next(supply)
        inputs = augment(dataset.images[chosen], generator)
        embeddings = F.normalize(split_forward(tower, inputs, config.frozen_stages), dim=-1)
        total, first, second = loss(embeddings, chosen, log_scale, generator)
        opt.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(trained, config.clip)
        opt.step()
        update_average(average, tower, step, config.average)
        seconds = time.monotonic() - started - paused
        if step % 20 == 0:
            speed = step * config.batch / seconds
            print(f"step {step}: {speed:.0f} images/s, class loss {first:.3f}, pair loss {second:.3f}", flush=True)
        if step % config.validate_every == 0 or step == config.steps:
            before = time.monotonic()
            score = evaluator.validation_score(average)
            history.append({"step": step, "seconds": round(seconds), "validation": score})
            print(history[-1], flush=True)
            if score["score"] >= best_score(history):
                state = {"visual": average.state_dict(), "log_scale": log_scale.item(), "step": step}
                torch.save(state, target)
            paused += time.monotonic() - before
    return history


def best_score(history: list[dict[str, Any]]) -> float:
    """Return the best validation score of a run."""
    return max(entry["validation"]["score"] for entry in history)


def finetune(work: Work, seed: int) -> None:
    """Fine-tune with every candidate schedule (those already logged are kept) and take what validates best."""
    runs: dict[str, Any] = read_log(work).get("finetune", {})
    for name, config in FINETUNE_CANDIDATES.items():
        target = work.candidate(name)
        if name not in runs or not target.is_file():
            runs[name] = {"config": asdict(config), "history": finetune_candidate(work, seed, config, target)}
            update_log(work, "finetune", runs)
    best = max(FINETUNE_CANDIDATES, key=lambda name: best_score(runs[name]["history"]))
    torch.save({**torch.load(work.candidate(best)), "schedule": best}, work.finetuned)
    print(f"chosen schedule: {best}")


def refit(work: Work, seed: int) -> None:
    """Refit the head on the fine-tuned trunk with each candidate setting; keep what validates best."""
    started = time.monotonic()
    dataset = Dataset.load(work)
    evaluator = Evaluator(work)
    rows = dataset.split_rows("train")
    captions = torch.load(work.captions)
    state = torch.load(work.finetuned)
    tower = new_tower(state["visual"])
    images = dataset.images[rows]
    views = [trunk_features(tower, images), trunk_features(tower, images, mirrored=True)]
    best = {**state, "setting": "no refit"}
    scores = {"no refit": evaluator.validation_score(tower)}
    for name, config in refit_candidates(math.exp(state["log_scale"])).items():
        tower = new_tower(state["visual"])
        loss = CaptionLoss(captions, dataset.labels, config.image_weight, config.shares)
        generator = torch.Generator().manual_seed(seed + 2)
        log_scale = train_head(tower.head, views, rows, loss, config, generator)
        scores[name] = evaluator.validation_score(tower)
        if scores[name]["score"] > max(scores[other]["score"] for other in scores if other != name):
            best = {**state, "visual": tower.state_dict(), "log_scale": log_scale, "setting": name}
        print(name, scores[name], flush=True)
    torch.save(best, work.final)
    seconds = round(time.monotonic() - started)
    entry = {"seconds": seconds, "validation": scores, "chosen": best["setting"], "schedule": state["schedule"]}
    update_log(work, "refit", entry)
