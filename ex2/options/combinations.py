"""Options that are right by themselves and cannot work together; refused before anything is loaded."""

from __future__ import annotations

import os

from ex2.base.errors import UserError
from ex2.options.run_options import RunOptions, num_processes


def check_combination(options: RunOptions) -> None:
    """Refuse options of policy and trainer that cannot work together.

    Raises:
        UserError: Quantised weights that would have to be sharded or sent to vLLM, a reference that nothing is compared to,
            settings of FSDP that would lose weights, or what has not been tried.
    """
    policy, trainer = options.policy, options.trainer
    if options.ex2.reference == "start" and trainer.beta == 0:
        raise UserError("reference=start has no effect with beta=0, which computes no KL: set beta above 0.")
    if getattr(trainer, "use_transformers_continuous_batching", False):
        raise UserError(
            "use_transformers_continuous_batching=true casts the adapter to half precision at each rollout, where small updates "
            "round away: leave it out."
        )
    clip = getattr(trainer, "reward_clip_range", None)  # RLOO's alone
    if clip is not None and clip[0] >= clip[1]:
        raise UserError(f"reward_clip_range={clip} would make all rewards equal: write the smaller number first.")
    if trainer.torch_compile:
        raise UserError(
            "torch_compile=true has not been tried with EX2's trainers: leave it out, and torch_compile_backend and "
            "torch_compile_mode, which switch it on."
        )
    if getattr(trainer, "trust_remote_code", False):
        raise UserError(
            "trust_remote_code=true is not supported: EX2 runs no code that comes with a model. Use a model of an architecture "
            "that transformers has itself."
        )
    _check_fsdp()
    if trainer.use_vllm and _uses_fsdp():
        raise UserError(
            "use_vllm=true with FSDP has not been tried: use plain data parallel or DeepSpeed, or leave use_vllm out."
        )
    target_kl = getattr(trainer, "target_kl", None)  # PPO's alone
    if target_kl is not None and os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        raise UserError(
            f"target_kl={target_kl} with DeepSpeed, which updates weights within the backward pass, before an update can be left "
            "out: use plain data parallel or FSDP2, or leave target_kl out."
        )
    if not (policy.load_in_8bit or policy.load_in_4bit):
        return
    option = "load_in_8bit" if policy.load_in_8bit else "load_in_4bit"
    if trainer.use_vllm:
        raise UserError(
            f"{option}=true with use_vllm=true: vLLM would sample from the adapter merged into rounded weights, which is "
            "another policy than the one that is trained. Leave one of them out."
        )
    sharding = _sharding()
    # 4-bit weights that are stored in the type of the others can be sharded; 8-bit ones cannot.
    if sharding is not None and not (policy.load_in_4bit and policy.bnb_4bit_quant_storage == policy.dtype):
        cure = f", or set bnb_4bit_quant_storage={policy.dtype}" if policy.load_in_4bit else ""
        raise UserError(
            f"{option}=true with {sharding}, which cannot shard such weights: use ZeRO-2 or plain data parallel{cure}."
        )


def check_launch(options: RunOptions) -> None:
    """Refuse one process on several GPUs, which transformers would split each batch over, model copied at every pass.

    Raises:
        UserError: That is how the run was started.
    """
    gpus = options.trainer.n_gpu
    if gpus > 1:
        raise UserError(
            f"{gpus} GPUs and one process: start one a GPU (accelerate launch --config_file accelerate_configs/multi_gpu.yaml "
            f"--num_processes {gpus} ..., see docs/run_big.md), or let it see one only (CUDA_VISIBLE_DEVICES=0)."
        )


def what_processes_share(options: RunOptions) -> str | None:
    """What several processes make of a rollout, in a sentence; None for one.

    `accelerate launch` without a configuration starts one on each GPU that it finds, and nothing else says so.
    """
    processes, trainer = num_processes(), options.trainer
    if processes == 1:
        return None
    batch, steps = trainer.per_device_train_batch_size, options.micro_batches_per_rollout
    alone = batch * trainer.gradient_accumulation_steps
    return (
        f"{processes} processes: a rollout is {options.samples_per_rollout} texts (per_device_train_batch_size {batch} x "
        f"steps_per_generation {steps} x {processes}), an update {alone * processes}. One process would take {batch * steps} and "
        f"{alone}; docs/run_big.md says how to keep a run what it is."
    )


def _check_fsdp() -> None:
    wanted = {
        "fsdp_version": ("2", "1", "only FSDP2 is supported"),
        "fsdp_state_dict_type": ("FULL_STATE_DICT", "SHARDED_STATE_DICT", "else checkpoints hold no adapter"),
        "fsdp_cpu_ram_efficient_loading": (
            "false", "false", "else only the first process has weights, and all sample before training",
        ),
    }  # fmt: skip
    for name, (value, default, why) in wanted.items() if _uses_fsdp() else ():
        given = os.environ.get(name.upper(), default)
        if given.lower() != value.lower():
            raise UserError(f"{name}={given} in accelerate's configuration: set it to {value}, {why}.")


def _uses_fsdp() -> bool:
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def _sharding() -> str | None:
    """What shards the frozen weights over processes, as `accelerate launch` says; None for nothing."""
    if _uses_fsdp():
        return "FSDP"
    return "DeepSpeed ZeRO-3" if os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3" else None
