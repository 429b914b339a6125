"""Shares and contributions corrected for the judge's error by the labels of a sample (prediction-powered inference).

What the judge says of all clauses is biased but exact, what people say of a sample is unbiased but noisy. The estimate is the
judge's value over all clauses plus the mean error on the labelled ones (Angelopoulos et al. 2023, arXiv:2301.09633; stratified:
Fisch et al. 2024, arXiv:2406.04291). The sample is drawn from strata, so its mean error is weighted by their sizes; the interval
counts that it was drawn without replacement from these clauses.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import t as student

from ex2.analysis.findings import about_class
from ex2.analysis.labels import Sheet, clause_id, krippendorff_alpha
from ex2.analysis.study import Study
from ex2.base.errors import UserError
from ex2.texts.categories import CATEGORIES

Array = NDArray[np.float64]

_LEVEL = 0.95


@dataclass(frozen=True)
class Sample:
    """U distinct clauses of which some are labelled.

    Attributes:
        judged: (U, K) the judge's probability of each category.
        labelled: (L,) which of the U clauses people labelled.
        labels: (L, K) the share of people who gave each category.
        strata: (L,) the stratum that each labelled clause was drawn from.
        sizes: (H,) how many of the U clauses each stratum has.
    """

    judged: Array
    labelled: NDArray[np.int64]
    labels: Array
    strata: NDArray[np.int64]
    sizes: NDArray[np.int64]


@dataclass(frozen=True)
class Corrected:
    """An estimate from all clauses and the labels.

    Attributes:
        judged: What the judge alone says.
        mean: Corrected.
        error: Standard error of the correction: that only some clauses are labelled.
        low, high: Interval at 95 % for the value that labels of all clauses would give.
    """

    judged: float
    mean: float
    error: float
    low: float
    high: float


def correct(sample: Sample, weights: Array) -> Corrected:
    """A sum over clauses and categories, corrected.

    Args:
        sample: The clauses with their labels.
        weights: (U, K): what a clause counts if it is of a category. The share of a category among U clauses: 1 / U in its
            column, 0 in the others.
    """
    judged = float((weights * sample.judged).sum())
    errors = (weights[sample.labelled] * (sample.labels - sample.judged[sample.labelled])).sum(axis=1)
    total, variance, freedom = 0.0, 0.0, 0.0
    pooled = _spread_within(errors, sample.strata)
    for stratum, size in enumerate(sample.sizes.tolist()):
        here = errors[sample.strata == stratum]
        total += size * float(here.mean())
        # Few labels may all agree by chance: the spread within all strata counts as one more label.
        spread = (float(((here - here.mean()) ** 2).sum()) + pooled) / len(here)
        part = size**2 * (1 - len(here) / size) * spread / len(here)
        variance += part
        freedom += part**2 / max(len(here) - 1, 1)
    error = math.sqrt(variance)
    half = error * float(student.ppf((1 + _LEVEL) / 2, variance**2 / freedom)) if freedom else 0.0
    mean = judged + total
    return Corrected(judged, mean, error, mean - half, mean + half)


def _spread_within(errors: Array, strata: NDArray[np.int64]) -> float:
    """Variance of the errors about the means of their strata."""
    apart = np.concatenate([errors[strata == name] - errors[strata == name].mean() for name in np.unique(strata)])
    return float((apart**2).mean())


def ratio(sample: Sample, top: Array, bottom: Array) -> Corrected:
    """A quotient of two such sums, by the delta method: of weights `top` and `bottom`, (U, K) each."""
    above, below = correct(sample, top), correct(sample, bottom)
    if below.mean <= 0:
        nan = float("nan")
        return Corrected(above.judged / below.judged if below.judged else nan, nan, nan, nan, nan)
    value = above.mean / below.mean
    linear = correct(sample, (top - value * bottom) / below.mean)
    half = (linear.high - linear.low) / 2
    judged = above.judged / below.judged if below.judged else float("nan")
    return Corrected(judged, value, linear.error, value - half, value + half)


def sample_of(clauses: pd.DataFrame, sheet: Sheet, labels: pd.DataFrame) -> tuple[Sample, NDArray[np.int64]]:
    """The distinct clauses of a study with the labels of `read_labels`, and which of them each row of `clauses` is.

    Raises:
        UserError: A judged category without any label.
    """
    ids = pd.Index([clause_id(*pair) for pair in zip(clauses["class_name"], clauses["clause"], strict=True)])
    distinct = ids.unique()
    first = clauses[~ids.duplicated()]
    names = list(sheet.sizes)
    given = pd.crosstab(labels["clause_id"], labels["category"], normalize="index").reindex(
        columns=list(CATEGORIES), fill_value=0.0
    )
    labelled = distinct.get_indexer(given.index)
    strata = np.array([names.index(sheet.strata[key]) for key in given.index], dtype=np.int64)
    bare = [name for i, name in enumerate(names) if i not in set(strata.tolist())]
    if bare:
        raise UserError(f"--labels: no clause that was judged {', '.join(bare)} has a label; label all of the sheet.")
    judged = first[[f"p_{name}" for name in CATEGORIES]].to_numpy(dtype=float)
    sizes = np.array(list(sheet.sizes.values()), dtype=np.int64)
    sample = Sample(judged, labelled.astype(np.int64), given.to_numpy(dtype=float), strata, sizes)
    return sample, distinct.get_indexer(ids).astype(np.int64)


def corrected_table(clauses: pd.DataFrame, sheet: Sheet, labels: pd.DataFrame, worth: pd.Series) -> pd.DataFrame:
    """Share of each category and system, and how much more its clauses are worth than others, corrected by labels.

    Every class counts equally in shares. A clause's worth is taken relative to the mean of its class and system, so that
    classes differ in nothing; the contribution is the mean of the category's minus that of the others'.

    Args:
        clauses: The study's table `clauses`.
        sheet, labels: From `read_labels`.
        worth: What each clause is worth, e.g. `about_class`; rows without it are left out of contributions.

    Returns:
        Rows ``quantity`` (share or contribution), ``system``, ``category``, ``judged``, ``mean``, ``low``, ``high``, ``error``.
    """
    sample, unit = sample_of(clauses, sheet, labels)
    size = len(sample.judged)
    rows = []

    def summed(values: Array) -> Array:
        return np.asarray(np.bincount(unit, weights=values, minlength=size), dtype=np.float64)

    for system in dict.fromkeys(clauses["system"]):
        own = (clauses["system"] == system).to_numpy()
        of_class = clauses.groupby(["system", "class_id"])["clause"].transform("size").to_numpy(dtype=float)
        each = summed(own / of_class / clauses.loc[own, "class_id"].nunique())
        for k, category in enumerate(CATEGORIES):
            rows.append(("share", system, category, correct(sample, _column(each, k))))
    known = worth.notna().to_numpy()
    centred = worth - worth.groupby([clauses["system"], clauses["class_id"]]).transform("mean")
    one, value = summed(known.astype(float)), summed(np.where(known, centred, 0.0))
    for k, category in enumerate(CATEGORIES):
        rows.append(("contribution", "all", category, _contrast(sample, value, one, k)))
    return pd.DataFrame(
        [
            {
                "quantity": quantity, "system": system, "category": category, "judged": found.judged, "mean": found.mean,
                "low": found.low, "high": found.high, "error": found.error,
            }
            for quantity, system, category, found in rows
        ]
    )  # fmt: skip


def _column(values: Array, k: int) -> Array:
    weights = np.zeros((len(values), len(CATEGORIES)))
    weights[:, k] = values
    return weights


def _contrast(sample: Sample, value: Array, one: Array, k: int) -> Corrected:
    """Mean value of a category's clauses minus that of the others."""
    inside = ratio(sample, _column(value, k), _column(one, k))
    everything, count = float(value.sum()), float(one.sum())

    def estimate(of: Callable[[Corrected], float]) -> float:
        top, bottom = of(correct(sample, _column(value, k))), of(correct(sample, _column(one, k)))
        return top / bottom - (everything - top) / (count - bottom) if 0 < bottom < count else float("nan")

    mean = estimate(lambda found: found.mean)
    if math.isnan(mean) or math.isnan(inside.mean):
        nan = float("nan")
        return Corrected(estimate(lambda found: found.judged), nan, nan, nan, nan)
    bottom = correct(sample, _column(one, k)).mean
    outside = (everything - inside.mean * bottom) / (count - bottom)
    linear = (value - inside.mean * one) / bottom + (value - outside * one) / (count - bottom)
    found = correct(sample, _column(linear, k))
    half = (found.high - found.low) / 2
    return Corrected(estimate(lambda f: f.judged), mean, found.error, mean - half, mean + half)


def labels_needed(half: float, labelled: int, clauses: int, precision: float) -> int:
    """About how many labels take an interval of half width `half` to `precision`: the error falls with the root of their number,
    and to nothing where all clauses are labelled.

    Args:
        half: Half width now.
        labelled: How many clauses are labelled.
        clauses: How many distinct ones there are.
        precision: The half width that is wished.
    """
    if half <= precision or labelled >= clauses:
        return labelled
    # half^2 = c (1 / labelled - 1 / clauses)
    c = half**2 / (1 / labelled - 1 / clauses)
    return min(clauses, math.ceil(1 / (precision**2 / c + 1 / clauses)))


def add_labels(study: Study, sheet: Sheet, labels: pd.DataFrame, *, precision: float | None = None) -> None:
    """Add the table ``corrected`` to a study, and what its labels say to the summary.

    Raises:
        UserError: A judged category without any label, or too few labels for `precision`.
    """
    clauses = study.tables["clauses"]
    table = corrected_table(clauses, sheet, labels, about_class(clauses))
    own = table[table["quantity"] == "share"]
    half = float(((own["high"] - own["low"]) / 2).max())
    labelled, distinct = int(labels["clause_id"].nunique()), sum(sheet.sizes.values())
    if precision is not None and half > precision:
        needed = labels_needed(half, labelled, distinct, precision)
        raise UserError(
            f"--precision {precision:g}: {labelled} labels give shares to within {half:.3f}; label about {needed} clauses "
            f"(`ex2 label ... --n {needed}`)."
        )
    alpha, met = krippendorff_alpha(labels), agreement_with_judge(clauses, sheet, labels)
    people = int(labels["annotator"].nunique())
    readers = "1 person" if people == 1 else f"{people} people"
    more = labels_needed(half, labelled, distinct, half / 2)
    agree = "" if math.isnan(alpha) else f" People agree with Krippendorff's alpha {alpha:.2f}."
    study.tables["corrected"] = table
    study.summary["tables"] = sorted(study.tables)
    study.summary["labels"] = {
        "labelled": labelled,
        "distinct_clauses": distinct,
        "annotators": people,
        "alpha": None if math.isnan(alpha) else alpha,
        "agreement_with_judge": met,
        "within": half,
        "labels_for_half_of_it": more,
        "sentence": (
            f"{labelled} of {distinct} distinct clauses are labelled by {readers}; of {met:.0%} of all they would say what the "
            f"judge says.{agree} Shares are corrected to within {half:.3f}; half of that takes about {more} labels."
        ),
    }


def agreement_with_judge(clauses: pd.DataFrame, sheet: Sheet, labels: pd.DataFrame) -> float:
    """Share of a study's distinct clauses whose judged category people would give, from the strata's shares."""
    judged = labels["clause_id"].map(sheet.strata)
    right = (judged == labels["category"]).groupby(judged).mean()
    sizes = pd.Series(sheet.sizes).reindex(right.index)
    return float((right * sizes).sum() / sizes.sum())


def format_corrected(table: pd.DataFrame) -> str:
    """Judged and corrected shares and contributions as monospace text."""
    lines = [f"{'corrected':<14}{'system':<9}{'category':<11}{'judged':>8}{'corrected [95 %]':>29}"]
    for row in table.to_dict("records"):
        ends = f"{row['mean']:+z.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
        lines.append(f"{row['quantity']:<14}{row['system']:<9}{row['category']:<11}{row['judged']:>+8.3f}{ends:>29}")
    return "\n".join(lines)
