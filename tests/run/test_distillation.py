"""Best-of-N distillation: which texts are learnt, that they are learnt, and that a run with it resumes to the same end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ex2.base.errors import UserError
from ex2.launch import main
from ex2.options.ex2_options import EX2Config
from ex2.options.parse import parse_options
from ex2.options.run_options import RunOptions
from ex2.policy.asks import Ask
from ex2.policy.llm import load_base, load_tokenizer
from ex2.policy.sampler import TextGenerator
from ex2.run import distillation
from ex2.run.distillation import best_answers, distill, total_scores
from ex2.run.folder import read_jsonl

Arguments = Callable[..., list[str]]

CAT = Ask(0, "cat", "Describe a {}.")
OWL = Ask(1, "owl", "Describe a {}.")


def test_best_answers_are_whole_sentences_of_each_class() -> None:
    samples = [
        (CAT, "It has whiskers."),
        (CAT, "It has fur and a long"),  # the best, but cut
        (CAT, "It purrs a lot."),
        (OWL, "It hoots at night."),
        (OWL, "It turns its"),
    ]
    assert best_answers(samples, [0.1, 0.9, 0.5, 0.2, 0.8], keep=1) == [samples[2], samples[3]]
    assert best_answers(samples, [0.1, 0.9, 0.5, 0.2, 0.8], keep=5) == [samples[2], samples[0], samples[3]]


def test_total_scores_weigh_the_rewards_and_pass_over_none() -> None:
    def length(prompts: Any, completions: list[str], **columns: Any) -> list[float]:
        return [float(len(text)) for text in completions]

    def owls_only(prompts: Any, completions: list[str], class_id: list[int], **columns: Any) -> list[float | None]:
        return [10.0 if i == 1 else None for i in class_id]

    samples = [(CAT, "abc"), (OWL, "ab")]
    assert total_scores([length], None, samples) == [3.0, 2.0]
    assert total_scores([length, owls_only], [2.0, 0.5], samples) == [6.0, 9.0]


def _options(arguments: Arguments, folder: Path, **overrides: Any) -> RunOptions:
    return parse_options("ppo", arguments(folder, reward_normalization="zscore", **overrides))


def _nll(generator: TextGenerator, prompt: str, text: str) -> float:
    tokenizer = generator.tokenizer
    asked = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    answer = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    with torch.no_grad():
        logits = generator.model(torch.tensor([asked + answer])).logits[0]
    logps = logits[len(asked) - 1 : -1].log_softmax(-1)
    return -logps.gather(1, torch.tensor(answer)[:, None]).mean().item()


@pytest.mark.parametrize("chat", [False, True])
def test_the_adapter_learns_the_answers_and_nothing_else_moves(
    chat: bool, arguments: Arguments, tiny_llm: Path, tiny_chat_llm: Path, tmp_path: Path
) -> None:
    path = str(tiny_chat_llm if chat else tiny_llm)
    generator = TextGenerator(
        load_base(path),
        load_tokenizer(path),
        chat,
        None,
        8,
        chat_template_kwargs={"enable_thinking": False} if chat else {},
    )
    before = {name: weight.clone() for name, weight in generator.model.named_parameters()}
    options = _options(arguments, tmp_path, distill_best=1, distill_epochs=60, distill_learning_rate=0.02)
    prompt = "<|user|>Describe a cat.<|end|><|assistant|>" if chat else "Describe a cat.\n\n"
    at_first = _nll(generator, prompt, "It purrs.")
    distill(options, generator, [(CAT, "It purrs.")])
    assert _nll(generator, prompt, "It purrs.") < 0.5 * at_first
    base = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): weight
        for name, weight in generator.model.named_parameters()
        if "lora_" not in name
    }
    assert base.keys() == before.keys()
    assert all(torch.equal(base[name], before[name]) for name in before)
    with generator.model.disable_adapter():
        assert _nll(generator, prompt, "It purrs.") == pytest.approx(at_first, rel=1e-6)


def test_a_run_starts_from_what_was_learnt_and_resumes_to_the_same_end(
    arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A random policy ends no sentence.
    monkeypatch.setattr(distillation, "whole_sentence", lambda prompts, texts: [1.0] * len(texts))
    line: dict[str, Any] = {
        "reward_normalization": "zscore",
        "distill_best": 1,
        "distill_learning_rate": 0.01,
        "before_after": False,
    }
    line["lr_scheduler_type"] = "constant"  # else a run that is shorter at first has other steps
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    main("ppo", arguments(whole, **line))
    assert read_jsonl(whole / "metrics.jsonl")[0]["kl"] > 0  # the reference is the base, which the policy has left

    main("ppo", arguments(parts, **line, max_steps=2))
    monkeypatch.setattr(distillation, "distill", lambda *args: pytest.fail("learnt a second time"))
    main("ppo", arguments(parts, **line, resume_from_checkpoint=True))
    adapters = [(folder / "adapter" / "adapter_model.safetensors").read_bytes() for folder in (whole, parts)]
    assert adapters[0] == adapters[1]


def test_nothing_to_learn_from_is_said(arguments: Arguments, tmp_path: Path) -> None:
    path = tmp_path / "run"
    options = _options(arguments, path, distill_best=2)
    with pytest.raises(
        UserError, match=r"distill_best=2: no text .* ends a sentence within 8 tokens: raise max_completion"
    ):
        distill(options, TextGenerator(None, None, False, None, 8), [])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"distill_best": 0}, "distill_best=0 is out of range: it must be at least 1"),
        ({"distill_best": 1, "distill_learning_rate": 0.0}, "distill_learning_rate=0.0 .* must be positive"),
        ({"distill_best": 1, "adapter_name_or_path": "a"}, "distill_best fine-tunes a fresh adapter"),
        ({"distill_best": 1, "before_after": False}, "distill_best learns from the untrained policy's texts"),
    ],
)
def test_options_that_do_not_fit_are_refused(line: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        EX2Config(**line)
