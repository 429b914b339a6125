"""The vLLM engine against a stand-in for the package: which prompts, seeds and adapter it is given. The real one needs a GPU."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig

from ex2.base.errors import UserError
from ex2.policy.asks import Ask
from ex2.policy.sampler_vllm import engine_rank
from ex2.policy.source import find_policy

ASKS = [Ask(0, "cat", "Describe a {}."), Ask(1, "whale", "What is a {}?"), Ask(2, "eagle", "Where is a {}?")]


@dataclass
class FakeEngine:
    """Records what it was started and asked with; answers with the number of prompt tokens."""

    options: dict[str, Any]
    calls: list[Any]

    def generate(self, prompts: Any, parameters: Any, lora_request: Any, use_tqdm: bool) -> list[Any]:
        self.calls.append((prompts, parameters, lora_request))
        texts = [f" {len(prompt['prompt_token_ids'])}\n tokens " for prompt in prompts]
        return [SimpleNamespace(outputs=[SimpleNamespace(text=text)]) for text in texts]


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[FakeEngine]:
    """Puts a stand-in for vLLM in place; the list fills with the engines that are started."""
    started: list[FakeEngine] = []

    def start(**options: Any) -> FakeEngine:
        started.append(FakeEngine(options, []))
        return started[-1]

    package, lora, request = ModuleType("vllm"), ModuleType("vllm.lora"), ModuleType("vllm.lora.request")
    package.LLM, package.SamplingParams = start, SimpleNamespace  # type: ignore[attr-defined]
    request.LoRARequest = lambda *parts: parts  # type: ignore[attr-defined]
    for name, module in {"vllm": package, "vllm.lora": lora, "vllm.lora.request": request}.items():
        monkeypatch.setitem(sys.modules, name, module)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: package if name == "vllm" else found(name, *a))
    return started


def test_a_run_is_sampled_with_its_adapter_and_the_prompts_of_transformers(
    engines: list[FakeEngine], trained_run: Path
) -> None:
    policy = find_policy(str(trained_run))
    generator = policy.load_vllm(ASKS)
    batches = list(generator.sample(ASKS, seed=5, batch_size=2))
    (engine,) = engines
    assert engine.options["enable_lora"] is True
    assert engine.options["max_lora_rank"] == 8  # vLLM's smallest; the adapter has 4
    reference = policy.load()
    prompts = [prompt["prompt_token_ids"] for call in engine.calls for prompt in call[0]]
    for ask, prompt in zip(ASKS, prompts, strict=True):
        assert prompt == reference._tokenize([ask])["input_ids"][0].tolist()
    assert engine.options["max_model_len"] == max(map(len, prompts)) + 8
    assert [text for batch in batches for text in batch] == [f"{len(prompt)} tokens" for prompt in prompts]
    for _, parameters, adapter in engine.calls:
        assert adapter == ("policy", 1, str((trained_run / "adapter").resolve()))
        for sampling in parameters:
            assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.max_tokens) == (1.0, -1, 1.0, 8)
    seeds = [sampling.seed for call in engine.calls for sampling in call[1]]
    assert len(set(seeds)) == 3
    list(generator.sample(ASKS, seed=5, batch_size=2))
    assert [sampling.seed for call in engine.calls[2:] for sampling in call[1]] == seeds


@pytest.mark.parametrize(("rank", "room"), [(1, 8), (12, 16), (24, 32), (129, 256), (257, 320), (512, 512)])
def test_ranks_that_vllm_does_not_know_are_rounded_up(rank: int, room: int, tmp_path: Path) -> None:
    LoraConfig(r=rank).save_pretrained(tmp_path)
    assert engine_rank(tmp_path) == room
    LoraConfig(r=4, rank_pattern={"q_proj": rank}).save_pretrained(tmp_path)
    assert engine_rank(tmp_path) == room


def test_a_rank_above_all_that_vllm_knows(tmp_path: Path) -> None:
    LoraConfig(r=600).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has rank 600, and vLLM takes at most 512: use --engine transformers"):
        engine_rank(tmp_path)


def test_a_plain_llm_has_no_adapter(engines: list[FakeEngine], tiny_llm: Path) -> None:
    list(find_policy(str(tiny_llm)).load_vllm(ASKS).sample(ASKS, seed=0))
    (engine,) = engines
    assert "enable_lora" not in engine.options
    assert engine.calls[0][2] is None


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available() or importlib.util.find_spec("vllm") is None, reason="needs a CUDA GPU and vLLM"
)
def test_the_real_engine_answers(trained_run: Path) -> None:
    generator = find_policy(str(trained_run)).load_vllm(ASKS)
    first, again = (list(generator.sample(ASKS, seed=1)) for _ in range(2))
    assert first == again
    assert len(first[0]) == 3
