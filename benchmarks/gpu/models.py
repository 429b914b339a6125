"""Local models with random (or briefly trained) weights, so that the project's own configurations run without a hub.

    python -m benchmarks.gpu.models FOLDER [--tiny] [--device cuda] [--only NAME ...]

Writes FOLDER/mistral (Mistral-7B's layers, but four of them), FOLDER/qwen (Qwen3-4B's, with a chat template), FOLDER/clip (CLIP
ViT-B/32) and FOLDER/small (a small chat LLM, trained for seconds on the sentences that the project ships, so that PPO has
something to improve).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks._common import ROOT
from benchmarks.gpu._shared import SPECIALS, fast_tokenizer, word_tokenizer

TINY: dict[str, int] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
QWEN: dict[str, int] = {
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
}
SENTENCES = ("judge/train.jsonl", "planted/sentences.jsonl")
SYSTEM_PROMPT = "Answer in one sentence."


def token_ids(tokenizer: Any) -> dict[str, Any]:
    """A model's settings that follow from its tokenizer."""
    return {
        "vocab_size": len(tokenizer),
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Save both, and what sampling ends at."""
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_random(config: Any, tokenizer: Any, folder: Path, device: str) -> None:
    """A causal language model with random weights in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    save(model, tokenizer, folder)


def mistral(folder: Path, tiny: bool, device: str) -> None:
    """Mistral-7B's layers."""
    from transformers import MistralConfig

    tokenizer = word_tokenizer(2000 if tiny else 32000)
    shape = {**(TINY if tiny else {}), "num_hidden_layers": 2 if tiny else 4}
    save_random(MistralConfig(**shape, **token_ids(tokenizer)), tokenizer, folder, device)


def qwen(folder: Path, tiny: bool, device: str) -> None:
    """Qwen3-4B's layers, with tied embeddings and a chat template."""
    from transformers import Qwen3Config

    tokenizer = word_tokenizer(2000 if tiny else 32000, chat=True)
    shape = {**(TINY | {"head_dim": 16} if tiny else QWEN), "num_hidden_layers": 2 if tiny else 4}
    config = Qwen3Config(**shape, **token_ids(tokenizer), tie_word_embeddings=True)
    save_random(config, tokenizer, folder, device)


def clip(folder: Path, tiny: bool, device: str) -> None:
    """CLIP ViT-B/32 with CLIP's own words, in float16."""
    import open_clip
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    words = open_clip.get_tokenizer("ViT-B-32")
    marks = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {marks.get(word, word): i for word, i in words.encoder.items()}
    merges = [tuple(pair) for pair, _ in sorted(words.bpe_ranks.items(), key=lambda item: item[1])]
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)
    end = vocabulary["<|endoftext|>"]
    part: dict[str, Any] = {}
    if tiny:
        part = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {"bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end, **part}
    with torch.device(device):
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=part))
    model.to(torch.float16).save_pretrained(folder)
    CLIPProcessor(CLIPImageProcessor(), tokenizer).save_pretrained(folder)


def read_sentences() -> list[tuple[str, str]]:
    """Class names and sentences about them, those of the local judge and of the planted preference."""
    rows = []
    for name in SENTENCES:
        for line in (ROOT / "ex2" / "assets" / name).read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            rows.append((row["class_name"], row["text"]))
    return rows


def byte_tokenizer(texts: Sequence[str], size: int) -> Any:
    """A byte-level BPE with a chat template, learned from `texts`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(SPECIALS), show_progress=False, initial_alphabet=alphabet
    )
    backend.train_from_iterator(texts, trainer)
    return fast_tokenizer(backend, chat=True, model_max_length=256)


def chats(rows: Sequence[tuple[str, str]], questions: Sequence[str], tokenizer: Any) -> Any:
    """Each sentence as the answer to a question about its class, tokenised and padded."""
    texts = []
    for i, (name, text) in enumerate(rows):
        asked = [
            {"role": "system", "content": SYSTEM_PROMPT},
            {"role": "user", "content": questions[i % len(questions)].format(name)},
        ]
        prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
        texts.append(f"{prompt}{text}{tokenizer.eos_token}")
    return tokenizer(
        texts,
        padding=True,
        padding_side="right",
        truncation=True,
        max_length=64,
        return_tensors="pt",
        add_special_tokens=False,
    )


def fit(model: Any, encoded: Any, steps: int, batch: int, device: str) -> float:
    """Train on random batches of the texts with a short warm-up and a linear decay; returns the last loss."""
    import torch

    random = torch.Generator().manual_seed(0)
    tokens, mask = encoded["input_ids"].to(device), encoded["attention_mask"].to(device)
    labels = tokens.masked_fill(mask == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / 50) * (1 - step / steps))
    for _ in range(steps):
        pick = torch.randint(len(tokens), (batch,), generator=random).to(device)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            loss = model(input_ids=tokens[pick], attention_mask=mask[pick], labels=labels[pick]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return float(loss)


def small(folder: Path, tiny: bool, device: str) -> None:
    """A Llama, trained to answer the short questions with the project's sentences."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from ex2.texts.questions import QUESTION_SETS

    rows, questions = read_sentences(), QUESTION_SETS["short"]
    texts = [*(f"{name} {text}" for name, text in rows), *questions]
    tokenizer = byte_tokenizer(texts, size=600 if tiny else 4000)
    width, layers, steps = (64, 2, 20) if tiny else (512, 8, 600)
    config = LlamaConfig(
        **token_ids(tokenizer),
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config).to(device)
    start = time.perf_counter()
    loss = fit(model, chats(rows, questions, tokenizer), steps, 8 if tiny else 128, device)
    print(f"small LLM: loss {loss:.2f} after {steps} steps, {time.perf_counter() - start:.1f} s", flush=True)
    save(model.cpu(), tokenizer, folder)


MODELS: dict[str, Callable[[Path, bool, str], None]] = {"small": small, "clip": clip, "mistral": mistral, "qwen": qwen}


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and write the models that it names."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiny", action="store_true", help="two narrow layers: does the script work?")
    parser.add_argument("--device", default="cuda", help="where weights are drawn and trained; default: cuda")
    parser.add_argument("--only", nargs="+", choices=list(MODELS), default=list(MODELS))
    args = parser.parse_args(argv)
    for name in args.only:
        start = time.perf_counter()
        torch.manual_seed(0)
        MODELS[name](args.folder / name, args.tiny, args.device)
        print(f"{name}: {time.perf_counter() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
