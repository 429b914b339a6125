"""Sampling token by token from a key-value cache of fixed size: what `generate` samples, at the speed of the hardware.

`generate` grows its cache at every token, takes in each copy of a prompt by itself, and launches every kernel anew: some 1,600 a
token for a model of 7B, which take several times as long as reading its weights (benchmarks/RESULTS.md). Here what copies of a
prompt share is computed once and the cache stays where it is. On CUDA a token is the replay of one captured graph; on a CPU the
adapter is merged meanwhile, and texts that have ended are left out of the next step.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer, StaticLayer
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from ex2.base.errors import first_line
from ex2.rl.merged import adapter_merged
from ex2.rl.shared_prefix import takes_positions

logger = logging.getLogger(__name__)

_BUCKET = 32  # tokens: prompts of about the same width share a cache, and a graph
_CHECKED = 8  # texts
_MOST_OFF = 0.2  # nats: rounding in bfloat16 comes to 0.05, a wrong mask or position to more than 1

_FOLLOWED = {
    "bos_token_id", "disable_compile", "do_sample", "eos_token_id", "max_length", "max_new_tokens",
    "pad_token_id", "temperature", "transformers_version", "use_cache", "_from_model_config",
}  # fmt: skip
"""Settings of a generation that `Decoder` follows, or that mean nothing to it."""

_NEUTRAL = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "num_beams": 1}
"""What other settings are where they change nothing; with any other value of one, texts are left to `generate`."""


class Decoder:
    """Stands in for the `generate` of a causal LM, with or without adapter, and calls it for what it cannot do itself.

    Attributes:
        problem: Why the model cannot be sampled in this way, None where it can.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.problem = unfit(model)
        self._own_generate = model.generate
        self._memory: _Memory | None = None
        self._checked = model.device.type == "cpu"  # where nothing is captured, tests have checked it

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, generation_config: Any, **others: Any) -> Tensor:
        """Prompts and what was sampled after them, (B, W + T): as `generate` returns them.

        Args:
            input_ids: Prompts (B, W), padded on the left.
            attention_mask: 1 on their tokens, (B, W).
            generation_config: How to sample.
            others: What else `generate` was given, which is then called.
        """
        if not others and self._can(input_ids, generation_config):
            try:
                with torch.no_grad(), nullcontext() if input_ids.is_cuda else adapter_merged(self.model):
                    texts = self._sampled(input_ids, attention_mask, generation_config)
                if texts is not None:
                    return torch.cat([input_ids, texts], dim=1)
            except RuntimeError as error:  # what a layer does may not be captured, or there is no room
                if not input_ids.is_cuda:
                    raise
                self._give_up(first_line(error))
        return self._own_generate(
            input_ids=input_ids, attention_mask=attention_mask, generation_config=generation_config, **others
        )

    def _can(self, prompts: Tensor, config: Any) -> bool:
        window = getattr(self.model.config.get_text_config(), "sliding_window", None)
        return (
            self.problem is None
            and _plain(config, self.model)
            # Beyond a sliding window layers do not see all of a text.
            and (not window or prompts.shape[1] + config.max_new_tokens < window)
            # Dropout would be the same at each replay.
            and not (prompts.is_cuda and self.model.training and _drops(self.model))
        )

    def _give_up(self, problem: str) -> None:
        self.problem, self._memory = problem, None
        logger.warning("Texts are sampled by `generate`, which is slower: %s.", problem)

    def _sampled(self, prompts: Tensor, mask: Tensor, config: Any) -> Tensor | None:
        """New tokens (B, T), padding after a text's end; None where they turn out not to be the model's."""
        # What stands in several rows is taken in once.
        rows, row_of = torch.unique(torch.cat([mask, prompts], dim=1), dim=0, return_inverse=True)
        seen, distinct = rows.split(prompts.shape[1], dim=1)
        positions = (seen.cumsum(dim=1) - 1).clamp(min=0)
        out = self.model(
            input_ids=distinct, attention_mask=seen, position_ids=positions, use_cache=True, logits_to_keep=1
        )
        taken_in = out.past_key_values
        if not all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in taken_in.layers):
            self.problem = "its layers keep something else than keys and values"
            return None
        shape = (len(mask), -(-mask.shape[1] // _BUCKET) * _BUCKET, config.max_new_tokens)
        if self._memory is None or self._memory.shape != shape:
            self._memory = None  # before the next one takes its room
            self._memory = _Memory(self.model, len(taken_in.layers), *shape)
        self._memory.take(taken_in, row_of, mask)
        texts, logits = _sample(out.logits[:, -1][row_of], self._memory, config, keep=not self._checked)
        if not self._checked:
            self._checked = True
            off = self._off(prompts, mask, texts, logits)
            if off > _MOST_OFF:
                self._give_up(f"log-probs of sampled tokens are {off:.2g} nats off those of a forward pass")
                return None
        return texts

    def _off(self, prompts: Tensor, mask: Tensor, texts: Tensor, logits: list[Tensor]) -> float:
        """How far the log-probs of sampled tokens are on average from those of a forward pass over the text, in nats.

        `logits` holds those of the first texts (C, V) at each of T tokens.
        """
        off = []
        for row in range(len(logits[0])):
            real = torch.cat([mask[row].bool(), torch.ones_like(texts[row]).bool()])
            tokens = torch.cat([prompts[row], texts[row]])[real][None]
            exact = self.model(input_ids=tokens).logits[0, -texts.shape[1] - 1 : -1]
            sampled = torch.stack([step[row] for step in logits[: texts.shape[1]]])
            logps = [x.float().log_softmax(-1).gather(1, texts[row][:, None]) for x in (exact, sampled)]
            off.append((logps[0] - logps[1]).abs().mean())
        return float(torch.stack(off).mean())


def _sample(logits: Tensor, memory: _Memory, config: Any, *, keep: bool = False) -> tuple[Tensor, list[Tensor]]:
    """New tokens (B, T), padding after a text's end, from the logits (B, V) of the first one on.

    Returns:
        The tokens, and, to `keep`, copies of the logits of the first texts at each of them.
    """
    ends = torch.tensor(_as_list(config.eos_token_id), device=logits.device)
    unfinished = torch.ones(len(logits), dtype=torch.bool, device=logits.device)
    columns: list[Tensor] = []
    kept: list[Tensor] = []
    alive: list[Tensor] = []
    for number in range(config.max_new_tokens):
        if number:
            logits = memory.step(columns[-1])
        # The operations of `generate` in its order, up to the draw.
        scores = logits.to(torch.float32, copy=True)
        if config.do_sample:
            if config.temperature not in (None, 1.0):
                scores = scores / config.temperature
            picked = draw(scores.softmax(-1))
        else:
            picked = scores.argmax(-1)
        columns.append(torch.where(unfinished, picked, config.pad_token_id))
        if keep:
            kept.append(logits[:_CHECKED].clone())
        alive.append(unfinished)
        unfinished = unfinished & ~torch.isin(picked, ends)
        # Asking a GPU whether all have ended makes it wait, so it is asked seldom.
        if (not logits.is_cuda or number % 8 == 7) and not unfinished.any():
            break
        if not logits.is_cuda and not keep:
            memory.go_on_with(unfinished)
    length = int(torch.stack(alive).any(dim=1).sum())
    return torch.stack(columns, dim=1)[:, :length], kept


def draw(probabilities: Tensor) -> Tensor:
    """One token (B,) from each row of probabilities (B, V).

    `torch.multinomial` takes a random number for every token of the vocabulary, which a CPU makes one after the other: a quarter
    of the time of a small policy. There, one number a row is looked up among the sums of the probabilities.

    Raises:
        RuntimeError: A row is not finite.
    """
    if probabilities.device.type != "cpu":
        return torch.multinomial(probabilities, num_samples=1).squeeze(1)
    sums = probabilities.double().cumsum(dim=-1)
    total = sums[:, -1:]
    if not torch.isfinite(total).all():
        raise RuntimeError("probability tensor contains either `inf`, `nan` or element < 0")
    # In (0, total]: the first sum that reaches it is that of a token whose probability is not 0.
    return torch.searchsorted(sums, total * (1 - torch.rand_like(total))).squeeze(1)


class _FixedLayer(StaticLayer):
    """Keys and values in the type of the first ones, as a growing layer keeps them; under autocast others may come."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        assert self.values is not None
        return super().update(key_states.to(self.keys.dtype), value_states.to(self.values.dtype), *args, **kwargs)


class _Memory:
    """Keys and values of B texts of up to W + T tokens, and one step that adds a token to each of them.

    What a step reads and writes stays where it is, so that on CUDA it can be captured once and replayed, until texts leave.
    """

    def __init__(self, model: Any, layers: int, rows: int, width: int, tokens: int) -> None:
        self.shape = (rows, width, tokens)
        self.model = model
        self.layers: list[Any] = [_FixedLayer(max_cache_len=width + tokens) for _ in range(layers)]
        self.cache = Cache(layers=self.layers)
        self._make_room()
        self.logits = torch.empty(0)
        self.graph: Any = None
        self.column = width

    def _make_room(self) -> None:
        rows, width, tokens = self.shape
        place: dict[str, Any] = {"device": self.model.device}
        self.rows = torch.arange(rows, **place)  # the texts that are here
        self.sees = torch.zeros(rows, 1, 1, width + tokens, dtype=torch.bool, **place)
        self.token = torch.zeros(rows, 1, dtype=torch.long, **place)
        self.position = torch.zeros(rows, 1, dtype=torch.long, **place)

    def take(self, taken_in: Any, row_of: Tensor, mask: Tensor) -> None:
        """Start with prompts: their keys and values are in `taken_in`, row `row_of[b]` for text b."""
        rows, width = self.shape[:2]
        first = width - mask.shape[1]
        if len(self.rows) < rows:
            self._make_room()
        for layer, given in zip(self.layers, taken_in.layers, strict=True):
            keys, values = given.keys[row_of], given.values[row_of]
            if not layer.is_initialized or len(layer.keys) < rows:
                layer.lazy_initialization(keys, values)
            layer.keys[:, :, first:width] = keys
            layer.values[:, :, first:width] = values
        self._go_to(width)
        self.sees.zero_()
        self.sees[:, 0, 0, first:width] = mask.bool()
        self.position.copy_(mask.sum(dim=1, keepdim=True))

    def go_on_with(self, unfinished: Tensor) -> None:
        """Leave out the texts that have ended, by `unfinished` (B,); on CUDA that would be another graph."""
        still = unfinished[self.rows]
        if still.all():
            return
        self.rows = self.rows[still]
        self.sees, self.position = self.sees[still], self.position[still]
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[still], layer.values[still]

    def step(self, token: Tensor) -> Tensor:
        """Logits (B, V) after `token` (B,) has been added to the texts, 0 for those that have left.

        The next step writes over them.
        """
        self.sees[..., self.column] = True
        if not token.is_cuda:
            self.token = token[self.rows, None]
            self._forward()
            if len(self.rows) < len(token):
                self.logits = self.logits.new_zeros(len(token), self.logits.shape[1]).index_copy(
                    0, self.rows, self.logits
                )
        else:
            self.token.copy_(token[:, None])
            if self.graph is None:
                self._capture()
            self.graph.replay()
        self.column += 1
        self.position += 1
        return self.logits

    def _go_to(self, column: int) -> None:
        self.column = column
        for layer in self.layers:
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
    if is_deepspeed_zero3_enabled() or any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        return "its weights are shared out, so that all processes have to take the same steps"
    if getattr(base, "is_quantized", False):
        return "its layers are quantised"
    if config._attn_implementation != "sdpa" or getattr(config, "alibi", False) or not takes_positions(base):
        return "it does not take masks of tokens by tokens, or positions"
    return None


def _drops(model: torch.nn.Module) -> bool:
    return any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in model.modules())


def _plain(config: Any, model: Any) -> bool:
    """Whether a generation is greedy or samples from the whole distribution, by its own settings and the model's below them."""
    own = config.to_dict()
    settings = {name: value for name, value in model.generation_config.to_diff_dict().items() if own.get(name) is None}
    settings |= config.to_diff_dict()
    others = {name for name, value in settings.items() if value not in (None, False, _NEUTRAL.get(name))}
    return not others - _FOLLOWED and config.max_new_tokens is not None and config.pad_token_id is not None


def _as_list(ends: int | list[int] | None) -> list[int]:
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)


@contextmanager
def decoding(model: Any, decoder: Decoder) -> Iterator[None]:
    """Let `model.generate` be the decoder, where that can sample the model."""
    if decoder.problem is not None:
        yield
        return
    own = vars(model).get("generate")  # FSDP2 puts one of its own there
    model.generate = decoder
    try:
        yield
    finally:
        if own is None:
            del model.generate
        else:
            model.generate = own
