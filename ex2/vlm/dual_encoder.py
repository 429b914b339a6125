"""What all back ends share: batching, order, unit norm, release of the image tower, fingerprint."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeVar

import torch
from PIL import Image

from ex2.base.loading import check_finite
from ex2.base.rgb import to_rgb
from ex2.vlm.fingerprint import model_fingerprint

Item = TypeVar("Item")


class DualEncoder(ABC):
    """Fulfils `ex2.vlm.base.VLM` for a torch model; a back end adds how the model reads images and texts.

    The model is put in eval mode and freed of gradients once, here, whatever state it was loaded in.

    Args:
        name: The spec the model was loaded from.
        model: The loaded model, in float32 on the CPU.
        device: Where to encode.
        dtype: Floating-point type of weights and computation; embeddings are float32 always.
        max_text_tokens: Longest text in tokens, special tokens included.
        logit_scale: Multiplier of the cosine in the model's own loss.
        logit_bias: Bias in the model's own loss.
    """

    def __init__(
        self,
        name: str,
        model: torch.nn.Module,
        *,
        device: torch.device,
        dtype: torch.dtype,
        max_text_tokens: int,
        logit_scale: float,
        logit_bias: float,
    ) -> None:
        self.name = name
        self.device = device
        self.max_text_tokens = max_text_tokens
        self.logit_scale = logit_scale
        self.logit_bias = logit_bias
        self._dtype = dtype
        self._model: Any = model.eval().requires_grad_(False).to(device=device, dtype=dtype)
        # CoCa's captioner embeds nothing, and open_clip leaves a weight of it as it finds it in memory.
        check_finite(self._model, f"vlm {name!r}", unused="text_decoder.")
        self._image_tower_released = False

    @abstractmethod
    def _image_features(self, images: list[Image.Image]) -> torch.Tensor:
        """Raw embeddings ``(n, D)`` of n RGB images."""

    @abstractmethod
    def _text_features(self, texts: list[str]) -> torch.Tensor:
        """Raw embeddings ``(n, D)`` of n texts, padded and cut as the model was trained."""

    @abstractmethod
    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text with special tokens and without cutting; above ``max_text_tokens`` means it is cut."""

    @abstractmethod
    def _describe(self) -> dict[str, Any]:
        """Architecture, preprocessing and tokenizer as plain data, for the fingerprint."""

    @abstractmethod
    def _drop_image_tower(self) -> None:
        """Delete the modules that only images need."""

    @cached_property
    def dim(self) -> int:
        """Dimension D of the embeddings, read off the model itself."""
        return self.encode_texts(["a"]).shape[1]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over weights, architecture, preprocessing and tokenizer; computed at the first use."""
        return model_fingerprint(self._model.state_dict(), self._describe())

    def encode_images(self, images: Sequence[Image.Image], batch_size: int = 64) -> torch.Tensor:
        """Encode N PIL images of any mode and size.

        Args:
            images: The images; transparency is laid on white.
            batch_size: Images per forward pass; changes memory and speed, not results.

        Returns:
            ``(N, D)`` float32 unit rows on ``device``; ``(0, D)`` for no images.

        Raises:
            RuntimeError: The image tower was released.
        """
        if self._image_tower_released:
            raise RuntimeError(f"the image tower of {self.name} was released: load the VLM again to encode images")
        return self._encode(images, batch_size, lambda batch: self._image_features([to_rgb(image) for image in batch]))

    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> torch.Tensor:
        """Encode N texts; texts longer than ``max_text_tokens`` are cut.

        Args:
            texts: The texts; an empty string is allowed.
            batch_size: Texts per forward pass; changes memory and speed, not results.

        Returns:
            ``(N, D)`` float32 unit rows on ``device``, in the given order; ``(0, D)`` for no texts.
        """
        # Texts of one length together need the least padding.
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        encoded = self._encode([texts[index] for index in order], batch_size, self._text_features)
        restored = torch.empty_like(encoded)
        restored[order] = encoded
        return restored

    def release_image_tower(self) -> None:
        """Free the image encoder's memory; ``encode_images`` raises RuntimeError from then on.

        The fingerprint still speaks of the whole model, so it is computed first. A second call changes nothing.
        """
        if self._image_tower_released:
            return
        _ = self.fingerprint
        self._drop_image_tower()
        self._image_tower_released = True
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.no_grad()
    def _encode(
        self, items: Sequence[Item], batch_size: int, features: Callable[[list[Item]], torch.Tensor]
    ) -> torch.Tensor:
        """``(N, D)`` unit rows of N items, ``batch_size`` at a time."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        if not len(items):
            return torch.empty((0, self.dim), dtype=torch.float32, device=self.device)
        rows = []
        for start in range(0, len(items), batch_size):
            batch = features(list(items[start : start + batch_size])).float()
            if batch.ndim != 2:
                raise ValueError(f"it gives no vector for each, but the shape {tuple(batch.shape)}")
            rows.append(torch.nn.functional.normalize(batch, dim=-1))
        return torch.cat(rows)
