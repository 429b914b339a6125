"""How well a judge agrees with labels, or two judges with each other: accuracy, F1, Cohen's kappa, calibration.

Intervals are expanded percentile bootstrap intervals over clusters (classes), like all of EX2's; one class has none (NaN).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ex2.base.errors import UserError
from ex2.stats.intervals import Interval, expanded_tail
from ex2.texts.categories import CATEGORIES, Judgement, Passage, of_text
from ex2.texts.tautologies import is_bare

UNSURE = "unsure"
_BINS = 10  # of the calibration error


@dataclass(frozen=True)
class Agreement:
    """Agreement of one judge with N labels. A text that the judge is unsure about counts as missed.

    Attributes:
        n: N.
        accuracy: Share of labels met, with interval.
        macro_f1: Mean F1 over the categories that occur as a label or an answer, with interval.
        f1: F1 of each category.
        kappa: Cohen's kappa (1960), agreement beyond chance, with interval; unsure is an answer of its own.
        unsure: Share of texts without an answer.
        confusion: ``confusion[label][answer]`` counts, answers with ``unsure`` as the last.
        forced_accuracy: Accuracy with the most likely category also where the judge is unsure; None where not known.
        calibration_error: Expected calibration error of the most likely category's probability, ten equal bins
            (Naeini et al. 2015); None where there are no probabilities.
    """

    n: int
    accuracy: Interval
    macro_f1: Interval
    f1: dict[str, float]
    kappa: Interval
    unsure: float
    confusion: dict[str, dict[str, int]]
    forced_accuracy: float | None = None
    calibration_error: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON: what is not known (F1 of a category that never occurs) is None."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def knows_four(labels: Sequence[str]) -> bool:
    """Whether labels are of the four categories that were told apart before `kind` and `name_echo` had names of their own."""
    return not {"kind", "name_echo"} & set(labels)


def in_four_categories(passage: Passage, clauses: Sequence[Judgement]) -> Judgement:
    """What a text is about, in the four categories: saying the name again counts as spurious, and so does a bare kind
    ("A tern is a bird."), which fits many classes; a narrower kind ("a long-range airliner") is a non-visual fact.

    Args:
        passage: The text's clauses.
        clauses: Their judgements.
    """
    moved = []
    for text, judgement in zip(passage.clauses, clauses, strict=True):
        p = dict(zip(CATEGORIES, judgement.probabilities, strict=True))
        p["spurious"] += p.pop("name_echo")
        p["spurious" if is_bare(text, passage.class_name) else "non_visual"] += p.pop("kind")
        moved.append(Judgement(tuple(p.get(name, 0.0) for name in CATEGORIES), judgement.tags))
    return of_text(moved)


def _plain(value: Any) -> Any:
    """A copy with None for NaN."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value


def cohens_kappa(counts: NDArray[np.float64]) -> float:
    """Cohen's kappa of a square table of counts (K, K); 1 where there is nothing but perfect agreement by chance."""
    total = counts.sum()
    observed = np.trace(counts) / total
    expected = float((counts.sum(axis=0) * counts.sum(axis=1)).sum() / total**2)
    return 1.0 if expected >= 1 else float((observed - expected) / (1 - expected))


def f1_scores(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """F1 of each of K categories from a table of counts (K, K), labels in rows; NaN where a category never occurs."""
    total = counts.sum(axis=0) + counts.sum(axis=1)
    return np.divide(2 * np.diag(counts), total, out=np.full(len(counts), np.nan), where=total > 0)


def agreement(
    labels: Sequence[str],
    answers: Sequence[str | None],
    clusters: Sequence[str],
    *,
    probabilities: Sequence[float] | None = None,
    best: Sequence[str] | None = None,
    n_boot: int = 2_000,
    seed: int = 0,
) -> Agreement:
    """Compare answers with labels.

    Args:
        labels: N categories.
        answers: N categories, None for unsure.
        clusters: N names of the class that each text is about; the bootstrap draws whole classes.
        probabilities: Of the most likely category, N.
        best: The most likely category, also where the answer is unsure, N.

    Raises:
        UserError: No labels at all.
    """
    if not labels:
        raise UserError("there are no labelled texts to compare with.")
    names = [*CATEGORIES, UNSURE]
    rows = np.array([names.index(label) for label in labels])
    columns = np.array([names.index(answer or UNSURE) for answer in answers])
    _, positions = np.unique(np.asarray(clusters), return_inverse=True)
    # One table of counts a class; a resample is a weighted sum of them.
    tables = np.zeros((positions.max() + 1, len(names), len(names)))
    np.add.at(tables, (positions, rows, columns), 1)
    counts = tables.sum(axis=0)
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(tables), np.full(len(tables), 1 / len(tables)), size=n_boot)
    resampled = np.tensordot(draws, tables, axes=1)

    def interval(value: Any) -> Interval:
        if len(tables) < 2:
            return Interval(float(value(counts)), np.nan, np.nan)
        tail = expanded_tail(len(tables))
        low, high = np.quantile([value(table) for table in resampled], [tail, 1 - tail])
        return Interval(float(value(counts)), float(low), float(high))

    confidence = None
    if probabilities is not None and best is not None:
        right = np.array([b == label for b, label in zip(best, labels, strict=True)])
        confidence = calibration_error(np.asarray(probabilities), right)
    forced = None if best is None else float(np.mean([b == label for b, label in zip(best, labels, strict=True)]))
    return Agreement(
        n=len(labels),
        accuracy=interval(lambda table: np.trace(table) / table.sum()),
        macro_f1=interval(lambda table: float(np.nanmean(f1_scores(table)[: len(CATEGORIES)]))),
        f1={name: float(value) for name, value in zip(CATEGORIES, f1_scores(counts)[:-1], strict=True)},
        kappa=interval(cohens_kappa),
        unsure=float(np.mean(columns == len(CATEGORIES))),
        confusion={
            label: {name: int(counts[i, j]) for j, name in enumerate(names)} for i, label in enumerate(CATEGORIES)
        },
        forced_accuracy=forced,
        calibration_error=confidence,
    )


def calibration_error(probabilities: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Mean gap between probability and share of right answers over ten equal bins, weighted by their size."""
    bins = np.minimum((probabilities * _BINS).astype(int), _BINS - 1)
    return float(
        sum(
            abs(probabilities[bins == b].mean() - right[bins == b].mean()) * np.mean(bins == b) for b in np.unique(bins)
        )
    )


def format_agreement(result: Agreement) -> str:
    """The numbers and the confusion table as monospace text."""

    def ends(value: Interval) -> str:
        return value.shown(".3f")

    answers = [*CATEGORIES, UNSURE]
    width = max(map(len, answers)) + 2
    table = ["label".ljust(width) + "".join(name.rjust(width) for name in answers) + "F1".rjust(8)]
    for name in CATEGORIES:
        cells = "".join(str(result.confusion[name][answer]).rjust(width) for answer in answers)
        table.append(name.ljust(width) + cells + f"{result.f1[name]:8.3f}")
    facts = [
        f"texts     {result.n}",
        f"macro-F1  {ends(result.macro_f1)}",
        f"accuracy  {ends(result.accuracy)}   (unsure counts as missed)",
        f"kappa     {ends(result.kappa)}",
        f"unsure    {result.unsure:.3f}",
    ]
    if result.forced_accuracy is not None:
        facts.append(f"accuracy of the first choice {result.forced_accuracy:.3f}")
    if result.calibration_error is not None:
        facts.append(f"expected calibration error {result.calibration_error:.3f}")
    return "\n".join([*facts, "", *table])
