"""Sampling with vLLM (`ex2 generate --engine vllm`): the same prompts and distribution as transformers, made for GPUs.

Needs the extra `ex2[vllm]` and a GPU. Prompts are tokenised here, so both engines read the same tokens; texts differ between the
engines, since each has its own random numbers, but every text has a seed of its own and is the same in each run.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ex2.base.errors import UserError
from ex2.policy.adapters import adapter_config
from ex2.policy.prompts import answer, ask_prompt, prompt_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ex2.policy.asks import Ask

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # vllm.config.lora.MaxLoRARanks


def require_vllm() -> None:
    """Raise UserError where vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise UserError("--engine vllm needs vLLM: run `pip install 'ex2[vllm]'`, or use --engine transformers.")


@dataclass
class VLLMGenerator:
    """Answers questions through vLLM; see `ex2.policy.sampler.TextGenerator` for the attributes they share.

    Attributes:
        engine: A `vllm.LLM`.
        adapter: The LoRA request of the policy's adapter, None for a plain LLM.
    """

    engine: Any
    adapter: Any
    tokenizer: PreTrainedTokenizerBase
    chat: bool
    system_prompt: str | None
    max_new_tokens: int
    temperature: float = 1.0
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(
        cls, path: str, adapter: Path | None, settings: dict[str, Any], asks: Sequence[Ask], **options: Any
    ) -> VLLMGenerator:
        """Start the engine for the base model in `path` with the LoRA adapter in `adapter`, with room for what is asked.

        Args:
            path: Folder or hub id of the base model.
            adapter: Folder of the adapter, None for a plain LLM.
            settings: Options of the run: `dtype`, `model_revision`; and vLLM's `load_format`.
            asks: What will be asked: the longest prompt and answer are the context that the engine makes room for.
            options: The other attributes.

        Raises:
            UserError: vLLM is not installed, or the adapter's rank is above what it takes.
        """
        require_vllm()
        from vllm import LLM
        from vllm.lora.request import LoRARequest

        lora = {} if adapter is None else {"enable_lora": True, "max_lora_rank": engine_rank(adapter)}
        revision = settings.get("model_revision") or "main"
        request = None if adapter is None else LoRARequest("policy", 1, str(adapter.resolve()))
        generator = cls(engine=None, adapter=request, **options)
        generator.engine = LLM(
            model=path,
            revision=revision,
            tokenizer_revision=revision,
            dtype=settings.get("dtype") or "auto",
            load_format=settings.get("load_format", "auto"),
            max_model_len=max(len(generator._tokens(ask)) for ask in asks) + generator.max_new_tokens,
            **lora,
        )
        return generator

    def sample(self, asks: Sequence[Ask], *, seed: int, batch_size: int = 64) -> Iterator[list[str]]:
        """Answer `asks` in order, one list of texts a batch; ask i of batch b is sampled under a seed made of both."""
        from vllm import SamplingParams

        for number, start in enumerate(range(0, len(asks), batch_size)):
            batch = asks[start : start + batch_size]
            parameters = [
                SamplingParams(
                    temperature=self.temperature,
                    top_k=-1,
                    top_p=1.0,
                    max_tokens=self.max_new_tokens,
                    # Seeds of vLLM have 64 bits signed, `seed` has 32.
                    seed=((seed + number) * 100_003 + i) % 2**63,
                )
                for i in range(len(batch))
            ]
            outputs = self.engine.generate(
                [{"prompt_token_ids": self._tokens(ask)} for ask in batch],
                parameters,
                lora_request=self.adapter,
                use_tqdm=False,
            )
            yield [answer(ask, output.outputs[0].text) for ask, output in zip(batch, outputs, strict=True)]

    def _tokens(self, ask: Ask) -> list[int]:
        return prompt_tokens(ask_prompt(self, ask), self.tokenizer, self.chat_template_kwargs)


def engine_rank(adapter: Path) -> int:
    """The rank that vLLM makes room for: that of the adapter in folder `adapter`, or the next higher one that it knows.

    Raises:
        UserError: It knows none as high, or the folder holds no adapter.
    """
    config = adapter_config(str(adapter))
    rank = max([config.r, *config.rank_pattern.values()])
    higher = [known for known in _RANKS if known >= rank]
    if not higher:
        raise UserError(
            f"--engine vllm: the adapter in {adapter} has rank {rank}, and vLLM takes at most {_RANKS[-1]}: use --engine "
            "transformers."
        )
    return higher[0]
