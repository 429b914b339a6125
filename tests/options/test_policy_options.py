"""Options of the policy that exclude each other, or have no meaning, are refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from ex2.base.errors import UserError
from ex2.options.parse import parse_options
from ex2.options.policy_options import PolicyConfig

SMALL = ["--per_device_train_batch_size", "4", "--num_generations", "2", "--use_cpu", "true"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"load_in_8bit": True, "load_in_4bit": True}, "load_in_8bit=true and load_in_4bit=true exclude each other"),
        ({"use_peft": False}, "use_peft=false asks for full fine-tuning, but EX2 trains LoRA adapters"),
        ({"load_in_4bit": True, "dtype": "auto"}, "dtype=auto with load_in_4bit=true: name the type to compute in"),
        ({"load_in_4bit": True, "dtype": None}, "dtype=None with load_in_4bit=true"),
        ({"bnb_4bit_quant_type": "fp4"}, "bnb_4bit_quant_type=fp4 has no effect without load_in_4bit=true"),
        ({"use_bnb_nested_quant": True, "load_in_8bit": True}, "use_bnb_nested_quant=True has no effect without"),
        ({"bnb_4bit_quant_storage": "bfloat16"}, "bnb_4bit_quant_storage=bfloat16 has no effect without"),
        ({"lora_modules_to_save": ["lm_head"]}, "lora_modules_to_save is not supported.*use lora_target_modules"),
        ({"lora_target_parameters": ["experts"]}, "lora_target_parameters is not supported"),
        ({"lora_task_type": "SEQ_CLS"}, "lora_task_type=SEQ_CLS is no task of a policy"),
        ({"lora_r": 0}, "lora_r=0 is out of range"),
        ({"lora_alpha": 0}, "lora_alpha=0 is out of range"),
        ({"lora_dropout": 1.0}, r"lora_dropout=1\.0 is out of range"),
    ],
)
def test_what_cannot_work_is_refused_by_name(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        PolicyConfig(**options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dtype": "float16"},
        {"dtype": "auto"},
        {"load_in_8bit": True},
        {"load_in_8bit": True, "dtype": "bfloat16"},
        {"load_in_4bit": True, "dtype": "bfloat16", "bnb_4bit_quant_type": "fp4", "use_bnb_nested_quant": True},
        {"use_rslora": True, "use_dora": True},
    ],
)
def test_what_works_is_taken(options: dict[str, Any]) -> None:
    config = PolicyConfig(**options)
    assert config.use_peft
    assert all(getattr(config, name) == value for name, value in options.items())


def test_options_are_checked_when_they_are_parsed() -> None:
    with pytest.raises(UserError, match="exclude each other"):
        parse_options("ppo", [*SMALL, "--load_in_8bit", "true", "--load_in_4bit", "true"])
    with pytest.raises(UserError, match="use_peft=false"):
        parse_options("grpo", [*SMALL, "--use_peft", "false"])


@pytest.mark.parametrize(
    ("gpu", "bf16", "dtype"), [(False, True, "float32"), (True, False, "float32"), (True, True, "bfloat16")]
)
def test_the_base_is_in_bfloat16_where_a_gpu_multiplies_in_it(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, bf16: bool, dtype: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: bf16)
    assert PolicyConfig().dtype == dtype
    assert PolicyConfig(dtype="float16").dtype == "float16"
