"""Lengths in tokens: those of the prompts that are sampled, and a bound on them before the classes are known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import Dataset

from ex2.base.errors import UserError
from ex2.options.parse import parse_options
from ex2.options.run_options import RunOptions
from ex2.policy.asks import Ask
from ex2.policy.checks import inspect_policy
from ex2.policy.lengths import length_for_server, longest
from ex2.policy.sampler import TextGenerator
from ex2.run import training
from ex2.texts.questions import build_prompts

NAMES = ("cat", "ear of corn")
QUESTIONS = ("Describe a {}.", "What tells a {} from everything else in the world?")


@pytest.fixture(params=["tiny_llm", "tiny_chat_llm"])
def options(request: pytest.FixtureRequest, arguments: Callable[..., list[str]], tmp_path: Path) -> RunOptions:
    folder = request.getfixturevalue(request.param)
    return parse_options("ppo", arguments(tmp_path / "run", model_name_or_path=folder))


def test_the_longest_prompt_is_that_of_the_sampler(options: RunOptions) -> None:
    files = inspect_policy(options)
    prompts = build_prompts(NAMES, QUESTIONS, chat=files.chat, system_prompt=options.ex2.system_prompt)
    sampler = TextGenerator(
        model=None,
        tokenizer=files.tokenizer,
        chat=files.chat,
        system_prompt=options.ex2.system_prompt,
        max_new_tokens=4,
    )
    asks = [Ask(i, name, question) for i, name in enumerate(NAMES) for question in QUESTIONS]
    found = longest(prompts["prompt"], files.tokenizer, {})
    assert found == sampler._tokenize(asks)["input_ids"].shape[1]
    bound = length_for_server(options, QUESTIONS, files)
    assert found + options.max_new_tokens < bound < found + options.max_new_tokens + 128
    assert bound % 64 == 0


def test_a_run_tells_vllm_before_anything_is_written(
    arguments: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = parse_options("ppo", arguments(tmp_path / "run"))
    wanted.trainer.use_vllm = True
    monkeypatch.setattr(training, "require_rollout_engine", lambda *_: None)
    made: list[Dataset] = []
    build = training.build_prompts
    monkeypatch.setattr(training, "build_prompts", lambda *a, **k: made.append(build(*a, **k)) or made[0])
    wanted.trainer.vllm_max_model_length = 10
    with pytest.raises(UserError, match="vllm_max_model_length=10 is too low"):
        training.run(wanted)
    assert not wanted.output_dir.exists()
    tokenizer = inspect_policy(wanted).tokenizer
    wanted.trainer.vllm_max_model_length = None
    monkeypatch.setattr(training, "build_trainer", lambda *_: (_ for _ in ()).throw(KeyError))
    with pytest.raises(KeyError):
        training.run(wanted)
    assert wanted.trainer.vllm_max_model_length == longest(made[0]["prompt"], tokenizer, {}) + wanted.max_new_tokens
