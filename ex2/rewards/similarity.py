"""Similarity rewards: how well the VLM thinks that a text fits its class, and better than it fits other classes.

Each raw function maps similarities `(N, C)` (mean cosine of N texts to the images of C classes), class ids `(N,)` and the
VLM's logit scale to raw rewards `(N,)`. `pair_margin` takes the ids of the other classes of the pairs besides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ex2.base.errors import UserError
from ex2.rewards.normalization import RewardStats, reward_groups
from ex2.scoring.scorer import TextScorer, completion_text

NEAREST = 3  # other classes that `margin` compares with


def own_similarity(similarities: Tensor, class_ids: Tensor) -> Tensor:
    """Similarity of each text to its own class, (N,)."""
    return similarities.gather(1, class_ids.unsqueeze(1)).squeeze(1)


def cosine(similarities: Tensor, class_ids: Tensor, logit_scale: float) -> Tensor:
    """Mean cosine to the images of the class (the EX2 paper's reward)."""
    return own_similarity(similarities, class_ids)


def centered(similarities: Tensor, class_ids: Tensor, logit_scale: float) -> Tensor:
    """Cosine to the class minus the text's mean cosine to all classes: a text that fits everything gains nothing."""
    return own_similarity(similarities, class_ids) - similarities.mean(dim=1)


def margin(similarities: Tensor, class_ids: Tensor, logit_scale: float) -> Tensor:
    """Cosine to the class minus the mean of the three other classes that the text fits best."""
    others = similarities.scatter(1, class_ids.unsqueeze(1), -torch.inf)
    nearest = min(NEAREST, similarities.shape[1] - 1)
    return own_similarity(similarities, class_ids) - others.topk(nearest, dim=1).values.mean(dim=1)


def log_softmax(similarities: Tensor, class_ids: Tensor, logit_scale: float) -> Tensor:
    """Log-probability of the class given the text, softmax over all classes at the VLM's own logit scale."""
    return own_similarity((similarities * logit_scale).log_softmax(dim=1), class_ids)


def pair_margin(similarities: Tensor, class_ids: Tensor, logit_scale: float, other_ids: Tensor) -> Tensor:
    """Cosine to the class minus cosine to the other class of the pair that the text is to tell apart; needs pairs."""
    return own_similarity(similarities, class_ids) - own_similarity(similarities, other_ids)


SIMILARITY_REWARDS: dict[str, Callable[..., Tensor]] = {
    "cosine": cosine,
    "centered": centered,
    "margin": margin,
    "log_softmax": log_softmax,
    "pair_margin": pair_margin,
}


def raw_rewards(
    name: str,
    scorer: TextScorer,
    texts: list[str],
    class_ids: list[int],
    split: str = "reward",
    other_ids: list[int] | None = None,
) -> Tensor:
    """Raw reward `name` of each text, (N,), before any scale; `pair_margin` needs the other class of each text."""
    columns = [class_ids, other_ids] if name == "pair_margin" else [class_ids]
    ids, *others = (torch.tensor(column, device=scorer.vlm.device, dtype=torch.long) for column in columns)
    return SIMILARITY_REWARDS[name](scorer.similarities(texts, split), ids, scorer.vlm.logit_scale, *others)


def similarity_reward(
    name: str, scorer: TextScorer, *, scale: float, stats: RewardStats | None = None
) -> Callable[..., list[float]]:
    """TRL reward function: `scale` x raw reward, or (raw - group mean) / std with `stats` of the untrained policy.

    Prompts about pairs have the other class's id in a column `other_id`.

    One scale for every VLM keeps the strength of the KL penalty comparable between VLMs. `log_softmax` is already in
    logits, so `scale` does not apply to it.
    """
    if name != "cosine" and len(scorer.bank.class_names) < 2:
        raise UserError(f"reward_funcs={name} compares classes, but the dataset has only one; use cosine.")
    means = None if stats is None else torch.tensor(stats.mean, device=scorer.vlm.device, dtype=torch.float32)

    def reward(
        prompts: list[Any],
        completions: list[Any],
        class_id: list[int],
        other_id: list[int] | None = None,
        **columns: Any,
    ) -> list[float]:
        texts = [completion_text(completion) for completion in completions]
        raw = raw_rewards(name, scorer, texts, class_id, other_ids=other_id)
        if stats is not None and means is not None:
            groups = reward_groups(class_id, other_id, len(scorer.bank.class_names))
            return ((raw - means[groups]) / stats.std).tolist()
        return (raw if name == "log_softmax" else scale * raw).tolist()

    reward.__name__ = name
    return reward
