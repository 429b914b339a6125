"""The protocol every vision-language model back end fulfils: two encoders into one space of unit vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from PIL import Image


@runtime_checkable
class VLM(Protocol):
    """A CLIP-like dual encoder, always in eval mode and without gradients.

    Attributes:
        name: The spec it was loaded from, e.g. ``hf:openai/clip-vit-base-patch32``.
        dim: Dimension D of the shared embedding space.
        max_text_tokens: Longest text, in tokens with special tokens, that the text encoder reads; the rest is cut.
        logit_scale: Multiplier the model was trained with (already exponentiated; 1 / temperature for ALIGN).
        logit_bias: Bias the model was trained with (0 except for SigLIP).
        fingerprint: Hex digest over weights, preprocessing and tokenizer; equal exactly when embeddings are.
        device: Where texts and images are encoded.
    """

    name: str
    dim: int
    max_text_tokens: int
    logit_scale: float
    logit_bias: float
    fingerprint: str
    device: torch.device

    def encode_images(self, images: Sequence[Image.Image], batch_size: int = 64) -> torch.Tensor:
        """Encode N PIL images (any mode or size) as ``(N, D)`` float32 unit rows on ``device``."""
        ...

    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> torch.Tensor:
        """Encode N texts as ``(N, D)`` float32 unit rows on ``device``, in the given order; long texts are cut."""
        ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text with special tokens and without cutting; above ``max_text_tokens`` means it is cut."""
        ...

    def release_image_tower(self) -> None:
        """Free the image encoder's memory; ``encode_images`` raises RuntimeError from then on."""
        ...
