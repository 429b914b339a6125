"""Sampling token by token from a key-value cache of fixed size: what `generate` samples, at the speed of the hardware.

`generate` grows its cache at every token, takes in each copy of a prompt by itself, and launches every kernel anew: some 1,600 a
token for a model of 7B, which take several times as long as reading its weights (benchmarks/RESULTS.md). Here what copies of a
prompt share is computed once, the cache stays where it is, and on CUDA a token is the replay of one captured graph.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from ex2.rl.positions import takes_positions

logger = logging.getLogger(__name__)

_BUCKET = 32  # tokens: prompts of about the same width share a cache, and a graph
_SETTINGS = {
    "bos_token_id", "cache_implementation", "disable_compile", "do_sample", "eos_token_id", "max_length", "max_new_tokens",
    "pad_token_id", "temperature", "top_k", "top_p", "transformers_version", "use_cache", "_from_model_config",
}  # fmt: skip
"""Settings of a generation that are followed, or mean nothing here; `Decoder` leaves any other to `generate`."""


class Decoder:
    """Stands in for the `generate` of a causal LM, with or without adapter.

    Args:
        model: The model. Where it cannot be sampled in this way (`unfit`), its own `generate` is called.
        generate: That method.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.generate = model.generate
        self.problem = unfit(model)
        self._memory: _Memory | None = None

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, generation_config: Any, **others: Any) -> Tensor:
        """Prompts and what was sampled after them, (B, W + T): as `generate` returns them.

        Args:
            input_ids: Prompts (B, W), padded on the left.
            attention_mask: 1 on their tokens, (B, W).
            generation_config: How to sample.
            others: Anything else is left to `generate`.
        """
        if others or self.problem or not _plain(generation_config, self.model) or self._too_wide(input_ids, generation_config):
            return self.generate(
                input_ids=input_ids, attention_mask=attention_mask, generation_config=generation_config, **others
            )
        with torch.no_grad():
            return torch.cat([input_ids, self._sample(input_ids, attention_mask, generation_config)], dim=1)

    def _too_wide(self, prompts: Tensor, config: Any) -> bool:
        """Whether texts may grow beyond a sliding window, where a cache of their length is not what layers look at."""
        window = getattr(self.model.config.get_text_config(), "sliding_window", None)
        return bool(window) and prompts.shape[1] + config.max_new_tokens >= window

    def _sample(self, prompts: Tensor, mask: Tensor, config: Any) -> Tensor:
        ends = torch.tensor(_as_list(config.eos_token_id), device=prompts.device)
        unfinished = torch.ones(len(prompts), dtype=torch.bool, device=prompts.device)
        columns, alive = [], []
        for number, logits in enumerate(self._logits(prompts, mask, config.max_new_tokens, columns)):
            # The operations of `generate` in its order: equal seeds give equal texts.
            scores = logits.to(torch.float32, copy=True)
            if config.do_sample:
                if config.temperature not in (None, 1.0):
                    scores = scores / config.temperature
                picked = torch.multinomial(scores.softmax(-1), num_samples=1).squeeze(1)
            else:
                picked = scores.argmax(-1)
            alive.append(unfinished)
            columns.append(torch.where(unfinished, picked, config.pad_token_id))
            unfinished = unfinished & ~torch.isin(picked, ends)
            # Asking a GPU whether all have ended makes it wait, so it is asked seldom.
            if (not prompts.is_cuda or number % 8 == 7) and not unfinished.any():
                break
        return torch.stack(columns, dim=1)[:, : int(torch.stack(alive).any(dim=1).sum())]

    def _logits(self, prompts: Tensor, mask: Tensor, tokens: int, columns: list[Tensor]) -> Iterator[Tensor]:
        """Logits (B, V) of the next token, `tokens` times; before each but the first one, `columns` has a token more."""
        # What stands in several rows is taken in once.
        rows, row_of = torch.unique(torch.cat([mask, prompts], dim=1), dim=0, return_inverse=True)
        seen, distinct = rows.split(prompts.shape[1], dim=1)
        out = self.model(
            input_ids=distinct, attention_mask=seen, position_ids=_positions(seen), use_cache=True, logits_to_keep=1
        )
        yield out.logits[:, -1][row_of]
        memory = self._memory_for(out.past_key_values, row_of, mask, tokens)
        for _ in range(tokens - 1):
            yield memory.step(columns[-1])

    def _memory_for(self, taken_in: DynamicCache, row_of: Tensor, mask: Tensor, tokens: int) -> _Memory:
        """The memory of the last call where it fits, and else a new one, with the prompts in it."""
        width = -(-mask.shape[1] // _BUCKET) * _BUCKET
        shape = (len(mask), width, tokens)
        if self._memory is None or self._memory.shape != shape:
            self._memory = None  # before the next one takes its room
            self._memory = _Memory(self.model, *shape)
        self._memory.take(taken_in, row_of, mask)
        return self._memory


class _Memory:
    """Keys and values of B texts of up to W + T tokens, and one step that adds a token to each of them.

    What a step reads and writes stays where it is, so that on CUDA it can be captured once and replayed.
    """

    def __init__(self, model: Any, rows: int, width: int, tokens: int) -> None:
        self.shape = (rows, width, tokens)
        self.model = model
        config = model.config.get_text_config().to_dict()
        # Within its window a layer sees all, so that all layers are alike.
        plain = type(model.config.get_text_config()).from_dict({**config, "sliding_window": None, "layer_types": None})
        self.cache = StaticCache(config=plain, max_cache_len=width + tokens)
        place: dict[str, Any] = {"device": model.device}
        self.sees = torch.zeros(rows, 1, 1, width + tokens, dtype=torch.bool, **place)
        self.token = torch.zeros(rows, 1, dtype=torch.long, **place)
        self.position = torch.zeros(rows, 1, dtype=torch.long, **place)
        self.logits = torch.empty(0)
        self.graph: Any = None
        self.column = width

    def take(self, taken_in: DynamicCache, row_of: Tensor, mask: Tensor) -> None:
        """Start with prompts: their keys and values are in `taken_in`, row `row_of[b]` for text b."""
        _, width, tokens = self.shape
        first = width - mask.shape[1]
        for layer, given in zip(self.cache.layers, taken_in.layers, strict=True):
            keys, values = given.keys[row_of], given.values[row_of]
            if not layer.is_initialized:
                layer.lazy_initialization(keys, values)
            layer.keys[:, :, first:width] = keys
            layer.values[:, :, first:width] = values
        self._go_to(width)
        self.sees.zero_()
        self.sees[:, 0, 0, first:width] = mask.bool()
        self.position.copy_(mask.sum(dim=1, keepdim=True))

    def step(self, token: Tensor) -> Tensor:
        """Logits (B, V) after `token` (B,) has been added to the texts; the next step writes over them."""
        self.token.copy_(token[:, None])
        self.sees[..., self.column] = True
        if not token.is_cuda:
            self._forward()
        else:
            if self.graph is None:
                self._capture()
            self.graph.replay()
        self.column += 1
        self.position += 1
        return self.logits

    def _go_to(self, column: int) -> None:
        self.column = column
        for layer in self.cache.layers:
            layer.cumulative_length.fill_(column)

    def _forward(self) -> None:
        out = self.model(
            input_ids=self.token,
            attention_mask=self.sees,
            position_ids=self.position,
            past_key_values=self.cache,
            use_cache=True,
        )
        self.logits = out.logits[:, -1]

    def _capture(self) -> None:
        """Record one step, after two on a side stream as torch asks for; the memory is then where it was before."""
        device = self.token.device.type
        # Casts of trained weights that autocast has kept would be recorded as they are now, and never follow the training.
        fresh = torch.autocast(
            device, torch.get_autocast_dtype(device), enabled=torch.is_autocast_enabled(device), cache_enabled=False
        )
        column = self.column
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with fresh, torch.cuda.stream(side):
            for _ in range(2):
                self._forward()
                self._go_to(column)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with fresh, torch.cuda.graph(self.graph):
            self._forward()
        self._go_to(column)


def unfit(model: Any) -> str | None:
    """Why a model cannot be sampled by `Decoder`; None where it can."""
    config = model.config.get_text_config()
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if getattr(base, "is_quantized", False) and model.device.type == "cuda":
        return "quantised layers may wait for the device"
    if config._attn_implementation != "sdpa" or getattr(config, "alibi", False) or not takes_positions(base):
        return "masks and positions cannot be given"
    return None


def _plain(config: Any, model: Any) -> bool:
    """Whether a generation is greedy or samples from the whole distribution, by its own settings and the model's below them."""
    asked, below = config.to_dict(), model.generation_config.to_diff_dict()
    changed = set(config.to_diff_dict()) | {name for name in below if asked.get(name) is None}
    return (
        not changed - _SETTINGS
        and config.max_new_tokens is not None
        and config.pad_token_id is not None
        and (not config.do_sample or (config.top_k in (None, 0) and config.top_p in (None, 1.0)))
    )


def _positions(mask: Tensor) -> Tensor:
    """Position of each token of texts padded on the left; 0 on padding."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def _as_list(ends: int | list[int] | None) -> list[int]:
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)


@contextmanager
def decoding(model: Any, decoder: Decoder) -> Iterator[None]:
    """Let `model.generate` be the decoder."""
    model.generate = decoder
    try:
        yield
    finally:
        del model.generate
