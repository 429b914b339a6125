"""Rollouts through TRL's vLLM client, with an engine in place of vLLM that answers from a list."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import get_peft_model
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, RLOOConfig
from trl.generation.vllm_generation import VLLMGeneration
from trl.trainer import grpo_trainer, rloo_trainer

from ex2.rl.ppo_trainer import PPOTrainer
from ex2.rl.vllm_weights import FrozenBase
from ex2.run.trainers import EX2GRPOTrainer, EX2RLOOTrainer

from .conftest import PROMPTS, early_letters, lora

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


@pytest.mark.parametrize("correction", [True, False])
def test_the_gap_to_the_engine_is_logged(
    correction: bool, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpo_trainer, "VLLMGeneration", Engine)
    # With nothing to clip at, which TRL allows only where there is no correction.
    limits = {} if correction else {"vllm_importance_sampling_clip_max": None}
    trainer = make_trainer(use_vllm=True, vllm_importance_sampling_correction=correction, num_iterations=2, **limits)
    trainer.train()
    batch, first = whole_rollout(trainer), trainer.state.log_history[0]
    assert len([name for name in first if name.startswith("sampling/")]) == 5
    gap = (batch["old_per_token_logps"] + 9)[batch["completion_mask"] == 1]
    assert first["sampling/sampling_logp_difference/mean"] == pytest.approx(gap.abs().mean().item(), rel=1e-4)
    assert first["sampling/sampling_logp_difference/max"] == pytest.approx(gap.abs().max().item(), rel=1e-4)


def whole_rollout(trainer: PPOTrainer) -> dict[str, Any]:
    (batch,) = trainer._buffered_inputs
    return batch


def test_texts_are_weighted_by_how_likely_the_trained_policy_would_have_written_them(trainer: PPOTrainer) -> None:
    trainer.train()
    batch = whole_rollout(trainer)
    weight, mask = batch["importance_sampling_ratio"], batch["completion_mask"] == 1
    ratio = (batch["old_per_token_logps"] + 9).exp()
    torch.testing.assert_close(weight[mask], ratio.clamp(max=trainer.args.vllm_importance_sampling_clip_max)[mask])
    assert (ratio > 3)[mask].any()
    trainer.args.vf_coef = 0.0

    def loss(**changes: Any) -> float:
        return trainer._compute_loss(trainer.model, batch | changes).item()

    trainer.model.eval()
    once = loss(importance_sampling_ratio=torch.ones_like(weight))
    assert abs(once) > 1e-3
    assert loss(importance_sampling_ratio=torch.full_like(weight, 2.0)) == pytest.approx(2 * once, rel=1e-5)
    trainer.args.vllm_importance_sampling_correction = False
    assert loss() == once


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


def frozen(model: Any) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}


def with_large_adapter(trainer: Any) -> Any:
    """The trainer, with an adapter whose merge rounds nearly every weight of a bfloat16 base."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.05)
    return trainer


@pytest.mark.parametrize("options", [{}, {"use_dora": True}])
def test_any_number_of_rollouts_leaves_the_base_as_it_is(
    options: dict[str, Any],
    make_trainer: MakeTrainer,
    words_model: Callable[[], LlamaForCausalLM],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grpo_trainer, "VLLMGeneration", Engine)
    trainer = with_large_adapter(
        make_trainer(model=words_model().bfloat16(), peft_config=lora(**options), use_vllm=True, bf16=True)
    )
    before = frozen(trainer.model)
    for _ in range(20):
        trainer.vllm_generation.sync_weights()
    assert all(torch.equal(weight, before[name]) for name, weight in frozen(trainer.model).items())
    assert not any(layer.merged for layer in trainer.model.modules() if hasattr(layer, "merged"))
    merged = trainer.model.merge_and_unload().state_dict()
    sent = trainer.vllm_generation.sent
    assert set(sent) == {name for name in merged if not name.startswith("value_head.")}
    for name, weight in sent.items():
        assert torch.equal(weight, merged[name]), name


def test_an_engine_that_fails_leaves_the_base_as_it_is(trainer: PPOTrainer) -> None:
    with_large_adapter(trainer)
    before = frozen(trainer.model)

    def fail(pairs: Any) -> None:
        raise MemoryError

    trainer.vllm_generation.llm.llm_engine.model_executor.driver_worker.model_runner.model.load_weights = fail
    with pytest.raises(MemoryError):
        trainer.vllm_generation.sync_weights()
    assert all(torch.equal(weight, before[name]) for name, weight in frozen(trainer.model).items())


@pytest.mark.parametrize(
    ("kind", "config", "module"),
    [(EX2GRPOTrainer, GRPOConfig, grpo_trainer), (EX2RLOOTrainer, RLOOConfig, rloo_trainer)],
)
def test_grpo_and_rloo_leave_the_base_as_it_is_too(
    kind: Any,
    config: Any,
    module: Any,
    words_model: Callable[[], LlamaForCausalLM],
    words_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "VLLMGeneration", Engine)
    trainer = with_large_adapter(
        kind(
            model=words_model().bfloat16(),
            reward_funcs=early_letters,
            args=config(
                output_dir=str(tmp_path), per_device_train_batch_size=8, num_generations=4, max_completion_length=4,
                use_cpu=True, bf16=True, report_to="none", gradient_checkpointing=False, use_vllm=True,
            ),
            train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS]),
            processing_class=words_tokenizer,
            peft_config=lora(),
        )
    )  # fmt: skip
    before = frozen(trainer.model)
    for _ in range(20):
        trainer.vllm_generation.sync_weights()
    assert all(torch.equal(weight, before[name]) for name, weight in frozen(trainer.model).items())


def test_weights_that_fsdp_shards_are_refused(words_model: Callable[[], LlamaForCausalLM]) -> None:
    class Sharded:
        def __init__(self) -> None:
            self.use_vllm, self.is_fsdp_enabled, self.model = True, True, get_peft_model(words_model(), lora())

    class Trainer(FrozenBase, Sharded):
        pass

    with pytest.raises(ValueError, match="^use_vllm=True with FSDP has not been tried: train with plain data parallel"):
        Trainer()
