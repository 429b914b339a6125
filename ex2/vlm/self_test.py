"""A VLM shows at load that it gives what everything here computes with: unit vectors of one length, whatever the batch.

Text towers that have fewer positions than their configuration says, tokenizers without a limit, models that look at their
neighbours in a batch, and models that read each text at a token that has seen nothing of it would else fail in the middle of a
run, or not at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from textwrap import shorten
from typing import Any

import torch
from PIL import Image

from ex2.base.errors import UserError, first_line
from ex2.vlm.base import VLM

_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""How far an embedding may move with the batch it is in, by the type of the weights."""


def check_vlm(vlm: VLM, dtype: torch.dtype) -> None:
    """Encode short, long and empty texts and two images, together and alone.

    Raises:
        UserError: The model fails at them; its embeddings are no finite unit vectors of one length, depend on the batch, or are
            the same for different texts or images; or its length, token counts or scale are no such numbers.
    """
    limit = vlm.max_text_tokens
    if not isinstance(limit, int) or limit < 1:
        raise UserError(
            f"vlm {vlm.name!r} says that it reads {limit} tokens of a text, which is no whole number above 0"
        )
    if not (math.isfinite(vlm.logit_scale) and vlm.logit_scale > 0 and math.isfinite(vlm.logit_bias)):
        raise UserError(
            f"vlm {vlm.name!r} has a logit scale of {vlm.logit_scale:g} and a bias of {vlm.logit_bias:g}: its weights are damaged"
        )
    # In two scripts, as a vocabulary may know one of them only. Of long texts, too, what is left differs, whatever is cut off.
    short = ["a cat \u732b", "a dog \u72ac"]
    texts = [*short, *(f"{text} sat here " * (limit // 2 + 30) for text in short), "", "a caf\u00e9"]
    images = [picture.convert("RGB") for picture in (Image.linear_gradient("L"), Image.new("L", (64, 48), 200))]
    _check_encoder(vlm, "text", vlm.encode_texts, texts, dtype, pairs=((0, 1), (2, 3)))
    _check_encoder(vlm, "image", vlm.encode_images, images, dtype, pairs=((0, 1),))
    try:
        counts = vlm.count_tokens(texts)
    except Exception as error:
        raise _failed(vlm, f"it cannot count their tokens ({_told(error)})") from error
    if not min(counts[2:4]) > limit:
        raise _failed(vlm, f"it counts {counts[2]} tokens in a text that is longer: what it cuts off would not be seen")


def _check_encoder(
    vlm: VLM,
    kind: str,
    encode: Callable[..., torch.Tensor],
    items: Sequence[Any],
    dtype: torch.dtype,
    pairs: Sequence[tuple[int, int]],
) -> None:
    """Encode `items`, texts or images, of which each of `pairs` are two different ones."""
    try:
        together = encode(items, batch_size=len(items))
        alone = encode(items, batch_size=1)
        again = encode(items[:1], batch_size=1)
        expected = (len(items), vlm.dim)
    except Exception as error:  # whatever it is, a run would meet it later
        raise _failed(vlm, f"it cannot encode {kind}s ({_told(error)})") from error
    if together.shape != expected:
        raise _failed(vlm, f"embeddings of {len(items)} {kind}s have the shape {tuple(together.shape)}, not {expected}")
    names = [f"the text {shorten(item, 40)!r}" if kind == "text" else f"image {i + 1}" for i, item in enumerate(items)]
    for name, row in zip(names, together, strict=True):
        if not abs(float(row.norm()) - 1) < 1e-3:  # NaN counts as off
            cure = (
                "are its weights and its preprocessing sound?"
                if dtype == torch.float32
                else "load it with dtype float32"
            )
            what = "no unit vector" if bool(row.isfinite().all()) else f"not finite: {cure}"
            raise _failed(vlm, f"the embedding of {name} is {what}")
    if (moved := float((alone[:1] - again).abs().max())) > _TOLERANCE[dtype]:
        raise _failed(vlm, f"the embedding of one {kind} is another each time (by {moved:.2g}): it draws at random")
    if (moved := float((together - alone).abs().max())) > _TOLERANCE[dtype]:
        raise _failed(vlm, f"the embedding of one {kind} depends on the {kind}s beside it (by {moved:.2g})")
    for first, second in pairs:
        if torch.equal(alone[first], alone[second]):
            raise _failed(
                vlm,
                f"{names[first]} and {names[second]} have the same embedding: weights, tokenizer (does it add an end token, "
                "and is that the model's eos_token_id?) or preprocessing are not the model's own",
            )


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def _failed(vlm: VLM, reason: str) -> UserError:
    return UserError(
        f"vlm {vlm.name!r} fails its self-test with short, long and empty texts (it says that it reads {vlm.max_text_tokens} "
        f"tokens) and two images: {reason}"
    )
