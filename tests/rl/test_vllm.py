"""Rollouts through TRL's vLLM client, with an engine in place of vLLM that answers from a list."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from trl.generation.vllm_generation import VLLMGeneration
from trl.trainer import grpo_trainer

from ex2.rl.ppo_trainer import PPOTrainer

MakeTrainer = Callable[..., PPOTrainer]
ANSWERS = ([2, 3, 1], [4, 4, 4, 4], [5, 1], [6, 7, 8, 1])


class Engine(VLLMGeneration):
    """Keeps the weights that it is sent; its log-probs are those of another policy."""

    sent: dict[str, Tensor]

    def _init_vllm(self) -> None:
        self.sent = {}
        model = SimpleNamespace(load_weights=lambda pairs: self.sent.update({n: w.clone() for n, w in pairs}))
        worker = SimpleNamespace(model_runner=SimpleNamespace(model=model))
        executor = SimpleNamespace(driver_worker=worker)
        self.llm = SimpleNamespace(llm_engine=SimpleNamespace(model_executor=executor), reset_prefix_cache=lambda: None)

    def generate(self, prompts: list[list[int]], **_: Any) -> tuple[Any, ...]:  # type: ignore[override]
        answers = [list(ANSWERS[i % len(ANSWERS)]) for i in range(len(prompts))]
        return prompts, answers, [[[-9.0]] * len(answer) for answer in answers], None


@pytest.fixture
def trainer(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> PPOTrainer:
    monkeypatch.setattr(grpo_trainer, "VLLMGeneration", Engine)
    return make_trainer(use_vllm=True, num_iterations=2, max_steps=4)


def test_log_probs_are_those_of_the_trained_model(trainer: PPOTrainer) -> None:
    trainer.train()
    first = trainer.state.log_history[0]
    assert first["kl"] == 0.0  # with the engine's log-probs it would be far off
    assert [row["approx_kl"] for row in trainer.state.log_history[:4:2]] == pytest.approx([0, 0], abs=1e-6)
    assert not any("importance_sampling" in name for name in first)


def test_vllm_gets_the_base_model_with_the_adapter_in_it(trainer: PPOTrainer) -> None:
    trainer.train()
    trainer.vllm_generation.sync_weights()
    sent: dict[str, Tensor] = trainer.vllm_generation.sent
    layer = trainer.model.get_base_model().model.layers[0].self_attn.q_proj
    expected = layer.base_layer.weight + layer.get_delta_weight("default")
    torch.testing.assert_close(sent["model.layers.0.self_attn.q_proj.weight"], expected)
    assert not torch.equal(expected, layer.base_layer.weight)
    assert not [
        name for name in sent if "value_head" in name or "lora" in name
    ]  # vLLM would stop at a name it does not know
    assert trainer.value_head.linear.weight.any()
