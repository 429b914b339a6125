"""How VLMs differ in what they prefer: several studies side by side, paired by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import pandas as pd

from ex2.analysis.findings import SHOWN, about_class, contrast, estimate, matched
from ex2.analysis.study import Study
from ex2.base.errors import UserError
from ex2.stats.intervals import holm, mean_interval
from ex2.texts.categories import CATEGORIES, TAGS

_LEVEL = 0.95

HELD_EQUAL = (
    "dataset", "judge", "questions", "model_name_or_path", "reward_funcs", "reward_normalization", "max_completion_length",
    "training_questions", "training_texts", "learning_rate", "beta", "seed", "sampling_seed",
)  # fmt: skip
"""Facts of the studies that should be the same, or a difference between them need not be the VLM's."""


@dataclass(frozen=True)
class Comparison:
    """Studies side by side.

    Attributes:
        studies: One row a study and category: share of descriptions and of clauses, share change, contribution, verdict.
        differences: One row a pair of studies, measure and category or tag: first minus second, paired by class, interval
            (simultaneous over the rows of a measure), p-values.
        flips: Attribute tags and categories that training raised for one VLM and lowered for another.
        warnings: What was not held equal, in words.
    """

    studies: pd.DataFrame
    differences: pd.DataFrame
    flips: pd.DataFrame
    warnings: list[str]


def compare(studies: Mapping[str, Study], *, seed: int = 0) -> Comparison:
    """Compare two or more studies of the same dataset.

    Args:
        studies: By the name they are shown under.
        seed: Of the bootstrap.

    Raises:
        UserError: Fewer than two studies, or two that have fewer than two classes in common.
    """
    if len(studies) < 2:
        raise UserError(f"a comparison needs two analyses or more, got {len(studies)}.")
    measures = {name: _class_measures(study) for name, study in studies.items()}
    rows: list[dict[str, Any]] = []
    for first, second in combinations(studies, 2):
        for measure in measures[first]:
            a, b = measures[first][measure], measures[second][measure]
            common = a.index.intersection(b.index)
            if measure == "share_of_clauses" and len(common) < 2:
                raise UserError(f"{first} and {second} have {len(common)} classes in common: a comparison needs two.")
            rows += _family(first, second, measure, a.loc[common] - b.loc[common], seed)
    return Comparison(
        studies=pd.concat([_side(name, study) for name, study in studies.items()], ignore_index=True),
        differences=pd.DataFrame(rows),
        flips=_flips({name: _changes(study) for name, study in studies.items()}, seed),
        warnings=_unequal(studies),
    )


def _class_measures(study: Study) -> dict[str, pd.DataFrame]:
    """One table a measure: classes (by name, as ids may differ) in rows, categories or tags in columns."""
    clauses = study.tables["clauses"]
    aligned = clauses[clauses["system"] == "aligned"]
    about = matched(clauses, about_class(clauses))
    contrasts = {name: contrast(clauses, about, clauses["category"] == name, by="class_name") for name in CATEGORIES}
    measures = {
        "share_of_clauses": _category_shares(aligned),
        "contribution": pd.DataFrame(contrasts, columns=list(CATEGORIES)),
        "share_of_tags": _tag_shares(aligned),
    }
    changes = _changes(study)
    return measures if changes is None else {**measures, "share_change": changes[list(CATEGORIES)]}


def _category_shares(clauses: pd.DataFrame) -> pd.DataFrame:
    table = pd.crosstab(clauses["class_name"], clauses["category"], normalize="index")
    return table.reindex(columns=list(SHOWN), fill_value=0.0)


def _tag_shares(clauses: pd.DataFrame) -> pd.DataFrame:
    padded = " " + clauses["tags"] + " "
    has = pd.DataFrame(
        {tag: padded.str.contains(f" {tag} ", regex=False) for tags in TAGS.values() for tag in tags}
    ).astype(float)
    return has.groupby(clauses["class_name"]).mean()


def _changes(study: Study) -> pd.DataFrame | None:
    """Aligned minus base share of every category and tag, one row a class; None without base texts."""
    clauses = study.tables["clauses"]
    parts = []
    for system in ("aligned", "base"):
        own = clauses[clauses["system"] == system]
        if own.empty:
            return None
        parts.append(_category_shares(own).join(_tag_shares(own)))
    return (parts[0] - parts[1]).dropna()


def _family(first: str, second: str, measure: str, differences: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    tested = [name for name in differences.columns if differences[name].notna().sum() > 1]
    level = 1 - (1 - _LEVEL) / max(len(tested), 1)
    rows, p_values = [], []
    for name in tested:
        values = differences[name].dropna().to_numpy()
        found = estimate(values, level)
        p_values.append(found["p"])
        rows.append(
            {"first": first, "second": second, "measure": measure, "name": name, **found, "classes": len(values)}
        )
    return [{**row, "p_holm": p} for row, p in zip(rows, holm(p_values) if rows else [], strict=True)]


def _side(name: str, study: Study) -> pd.DataFrame:
    shares = study.tables["shares"].query("system == 'aligned'").pivot(index="category", columns="level", values="mean")
    table = study.tables["preference"].copy()
    table.insert(0, "study", name)
    for level in ("descriptions", "clauses"):
        table[f"share_of_{level}"] = table["category"].map(shares[level])
    return table


def _flips(changes: Mapping[str, pd.DataFrame | None], seed: int) -> pd.DataFrame:
    """Categories and tags that rose for one VLM and fell for another, both intervals away from 0."""
    ends: dict[str, dict[str, Any]] = {}
    for study, table in changes.items():
        if table is not None and len(table) > 1:
            ends[study] = {name: mean_interval(table[name].to_numpy()) for name in table.columns}
    rows = [
        {
            "name": name, "rose_for": up, "rise": ends[up][name].mean, "fell_for": down, "fall": ends[down][name].mean,
        }
        for up in ends
        for down in ends
        for name in ends[up]
        if up != down and ends[up][name].low > 0 and ends[down][name].high < 0
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["name", "rose_for", "rise", "fell_for", "fall"])


def _unequal(studies: Mapping[str, Study]) -> list[str]:
    warnings = []
    facts = {name: {**study.summary["meta"], "judge": study.summary["judge"]} for name, study in studies.items()}
    for fact in HELD_EQUAL:
        values = {name: own.get(fact, "not known") for name, own in facts.items()}
        if len({str(value) for value in values.values()}) > 1:
            shown = ", ".join(f"{value} ({name})" for name, value in values.items())
            warnings.append(f"{fact} is not the same: {shown}. A difference need not be the VLM's.")
    if any(own.get("reward_normalization") == "scale" for own in facts.values()):
        warnings.append(
            "Rewards were not standardised (reward_normalization: scale): VLMs whose cosines spread more pull harder against "
            "the same KL coefficient. Train with zscore to compare."
        )
    return warnings


def format_comparison(comparison: Comparison) -> str:
    """The comparison as monospace text: each study's shares and contributions, then the differences that hold."""
    lines = []
    for name, own in comparison.studies.groupby("study", sort=False):
        lines.append(str(name))
        for row in own.to_dict("records"):
            mark = "  preferred" if row["preferred"] else ""
            lines.append(
                f"  {row['category']:<12}{row['share_of_clauses']:>7.3f} of clauses   contribution "
                f"{row['contribution_mean']:+.4f} [{row['contribution_low']:+.4f}, {row['contribution_high']:+.4f}]{mark}"
            )
    sure = comparison.differences[comparison.differences["p_holm"] < 0.05]
    lines.append(f"\nDifferences with a Holm-corrected p below 0.05: {len(sure)} of {len(comparison.differences)}")
    for row in sure.to_dict("records"):
        lines.append(
            f"  {row['first']} - {row['second']}: {row['measure']} {row['name']} {row['mean']:+.4f} "
            f"[{row['low']:+.4f}, {row['high']:+.4f}], p {row['p_holm']:.4f}"
        )
    for row in comparison.flips.to_dict("records"):
        lines.append(
            f"  {row['name']} flips: {row['rise']:+.3f} for {row['rose_for']}, {row['fall']:+.3f} for {row['fell_for']}"
        )
    return "\n".join([*lines, *(f"warning: {warning}" for warning in comparison.warnings)])


def comparison_tables(comparison: Comparison) -> dict[str, pd.DataFrame]:
    """The tables of a comparison by name."""
    return {"studies": comparison.studies, "differences": comparison.differences, "flips": comparison.flips}


def study_names(folders: Sequence[str], vlms: Sequence[str]) -> list[str]:
    """A name for each study: its VLM where those differ, else its folder."""
    return list(vlms) if len(set(vlms)) == len(vlms) else list(folders)
