"""From completions to similarities: what every similarity reward and every monitor shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ex2.bank import ImageBank
from ex2.base.errors import UserError
from ex2.vlm import VLM


def completion_text(completion: str | list[dict[str, Any]]) -> str:
    """The text of one completion, plain or conversational, with white space collapsed: what the VLM reads."""
    text = completion if isinstance(completion, str) else completion[-1]["content"]
    return " ".join(text.split())


class TextScorer:
    """Scores texts against the classes of an image bank: one text encoding and one dot product a text.

    Equal texts are encoded once, and the latest batch is remembered, so that several rewards and the monitors of one step
    cost one pass of the text encoder.

    Attributes:
        texts_encoded: Texts sent through the text encoder so far, the budget that best-of-N is compared at.
    """

    def __init__(self, vlm: VLM, bank: ImageBank, batch_size: int = 256) -> None:
        self.vlm = vlm
        self.bank = bank.to(vlm.device)
        self.batch_size = batch_size
        self.texts_encoded = 0
        self._batch: tuple[str, ...] | None = None
        self._embeddings: Tensor | None = None

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Unit embeddings (N, D) of N texts on the VLM's device.

        Raises:
            UserError: An embedding is not finite (a VLM in half precision).
        """
        batch = tuple(texts)
        if batch != self._batch or self._embeddings is None:
            index = {text: i for i, text in enumerate(dict.fromkeys(batch))}
            unique = self.vlm.encode_texts(list(index), batch_size=self.batch_size)
            self.texts_encoded += len(index)
            # TRL would take a reward of NaN for one that does not apply, and go on without it. A sum is finite only if all are.
            if not unique.sum().isfinite():
                text = list(index)[int(unique.isfinite().all(dim=1).int().argmin())]
                raise UserError(
                    f"vlm {self.vlm.name}: the embedding of the text {text!r} is not finite; load the VLM with "
                    "vlm_dtype=float32."
                )
            if len(index) < len(batch):
                unique = unique[torch.tensor([index[text] for text in batch], device=unique.device)]
            self._embeddings = unique
            self._batch = batch
        return self._embeddings

    def similarities(self, texts: Sequence[str], split: str = "reward") -> Tensor:
        """Mean cosine (N, C) of each text to the images of each class."""
        return self.bank.similarities(self.embed(texts), split)

    def cosine(self, texts: Sequence[str], class_ids: Sequence[int], split: str = "reward") -> Tensor:
        """Mean cosine (N,) of each text to the images of its own class."""
        ids = torch.tensor(list(class_ids), device=self.vlm.device, dtype=torch.long)
        return self.bank.cosine(self.embed(texts), ids, split)


@dataclass(frozen=True)
class RewardStats:
    """How the untrained policy scores: what `zscore` standardises rewards with.

    The mean is per group: per class, or per ordered pair where prompts are about pairs. Groups differ more than texts do,
    and a constant per group changes no optimum. The standard deviation is pooled within groups.

    Attributes:
        mean: Mean raw similarity of the untrained policy's texts for each group (see `reward_groups`).
        std: Standard deviation of the raw similarity around its group mean.
    """

    mean: tuple[float, ...]
    std: float

    @classmethod
    def from_samples(cls, values: Tensor, groups: Tensor, num_groups: int) -> RewardStats:
        """From raw similarities (N,) of N texts of groups (N,). A group without texts gets the mean of the others."""
        values, groups = values.double().cpu(), groups.cpu()
        count = torch.bincount(groups, minlength=num_groups)
        total = torch.zeros(num_groups, dtype=torch.double).index_add_(0, groups, values)
        seen = count > 0
        mean = total / count.clamp(min=1)
        mean[~seen] = mean[seen].mean()
        freedom = max(int(count.sum() - seen.sum()), 1)
        std = ((values - mean[groups]).square().sum() / freedom).sqrt()
        return cls(tuple(mean.tolist()), max(float(std), 1e-6))


def reward_groups(class_ids: Sequence[int], other_ids: Sequence[int] | None, num_classes: int) -> list[int]:
    """The group of each text: its class id, or of its ordered pair (i, j) the number i x C + j."""
    if other_ids is None:
        return list(class_ids)
    return [i * num_classes + j for i, j in zip(class_ids, other_ids, strict=True)]
