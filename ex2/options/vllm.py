"""Rollouts through vLLM: what is refused before anything is loaded. The sampling itself is TRL's (`use_vllm`)."""

from __future__ import annotations

import importlib.util
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

from ex2.base.embedded_llm import public_name
from ex2.base.errors import UserError
from ex2.options.run_options import num_processes

if TYPE_CHECKING:
    from ex2.options.run_options import RunOptions

_OF_THE_SERVER = {"vllm_tensor_parallel_size": 1, "vllm_gpu_memory_utilization": 0.3, "vllm_enable_sleep_mode": False}


def check_rollouts(options: RunOptions) -> None:
    """Refuse options of vLLM that cannot work, alone or together.

    Raises:
        UserError: An unknown mode, colocation without a GPU or with a group of GPUs that does not divide the processes, or
            options that the server has to be started with.
    """
    trainer = options.trainer
    if trainer.vllm_mode not in ("colocate", "server"):
        raise UserError(f"vllm_mode={trainer.vllm_mode} is unknown: choose colocate or server.")
    if not trainer.use_vllm:
        if trainer.vllm_mode == "server":
            raise UserError("vllm_mode=server has no effect without use_vllm=true: set that, or leave it out.")
        return
    if trainer.use_cpu:
        raise UserError("use_vllm=true needs a CUDA GPU: leave it out on a CPU.")
    if trainer.vllm_mode == "server":
        for name, default in _OF_THE_SERVER.items():
            if getattr(trainer, name) != default:
                flag = name.removeprefix("vllm_").replace("_", "-")
                raise UserError(
                    f"{name}={getattr(trainer, name)} with vllm_mode=server: start the server with --{flag} instead."
                )
        return
    group, processes = trainer.vllm_tensor_parallel_size, num_processes()
    if group < 1 or processes % group:
        raise UserError(f"vllm_tensor_parallel_size={group} must divide the number of processes, {processes}.")
    if not 0 < trainer.vllm_gpu_memory_utilization <= 1:
        raise UserError(
            f"vllm_gpu_memory_utilization={trainer.vllm_gpu_memory_utilization} is out of range: it is the share of each "
            "GPU's memory that vLLM takes, above 0 and at most 1."
        )


def require_rollout_engine(options: RunOptions, length: int) -> None:
    """See that vLLM is installed and, in server mode, that its server answers; waits for it as long as TRL would.

    Args:
        options: Those of the run.
        length: Tokens of prompt and completion that a server should take.

    Raises:
        UserError: It is not installed, or no server answers.
    """
    trainer = options.trainer
    if not trainer.use_vllm:
        return
    if importlib.util.find_spec("vllm") is None:
        raise UserError("use_vllm=true needs vLLM: run `pip install 'ex2[vllm]'`, or leave use_vllm out.")
    if trainer.vllm_mode == "server":
        url = trainer.vllm_server_base_url or f"http://{trainer.vllm_server_host}:{trainer.vllm_server_port}"
        if not _answers(f"{url}/health", trainer.vllm_server_timeout):
            raise UserError(
                f"use_vllm=true: no vLLM server answers at {url} (waited vllm_server_timeout={trainer.vllm_server_timeout:g} "
                f"seconds). Start it on other GPUs: {server_command(options, length)}"
            )


def fit_vllm_length(options: RunOptions, prompt_tokens: int) -> None:
    """Set `vllm_max_model_length` to the longest prompt and completion where it is left open.

    vLLM would make room for the model's whole context: for the 262,144 tokens of Qwen3-4B-Instruct-2507, 36 GiB of keys and
    values.

    Raises:
        UserError: It is set, and too low.
    """
    trainer, needed = options.trainer, prompt_tokens + options.max_new_tokens
    if trainer.vllm_max_model_length is None:
        trainer.vllm_max_model_length = needed
    elif trainer.vllm_max_model_length < needed:
        raise UserError(
            f"vllm_max_model_length={trainer.vllm_max_model_length} is too low: the longest prompt has {prompt_tokens} tokens, "
            f"and max_completion_length is {options.max_new_tokens}. Leave it out, or set it to {needed} or more."
        )


def server_command(options: RunOptions, length: int) -> str:
    """The command that serves this run's policy, so that its weights can be replaced while it trains."""
    length = options.trainer.vllm_max_model_length or length
    model, dtype = public_name(options.policy.model_name_or_path), options.policy.dtype or "auto"
    return (
        f"VLLM_SERVER_DEV_MODE=1 vllm serve {model} --port {options.trainer.vllm_server_port} --dtype {dtype} "
        f"--max-model-len {length} "
        """--weight-transfer-config '{"backend": "nccl"}' --logprobs-mode processed_logprobs"""
    )


def _answers(url: str, timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                if response.status == 200:
                    return True
        except (urllib.error.URLError, OSError, ValueError):
            pass
        if time.monotonic() >= deadline:
            return False
        time.sleep(min(2.0, timeout))
