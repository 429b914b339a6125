"""Sampling descriptions with transformers: one batch of questions after the other, each under its own seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ex2.base.errors import UserError, reason
from ex2.policy.asks import Ask
from ex2.policy.llm import check_context, context_of
from ex2.policy.prompts import answer, prompt_text
from ex2.rl.decoding import Decoder

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


@dataclass
class TextGenerator:
    """A policy with everything that turns questions into texts.

    Attributes:
        model: Causal LM, with or without adapter.
        tokenizer: Its tokenizer, padding on the left.
        chat: Whether prompts use the chat template.
        system_prompt: System message of chat prompts.
        max_new_tokens: Longest text, in tokens of the policy.
        temperature: Sampling temperature; sampling is from the whole distribution (top-k off, top-p 1), as in training.
        bf16: Whether to multiply in bfloat16 whatever the precision of the weights, as training does with `bf16`.
        name: Where the policy came from, for records.
        chat_template_kwargs: Further arguments of the chat template, such as `enable_thinking`.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    chat: bool
    system_prompt: str | None
    max_new_tokens: int
    temperature: float = 1.0
    bf16: bool = False
    name: str = ""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)

    def sample(self, asks: Sequence[Ask], *, seed: int, batch_size: int = 64) -> Iterator[list[str]]:
        """Answer `asks` in order, one list of texts a batch.

        Batch number b is sampled under seed + b, so a batch comes out the same whether or not earlier ones were run.
        The caller's random state is left as it was.
        """
        import torch

        config, decoder = self._generation_config(), Decoder(self.model)
        for number, start in enumerate(range(0, len(asks), batch_size)):
            batch = asks[start : start + batch_size]
            inputs = self._tokenize(batch).to(self.model.device)
            tokens = inputs["input_ids"].shape[1]
            check_context(tokens, self.max_new_tokens, context_of(self.model.config), self.name or "the policy")
            autocast = torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.bf16)
            own_state = torch.random.fork_rng(rng_devices(self.model.device))
            with torch.no_grad(), own_state, _generating(self.model, config), autocast:
                torch.manual_seed(seed + number)
                try:
                    output = decoder(inputs["input_ids"], inputs["attention_mask"], generation_config=config)
                except torch.OutOfMemoryError:
                    raise  # which says what is wrong, and it is not the files
                except Exception as error:  # as each kind of model and of damage has it
                    finite = "probability tensor" not in str(error)
                    told = reason(error) if finite else "its next-token probabilities are not finite"
                    raise UserError(f"{self.name} cannot be sampled from: {told}. Are its files whole?") from error
            texts = self.tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            yield [answer(ask, text) for ask, text in zip(batch, texts, strict=True)]

    def _generation_config(self) -> Any:
        """Sampling from the whole distribution, as in training: nothing of the model's own generation settings but its ends."""
        from transformers import GenerationConfig

        ends = self.model.generation_config.eos_token_id
        ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
        if not all(isinstance(end, int) for end in ends):
            raise UserError(f"{self.name}: eos_token_id={ends} in generation_config.json is no token.")
        return GenerationConfig(
            do_sample=True,
            temperature=self.temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=self.max_new_tokens,
            bos_token_id=self.tokenizer.bos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=list(dict.fromkeys([*ends, self.tokenizer.eos_token_id])),
        )

    def _tokenize(self, asks: Sequence[Ask]) -> Any:
        texts = [prompt_text(self, ask) for ask in asks]
        # A chat template writes the special tokens itself.
        return self.tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=not self.chat)


def rng_devices(device: torch.device) -> list[torch.device]:
    """What `torch.random.fork_rng` has to keep besides the CPU's state: left alone, it takes all GPUs, and warns of it."""
    return [] if device.type == "cpu" else [device]


@contextmanager
def _generating(model: Any, config: Any) -> Iterator[None]:
    """Eval mode and `config` in place of the model's own settings, which `generate` would mix in; then back to what was."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    training, own = model.training, base.generation_config
    model.eval()
    model.generation_config = base.generation_config = config
    try:
        yield
    finally:
        model.generation_config = base.generation_config = own
        model.train(training)
