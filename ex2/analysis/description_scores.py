"""Score descriptions with a VLM and a bank of its images, and sum the scores up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ex2.base.progress import progress_bar
from ex2.rewards.monitors import hub_score
from ex2.scoring.scorer import TextScorer
from ex2.stats.intervals import Interval, bracket, cluster_interval, cluster_means
from ex2.texts.descriptions import Description

SCORE_OF = {"reward": "reward_cosine", "heldout": "heldout_cosine"}
"""Split of the images and the name of the score that compares with them."""

_CHUNK = 1024  # texts between two steps of the progress bar


@dataclass(frozen=True)
class ScoreSummary:
    """Scores of N descriptions of C classes.

    Attributes:
        n: N.
        classes: C.
        cosine: Mean over classes of the mean cosine of each split, with a 95 % interval where there are two classes.
        hub: Mean cosine to the classes that a text does not describe, for each split.
        distinct: Share of distinct texts, case ignored.
        truncated: Share of texts that the VLM's tokenizer cuts.
    """

    n: int
    classes: int
    cosine: dict[str, Interval]
    hub: dict[str, float]
    distinct: float
    truncated: float


def add_scores(
    records: Sequence[Description], scorer: TextScorer, splits: Sequence[str], *, progress: bool = False
) -> list[Description]:
    """The records with a score for each split and the name of the VLM; other scores stay."""
    return _score(records, scorer, splits, progress=progress)[0]


def score_and_summarise(
    records: Sequence[Description], scorer: TextScorer, splits: Sequence[str], *, progress: bool = True
) -> tuple[list[Description], ScoreSummary]:
    """`add_scores`, and what the scores say together."""
    scored, hub, truncated = _score(records, scorer, splits, progress=progress)
    class_ids = [record.class_id for record in scored]
    return scored, ScoreSummary(
        n=len(scored),
        classes=len(set(class_ids)),
        cosine={split: _mean([record.scores[SCORE_OF[split]] for record in scored], class_ids) for split in splits},
        hub=hub,
        distinct=len({record.text.casefold() for record in scored}) / len(scored),
        truncated=truncated,
    )


def format_scores(summary: ScoreSummary) -> str:
    """The summary as a monospace table, one row a split."""
    rows = [("images", "mean cosine", "95 % interval", "hub score", "n", "distinct", "truncated")]
    for split, value in summary.cosine.items():
        interval = bracket(value.low, value.high, ".4f") if summary.classes > 1 else "needs 2 classes"
        counts = (f"{summary.n}", f"{summary.distinct:.3f}", f"{summary.truncated:.3f}")
        rows.append((split, f"{value.mean:.4f}", interval, f"{summary.hub[split]:.4f}", *counts))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    )


def _mean(values: list[float], class_ids: list[int]) -> Interval:
    if len(set(class_ids)) > 1:
        return cluster_interval(values, class_ids)
    return Interval(float(cluster_means(values, class_ids)[1][0]), math.nan, math.nan)


def _score(
    records: Sequence[Description], scorer: TextScorer, splits: Sequence[str], *, progress: bool
) -> tuple[list[Description], dict[str, float], float]:
    """Scored records, hub score of each split, and share of truncated texts."""
    vlm = scorer.vlm
    scored: list[Description] = []
    hub = dict.fromkeys(splits, 0.0)
    truncated = 0
    with progress_bar(len(records), "scoring", "text", disable=not progress) as bar:
        for start in range(0, len(records), _CHUNK):
            chunk = records[start : start + _CHUNK]
            texts = [record.text for record in chunk]
            class_ids = [record.class_id for record in chunk]
            ids = torch.tensor(class_ids, device=vlm.device, dtype=torch.long)
            columns = {SCORE_OF[split]: scorer.cosine(texts, class_ids, split).tolist() for split in splits}
            for split in splits:
                hub[split] += hub_score(scorer.similarities(texts, split), ids) * len(chunk) / len(records)
            truncated += sum(count > vlm.max_text_tokens for count in vlm.count_tokens(texts))
            for i, record in enumerate(chunk):
                scores = {**record.scores, **{name: values[i] for name, values in columns.items()}}
                extra = {**record.extra, "vlm": vlm.name}
                if scorer.bank.dataset != record.dataset:
                    extra["scored_on"] = scorer.bank.dataset
                scored.append(replace(record, scores=scores, extra=extra))
            bar.update(len(chunk))
    return scored, hub, truncated / len(records)
