"""Tiny random policies of many decoder families: two steps of PPO, texts, a bundle, or one line that says why not.

    python -m tests.families               # all, with a table
    python -m tests.families llama opt     # some

Each family is also tried with `all-linear`, and where both are refused, with what the line that refuses says. Families are
made here, from their configurations, with one small tokenizer.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ex2.base.errors import UserError

SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("LlamaConfig", SIZES),
    "Mistral": ("MistralConfig", SIZES),
    "Qwen2": ("Qwen2Config", SIZES),
    "Qwen3": ("Qwen3Config", SIZES | {"head_dim": 8}),
    "Qwen3-MoE": ("Qwen3MoeConfig", SIZES | EXPERTS),
    "Gemma 3": ("Gemma3TextConfig", SIZES | {"head_dim": 8}),
    "Phi-3": ("Phi3Config", SIZES),
    "OLMo 2": ("Olmo2Config", SIZES),
    "Granite": ("GraniteConfig", SIZES),
    "SmolLM3": ("SmolLM3Config", SIZES),
    "GPT-2": ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}),
    "GPT-NeoX": ("GPTNeoXConfig", SIZES),
    "OPT": ("OPTConfig", {**SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "OPT, narrow end": ("OPTConfig", {**SIZES, "ffn_dim": 48, "word_embed_proj_dim": 16}),
    "Falcon": ("FalconConfig", {**SIZES, "num_kv_heads": 2, "new_decoder_architecture": True}),
    "Mamba": ("MambaConfig", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "intermediate_size": 64}),
}
"""Configuration class and its arguments by family."""

CURES = {
    "Qwen3-MoE": ("--lora_target_modules", "all-linear", "--lora_dropout", "0"),
    "Mamba": ("--lora_target_modules", "in_proj", "x_proj", "dt_proj"),
}
"""What the lines say that families answer `all-linear` with."""

STEPS = ("PPO", "PPO, all-linear", "PPO, as told", "generate", "export")


def make(family: str, folder: Path) -> Path:
    """Save a random model of a family with the tokenizer of `tokenizer()`."""
    import transformers

    kind, arguments = FAMILIES[family]
    tokenizer = make_tokenizer()
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    config = getattr(transformers, kind)(vocab_size=len(tokenizer), **arguments, **ends)
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_tokenizer() -> Any:
    """A byte-level tokenizer of 259 tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=258, special_tokens=["<pad>", "<end>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(["a"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", pad_token="<pad>", padding_side="left")


def images(folder: Path) -> Path:
    """Two classes of four pictograms each."""
    from ex2.data.pictograms import PICTOGRAMS

    for name in ("cat", "eagle"):
        (folder / name).mkdir(parents=True)
        for file in sorted((PICTOGRAMS / "images" / name).iterdir())[:4]:
            (folder / name / file.name).write_bytes(file.read_bytes())
    return folder


def attempts(family: str, model: Path, dataset: Path, work: Path) -> dict[str, Callable[[], None]]:
    """What is tried with a model, step by step."""
    from ex2.cli import main as ex2
    from ex2.launch import main as train

    def ppo(folder: str, *more: str) -> None:
        train("ppo", [
            "--output_dir", str(work / folder), "--model_name_or_path", str(model), "--vlm", "pictogram", "--dataset",
            f"folder:{dataset}", "--lora_r", "2", "--num_generations", "2", "--per_device_train_batch_size", "4",
            "--steps_per_generation", "1", "--gradient_accumulation_steps", "1", "--num_iterations", "1", "--max_steps", "2",
            "--max_completion_length", "6", "--eval_samples", "1", "--best_of_n", "2", "--use_cpu", "true", "--bf16", "false",
            "--save_strategy", "no", *more,
        ])  # fmt: skip

    def run() -> str:
        return str(next(work / name for name in ("run", "linear", "told") if (work / name / "adapter").is_dir()))

    texts = str(work / "d.jsonl")
    return {
        STEPS[0]: lambda: ppo("run"),
        STEPS[1]: lambda: ppo("linear", "--lora_target_modules", "all-linear"),
        STEPS[2]: lambda: ppo("told", *CURES[family]),
        STEPS[3]: lambda: ex2(["generate", run(), "--out", texts, "--questions", "short", "--vlm", "none"]),
        STEPS[4]: lambda: ex2(["export", run(), "--descriptions", texts, "--out", str(work / "bundle"), "--merge"]),
    }


def outcome(step: Callable[[], None]) -> str:
    """`ok`, the one line that a step ends with, or TRACEBACK."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            step()
    except SystemExit as stop:
        lines = [line for line in errors.getvalue().splitlines() if line.startswith("error: ")]
        return lines[0] if stop.code == 2 and len(lines) == 1 else f"TRACEBACK (status {stop.code})"
    except UserError as error:
        return f"error: {error}"
    except Exception:
        return f"TRACEBACK {traceback.format_exc(limit=-2)}"
    return "ok"


def tried(family: str, folder: Path, steps: int = len(STEPS)) -> dict[str, str]:
    """The outcome of the first steps; one that needs a step that failed is left out."""
    model, dataset = make(family, folder / "model"), images(folder / "images")
    outcomes: dict[str, str] = {}
    for name, step in list(attempts(family, model, dataset, folder).items())[:steps]:
        trained = "ok" in outcomes.values()
        if trained if name == STEPS[2] else not trained and name in STEPS[3:]:
            continue
        outcomes[name] = outcome(step)
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="beginnings of names; default: all")
    wanted = [name.casefold() for name in parser.parse_args().families]
    os.environ["HF_HUB_OFFLINE"] = "1"
    failed = False
    print(f"{'family':<18}" + "".join(f"{step:<18}" for step in STEPS))
    for family in FAMILIES:
        if wanted and not any(family.casefold().startswith(name) for name in wanted):
            continue
        with tempfile.TemporaryDirectory() as folder:
            outcomes = tried(family, Path(folder))
        cells = [
            "" if step not in outcomes else outcomes[step] if outcomes[step] == "ok" else "see below" for step in STEPS
        ]
        print(f"{family:<18}" + "".join(f"{cell:<18}" for cell in cells), flush=True)
        for step, text in outcomes.items():
            if text != "ok":
                print(f"    {step}: {text}", flush=True)
                failed = failed or text.startswith("TRACEBACK")
    sys.exit(failed)


if __name__ == "__main__":
    main()
