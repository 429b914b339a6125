"""What a rollout holds, as PPO needs it: the texts as tokens, and what is learned from them.

TRL's trainers carry a rollout as a dict of tensors, which they shuffle and split into micro-batches row by row. `of` reads such
a dict, `columns` makes one.

Shapes: B completions, prompts padded on the left to W tokens, completions padded on the right to T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Texts:
    """Prompts and their completions as tokens, one row a completion.

    Attributes:
        prompt_ids: (B, W).
        prompt_mask: (B, W), 1 on tokens and 0 on padding.
        completion_ids: (B, T).
        completion_mask: (B, T), 1 on generated tokens up to and including the end token.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    completion_ids: Tensor
    completion_mask: Tensor

    @classmethod
    def of(cls, batch: Mapping[str, Any]) -> Texts:
        """The texts of a batch as TRL carries it."""
        return cls(**{field.name: batch[field.name] for field in fields(cls)})

    def __len__(self) -> int:
        return self.completion_ids.size(0)

    def rows(self, start: int, stop: int) -> Texts:
        """The rows from `start` up to, not including, `stop`."""
        return Texts(*(getattr(self, field.name)[start:stop] for field in fields(self)))

    @property
    def labels(self) -> Tensor:
        """The completions (B, T) with -100, which losses pass over, in place of padding."""
        return self.completion_ids.masked_fill(self.completion_mask == 0, -100)


@dataclass(frozen=True)
class Rollout:
    """Texts with what PPO learns from them; the policy that sampled them is the old one.

    Attributes:
        texts: The completions.
        score: Reward of each whole completion, (B,).
        old_per_token_logps: Log-probs of the old policy, (B, T).
        old_values: Its value before each token, (B, T).
        advantages: (B, T), 0 on padding.
        returns: What the value head learns to predict, (B, T), 0 on padding.
    """

    texts: Texts
    score: Tensor
    old_per_token_logps: Tensor
    old_values: Tensor
    advantages: Tensor
    returns: Tensor

    @classmethod
    def of(cls, batch: Mapping[str, Any]) -> Rollout:
        """The rollout, or a micro-batch of it, in a batch as TRL carries it."""
        return cls(Texts.of(batch), **{name: batch[name] for name in _LEARNED})

    def columns(self) -> dict[str, Tensor]:
        """What a batch as TRL carries it holds besides the texts."""
        return {name: getattr(self, name) for name in _LEARNED}


_LEARNED = tuple(field.name for field in fields(Rollout) if field.name != "texts")
