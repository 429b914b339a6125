"""From completions to similarities: what every similarity reward and every monitor shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ex2.base.errors import UserError
from ex2.scoring.bank import ImageBank
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
