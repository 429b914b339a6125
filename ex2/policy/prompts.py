"""From asks to the text that a policy goes on from, and from what it says to the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ex2.policy.asks import Ask
from ex2.texts.questions import build_prompt, opened, opening_of

Prompt = str | list[dict[str, str]]


class Speaker(Protocol):
    """What decides how a question is put to a policy; see `TextGenerator`."""

    tokenizer: Any
    chat: bool
    system_prompt: str | None
    chat_template_kwargs: dict[str, Any]


def prompt_text(speaker: Speaker, ask: Ask) -> str:
    """The text that the policy goes on from, special tokens of a chat template included."""
    prompt = ask_prompt(speaker, ask)
    return prompt if isinstance(prompt, str) else rendered(speaker.tokenizer, prompt, **speaker.chat_template_kwargs)


def ask_prompt(speaker: Speaker, ask: Ask) -> Prompt:
    """The prompt of an ask, as TRL takes it."""
    return build_prompt(
        ask.question,
        ask.class_name,
        chat=speaker.chat,
        system_prompt=speaker.system_prompt,
        other_name=ask.other_name,
    )


def prompt_tokens(prompt: Prompt, tokenizer: Any, chat_template_kwargs: dict[str, Any]) -> list[int]:
    """The tokens of a prompt, text or messages, as trainers and generators make them."""
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    # A chat template writes the special tokens itself.
    return list(tokenizer(rendered(tokenizer, prompt, **chat_template_kwargs), add_special_tokens=False)["input_ids"])


def rendered(tokenizer: Any, messages: Sequence[dict[str, str]], **kwargs: Any) -> str:
    """Messages as the chat template writes them, up to what the assistant is to say next.

    A last message of the assistant is the opening of that: it stands behind the head of the turn, and the turn stays open.
    (Templates asked to continue a last message may trim it, or close a thought before it.)
    """
    opening = messages[-1]["content"] if messages[-1]["role"] == "assistant" else ""
    asked = list(messages[:-1] if opening else messages)
    return str(tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False, **kwargs)) + opening


def answer(ask: Ask, text: str) -> str:
    """What the policy said, with the opening that it went on from, white space collapsed."""
    return " ".join(opened(opening_of(ask.question, ask.class_name, ask.other_name), text).split())
