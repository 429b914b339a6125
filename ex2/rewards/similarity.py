"""Similarity rewards: how well the VLM thinks that a text fits its class, and better than it fits other classes.

Each raw function maps similarities `(N, C)` (mean cosine of N texts to the images of C classes), class ids `(N,)` and the
VLM's logit scale to raw rewards `(N,)`. `pair_margin` takes the ids of the other classes of the pairs besides.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ex2.base.errors import UserError
from ex2.rewards.normalization import RewardStats, reward_groups
from ex2.texts.questions import completion_text
from ex2.texts.readings import AS_WRITTEN, Reading

if TYPE_CHECKING:  # what is called how is known without torch, which takes seconds to import
    from torch import Tensor

    from ex2.scoring.scorer import TextScorer

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
    others = similarities.scatter(1, class_ids.unsqueeze(1), -math.inf)
    nearest = min(NEAREST, similarities.shape[1] - 1)
    return own_similarity(similarities, class_ids) - others.topk(nearest, dim=1).values.mean(dim=1)


def log_softmax(similarities: Tensor, class_ids: Tensor, logit_scale: float) -> Tensor:
    """Log-probability of the class given the text, softmax over all classes at the VLM's own logit scale."""
    return own_similarity((similarities * logit_scale).log_softmax(dim=1), class_ids)


def pair_margin(similarities: Tensor, class_ids: Tensor, logit_scale: float, other_ids: Tensor) -> Tensor:
    """Cosine to the class minus cosine to the other class of the pair that the text is to tell apart; needs pairs."""
    return own_similarity(similarities, class_ids) - own_similarity(similarities, other_ids)


SimilarityReward = Callable[..., "Tensor"]

SIMILARITY_REWARDS: dict[str, SimilarityReward] = {
    "cosine": cosine,
    "centered": centered,
    "margin": margin,
    "log_softmax": log_softmax,
    "pair_margin": pair_margin,
}


def raw_rewards(
    function: SimilarityReward,
    scorer: TextScorer,
    texts: list[str],
    class_ids: list[int],
    split: str = "reward",
    other_ids: list[int] | None = None,
    reading: Reading = AS_WRITTEN,
) -> Tensor:
    """Raw reward of each text, (N,), before any scale.

    Args:
        function: One of `SIMILARITY_REWARDS`, or a function of one's own with the same signature.
        scorer: VLM and bank.
        texts: N descriptions.
        class_ids: Class of each.
        split: Images to compare with.
        other_ids: The other class of each, where the texts are about pairs.
        reading: What the VLM reads of the texts.

    Raises:
        UserError: The function gives other than N numbers, or one that is not finite.
    """
    import torch

    names = [scorer.bank.class_names[i] for i in class_ids]
    columns = [class_ids, other_ids] if function is pair_margin else [class_ids]
    ids, *others = (torch.tensor(column, device=scorer.vlm.device, dtype=torch.long) for column in columns)

    def score(read: list[str]) -> Tensor:
        raw = function(scorer.similarities(read, split), ids, scorer.vlm.logit_scale, *others)
        if function not in SIMILARITY_REWARDS.values():
            _check_own(function, raw, len(texts))
        return raw

    return reading.score(score, texts, names)


def _check_own(function: SimilarityReward, raw: Any, count: int) -> None:
    """See that a reward of the user's own gives one finite number a text."""
    from torch import Tensor

    name = getattr(function, "__name__", str(function))
    if not isinstance(raw, Tensor) or raw.shape != (count,):
        found = f"a tensor of shape {tuple(raw.shape)}" if isinstance(raw, Tensor) else type(raw).__name__
        raise UserError(f"reward_funcs={name}: gave {found} for {count} texts: return a tensor of shape ({count},).")
    if not raw.isfinite().all():
        raise UserError(
            f"reward_funcs={name}: gave {raw[~raw.isfinite()][0].item()} for a text: return finite numbers."
        )


def similarity_reward(
    function: SimilarityReward,
    scorer: TextScorer,
    *,
    scale: float,
    stats: RewardStats | None = None,
    reading: Reading = AS_WRITTEN,
) -> Callable[..., list[float]]:
    """TRL reward function: `scale` x raw reward, or (raw - group mean) / std with `stats` of the untrained policy.

    Prompts about pairs have the other class's id in a column `other_id`.

    One scale for every VLM keeps the strength of the KL penalty comparable between VLMs. `log_softmax` is already in
    logits, so `scale` does not apply to it.
    """
    import torch

    if function is not cosine and len(scorer.bank.class_names) < 2:
        raise UserError(f"reward_funcs={function.__name__} compares classes, but the dataset has only one; use cosine.")
    means = None if stats is None else torch.tensor(stats.mean, device=scorer.vlm.device, dtype=torch.float32)

    def reward(
        prompts: list[Any],
        completions: list[Any],
        class_id: list[int],
        other_id: list[int] | None = None,
        **columns: Any,
    ) -> list[float]:
        texts = [completion_text(completion) for completion in completions]
        raw = raw_rewards(function, scorer, texts, class_id, other_ids=other_id, reading=reading)
        if stats is not None and means is not None:
            groups = reward_groups(class_id, other_id, len(scorer.bank.class_names))
            return ((raw - means[groups]) / stats.std).tolist()
        return (raw if function is log_softmax else scale * raw).tolist()

    reward.__name__ = function.__name__
    return reward
