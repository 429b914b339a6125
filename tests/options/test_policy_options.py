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


EIGHT, FOUR = ["--load_in_8bit", "true"], ["--load_in_4bit", "true", "--dtype", "bfloat16"]


def test_a_reference_that_nothing_is_compared_with() -> None:
    line = [*SMALL, "--adapter_name_or_path", "runs/a/adapter", "--reference", "start", "--beta", "0"]
    with pytest.raises(UserError, match="reference=start has no effect with beta=0"):
        parse_options("ppo", line)
    assert parse_options("ppo", [*line[:-1], "0.1"]).ex2.reference == "start"


@pytest.mark.parametrize(("line", "option"), [(EIGHT, "load_in_8bit"), (FOUR, "load_in_4bit")])
def test_quantised_weights_do_not_go_to_vllm(line: list[str], option: str) -> None:
    with pytest.raises(UserError, match=f"{option}=true with use_vllm=true"):
        parse_options("ppo", [*SMALL, *line, "--use_vllm", "true"])


FSDP2 = {
    "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"FSDP_VERSION": "1"}, "fsdp_version=1 in accelerate's configuration: set it to 2"),
        ({"FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT"}, "set it to FULL_STATE_DICT, else checkpoints hold no adapter"),
        ({"FSDP_CPU_RAM_EFFICIENT_LOADING": "True"}, "set it to false, else only the first process has weights"),
    ],
)
def test_settings_of_fsdp_that_lose_weights(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, str], message: str
) -> None:
    monkeypatch.setattr("ex2.options.policy_options.os.environ", FSDP2)
    assert parse_options("ppo", SMALL).policy.use_peft
    monkeypatch.setattr("ex2.options.policy_options.os.environ", FSDP2 | change)
    with pytest.raises(UserError, match=message):
        parse_options("ppo", SMALL)
    monkeypatch.setattr("ex2.options.policy_options.os.environ", FSDP2 | change | {"ACCELERATE_USE_FSDP": "false"})
    assert parse_options("ppo", SMALL).policy.use_peft


@pytest.mark.parametrize(
    ("variable", "value", "name"),
    [("ACCELERATE_USE_FSDP", "true", "FSDP"), ("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3", "DeepSpeed ZeRO-3")],
)
def test_quantised_weights_are_not_sharded(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, name: str
) -> None:
    environment = FSDP2 | {"ACCELERATE_USE_FSDP": "false", variable: value}
    for line in (EIGHT, FOUR):
        assert parse_options("ppo", [*SMALL, *line]).policy.use_peft
    monkeypatch.setattr("ex2.options.policy_options.os.environ", environment)
    with pytest.raises(UserError, match=f"load_in_8bit=true with {name}, which cannot shard.*data parallel.$"):
        parse_options("ppo", [*SMALL, *EIGHT])
    with pytest.raises(UserError, match=f"load_in_4bit=true with {name}.*or set bnb_4bit_quant_storage=bfloat16"):
        parse_options("ppo", [*SMALL, *FOUR])
    stored = [*SMALL, *FOUR, "--bnb_4bit_quant_storage", "bfloat16"]
    assert parse_options("ppo", stored).policy.load_in_4bit
    monkeypatch.setattr("ex2.options.policy_options.os.environ", {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"})
    assert parse_options("ppo", [*SMALL, *EIGHT]).policy.load_in_8bit
