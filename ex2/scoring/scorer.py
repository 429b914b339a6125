"""From completions to similarities: what every similarity reward and every monitor shares."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ex2.base.errors import UserError
from ex2.scoring.bank import ImageBank
from ex2.texts.readings import AS_WRITTEN, Reading
from ex2.vlm import VLM

# Batches of one step: descriptions as written, nameless, framed, the names alone.
_REMEMBERED = 4


class TextScorer:
    """Scores texts against the classes of an image bank: one text encoding and one dot product a text.

    Equal texts are encoded once, and the latest batches are remembered, so that several rewards, readings and the monitors of
    one step cost one pass of the text encoder for each batch of texts.

    Attributes:
        texts_encoded: Texts sent through the text encoder so far, the budget that best-of-N is compared at.
    """

    def __init__(self, vlm: VLM, bank: ImageBank, batch_size: int = 256) -> None:
        self.vlm = vlm
        self.bank = bank.to(vlm.device)
        self.batch_size = batch_size
        self.texts_encoded = 0
        self._latest: dict[tuple[str, ...], Tensor] = {}  # the newest last

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Unit embeddings (N, D) of N texts on the VLM's device.

        Raises:
            UserError: An embedding is not finite (a VLM in half precision).
        """
        batch = tuple(texts)
        embeddings = self._latest.pop(batch, None)
        if embeddings is None:
            embeddings = self._encode(batch)
        self._latest[batch] = embeddings
        while len(self._latest) > _REMEMBERED:
            del self._latest[next(iter(self._latest))]
        return embeddings

    def _encode(self, batch: tuple[str, ...]) -> Tensor:
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
        if len(index) == len(batch):
            return unique
        return unique[torch.tensor([index[text] for text in batch], device=unique.device)]

    def similarities(self, texts: Sequence[str], split: str = "reward") -> Tensor:
        """Mean cosine (N, C) of each text to the images of each class."""
        return self.bank.similarities(self.embed(texts), split)

    def cosine(
        self, texts: Sequence[str], class_ids: Sequence[int], split: str = "reward", reading: Reading = AS_WRITTEN
    ) -> Tensor:
        """Mean cosine (N,) of each text, as it is read, to the images of its own class."""
        ids = torch.tensor(list(class_ids), device=self.vlm.device, dtype=torch.long)
        names = [self.bank.class_names[i] for i in class_ids]
        return reading.score(lambda read: self.bank.cosine(self.embed(read), ids, split), texts, names)
