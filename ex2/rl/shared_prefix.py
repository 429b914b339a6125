"""The tokens of a forward pass: one row a completion, or all completions in one row, what their prompts share only once.

Prompts begin alike: a system message, the words before the class, and all of it where a prompt is sampled more than once. A
token's hidden state depends on the tokens before it alone, so what prompts share needs to be computed once for all of them: a
tree of tokens, whose branches are the prompts and whose twigs are the completions. `packed` lays the tree out in one row; a mask
lets each token see those that come before it on its way from the root. The result is that of `padded` up to rounding, gradients
included, without the padding and with each shared beginning once.

Shapes: B completions, prompts padded on the left to W tokens, completions padded on the right to T tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from torch import Tensor

from ex2.rl.rollout import Texts

States = Callable[[Tensor], Tensor]
"""Picks the states (B, T, H) before each completion token from the hidden states of a forward pass."""


def takes_positions(model: torch.nn.Module) -> bool:
    """Whether a causal language model can be told its tokens' positions; some, such as BLOOM and Mamba, count for themselves."""
    return "position_ids" in inspect.signature(type(model).forward).parameters


def padded(texts: Texts, *, with_positions: bool = True) -> tuple[dict[str, Tensor], States]:
    """Arguments of a forward pass with one row (W + T) a completion.

    Positions are counted from the first token, as `generate` counts them; models that take none are to get none.
    """
    length = texts.completion_ids.size(1)
    mask = torch.cat([texts.prompt_mask, texts.completion_mask], dim=1)
    arguments = {"input_ids": torch.cat([texts.prompt_ids, texts.completion_ids], dim=1), "attention_mask": mask}
    if with_positions:
        arguments["position_ids"] = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
    return arguments, lambda hidden: hidden[:, -length - 1 : -1]  # the last position predicts nothing that was sampled


def packed(texts: Texts, alike: Tensor) -> tuple[dict[str, Tensor], States]:
    """Arguments of a forward pass with one row of L tokens, each beginning that prompts share once.

    Args:
        texts: Each prompt has at least one token.
        alike: How many tokens each two prompts begin alike, (B, B): `shared_lengths`.

    Returns:
        `input_ids` and `position_ids` (1, L), `attention_mask` (1, 1, L, L), boolean; and the states.
    """
    (rows, width), length = texts.prompt_mask.shape, texts.completion_ids.size(1)
    used = _used(texts)
    tokens = torch.cat([texts.prompt_ids, texts.completion_ids[:, :-1]], dim=1)
    position = used.cumsum(dim=1) - 1
    first = _first_rows(alike, position)
    row = torch.arange(rows, device=tokens.device).unsqueeze(1).expand_as(position)
    kept = used & (first == row)
    # Where in the packed row a row's token at a position stands, and with it the state before a completion's token: that of
    # the token before it, which another row may have laid down.
    place = torch.zeros_like(position).scatter_add(
        1, position.clamp(min=0), kept * (kept.flatten().cumsum(dim=0) - 1).view_as(position)
    )
    before = place[first, position.clamp(min=0)][:, width - 1 :]

    picked = kept.flatten().nonzero().squeeze(1)  # once: the host waits for the number of tokens
    ids, position, row = (x.flatten()[picked] for x in (tokens, position, row))
    # The first row that has a token laid it down for all rows that are alike up to there.
    sees = (position.unsqueeze(1) >= position) & ((row.unsqueeze(1) == row) | (alike[:, row] > position)[row])
    arguments = {
        "input_ids": ids.unsqueeze(0),
        "position_ids": position.unsqueeze(0),
        "attention_mask": sees.view(1, 1, *sees.shape),
    }
    return arguments, lambda hidden: hidden[0].index_select(0, before.flatten()).view(rows, length, -1)


def shared_lengths(texts: Texts) -> Tensor:
    """How many tokens each two prompts begin alike, (B, B); a prompt and itself: all of it."""
    tokens = _from_the_left(texts)
    alike = (tokens.unsqueeze(1) == tokens) & (tokens >= 0)
    return alike.long().cumprod(dim=2).sum(dim=2)


def by_prompt(texts: Texts) -> Tensor:
    """An order (B,) in which prompts that begin alike are neighbours; equal prompts keep theirs."""
    return torch.unique(_from_the_left(texts), dim=0, return_inverse=True)[1].argsort(stable=True)


def packing_saves(texts: Texts, alike: Tensor, hidden_size: int) -> bool:
    """Whether one packed row of L tokens takes fewer multiplications than the padded rows (B, W + T).

    A layer multiplies about 12 H^2 times a token outside attention and 2 H times for each pair of tokens within it; one long
    row has more pairs, most of them masked.
    """
    rows, width = len(texts), texts.prompt_ids.size(1) + texts.completion_ids.size(1)
    used = _used(texts)
    first = _first_rows(alike, used.cumsum(dim=1) - 1)
    packed_length = int((used & (first == torch.arange(rows, device=first.device).unsqueeze(1))).sum())
    return 6 * hidden_size * (rows * width - packed_length) > packed_length**2 - rows * width**2


def _from_the_left(texts: Texts) -> Tensor:
    """The prompts' tokens (B, W) with the padding, -1, on the right."""
    width = texts.prompt_ids.size(1)
    lengths = texts.prompt_mask.sum(dim=1, keepdim=True)
    columns = torch.arange(width, device=lengths.device)
    tokens = texts.prompt_ids.gather(1, (columns + width - lengths).clamp(max=width - 1))
    return tokens.masked_fill(columns >= lengths, -1)


def _used(texts: Texts) -> Tensor:
    """Tokens (B, W + T - 1) that a forward pass needs: the last one of a completion predicts nothing that was sampled."""
    return torch.cat([texts.prompt_mask, texts.completion_mask[:, 1:]], dim=1).bool()


def _first_rows(alike: Tensor, position: Tensor) -> Tensor:
    """The first row that has the same tokens up to and at `position` (B, N) of each row; (B, N)."""
    rows = len(alike)
    shares = alike.unsqueeze(2) > position.unsqueeze(1)  # (B, B, N): row i and row j are alike at row i's position
    shares |= torch.eye(rows, dtype=torch.bool, device=alike.device).unsqueeze(2)
    return shares.int().argmax(dim=1)
