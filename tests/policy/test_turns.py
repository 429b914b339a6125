"""What chat templates and tokenizers do to a turn without a word: no end, a thought, an end too early, today's date."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer, LlamaConfig

from ex2.base.errors import UserError
from ex2.policy.llm import check_context, context_of, fit_padding, load_tokenizer
from ex2.policy.prompts import rendered
from ex2.policy.turns import let_turns_end, ready_to_chat

TURN = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{{ end }}{% endfor %}"
ASKED = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
MESSAGES = [{"role": "user", "content": "Describe a cat."}]


@pytest.fixture
def with_template(tiny_chat_llm: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Makes a folder of the tiny model's tokenizer with another chat template."""

    def make(template: str) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(tiny_chat_llm, folder)
        (folder / "chat_template.jinja").write_text(template)
        return folder

    return make


def test_a_turn_ends_with_the_templates_end_and_not_the_tokenizers(with_template: Callable[[str], Path]) -> None:
    tokenizer = load_tokenizer(str(with_template(TURN.replace("{{ end }}", "<|user|>\n") + ASKED)))
    padding = tokenizer.pad_token
    assert tokenizer.eos_token == "<|end|>"
    assert ready_to_chat(tokenizer, "auto", {}, "model")
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|user|>", padding)
    let_turns_end(tokenizer, {})  # and stays so
    assert tokenizer.eos_token == "<|user|>"


@pytest.mark.parametrize("end", ["<|end|>", "\n", "", "{{ raise_exception('no answers') }}"])
def test_other_ends_of_turns_change_nothing(with_template: Callable[[str], Path], end: str) -> None:
    template = (
        TURN.replace("{{ end }}", end).replace("<|{{ m['role'] }}|>", "")
        if "raise" in end
        else TURN.replace("{{ end }}", end)
    )
    tokenizer = load_tokenizer(str(with_template(template + ASKED)))
    let_turns_end(tokenizer, {})
    assert tokenizer.eos_token == "<|end|>"


def test_plain_prompts_keep_the_tokenizers_end(with_template: Callable[[str], Path]) -> None:
    tokenizer = load_tokenizer(str(with_template(TURN.replace("{{ end }}", "<|user|>") + ASKED)))
    assert not ready_to_chat(tokenizer, "plain", {}, "model")
    assert tokenizer.eos_token == "<|end|>"


THINKS = "{% if enable_thinking is not defined or enable_thinking %}<think>\n{% else %}<think>\n\n</think>{% endif %}"
THINKS_UNSAID = "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"


@pytest.mark.parametrize("thought", [THINKS, THINKS_UNSAID])
def test_thoughts_are_refused_with_the_switch(with_template: Callable[[str], Path], thought: str) -> None:
    tokenizer = load_tokenizer(str(with_template(TURN.replace("{{ end }}", "<|end|>") + ASKED + thought)))
    with pytest.raises(UserError, match=r"^model: .*thought.* --chat_template_kwargs '\{\"enable_thinking\": false\}'"):
        ready_to_chat(tokenizer, "auto", {}, "model")
    assert ready_to_chat(tokenizer, "auto", {"enable_thinking": False}, "model")
    if thought is THINKS_UNSAID:
        assert ready_to_chat(tokenizer, "auto", {"enable_thinking": True}, "model")  # as was asked


def test_thoughts_without_a_switch(with_template: Callable[[str], Path]) -> None:
    tokenizer = load_tokenizer(str(with_template(TURN.replace("{{ end }}", "<|end|>") + ASKED + "<think>\n")))
    with pytest.raises(UserError, match="opens a thought, .*: use another model, or prompt_format=plain"):
        ready_to_chat(tokenizer, "auto", {}, "model")
    assert not ready_to_chat(tokenizer, "plain", {}, "model")


@pytest.mark.parametrize(
    "opens",
    ["<seed:think>", "<|START_THINKING|>", "<reasoning>\n", "\u25c1think\u25b7", "<|begin_of_thought|>", "<Thought>"],
)
def test_thoughts_by_any_mark_are_refused(with_template: Callable[[str], Path], opens: str) -> None:
    tokenizer = load_tokenizer(str(with_template(TURN.replace("{{ end }}", "<|end|>") + ASKED + opens)))
    with pytest.raises(UserError, match="opens a thought, .*: use another model, or prompt_format=plain"):
        ready_to_chat(tokenizer, "auto", {}, "model")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('not now') }}", r"refuses the prompt \(not now\): use prompt_format=plain"),
        ("{% for m in messages %}{{ m['content'] }", r"refuses the prompt \(unexpected '\}'\)"),
        ("{{ messages[5]['content'] }}", r"refuses the prompt \(list object has no element 5\)"),
        ("{{ messages[0]['content'] + 1 }}", r"refuses the prompt \(can only concatenate str"),
        (
            "{% for m in messages %}{{ m['content'][0]['text'] }}{% endfor %}",
            "leaves the question out: use prompt_format",
        ),
    ],
)
def test_templates_that_are_of_no_use_are_one_line(
    with_template: Callable[[str], Path], template: str, message: str
) -> None:
    tokenizer = load_tokenizer(str(with_template(template)))
    with pytest.raises(UserError, match=f"^model: its chat template {message}"):
        ready_to_chat(tokenizer, "auto", {}, "model")


@pytest.mark.parametrize(
    "after",
    [
        "<think>\n\n</think>\n\n",
        "</think>",
        "<|START_THINKING|><|END_THINKING|>",
        "<|no_think|>",
        "[/INST]",
        "<answer>",
    ],
)
def test_thoughts_that_are_closed_are_none(with_template: Callable[[str], Path], after: str) -> None:
    tokenizer = load_tokenizer(str(with_template(TURN.replace("{{ end }}", "<|end|>") + ASKED + after)))
    assert ready_to_chat(tokenizer, "auto", {}, "model")


def test_a_switch_that_is_only_talked_of_is_no_cure(with_template: Callable[[str], Path]) -> None:
    prose = "Put your thinking and reasoning first. "
    tokenizer = load_tokenizer(str(with_template(prose + TURN.replace("{{ end }}", "<|end|>") + ASKED + "<think>")))
    with pytest.raises(UserError, match="opens a thought, .*: use another model, or prompt_format=plain"):
        ready_to_chat(tokenizer, "auto", {}, "model")


@pytest.mark.parametrize(
    "date",
    [
        "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% endif %}",
        "{% set form = '%d %b %Y' %}{{ strftime_now(form) }}",
        "{% macro today() %}{{ strftime_now('%d') ~ ' Jan ' ~ strftime_now('%Y') }}{% endmacro %}{{ today() }}",
    ],
)
def test_the_date_is_the_same_on_any_day(with_template: Callable[[str], Path], date: str) -> None:
    folder = with_template("\n" + date + TURN.replace("{{ end }}", "<|end|>") + ASKED)
    tokenizer = load_tokenizer(str(folder))
    assert rendered(tokenizer, MESSAGES).startswith("\n01 Jan 2025<|user|>")
    tokenizer.save_pretrained(folder)
    assert rendered(load_tokenizer(str(folder)), MESSAGES) == rendered(tokenizer, MESSAGES)


def test_of_several_templates_the_default_one_is_looked_at(with_template: Callable[[str], Path]) -> None:
    folder = with_template(TURN.replace("{{ end }}", "<|end|>") + ASKED + "<think>\n")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    tokenizer = load_tokenizer(str(folder))
    assert rendered(tokenizer, MESSAGES) == "<|user|>Describe a cat.<|end|><|assistant|><think>"
    with pytest.raises(UserError, match="opens a thought"):
        ready_to_chat(tokenizer, "auto", {}, "model")


def test_another_switch_and_channels(with_template: Callable[[str], Path]) -> None:
    aloud = "{% if thinking is not defined or thinking %}<think>{% endif %}"
    tokenizer = load_tokenizer(str(with_template(TURN.replace("{{ end }}", "<|end|>") + ASKED + aloud)))
    with pytest.raises(UserError, match=r"opens a thought, .* --chat_template_kwargs '\{\"thinking\": false\}'"):
        ready_to_chat(tokenizer, "auto", {}, "model")
    assert ready_to_chat(tokenizer, "auto", {"thinking": False}, "model")
    tokenizer.chat_template = tokenizer.chat_template.replace("thinking", "reasoning")
    with pytest.raises(UserError, match=r"opens a thought, .* --chat_template_kwargs '\{\"reasoning\": false\}'"):
        ready_to_chat(tokenizer, "auto", {}, "model")
    tokenizer.chat_template = "{# <|channel|>analysis, then <|channel|>final #}" + TURN.replace("{{ end }}", "") + ASKED
    with pytest.raises(
        UserError, match="thinks in a channel of its own first, .*: use another model, or prompt_format"
    ):
        ready_to_chat(tokenizer, "auto", {}, "model")


def test_an_end_behind_every_prompt_is_refused(tiny_llm: Path, tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_llm)
    end = tokenizer.eos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A <|end|>", special_tokens=[("<|end|>", end)]
    )
    tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)("a")["input_ids"][-1] == end
    assert end not in load_tokenizer(str(tmp_path))("a")["input_ids"]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|user|> $A <|end|>",
        special_tokens=[("<|end|>", end), ("<|user|>", tokenizer.convert_tokens_to_ids("<|user|>"))],
    )
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"puts '<\|end\|>' behind every text, which closes a prompt before its answer"):
        load_tokenizer(str(tmp_path))


def test_padding_outside_the_embeddings_becomes_the_end_token(tiny_llm: Path) -> None:
    tokenizer: Any = load_tokenizer(str(tiny_llm))
    rows = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id == rows
    fit_padding(tokenizer, LlamaConfig(vocab_size=rows), "model")
    assert tokenizer.pad_token == tokenizer.eos_token
    fit_padding(tokenizer, LlamaConfig(vocab_size=rows), "model")
    with pytest.raises(UserError, match="model: its tokenizer pads with token 1, but the model has 1 embeddings"):
        fit_padding(tokenizer, LlamaConfig(vocab_size=1), "model")
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    with pytest.raises(
        UserError, match=r"model: its tokenizer writes token \d+, but the model has 5 embeddings: give the"
    ):
        fit_padding(tokenizer, LlamaConfig(vocab_size=5), "model")


def test_answers_must_fit_the_context() -> None:
    def config(**fields: int) -> Any:
        found = SimpleNamespace(**fields)
        found.get_text_config = lambda: found
        return found

    assert context_of(config(max_position_embeddings=20)) == context_of(config(n_positions=20)) == 20
    assert context_of(config()) is None
    check_context(10, 10, 20, "model")
    check_context(10, 10, None, "model")
    with pytest.raises(
        UserError, match=r"model reads 20 tokens, but prompts have 11 and answers up to 10 \(max_completion"
    ):
        check_context(11, 10, 20, "model")
