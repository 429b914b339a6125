"""The tokens of a forward pass: one row a completion, or all completions in one row that shares what the prompts begin with.

Prompts begin alike: a system message, the words before the class, and all of it where a prompt is sampled more than once. A
token's hidden state depends on the tokens before it alone, so what the rows begin with needs to be computed once for all of
them. `packed` lays the rows one after the other behind that prefix; a mask lets each token see the prefix and its own row. The
result is that of `padded` up to rounding, gradients included, without the padding and with the prefix once.

Shapes: B completions, prompts padded on the left to W tokens, completions padded on the right to T tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ex2.rl.rollout import Texts

States = Callable[[Tensor], Tensor]
"""Picks the states (B, T, H) before each completion token from the hidden states of a forward pass."""


def padded(texts: Texts) -> tuple[dict[str, Tensor], States]:
    """Arguments of a forward pass with one row (W + T) a completion."""
    length = texts.completion_ids.size(1)
    arguments = {
        "input_ids": torch.cat([texts.prompt_ids, texts.completion_ids], dim=1),
        "attention_mask": torch.cat([texts.prompt_mask, texts.completion_mask], dim=1),
    }
    return arguments, lambda hidden: hidden[:, -length - 1 : -1]  # the last position predicts nothing that was sampled


def packed(texts: Texts, prefix: Tensor) -> tuple[dict[str, Tensor], States]:
    """Arguments of a forward pass with one row of L tokens: the common prefix, then what is left of each row.

    Args:
        texts: Each prompt has at least one token.
        prefix: Tokens that all prompts begin with, a scalar: `common_prefix`.

    Returns:
        `input_ids` and `position_ids` (1, L), `attention_mask` (1, 1, L, L), boolean; and the states.
    """
    prompt_mask, completion_mask = texts.prompt_mask.bool(), texts.completion_mask.bool()
    (rows, width), length = prompt_mask.shape, completion_mask.size(1)
    # The last token of a completion predicts nothing that was sampled.
    used = torch.cat([prompt_mask, completion_mask[:, 1:]], dim=1)
    tokens = torch.cat([texts.prompt_ids, texts.completion_ids[:, :-1]], dim=1)
    position = used.cumsum(dim=1) - 1
    row = torch.arange(rows, device=tokens.device).unsqueeze(1).expand_as(position)
    kept = used & ((position >= prefix) | (row == 0))
    slot = (kept.flatten().cumsum(dim=0) - 1).view_as(position)
    # The state before token t is that of the token before it, which is the prefix's last one where a prompt is no longer.
    before = torch.where(position < prefix, position, slot)[:, width - 1 :]

    position, row = position[kept], row[kept]
    sees = (position.unsqueeze(1) >= position) & ((row.unsqueeze(1) == row) | (position < prefix))
    arguments = {
        "input_ids": tokens[kept].unsqueeze(0),
        "position_ids": position.unsqueeze(0),
        "attention_mask": sees.view(1, 1, *sees.shape),
    }
    return arguments, lambda hidden: hidden[0].index_select(0, before.flatten()).view(rows, length, -1)


def common_prefix(texts: Texts) -> Tensor:
    """How many tokens all prompts begin with; a scalar tensor."""
    prompt_ids, prompt_mask = texts.prompt_ids, texts.prompt_mask
    width = prompt_ids.size(1)
    lengths = prompt_mask.sum(dim=1, keepdim=True)
    columns = torch.arange(width, device=prompt_ids.device)
    from_the_left = prompt_ids.gather(1, (columns + width - lengths).clamp(max=width - 1))
    alike = (from_the_left == from_the_left[:1]).all(dim=0) & (columns < lengths.min())
    return alike.long().cumprod(dim=0).sum()


def packing_saves(texts: Texts, prefix: Tensor, hidden_size: int) -> bool:
    """Whether one packed row of L tokens takes fewer multiplications than the padded rows (B, W + T).

    A layer multiplies about 12 H^2 times a token outside attention and 2 H times for each pair of tokens within it; one long
    row has more pairs, most of them masked.
    """
    rows, width = len(texts), texts.prompt_ids.size(1) + texts.completion_ids.size(1)
    used = texts.prompt_mask.sum() + texts.completion_mask.sum() - rows
    packed_length = int(used - (rows - 1) * prefix)
    return 6 * hidden_size * (rows * width - packed_length) > packed_length**2 - rows * width**2
