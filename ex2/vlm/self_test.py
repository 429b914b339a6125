"""A VLM shows at load that it gives what everything here computes with: unit vectors of one length, whatever the batch.

Text towers that have fewer positions than their configuration says, tokenizers without a limit, and models that look at their
neighbours in a batch would else fail in the middle of a run, or not at all.
"""

from __future__ import annotations

import torch
from PIL import Image

from ex2.base.errors import UserError, first_line
from ex2.vlm.base import VLM

_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""How far the embedding of a text may move with the batch it is in, by the type of the weights."""


def check_vlm(vlm: VLM, dtype: torch.dtype) -> None:
    """Encode two texts, one that is too long, and an image.

    Raises:
        UserError: The model fails at them, or its embeddings are no finite unit vectors of one length, or depend on the batch.
    """
    texts = ["a photo of a cat", "a caf\u00e9, \u732b", "a cat and a dog " * (vlm.max_text_tokens // 2)]
    image = Image.linear_gradient("L").convert("RGB")
    try:
        together = vlm.encode_texts(texts, batch_size=len(texts))
        alone = vlm.encode_texts(texts, batch_size=1)
        pictures = vlm.encode_images([image])
    except Exception as error:  # whatever it is, a run would meet it later
        raise _failed(vlm, f"it cannot encode them ({type(error).__name__}: {first_line(error)})") from error
    if together.shape != (len(texts), vlm.dim) or pictures.shape != (1, vlm.dim):
        shapes = f"{tuple(together.shape)} and {tuple(pictures.shape)}"
        raise _failed(vlm, f"embeddings of {len(texts)} texts and an image have the shapes {shapes}")
    for kind, rows in (("a text", together), ("an image", pictures)):
        if not bool(((rows.norm(dim=1) - 1).abs() < 1e-3).all()):  # NaN counts as off
            raise _failed(
                vlm, f"the embedding of {kind} is no unit vector; where it is not finite, load it with dtype float32"
            )
    if (moved := float((together - alone).abs().max())) > _TOLERANCE[dtype]:
        raise _failed(vlm, f"the embedding of a text depends on the texts beside it (by {moved:.2g})")


def _failed(vlm: VLM, reason: str) -> UserError:
    return UserError(
        f"vlm {vlm.name!r} fails its self-test with two texts, a long one (it says that it reads {vlm.max_text_tokens} tokens) "
        f"and an image: {reason}"
    )
