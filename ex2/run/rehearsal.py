"""The trainer is built once on a tiny stand-in: what its libraries refuse is known before anything is sampled or moved."""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from peft import LoraConfig
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.integrations.liger import apply_liger_kernel

from ex2.base.errors import UserError, first_line
from ex2.base.hub import require_account
from ex2.options.run_options import RunOptions
from ex2.policy.sampler import rng_devices
from ex2.run.trainers import TRAINERS

_RANK = 64
"""Of the stand-in's adapter: 64 x 64 numbers a matrix, from which on 8-bit optimizers are what they are for large ones."""


def rehearse(options: RunOptions) -> None:
    """Build trainer, data loader, optimizer and schedule with the run's options, take one step, and leave no trace.

    What depends on the policy's own weights is checked by `ex2.policy.checks`. Under DeepSpeed and FSDP nothing is rehearsed:
    they set up a process once.

    Raises:
        UserError: TRL, transformers, accelerate or the optimizer's package refuse an option.
    """
    if any(os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true" for name in ("DEEPSPEED", "FSDP")):
        return
    if options.trainer.push_to_hub:
        require_account("push_to_hub=true", options.trainer.hub_token)
    with TemporaryDirectory() as folder, _random_numbers_kept():
        try:
            _rehearse(options, folder)
        except UserError:
            raise
        except Exception as error:  # whatever it is, the real trainer would raise it too, when work has been done
            raise UserError(f"The {options.algorithm.upper()} trainer refuses these options: {_text(error)}") from error


def _rehearse(options: RunOptions, folder: str) -> None:
    args: Any = copy.copy(options.trainer)
    args.output_dir, args.push_to_hub, args.use_vllm = folder, False, False
    args.disable_tqdm = True
    args.router_aux_loss_coef = None  # the stand-in is no mixture of experts, the policy may be one
    trainer = TRAINERS[options.algorithm](
        model=_model(),
        reward_funcs=[_reward] * len(options.ex2.reward_funcs),
        args=args,
        train_dataset=Dataset.from_list([{"prompt": "a"}] * options.prompts_per_rollout),
        processing_class=_tokenizer(),
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=_RANK, target_modules="all-linear"),
    )
    if args.use_liger_kernel:  # which the trainer does when it begins to train
        apply_liger_kernel(trainer.model, args.liger_kernel_config)
    trainer.get_train_dataloader()
    trainer.create_optimizer_and_scheduler(num_training_steps=max(1, args.max_steps))
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    assert trainer.optimizer is not None
    trainer.optimizer.step()


def _reward(completions: list[str], **columns: Any) -> list[float]:
    return [0.0] * len(completions)


def _model() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=4,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=1,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


def _tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    words = Tokenizer(WordLevel({"<pad>": 0, "<end>": 1, "a": 2, "b": 3}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<pad>", padding_side="left")


def _text(error: Exception) -> str:
    text = first_line(error)
    return text if isinstance(error, (ValueError, ImportError, RuntimeError)) else f"{type(error).__name__}: {text}"


@contextmanager
def _random_numbers_kept() -> Iterator[None]:
    """Trainers seed all generators; here they go on afterwards as if nothing had been."""
    python, numbers = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(rng_devices(PartialState().device)):
        yield
    random.setstate(python)
    np.random.set_state(numbers)
