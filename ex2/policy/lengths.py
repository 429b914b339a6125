"""How many tokens prompts and answers take, which vLLM has to be told: left alone, it makes room for a model's whole context."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ex2.policy.prompts import Prompt, prompt_tokens
from ex2.texts.questions import build_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ex2.options.run_options import RunOptions
    from ex2.policy.checks import PolicyFiles

_NAME_TOKENS = 64  # of a class name that is not known yet


def longest(prompts: Iterable[Prompt], tokenizer: PreTrainedTokenizerBase, chat_template_kwargs: dict[str, Any]) -> int:
    """Tokens of the longest prompt."""
    return max(len(prompt_tokens(prompt, tokenizer, chat_template_kwargs)) for prompt in prompts)


def length_for_server(options: RunOptions, questions: Sequence[str], files: PolicyFiles) -> int:
    """Tokens of prompt and completion that a vLLM server has to take, before any class is known, in whole blocks of 64."""
    prompts = [
        build_prompt(question, "", chat=files.chat, system_prompt=options.ex2.system_prompt, other_name="")
        for question in questions
    ]
    names = _NAME_TOKENS * (1 if options.ex2.pairs is None else 2)
    most = longest(prompts, files.tokenizer, options.chat_template_kwargs) + names + options.max_new_tokens
    return -(-most // 64) * 64
