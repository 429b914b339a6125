"""A language of ten words, a tiny model that speaks it, and a function that builds PPO trainers for it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ex2.rl.decoding import draw
from ex2.rl.ppo_config import PPOConfig
from ex2.rl.ppo_trainer import PPOTrainer
from ex2.rl.rollout import Texts

WORDS = ["<pad>", "<end>", "a", "b", "c", "d", "e", "f", "g", "h"]
PROMPTS = ["a b", "c", "d e f g", "h h", "b c d", "e", "g f", "a a a a"]

MakeTrainer = Callable[..., PPOTrainer]


class Counted(TorchDispatchMode):
    """Counts the operations of torch that `which` says of, by operation and arguments."""

    def __init__(self, which: Callable[[Any, Any], bool]) -> None:
        super().__init__()
        self.which, self.count = which, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += self.which(func, args)
        return func(*args, **(kwargs or {}))


def makes_the_host_wait(func: Any, args: Any) -> bool:
    """A single number is read, or a shape depends on values."""
    aten = torch.ops.aten
    by_mask = func is aten.index.Tensor and any(i is not None and i.dtype == torch.bool for i in args[1])
    return by_mask or func in (aten._local_scalar_dense.default, aten.nonzero.default)


@pytest.fixture
def one_way_to_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """`generate` draws tokens as a decoder does on a CPU, so that equal seeds give equal texts."""
    monkeypatch.setattr(torch, "multinomial", lambda probabilities, num_samples: draw(probabilities)[:, None])


@pytest.fixture(scope="session")
def words_tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    backend.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<end>", pad_token="<pad>", padding_side="left", model_max_length=64
    )


@pytest.fixture(scope="session")
def _words_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def words_model(_words_model: LlamaForCausalLM) -> Callable[[], LlamaForCausalLM]:
    """Gives a fresh copy of one and the same random model at each call."""
    return lambda: copy.deepcopy(_words_model)


def lora(**options: Any) -> LoraConfig:
    return LoraConfig(
        **{"task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 16, "target_modules": "all-linear", "lora_dropout": 0.05}
        | options
    )


def early_letters(completions: list[str], **columns: Any) -> list[float]:
    """Share of the words of a completion that come before `e`."""
    return [sum(word < "e" for word in words) / max(len(words), 1) for words in (text.split() for text in completions)]


@pytest.fixture(scope="session")
def make_trainer(
    words_model: Callable[[], LlamaForCausalLM],
    words_tokenizer: PreTrainedTokenizerFast,
    tmp_path_factory: pytest.TempPathFactory,
) -> MakeTrainer:
    """`make_trainer(reward_funcs=..., model=..., peft_config=..., prompts=..., **PPOConfig options)`."""

    def make(
        reward_funcs: Any = early_letters,
        model: Any = None,
        peft_config: LoraConfig | None = None,
        prompts: list[str] = PROMPTS,
        eval_prompts: list[str] | None = None,
        **options: Any,
    ) -> PPOTrainer:
        defaults: dict[str, Any] = {
            "output_dir": str(tmp_path_factory.mktemp("ppo")),
            "per_device_train_batch_size": 8,
            "gradient_accumulation_steps": 1,
            "num_iterations": 1,
            "max_completion_length": 4,
            "learning_rate": 1e-2,
            "max_steps": 1,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "dataloader_pin_memory": False,
        }
        rows = [{"prompt": prompt, "answer": i} for i, prompt in enumerate(prompts)]
        fresh = model is None
        return PPOTrainer(
            model=words_model() if fresh else model,
            reward_funcs=reward_funcs,
            args=PPOConfig(**defaults | options),
            train_dataset=Dataset.from_list(rows),
            eval_dataset=None if eval_prompts is None else Dataset.from_list([{"prompt": p} for p in eval_prompts]),
            processing_class=words_tokenizer,
            peft_config=(peft_config or lora()) if fresh else peft_config,
        )

    return make


@pytest.fixture(scope="session")
def texts_of() -> Callable[[list[tuple[list[int], list[int]]]], Texts]:
    """Makes texts of pairs of prompt and completion; prompts are padded on the left, completions on the right, as TRL does."""

    def build(pairs: list[tuple[list[int], list[int]]]) -> Texts:
        width, length = max(len(p) for p, _ in pairs), max(len(c) for _, c in pairs)
        prompts = torch.tensor([[0] * (width - len(p)) + p for p, _ in pairs])  # tokens are not 0
        completions = torch.tensor([c + [0] * (length - len(c)) for _, c in pairs])
        return Texts(prompts, (prompts != 0).long(), completions, (completions != 0).long())

    return build
