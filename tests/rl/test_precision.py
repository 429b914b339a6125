"""Adapters of quantised bases are trained in float32: with bitsandbytes' 8 and 4 bits, which run on a CPU too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from trl import GRPOConfig, RLOOConfig

from ex2.rl.ppo_trainer import PPOTrainer
from ex2.rl.precision import TrainedInFloat32, to_float32, trained_weights
from ex2.run.trainers import EX2GRPOTrainer, EX2RLOOTrainer

from .conftest import PROMPTS, MakeTrainer, early_letters, lora

pytest.importorskip("bitsandbytes")
QUANTISED = {
    8: BitsAndBytesConfig(load_in_8bit=True),
    4: BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16, bnb_4bit_quant_type="nf4"),
}
pytestmark = pytest.mark.filterwarnings(
    "default",  # bitsandbytes says much about CPUs
    "ignore:`(is_)?gradient_checkpointing\\w*` is deprecated:FutureWarning",  # again, as the last that fits decides
)


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


class Gradients(TrainerCallback):
    """Keeps the gradient that each update was made with."""

    def __init__(self) -> None:
        self.of: list[dict[str, Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.of.append({name: weight.grad.double() for name, weight in trained(model).items()})


def moved_by_adamw(gradients: list[dict[str, Tensor]], learning_rate: float) -> dict[str, Tensor]:
    """How far AdamW takes each weight with these gradients, without rounding."""
    weights = {name: torch.zeros_like(grad, requires_grad=True) for name, grad in gradients[0].items()}
    optimizer = torch.optim.AdamW(weights.values(), lr=learning_rate, weight_decay=0.0)
    for update in gradients:
        for name, weight in weights.items():
            weight.grad = update[name]
        optimizer.step()
    return {name: weight.detach() for name, weight in weights.items()}


def of_the_adapter(weights: dict[str, Tensor]) -> Tensor:
    return torch.cat([weights[name].detach().double().flatten() for name in sorted(weights) if "lora_" in name])


def apart(moved: Tensor, reference: Tensor) -> float:
    return ((moved - reference).norm() / reference.norm()).item()


FIFTY: dict[str, Any] = {
    "learning_rate": 1.41e-5, "max_steps": 50, "lr_scheduler_type": "constant", "num_iterations": 2,
}  # fmt: skip


@pytest.mark.parametrize("bits", [8, 4])
def test_small_steps_move_the_adapter_of_a_quantised_base(bits: int, folder: Path, make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(model=base(folder, bits), peft_config=lora(lora_dropout=0.0), bf16=True, **FIFTY)
    gradients = Gradients()
    trainer.add_callback(gradients)
    weights = trained(trainer.model)
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    before = of_the_adapter(weights).clone()
    trainer.train()
    assert states(trainer) == {torch.float32}
    moved = of_the_adapter(weights) - before
    assert (moved != 0).double().mean() >= 0.99  # a quarter of A, in bfloat16
    assert len(gradients.of) == 50
    assert apart(moved, of_the_adapter(moved_by_adamw(gradients.of, 1.41e-5))) < 1e-3
    first = next(row for row in trainer.state.log_history if "kl" in row)
    assert first["kl"] == 0


@pytest.mark.usefixtures("one_way_to_draw")
def test_a_quantised_base_trains_its_adapter_as_the_same_weights_in_float32_do(
    folder: Path, make_trainer: MakeTrainer
) -> None:
    exact = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32, bnb_4bit_quant_type="nf4")

    def moved(dequantised: bool) -> Tensor:
        model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=exact)
        if dequantised:
            weights_only = LlamaForCausalLM(LlamaConfig.from_pretrained(folder)).float()
            weights_only.load_state_dict(model.dequantize().state_dict())
            model = weights_only.eval()
        torch.manual_seed(0)
        # Made here: TRL rounds the start of an adapter that it makes itself to bfloat16.
        trainer = make_trainer(model=get_peft_model(model, lora(lora_dropout=0.0)), **FIFTY)
        weights = trained(trainer.model)
        before = of_the_adapter(weights).clone()
        trainer.train()
        return of_the_adapter(weights) - before

    assert apart(moved(dequantised=False), moved(dequantised=True)) < 1e-3


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


def in_bfloat16(checkpoint: Path) -> None:
    """Make a checkpoint what it was while adapters of quantised bases were trained in bfloat16."""

    def half(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: half(item) for name, item in value.items()}
        return value.bfloat16() if isinstance(value, Tensor) and value.dim() else value

    adapter = checkpoint / "adapter_model.safetensors"
    save_file(half(load_file(adapter)), adapter, metadata={"format": "pt"})
    optimizer = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    torch.save(optimizer | {"state": half(optimizer["state"])}, checkpoint / "optimizer.pt")


@pytest.mark.parametrize("bits", [8, 4])
def test_a_checkpoint_in_bfloat16_goes_on_in_float32(
    bits: int, folder: Path, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    def make(steps: int) -> PPOTrainer:
        return make_trainer(
            model=base(folder, bits), peft_config=lora(), bf16=True, output_dir=str(tmp_path), save_strategy="steps",
            save_steps=2, max_steps=steps, learning_rate=1.41e-5, lr_scheduler_type="constant",
        )  # fmt: skip

    make(2).train()
    in_bfloat16(tmp_path / "checkpoint-2")
    saved = load_file(tmp_path / "checkpoint-2" / "adapter_model.safetensors")
    trainer = make(12)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    weights = trained(trainer.model)
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert states(trainer) == {torch.float32}
    adapter = {name.replace(".default", ""): weight for name, weight in weights.items() if "lora_" in name}
    assert set(adapter) == set(saved)
    moved = torch.cat([(adapter[name] - saved[name].float()).flatten() for name in saved])
    assert (moved != 0).float().mean() >= 0.99
    assert moved.abs().max() < 12 * 1.41e-5 * 1.1
    assert {value.dtype for value in load_file(tmp_path / "checkpoint-12" / "adapter_model.safetensors").values()} == {
        torch.float32
    }


class CastByTRL:
    """What a trainer of TRL makes of the adapter of a quantised base, with what the launcher decided."""

    launcher = {"deepspeed": False, "fsdp": False, "mixed_precision": "no"}

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model.to(torch.bfloat16)
        self.is_deepspeed_enabled = self.launcher["deepspeed"]
        self.is_fsdp_enabled = self.launcher["fsdp"]
        self.accelerator = SimpleNamespace(mixed_precision=self.launcher["mixed_precision"])


@pytest.mark.parametrize(
    ("launcher", "kept"),
    [
        ({}, torch.float32),
        ({"mixed_precision": "bf16"}, torch.float32),
        ({"deepspeed": True}, torch.float32),  # no masters without mixed precision
        ({"deepspeed": True, "mixed_precision": "bf16"}, torch.bfloat16),
        ({"fsdp": True}, torch.float32),
        ({"fsdp": True, "mixed_precision": "fp16"}, torch.bfloat16),
    ],
)
def test_trained_weights_are_float32_unless_deepspeed_or_fsdp_hold_masters(
    launcher: dict[str, Any], kept: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CastByTRL, "launcher", CastByTRL.launcher | launcher)
    trainer = type("Trainer", (TrainedInFloat32, CastByTRL), {})(torch.nn.Linear(2, 2))
    assert {weight.dtype for weight in trainer.model.parameters()} == {kept}
