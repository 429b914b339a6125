"""What the scripts of this folder share: trainers around random policies, a device's clock and memory, rows in a JSON file."""

from __future__ import annotations

import gc
import importlib.util
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks._common import peak_memory, random_bank

QUESTION = "Describe what a {} looks like in one short sentence , so that someone who never saw one would know it ."
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
SPECIALS = ("<pad>", "<|end|>", "<unk>", *ROLES)
PAD, END = SPECIALS.index("<pad>"), SPECIALS.index("<|end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


# ---------------------------------------------------------------- trainers


def policy_config(size: str) -> Any:
    """`7b`: Mistral-7B. `small`: what two sides are compared on. `sharp`: a small one that is surer of some tokens than of
    others. `tiny` and `sharp_tiny`: seconds on a CPU.
    """
    from transformers import MistralConfig

    sizes: dict[str, dict[str, Any]] = {
        "7b": {},
        "small": {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "num_attention_heads": 8},
        "sharp": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 8},
        "sharp_tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
        "tiny": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    }
    few: dict[str, Any] = {} if size == "7b" else {"vocab_size": 4000, "num_key_value_heads": 2}
    if size.startswith("sharp"):
        few["initializer_range"] = 0.08
    return MistralConfig(**sizes[size], **few, bos_token_id=None, eos_token_id=END, pad_token_id=PAD)


def random_policy(size: str, device: str, dtype: str) -> Any:
    """A policy with random weights. 7B weights are drawn where and as they are to be; others on the CPU in float32, so that
    every device has the same.
    """
    import torch
    from transformers import AutoModelForCausalLM

    large = size == "7b"
    torch.manual_seed(0)
    with torch.device(device if large else "cpu"):
        policy = AutoModelForCausalLM.from_config(
            policy_config(size), dtype=getattr(torch, dtype if large else "float32")
        )
    return policy.to(device=device, dtype=getattr(torch, dtype))


def word_tokenizer(size: int, chat: bool = False) -> Any:
    """A tokenizer of whole words, each of which is one token of CLIP's too: its texts are as long as real ones for both."""
    import open_clip
    from tokenizers import Tokenizer, models, pre_tokenizers

    clip = open_clip.get_tokenizer("ViT-L-14").encoder
    words = [word.removesuffix("</w>") for word in clip if word.endswith("</w>") and word[:-4].isalpha()]
    vocabulary = {word: i for i, word in enumerate([*SPECIALS, ".", ",", "?", *words][:size])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return fast_tokenizer(backend, chat, unk_token="<unk>")


def fast_tokenizer(backend: Any, chat: bool, **options: Any) -> Any:
    """A tokenizer of transformers with this folder's special tokens around one of tokenizers."""
    from transformers import PreTrainedTokenizerFast

    specials = {"eos_token": SPECIALS[END], "pad_token": SPECIALS[PAD], "additional_special_tokens": list(ROLES)}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, padding_side="left", **specials, **options)
    tokenizer.chat_template = CHAT_TEMPLATE if chat else None
    return tokenizer


def build(
    policy: Any,
    vlm: Any,
    folder: str,
    *,
    algorithm: str = "ppo",
    classes: int = 200,
    images: int = 4,
    questions: Sequence[str] = (QUESTION,),
    **options: Any,
) -> tuple[Any, Any]:
    """EX2's own trainer around a policy, on the policy's device and in its type.

    Args:
        policy: A causal language model with the vocabulary of `word_tokenizer`.
        vlm: Gives the reward, on random images.
        folder: Where the run writes.
        algorithm: ppo or grpo.
        classes: Random classes that are asked about.
        images: Images of each class on each side of the split.
        questions: What is asked about each class.
        options: Of the command line; they go before the ones set here.

    Returns:
        The trainer and the parsed options.
    """
    from ex2.options.parse import parse_options
    from ex2.policy.sampler import TextGenerator
    from ex2.run.trainers import build_trainer
    from ex2.scoring import TextScorer
    from ex2.texts.questions import build_prompts

    dtype = str(policy.dtype).removeprefix("torch.")
    line: dict[str, Any] = {
        "output_dir": folder,
        "model_name_or_path": "random",
        "dtype": dtype,
        "bf16": dtype == "bfloat16",
        "use_cpu": policy.device.type == "cpu",
        "lora_r": 16,
        "before_after": False,
        "save_strategy": "no",
        "gradient_checkpointing": False,
        **options,
    }
    parsed = parse_options(algorithm, [part for name, value in line.items() for part in (f"--{name}", str(value))])
    bank = random_bank(vlm, classes, images)
    generator = TextGenerator(
        policy,
        word_tokenizer(policy.config.vocab_size),
        chat=False,
        system_prompt=None,
        max_new_tokens=int(parsed.trainer.max_completion_length),
    )
    prompts = build_prompts(bank.class_names, list(questions), chat=False, system_prompt=None)
    return build_trainer(parsed, generator, prompts, TextScorer(vlm, bank), None), parsed


def draw_trained(model: Any, random: Any, scale: float = 0.05) -> list[Any]:
    """Give what is trained (adapter, value head) random weights, the same on every device; returns it by name."""
    import torch

    trained = [parameter for _, parameter in sorted(model.named_parameters()) if parameter.requires_grad]
    for parameter in trained:
        parameter.data.copy_(scale * torch.randn(*parameter.shape, generator=random))
    return trained


# ---------------------------------------------------------------- devices


def wait(device: str) -> None:
    """Wait until the device has done all that it was given."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize()


def clear(device: str) -> None:
    """Give memory back and begin its peak anew."""
    import torch

    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gib(device: str) -> float:
    """Most memory held since `clear`, GiB; on a CPU the process's so far."""
    import torch

    return torch.cuda.max_memory_allocated() / 2**30 if device.startswith("cuda") else peak_memory()


def best_seconds(work: Callable[[], object], device: str, rounds: int = 3, calls: int = 1) -> float:
    """Seconds of one call of `work`: the best round of `calls` calls, after a call that does not count."""
    work()
    best = float("inf")
    for _ in range(rounds):
        wait(device)
        start = time.perf_counter()
        for _ in range(calls):
            work()
        wait(device)
        best = min(best, (time.perf_counter() - start) / calls)
    return best


def device_peaks(device: str, dtype: Any, tiny: bool) -> tuple[float, float]:
    """FLOPs a second of a large matrix product, and bytes a second of a copy (read and written)."""
    import torch

    size, calls = (256, 1) if tiny else (8192, 20)
    a = torch.randn(size, size, device=device, dtype=dtype)
    product = best_seconds(lambda: a @ a, device, rounds=4, calls=calls)
    source = torch.zeros(size**2 * 8, device=device, dtype=dtype)
    target = torch.empty_like(source)
    copy = best_seconds(lambda: target.copy_(source), device, rounds=4, calls=calls)
    return 2 * size**3 / product, 2 * source.numel() * source.element_size() / copy


def decoding_floor(
    weights: int, bytes_a_weight: int, samples: int, prompt: int, tokens: int, peaks: tuple[float, float]
) -> float:
    """Least seconds to sample `tokens` tokens a text at the peaks: each token reads all weights, or multiplies by them."""
    flops, bandwidth = peaks
    decoding = max(tokens * weights * bytes_a_weight / bandwidth, 2 * weights * samples * tokens / flops)
    return decoding + 2 * weights * samples * prompt / flops


# ---------------------------------------------------------------- what was found


class Rows:
    """Rows in a JSON file that is written anew with each row, so that a script that is cut off leaves what it had found."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []

    def add(self, **row: Any) -> None:
        self.rows.append(row)
        if self.path:
            self.path.write_text(json.dumps(self.rows, indent=1, default=str), encoding="utf-8")


def has_module(name: str) -> bool:
    """Whether a package is installed, without importing it."""
    return importlib.util.find_spec(name) is not None
