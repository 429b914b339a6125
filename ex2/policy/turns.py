"""What a tokenizer and its chat template make of a turn: does it end, does it open a thought, is it the same tomorrow.

Each of these is quiet: descriptions run on into "system user ...", are the first words of a thought, or differ from day to day.
All of it can be seen from the tokenizer alone, before any weights are read.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from ex2.base.errors import UserError, first_line
from ex2.texts.questions import build_prompt, wants_chat

DATE = datetime(2025, 1, 1)
"""The date that templates are given where they ask for today's: equal seeds then give equal texts on any day."""

_THOUGHTS = (("<think>", "</think>"), ("<thinking>", "</thinking>"), ("[THINK]", "[/THINK]"))
# At the end of a prompt, by any other mark: <seed:think>, <|START_THINKING|>, <|begin_of_thought|>.
_OPEN = re.compile(r"[<\[\u25c1](?!/)\W?(?!end|no_)[\w:]*(think|thought|reason)\w*\W?[>\]\u25b7]\s*$", re.IGNORECASE)
_SWITCHES = ("enable_thinking", "thinking", "reasoning")
_CHANNEL = "<|channel|>analysis"  # how models with channels begin every answer, by themselves


_CALENDAR = (
    "{%- macro strftime_now(form) -%}{{- form"
    + "".join(f"|replace('%{which}', '{DATE.strftime('%' + which)}')" for which in ("-d", "-m", *"aAbBcdfHIjmMpSwxXyY"))
    + " -}}{%- endmacro -%}{{- '' }}"
)
"""A macro in the place of the function that templates ask for the date."""


def fix_date(tokenizer: Any) -> None:
    """Let a chat template that prints today's date print `DATE`."""
    template = tokenizer.chat_template
    if isinstance(template, str) and "strftime_now" in template and not template.startswith(_CALENDAR):
        tokenizer.chat_template = _CALENDAR + template


def check_prompts_stay_open(tokenizer: Any, where: str) -> None:
    """Take back, or else refuse, an end token that a tokenizer puts behind every text: the answer would come after the end.

    Raises:
        UserError: It cannot be taken back.
    """
    before = list(tokenizer("a")["input_ids"])
    if before[-1:] != [tokenizer.eos_token_id]:
        return
    tokenizer.add_eos_token = False
    if list(tokenizer("a")["input_ids"]) != before[:-1]:
        raise UserError(
            f"{where}: its tokenizer puts {tokenizer.eos_token!r} behind every text, which closes a prompt before its answer: "
            "take it out of the post_processor in tokenizer.json."
        )


def let_turns_end(tokenizer: Any, kwargs: dict[str, Any]) -> None:
    """Make the token that ends a turn in the chat template the one that answers end with.

    Base models come with templates whose end of turn is not their end of text (Qwen2.5), and so do chat models (Gemma, Phi-3):
    trainers stop at the tokenizer's end token only.
    """
    from jinja2 import TemplateError

    mark = "answer"
    messages = [{"role": "user", "content": "question"}, {"role": "assistant", "content": mark}]
    try:
        after = str(tokenizer.apply_chat_template(messages, tokenize=False, **kwargs)).rpartition(mark)[2]
    except (
        TemplateError,
        TypeError,
        ValueError,
    ):  # it wants other messages; what it says of a question is checked elsewhere
        return
    first = tokenizer(after, add_special_tokens=False)["input_ids"][:1] if after else []
    if first and first[0] != tokenizer.eos_token_id and first[0] in _special_ids(tokenizer):
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(first[0])


def _special_ids(tokenizer: Any) -> set[int]:
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def ready_to_chat(
    tokenizer: Any, prompt_format: str, kwargs: dict[str, Any], where: str, system_prompt: str | None = None
) -> bool:
    """Whether prompts use the chat template; its turns then end, and it opens no thought.

    Raises:
        UserError: There is none and `prompt_format` asks for it, it refuses the messages, leaves the question out, or thinks.
    """
    from jinja2 import TemplateError

    if not wants_chat(prompt_format, tokenizer):
        return False
    messages: Any = build_prompt("Describe a {}.", "cat", chat=True, system_prompt=system_prompt)
    try:
        prompt = str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **kwargs))
    except (TemplateError, TypeError, ValueError) as error:
        cure = "leave out system_prompt (--system_prompt '')" if system_prompt else "use prompt_format=plain"
        raise UserError(f"{where}: its chat template refuses the prompt ({first_line(error)}): {cure}.") from error
    if messages[-1]["content"] not in prompt:  # such as those that look for text and images among parts
        raise UserError(f"{where}: its chat template leaves the question out: use prompt_format=plain.")
    check_no_thought(tokenizer, prompt, messages, kwargs, where)
    let_turns_end(tokenizer, kwargs)
    return True


def check_no_thought(
    tokenizer: Any, prompt: str, messages: list[dict[str, str]], kwargs: dict[str, Any], where: str
) -> None:
    """Refuse a rendered prompt after which the policy thinks aloud: the first tokens of a thought are no description.

    Args:
        tokenizer: With the template.
        prompt: The messages as the template writes them.
        messages: The messages.
        kwargs: Further arguments of the template.
        where: The model, for the message.

    Raises:
        UserError: The prompt ends within a thought, or the template has a switch for thinking that is left on.
    """
    template = str(tokenizer.chat_template)

    def switched_off(name: str) -> str:
        off = kwargs | {name: False}
        return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **off))

    mentioned = [name for name in _SWITCHES if re.search(rf"\b{name}\b", template)]
    switches = [name for name in mentioned if switched_off(name) != prompt]
    cures = [f"""switch it off with --chat_template_kwargs '{{"{name}": false}}'""" for name in switches]
    other = "use another model, or prompt_format=plain"
    opened = any(opens in prompt and prompt.rfind(opens) > prompt.rfind(closes) for opens, closes in _THOUGHTS)
    if opened or _OPEN.search(prompt):
        raise UserError(
            f"{where}: its chat template opens a thought, whose beginning would be the description: {[*cures, other][0]}."
        )
    if _CHANNEL in template:
        raise UserError(
            f"{where}: the policy thinks in a channel of its own first, whose beginning would be the description: {other}."
        )
    for name, cure in zip(switches, cures, strict=True):
        if name not in kwargs:
            raise UserError(
                f"{where}: the policy thinks before it answers, and the beginning of a thought would be the description: {cure} "
                "(true keeps it)."
            )
