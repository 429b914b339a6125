"""Adapters of quantised bases are trained in float32: with bitsandbytes' 8 and 4 bits, which run on a CPU too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model
from torch import Tensor
from transformers import BitsAndBytesConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, RLOOConfig

from ex2.rl.ppo_trainer import PPOTrainer
from ex2.rl.precision import to_float32, trained_weights
from ex2.run.trainers import EX2GRPOTrainer, EX2RLOOTrainer

from .conftest import PROMPTS, MakeTrainer, early_letters, lora

pytest.importorskip("bitsandbytes")
QUANTISED = {
    8: BitsAndBytesConfig(load_in_8bit=True),
    4: BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16, bnb_4bit_quant_type="nf4"),
}
pytestmark = pytest.mark.filterwarnings("default")  # bitsandbytes says much about CPUs


@pytest.fixture(scope="module")
def folder(words_model: Callable[[], LlamaForCausalLM], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("words")
    words_model().to(torch.bfloat16).save_pretrained(path)
    return path


def base(folder: Path, bits: int) -> Any:
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, quantization_config=QUANTISED[bits])


def trained(model: Any) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def states(trainer: Any) -> set[torch.dtype]:
    """Types of what the optimizer remembers, counters apart."""
    return {value.dtype for state in trainer.optimizer.state.values() for value in state.values() if value.dim() > 0}


@pytest.mark.parametrize("bits", [8, 4])
def test_small_steps_move_the_adapter_of_a_quantised_base(bits: int, folder: Path, make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(
        model=base(folder, bits), peft_config=lora(lora_dropout=0.0), bf16=True, learning_rate=1.41e-5, max_steps=50,
        lr_scheduler_type="constant", num_iterations=2,
    )  # fmt: skip
    weights = trained(trainer.model)
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    trainer.train()
    assert states(trainer) == {torch.float32}
    moved = torch.cat([(weights[name] != before[name]).flatten() for name in weights if "lora_" in name])
    assert moved.float().mean() >= 0.99  # a quarter of A, in bfloat16
    first = next(row for row in trainer.state.log_history if "kl" in row)
    assert first["kl"] == 0


@pytest.mark.parametrize(("kind", "config"), [(EX2GRPOTrainer, GRPOConfig), (EX2RLOOTrainer, RLOOConfig)])
def test_grpo_and_rloo_too(
    kind: Any, config: Any, folder: Path, words_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    trainer = kind(
        model=base(folder, 8),
        reward_funcs=early_letters,
        args=config(
            output_dir=str(tmp_path), per_device_train_batch_size=8, num_generations=4, max_completion_length=4,
            use_cpu=True, bf16=True, report_to="none", gradient_checkpointing=False,
        ),
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS]),
        processing_class=words_tokenizer,
        peft_config=lora(),
    )  # fmt: skip
    assert {weight.dtype for weight in trained(trainer.model).values()} == {torch.float32}


def test_a_given_adapter_keeps_its_values_and_equals_its_frozen_copy(folder: Path, make_trainer: MakeTrainer) -> None:
    model = get_peft_model(base(folder, 8), lora(init_lora_weights=False))
    to_float32(model, {})
    before = trained_weights(model)
    trainer = make_trainer(model=model, bf16=True, beta=0.1)
    assert isinstance(trainer, PPOTrainer)
    assert isinstance(trainer.model, PeftModel)
    weights = dict(trainer.model.named_parameters())
    for name, value in before.items():
        assert torch.equal(weights[name], value)
        assert torch.equal(weights[name.replace(".default.", ".ref.")].float(), value)
    trainer.train()
    assert next(row["kl"] for row in trainer.state.log_history if "kl" in row) == 0
