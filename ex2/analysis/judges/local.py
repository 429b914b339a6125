"""The local judge: a linear head on a sentence encoder, offline and fast.

MiniLM-L6 (the text tower of the embedded VLM), or the larger all-mpnet-base-v2, reads each clause with the name of its class
replaced by "it", so that the judge cannot guess by the class. The head sees the mean over words of four hidden layers: lower
layers keep the words apart that the sentence embedding merges. The head is a logistic regression on the labelled sentences in
ex2/assets/judge, its temperature is fitted to predictions on domains it had not seen; `python -m tools.build_judge`
builds and evaluates it, docs/judge.md has the result.

Two categories have a rule that goes before the head, since a definition need not be learned: a clause that says the name of its
class and nothing else is `name_echo`, one that says the kind of thing and nothing else is `kind`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ex2.analysis.judges.encoders import MINILM, Encoder
from ex2.base.bf16 import fast_matmul
from ex2.base.errors import UserError
from ex2.base.progress import progress_bar
from ex2.texts.categories import ALL_TAGS, CATEGORIES, TAGS, Judgement, Passage
from ex2.texts.class_names import strip_whole_name
from ex2.texts.tautologies import echoes_name, names_kind

ASSETS = Path(__file__).resolve().parents[2] / "assets" / "judge"
WORDS = ASSETS / "attribute_words.json"
"""Words (regular expressions) that name a visual attribute outright; a few hundred sentences teach the head too few of them."""

VERSION = 2
"""Of the heads and rules, goes up with each that judges differently: a study says which judge it had."""

_TAG_FROM = 0.5  # probability from which an attribute tag is given
_CATEGORY_FROM = (
    0.2  # probability of its category below which a tag is not given: "green valleys" is no colour of the thing
)
_LONGEST = 96  # tokens of a clause that are read
_BATCH = 128
_WORTH_A_WORD = 60  # seconds


class SentenceFeatures:
    """Turns sentences into what the judge's head reads.

    Args:
        device: Where the encoder is.
        exact: Multiply in float32 also where the processor is faster in bfloat16.
        encoder: Which one.
        cache_dir: Where an encoder that comes in parts is put together; None: EX2's cache folder.

    Raises:
        UserError: A package with the encoder is not installed.
    """

    def __init__(
        self,
        device: str | torch.device = "cpu",
        *,
        exact: bool = True,
        encoder: Encoder = MINILM,
        cache_dir: str | None = None,
    ) -> None:
        from transformers import AutoTokenizer

        self.encoder = encoder
        self.device = torch.device(device)
        self._exact = exact
        module, folder = encoder.open(cache_dir)
        self._module = module.eval().requires_grad_(False).to(self.device)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)

    @torch.no_grad()
    def __call__(self, texts: Sequence[str], *, progress: bool = False) -> Tensor:
        """Features (N, layers x width) of N texts: the mean over tokens of each layer, each a unit vector; on the CPU."""
        tokens = self._tokenizer(list(texts), truncation=True, max_length=_LONGEST)["input_ids"] if texts else []
        order = sorted(range(len(texts)), key=lambda i: len(tokens[i]))  # texts of one length need the least padding
        rows = torch.empty(len(texts), len(self.encoder.layers) * self._module.config.hidden_size)
        with progress_bar(len(texts), "judging", "clause", disable=not progress) as bar:
            for start in range(0, len(order), _BATCH):
                chosen = order[start : start + _BATCH]
                batch = [torch.tensor(tokens[i]) for i in chosen]
                ids = pad_sequence(batch, batch_first=True, padding_value=self._tokenizer.pad_token_id).to(self.device)
                used = pad_sequence([torch.ones_like(row) for row in batch], batch_first=True).to(self.device)
                with fast_matmul(self.device, exact=self._exact):
                    hidden = self._module(ids, attention_mask=used, output_hidden_states=True).hidden_states
                mask = used.unsqueeze(-1).float()
                means = [(hidden[layer] * mask).sum(dim=1) / mask.sum(dim=1) for layer in self.encoder.layers]
                features = torch.cat([torch.nn.functional.normalize(mean, dim=1) for mean in means], dim=1)
                rows[chosen] = features.float().cpu()
                bar.update(len(chosen))
        return rows


class LocalJudge:
    """Judges clauses with a sentence encoder and its head in ex2/assets/judge.

    Attributes:
        name: Its spec and version, e.g. ``local@2``.
    """

    def __init__(self, features: SentenceFeatures, head: dict[str, Tensor]) -> None:
        self.name = f"{features.encoder.spec}@{VERSION}"
        self._features = features
        self._seconds = features.encoder.seconds if features.device.type == "cpu" else 0.0
        self._head = head
        words = json.loads(WORDS.read_text(encoding="utf-8"))
        self._named = {tag: re.compile(rf"\b(?:{'|'.join(own)})\b", re.IGNORECASE) for tag, own in words.items()}

    @classmethod
    def load(
        cls,
        device: str | torch.device = "cpu",
        *,
        exact: bool = True,
        encoder: Encoder = MINILM,
        cache_dir: str | None = None,
    ) -> LocalJudge:
        """The judge as EX2 ships it.

        Raises:
            UserError: A package with the encoder is not installed, or the head is missing.
        """
        head = ASSETS / encoder.head
        if not head.is_file():
            raise UserError(f"judge {encoder.spec}: {head} is missing; reinstall EX2.")
        features = SentenceFeatures(device, exact=exact, encoder=encoder, cache_dir=cache_dir)
        return cls(features, {name: value.float() for name, value in load_file(head).items()})

    def judge(self, passages: Sequence[Passage], *, progress: bool = True) -> list[tuple[Judgement, ...]]:
        """For each passage the judgements of its clauses, in their order; equal clauses are read once."""
        read = [[masked(clause, passage.class_name) for clause in passage.clauses] for passage in passages]
        index = {text: i for i, text in enumerate(dict.fromkeys(text for texts in read for text in texts))}
        seconds = len(index) / 1000 * self._seconds
        if progress and seconds > _WORTH_A_WORD:
            print(
                f"{self.name}: {len(index):,} distinct clauses, about {seconds / 60:.0f} minutes on two cores",
                file=sys.stderr,
            )
        features = self._features(list(index), progress=progress)
        probabilities = (features @ self._head["weight"] + self._head["bias"]).softmax(dim=1).tolist()
        tags = (features @ self._head["tag_weight"] + self._head["tag_bias"]).sigmoid().tolist()
        judged = [
            Judgement(tuple(row), self._tags(text, row, own))
            for text, row, own in zip(index, probabilities, tags, strict=True)
        ]
        return [
            tuple(
                by_rule(clause, passage.class_name) or judged[index[text]]
                for clause, text in zip(passage.clauses, texts, strict=True)
            )
            for passage, texts in zip(passages, read, strict=True)
        ]

    def _tags(self, text: str, probabilities: Sequence[float], tag_probabilities: Sequence[float]) -> tuple[str, ...]:
        """Tags that the head finds or that a word names, of categories that are likely enough."""
        likely = {
            tag for name, p in zip(CATEGORIES, probabilities, strict=True) if p >= _CATEGORY_FROM for tag in TAGS[name]
        }
        return tuple(
            tag
            for tag, p in zip(ALL_TAGS, tag_probabilities, strict=True)
            if tag in likely and (p >= _TAG_FROM or (tag in self._named and self._named[tag].search(text)))
        )


def by_rule(clause: str, class_name: str) -> Judgement | None:
    """The judgement of a clause that its words alone decide; None where they do not."""
    if echoes_name(clause, class_name):
        return _CERTAIN["name_echo"]
    return _CERTAIN["kind"] if names_kind(clause, class_name) else None


_CERTAIN = {
    category: Judgement(tuple(float(name == category) for name in CATEGORIES), TAGS[category])
    for category in ("name_echo", "kind")
}


def masked(clause: str, class_name: str) -> str:
    """What the encoder reads: the clause with "it" for the name of its class."""
    return strip_whole_name(clause, class_name).strip("-–— ")
