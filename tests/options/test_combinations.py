"""Options that exclude each other are refused by name, with the cure."""

from __future__ import annotations

import os
from unittest.mock import patch

import pytest
import transformers

from ex2.base.errors import UserError
from ex2.options.combinations import check_combination, check_launch, what_processes_share
from ex2.options.parse import parse_options

SMALL = ["--per_device_train_batch_size", "4", "--num_generations", "2", "--use_cpu", "true"]
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


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_continuous_batching_would_round_the_adapter(algorithm: str) -> None:
    with pytest.raises(
        UserError, match="use_transformers_continuous_batching=true casts the adapter to half precision"
    ):
        parse_options(algorithm, [*SMALL, "--use_transformers_continuous_batching", "true"])


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
    monkeypatch.setattr("ex2.options.combinations.os.environ", FSDP2)
    assert parse_options("ppo", SMALL).policy.use_peft
    monkeypatch.setattr("ex2.options.combinations.os.environ", FSDP2 | change)
    with pytest.raises(UserError, match=message):
        parse_options("ppo", SMALL)
    monkeypatch.setattr("ex2.options.combinations.os.environ", FSDP2 | change | {"ACCELERATE_USE_FSDP": "false"})
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
    monkeypatch.setattr("ex2.options.combinations.os.environ", environment)
    with pytest.raises(UserError, match=f"load_in_8bit=true with {name}, which cannot shard.*data parallel.$"):
        parse_options("ppo", [*SMALL, *EIGHT])
    with pytest.raises(UserError, match=f"load_in_4bit=true with {name}.*or set bnb_4bit_quant_storage=bfloat16"):
        parse_options("ppo", [*SMALL, *FOUR])
    stored = [*SMALL, *FOUR, "--bnb_4bit_quant_storage", "bfloat16"]
    assert parse_options("ppo", stored).policy.load_in_4bit
    monkeypatch.setattr("ex2.options.combinations.os.environ", {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"})
    assert parse_options("ppo", [*SMALL, *EIGHT]).policy.load_in_8bit


def test_updates_cannot_be_left_out_under_deepspeed(monkeypatch: pytest.MonkeyPatch) -> None:
    with_target, without = parse_options("ppo", [*SMALL, "--target_kl", "0.05"]), parse_options("ppo", SMALL)
    check_combination(with_target)
    # Only now: transformers sets DeepSpeed up where its options are parsed with this.
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    check_combination(without)
    with pytest.raises(
        UserError, match="^target_kl=0.05 with DeepSpeed, which updates weights within the backward pass"
    ):
        check_combination(with_target)


def test_weights_that_fsdp_shards_do_not_go_to_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    with_vllm = parse_options("grpo", SMALL)
    with_vllm.trainer.use_vllm = True
    check_combination(with_vllm)
    monkeypatch.setattr("ex2.options.combinations.os.environ", FSDP2)
    with pytest.raises(UserError, match="^use_vllm=true with FSDP has not been tried: use plain data parallel"):
        check_combination(with_vllm)


@pytest.mark.parametrize(
    ("name", "value"),
    [("torch_compile", "true"), ("torch_compile_backend", "eager"), ("torch_compile_mode", "default")],
)
def test_compiled_policies_have_not_been_tried(name: str, value: str) -> None:
    # transformers hands the option to accelerate through the environment.
    with (
        patch.dict(os.environ),
        pytest.raises(UserError, match="^torch_compile=true has not been tried with EX2's trainers: leave it out"),
    ):
        parse_options("rloo", [*SMALL, f"--{name}", value])


def test_several_gpus_need_a_launcher() -> None:
    options = parse_options("ppo", SMALL)
    check_launch(options)
    options.trainer._n_gpu = 4
    with pytest.raises(UserError, match="^4 GPUs and one process: .* --num_processes 4 .*CUDA_VISIBLE_DEVICES=0"):
        check_launch(options)


def test_what_processes_share_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert what_processes_share(parse_options("ppo", [*SMALL, "--steps_per_generation", "2"])) is None
    monkeypatch.setattr(transformers.TrainingArguments, "world_size", 8)
    options = parse_options("ppo", [*SMALL, "--steps_per_generation", "2"])
    monkeypatch.setenv("WORLD_SIZE", "8")  # only now: transformers would wait for the others
    said = what_processes_share(options)
    assert said is not None
    assert said.startswith(
        "8 processes: a rollout is 64 texts (per_device_train_batch_size 4 x steps_per_generation 2 x 8), an update 32. One "
        "process would take 8 and 4"
    )
