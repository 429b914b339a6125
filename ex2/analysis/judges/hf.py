"""A judge that is any instruct LLM run here: how likely are the words that stand for the categories as its answer?

No text is generated, so there is nothing to parse, and every clause gets probabilities. Small LLMs prefer one answer
whatever the clause says; contextual calibration (Zhao et al. 2021, arXiv:2102.09690) takes that out: each word's
log-probability counts relative to the one that it has after content-free clauses such as "N/A". It is what the model says
that is calibrated, not how often it is right: a small LLM stays a weak judge.
"""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ex2.base.errors import UserError
from ex2.base.progress import progress_bar
from ex2.policy.llm import load_policy, load_tokenizer, resolve_model
from ex2.texts.categories import Judgement, Passage
from ex2.texts.questions import wants_chat

if TYPE_CHECKING:
    import torch

LABELS = ("appearance", "location", "kind", "fact", "nothing", "name")
"""The words that stand for the categories, in the order of `CATEGORIES`.

Words rather than letters A to F, as small LLMs hardly connect a letter with its meaning. A word may be several tokens: its
log-probability is their sum, not their mean, because what a longer or rarer word loses by that is the same after the
content-free clauses and falls out of the calibrated score.
"""

_TASK = f"""A clause says something about a thing. Which kind of information does it give? Answer with one word.
{LABELS[0]}: what the thing looks like: colour, shape, size, parts, pattern, material.
{LABELS[1]}: where it is found, lives, grows or comes from.
{LABELS[2]}: only what kind of thing it is: an animal, a marine mammal, a sports car.
{LABELS[3]}: another fact about it: what it does, eats, is used for, its history.
{LABELS[4]}: nothing specific: praise, empty words, talk about a photo.
{LABELS[5]}: only the name of the thing again."""

_EXAMPLES = (
    ("cat", "It has soft grey fur and a long tail", LABELS[0]),
    ("cat", "It is a feline creature.", LABELS[2]),
    ("cat", "A cat is truly wonderful and unique.", LABELS[4]),
    ("cat", "often found in homes and barns", LABELS[1]),
    ("cat", "It purrs and catches mice", LABELS[3]),
    ("cat", "A cat is a cat.", LABELS[5]),
    ("chair", "used for sitting at a table", LABELS[3]),
    ("chair", "with four wooden legs", LABELS[0]),
    ("chair", "A piece of furniture", LABELS[2]),
    ("chair", "A photo of a chair.", LABELS[4]),
    ("chair", "the chair", LABELS[5]),
    ("pine", "grows in the mountains of northern Europe", LABELS[1]),
)
"""Two of each; which answer their choice and order suggest is one of the things that calibration is for."""

CONTENT_FREE = ("N/A", "[MASK]", "")
"""What stands for thing and clause in calibration, as in the paper."""


class HFJudge:
    """Scores the answers of a causal LLM, with its chat template where it has one. Gives no tags.

    Attributes:
        name: Its spec, ``hf:MODEL``.
    """

    def __init__(
        self,
        model: str,
        *,
        device: str = "cpu",
        batch_size: int = 32,
        cache_dir: str | None = None,
        allow_pickle_formats: bool = False,
    ) -> None:
        """Load and calibrate the model.

        Args:
            model: Local folder, hub id, or ``smollm2``.
            device: Torch device; weights are float32 on the CPU, elsewhere in the precision that they are saved in.
            batch_size: Clauses at one time.
            cache_dir: Where ``smollm2`` is converted to; None: EX2's cache folder.
            allow_pickle_formats: Read weights in `.bin` files too, with torch's restricted unpickler.

        Raises:
            UserError: A model that is not there or not a causal language model.
        """
        from trl import ModelConfig

        self.name = f"hf:{model}"
        self._batch_size = batch_size
        try:
            path = resolve_model(model, cache_dir, option="model")
            self._tokenizer = load_tokenizer(path)
            loading = ModelConfig(dtype="float32" if device == "cpu" else "auto")
            loaded: Any = load_policy(loading, path, device=device, allow_pickle_formats=allow_pickle_formats)
        except UserError as error:
            raise UserError(f"judge {self.name}: {error}") from error
        self._model = loaded.eval()
        self._accepts = set(inspect.signature(loaded.forward).parameters)
        self._chat = wants_chat("auto", self._tokenizer)
        # After "Kind:" a word begins with a blank, in the turn of an assistant without.
        words = LABELS if self._chat else tuple(f" {word}" for word in LABELS)
        self._labels = [tuple(self._tokenizer(word, add_special_tokens=False)["input_ids"]) for word in words]
        content_free = self._log_probs([self._prompt(text, text) for text in CONTENT_FREE])
        self._calibration = content_free.softmax(dim=1).mean(dim=0).log()

    def judge(self, passages: Sequence[Passage], *, progress: bool = True) -> list[tuple[Judgement, ...]]:
        """Judgements of all passages; equal clauses about one class are scored once."""
        asked = list(dict.fromkeys((passage.class_name, clause) for passage in passages for clause in passage.clauses))
        if not asked:
            return [() for _ in passages]
        scores = self._log_probs([self._prompt(*pair) for pair in asked], progress=progress)
        rows = (scores - self._calibration).softmax(dim=1).tolist()
        judged = {pair: Judgement(tuple(row)) for pair, row in zip(asked, rows, strict=True)}
        return [tuple(judged[passage.class_name, clause] for clause in passage.clauses) for passage in passages]

    def _prompt(self, class_name: str, clause: str) -> list[int]:
        """Tokens of the task, the examples and the clause, up to where the answer begins."""
        *before, last = [_question(thing, said) for thing, said, _ in _EXAMPLES] + [_question(class_name, clause)]
        answers = [answer for _, _, answer in _EXAMPLES]
        if not self._chat:
            shown = [f"{question} {answer}" for question, answer in zip(before, answers, strict=True)]
            return list(self._tokenizer("\n\n".join([_TASK, *shown, last]))["input_ids"])
        turns: list[dict[str, str]] = []
        for question, answer in zip(before, answers, strict=True):
            turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        turns.append({"role": "user", "content": last})
        turns[0]["content"] = f"{_TASK}\n\n{turns[0]['content']}"  # some templates know no system message
        text = self._tokenizer.apply_chat_template(
            turns,
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,  # templates of models that think first open a thought otherwise; others ignore it
        )
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _log_probs(self, prompts: Sequence[list[int]], progress: bool = False) -> torch.Tensor:
        """Log-probability of each label (columns) as the answer to each prompt (rows).

        What all prompts begin with - the task and the examples, most of each - is run once, and its keys and values are
        used by all batches.
        """
        import torch

        shared = min(len(os.path.commonprefix(prompts)), min(map(len, prompts)) - 1)
        contexts = _contexts(self._labels)
        scores = torch.empty(len(prompts), len(self._labels), dtype=torch.float64)
        # Prompts of like length together, as that needs little padding.
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        with torch.no_grad(), progress_bar(len(order), "judging", "clause", disable=not progress) as bar:
            start = torch.tensor([prompts[0][:shared]], device=self._model.device)
            cache = self._model(input_ids=start, use_cache=True).past_key_values
            for first in range(0, len(order), self._batch_size):
                batch = order[first : first + self._batch_size]
                for context in contexts:
                    rows = [prompts[i][shared:] + list(context) for i in batch]
                    answers = self._next_tokens(rows, shared, cache, keep=len(context) + 1)
                    for column, label in enumerate(self._labels):
                        if label[:-1] == context[: len(label) - 1]:
                            places = torch.arange(len(label))
                            scores[batch, column] = answers[:, places, list(label)].sum(dim=1).double().cpu()
                bar.update(len(batch))
        return scores

    def _next_tokens(self, rows: Sequence[list[int]], shared: int, cache: Any, keep: int) -> torch.Tensor:
        """Log-probabilities of the next token at the last `keep` places of each row, `shared` cached tokens before it."""
        import torch

        longest = max(map(len, rows))
        # Padding on the left, so that the last places of all rows are in line; which token it is does not matter.
        tokens = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
        mask = torch.tensor([[1] * shared + [0] * (longest - len(row)) + [1] * len(row) for row in rows])
        options = {
            # Not every model counts positions by the mask, or lets one leave logits out.
            "position_ids": (mask.cumsum(dim=1) - 1)[:, shared:].to(self._model.device),
            "logits_to_keep": keep,
        }
        repeated = copy.deepcopy(cache)
        repeated.batch_repeat_interleave(len(rows))
        logits = self._model(
            input_ids=tokens.to(self._model.device),
            attention_mask=mask.to(self._model.device),
            past_key_values=repeated,
            **{name: value for name, value in options.items() if name in self._accepts},
        ).logits
        return logits[:, -keep:].float().log_softmax(dim=-1)


def _question(class_name: str, clause: str) -> str:
    return f"Thing: {class_name}\nClause: {' '.join(clause.split())}\nKind:"


def _contexts(labels: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The token sequences to append to a prompt so that each token of each label is predicted somewhere.

    Its last token aside, a label is the start of one of them; where all labels are single tokens, that is the empty one.
    """
    starts = {label[:-1] for label in labels}
    return sorted(a for a in starts if not any(a != b and b[: len(a)] == a for b in starts))
