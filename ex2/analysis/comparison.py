"""How VLMs differ in what they prefer: studies of one or several training runs a side, paired by class.

Training runs of one VLM differ from each other, often more than VLMs do. So a side is all studies of one VLM, intervals are about
classes and runs alike (`ex2.stats.crossed`), and with one run a side no difference is called: what runs do is then not known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from ex2.analysis.findings import (
    ENDS,
    QUANTITIES,
    SHOWN,
    TOGETHER,
    about_class,
    contrast,
    has_tag,
    matched,
    preference_of,
)
from ex2.analysis.study import Study
from ex2.analysis.verdict import verdict
from ex2.base.errors import UserError
from ex2.base.shown import portable
from ex2.stats.crossed import MOST_RUNS, Crossed, between, over_runs, with_common_spread
from ex2.stats.intervals import bracket, holm
from ex2.texts.categories import ALL_TAGS, CATEGORIES

_LEVEL = 0.95

SHARE, CONTRIBUTION, TAGS = "share_of_clauses", "contribution", "share_of_tags"
"""What is compared. Shares add up to 1, contributions are cosines (`contrast`), tags overlap."""

NOT_COVERED = (
    "No difference is called: with one run a side it cannot be told from what other training runs of the same VLM would do. "
    "Train three or more a side with other seeds."
)

HELD_EQUAL = (
    "dataset", "judge", "questions", "model_name_or_path", "reward_funcs", "reward_normalization", "max_completion_length",
    "training_questions", "training_texts", "learning_rate", "beta",
)  # fmt: skip
"""Facts of the studies that should be the same, or a difference between them need not be the VLM's."""


@dataclass(frozen=True)
class Comparison:
    """Studies side by side.

    Attributes:
        studies: One row a study and category: side, share of descriptions and of clauses, share change, contribution, finding.
        sides: One row a side and category: the same over all runs of the side, as a preference table, with `preferred_in` of its
            runs and, for each quantity, the share of its variance that comes from the runs (`_of_runs`).
        differences: One row a pair of sides, measure and category or tag: first minus second, paired by class, with an interval
            about classes and runs (simultaneous over the rows of a measure), p, Holm-corrected p, `within`, `detectable`,
            `share_of_runs`; NaN where one run a side leaves it open.
        flips: Categories and tags that training raised on one side and lowered on another.
        verdicts: What each side prefers, in sentences.
        warnings: What was not held equal, in words.
        needed: In words how many runs a side it takes to see the difference that was asked for.
    """

    studies: pd.DataFrame
    sides: pd.DataFrame
    differences: pd.DataFrame
    flips: pd.DataFrame
    verdicts: dict[str, list[str]]
    warnings: list[str]
    needed: list[str] = field(default_factory=list)


def compare(sides: Mapping[str, Study | Sequence[Study]], *, see: float | None = None) -> Comparison:
    """Compare two or more sides of the same dataset, each with one study or several: those of other training runs.

    Where all sides are single runs of one job, which differ in nothing but their seeds, one verdict over all of them is added.

    Args:
        sides: The study or studies of each side by the name it is shown under.
        see: A difference of shares; it is said how many runs a side it takes to see it.

    Raises:
        UserError: Fewer than two sides of one study, or two that have fewer than two classes in common.
    """
    runs = {name: [own] if isinstance(own, Study) else list(own) for name, own in sides.items()}
    if len(runs) < 2:
        raise UserError(f"a comparison needs two analyses or more, got {len(runs)}.")
    measured = {name: [_class_measures(study) for study in own] for name, own in runs.items()}
    rows: list[dict[str, Any]] = []
    needed: list[str] = []
    for first, second in combinations(runs, 2):
        for measure in (SHARE, CONTRIBUTION, TAGS):
            found = _differences(first, second, measure, measured[first], measured[second])
            rows += _rows(first, second, measure, found)
            if measure == SHARE and see is not None:
                needed.append(_needed(first, second, found, see))
    studies = [_study(name, number, study) for name, own in runs.items() for number, study in enumerate(own, start=1)]
    warnings = _unequal(runs)
    if _one_job(runs):
        together = f"all {len(runs)} runs"
        runs = {**runs, together: [own[0] for own in runs.values()]}
        measured = {**measured, together: [own[0] for own in measured.values()]}
    over = {name: _side(name, own, measured[name]) for name, own in runs.items()}
    return Comparison(
        studies=pd.concat(studies, ignore_index=True),
        sides=pd.concat(over.values(), ignore_index=True),
        differences=pd.DataFrame(rows),
        flips=_flips({name: measured[name] for name in sides}),
        verdicts={name: verdict(table, len(runs[name])) for name, table in over.items()},
        warnings=warnings,
        needed=needed,
    )


def _one_job(runs: Mapping[str, Sequence[Study]]) -> bool:
    """Whether all sides are single runs of one job."""
    facts = {
        tuple(
            str({**study.summary["meta"], "judge": study.summary["judge"]}.get(fact)) for fact in ("vlm", *HELD_EQUAL)
        )
        for own in runs.values()
        for study in own
    }
    return len(facts) == 1 and all(len(own) == 1 for own in runs.values())


# ---------------------------------------------------------------- one number a class


def _class_measures(study: Study) -> dict[str, pd.DataFrame]:
    """One table a measure and quantity: classes (by name, as ids may differ) in rows, categories or tags in columns."""
    clauses = study.tables["clauses"]
    if "added_elsewhere" not in clauses:
        raise UserError("an analysis of an older version cannot be compared: run `ex2 analyze` again.")
    shares, tags = (
        {system: make(own) for system, own in clauses.groupby("system", sort=False)}
        for make in (_category_shares, _tag_shares)
    )
    aligned = clauses[clauses["system"] == "aligned"]
    about, general = (matched(clauses, values) for values in (about_class(clauses), clauses["added_elsewhere"]))

    def by_category(value: Any) -> pd.DataFrame:
        return pd.DataFrame({name: value(name) for name in CATEGORIES}, columns=list(CATEGORIES), dtype=float)

    measures = {
        SHARE: shares["aligned"],
        TAGS: tags["aligned"],
        CONTRIBUTION: by_category(lambda name: contrast(clauses, about, clauses["category"] == name, by="class_name")),
        "general": by_category(lambda name: contrast(clauses, general, clauses["category"] == name, by="class_name")),
        "added": by_category(lambda name: aligned[aligned["category"] == name].groupby("class_name")["added"].mean()),
    }
    if "base" not in shares:
        return measures
    changes = (shares["aligned"] - shares["base"]).join(tags["aligned"] - tags["base"])
    return {**measures, "change": changes.dropna(how="all")}


def _category_shares(clauses: pd.DataFrame) -> pd.DataFrame:
    table = pd.crosstab(clauses["class_name"], clauses["category"], normalize="index")
    return table.reindex(columns=list(SHOWN), fill_value=0.0)


def _tag_shares(clauses: pd.DataFrame) -> pd.DataFrame:
    has = pd.DataFrame({tag: has_tag(clauses, tag) for tag in ALL_TAGS}).astype(float)
    return has.groupby(clauses["class_name"]).mean()


def _stacked(tables: Sequence[pd.DataFrame], classes: pd.Index, column: str) -> np.ndarray:
    """Runs x classes of one column, NaN where a run has nothing about a class."""
    return np.array([table[column].reindex(classes).to_numpy(dtype=float) for table in tables])


def _classes(tables: Sequence[pd.DataFrame]) -> pd.Index:
    """The classes that any of the runs is about."""
    found = tables[0].index
    for table in tables[1:]:
        found = found.union(table.index)
    return found.sort_values()


# ---------------------------------------------------------------- differences


def _differences(
    first: str,
    second: str,
    measure: str,
    ours: Sequence[Mapping[str, pd.DataFrame]],
    theirs: Sequence[Mapping[str, pd.DataFrame]],
) -> dict[str, Crossed]:
    """The difference of two sides in each category or tag of a measure."""
    sides = [[run[measure] for run in runs] for runs in (ours, theirs)]
    classes = _classes(sides[0]).intersection(_classes(sides[1]))
    if measure == SHARE and len(classes) < 2:
        raise UserError(f"{first} and {second} have {len(classes)} classes in common: a comparison needs two.")
    found, means = {}, {}
    for column in sides[0][0].columns:
        values = [_stacked(tables, classes, column) for tables in sides]
        found[str(column)] = between(*values)
        means[str(column)] = float(np.mean([over_runs(own).mean for own in values]))
    found = {name: own for name, own in found.items() if own.classes > 1}
    return with_common_spread(found, means) if measure == SHARE else found


def _rows(first: str, second: str, measure: str, found: Mapping[str, Crossed]) -> list[dict[str, Any]]:
    level = 1 - (1 - _LEVEL) / max(len(found), 1)
    corrected = holm([own.p() for own in found.values()])
    return [
        {
            "first": first, "second": second, "measure": measure, "name": name, **_estimate(own, level), "p_holm": p,
            "share_of_runs": own.share_of_runs, "classes": own.classes, "runs": " and ".join(map(str, own.runs)),
        }
        for (name, own), p in zip(found.items(), corrected, strict=True)
    ]  # fmt: skip


def _estimate(own: Crossed, level: float) -> dict[str, float]:
    """What `ex2.analysis.findings.estimate` says of one run."""
    half = own.half_width(level)
    return {
        "mean": own.mean, "low": own.mean - half, "high": own.mean + half, "p": own.p(), "within": abs(own.mean) + half,
        "detectable": own.detectable(level),
    }  # fmt: skip


def _needed(first: str, second: str, found: Mapping[str, Crossed], see: float) -> str:
    """How many runs a side it takes to see a difference of a share, for the category that takes most."""
    pair = f"{first} and {second}"
    if any(np.isnan(own.run_variance) for own in found.values()):
        return f"How many runs it takes to see {100 * see:g} points between {pair} cannot be told from one run a side."
    level = 1 - (1 - _LEVEL) / len(found)
    most = max((own.runs_needed(see, level) or MOST_RUNS + 1 for own in found.values()), default=2)
    classes = min(own.classes for own in found.values())
    enough = f"{most} runs a side" if most <= MOST_RUNS else f"more than {MOST_RUNS} runs a side, or more classes"
    return f"To see a difference of {100 * see:g} points in any share between {pair} with these {classes} classes: {enough}."


# ---------------------------------------------------------------- sides


def _study(side: str, number: int, study: Study) -> pd.DataFrame:
    shares = study.tables["shares"].query("system == 'aligned'").pivot(index="category", columns="level", values="mean")
    table = study.tables["preference"].copy()
    table.insert(0, "side", side)
    table.insert(1, "run", number)
    table.insert(2, "seed", study.summary["meta"].get("seed"))
    for level in ("descriptions", "clauses"):
        table[f"share_of_{level}"] = table["category"].map(shares[level])
    return table


def _side(name: str, studies: Sequence[Study], measured: Sequence[Mapping[str, pd.DataFrame]]) -> pd.DataFrame:
    """The preference table of all runs of a side; that of its study where there is one."""
    preferred = (
        pd.concat([study.tables["preference"] for study in studies]).groupby("category", sort=False)["preferred"].sum()
    )
    if len(studies) == 1:
        table = studies[0].tables["preference"].assign(**{f"{quantity}_of_runs": np.nan for quantity in QUANTITIES})
    else:
        table = _over_runs(measured, collapsed=any(study.summary.get("collapse") for study in studies))
    shares = pd.concat([run[SHARE].mean() for run in measured], axis=1).mean(axis=1)
    table = table.assign(share_of_clauses=table["category"].map(shares), preferred_in=table["category"].map(preferred))
    table.insert(0, "side", name)
    return table.assign(runs=len(studies))


def _over_runs(measured: Sequence[Mapping[str, pd.DataFrame]], *, collapsed: bool) -> pd.DataFrame:
    names = {"change": "change", "added": "added", "contribution": CONTRIBUTION, "general": "general"}
    nothing = pd.Series(np.nan, index=list(CATEGORIES))
    cells: dict[str, pd.Series] = {}
    classes = nothing
    for quantity in QUANTITIES:
        tables = [run[names[quantity]] for run in measured if names[quantity] in run]
        if len(tables) < 2:  # the untrained policy's texts are missing
            cells |= {f"{quantity}_{key}": nothing for key in (*ENDS, "p", "within", "detectable", "of_runs")}
            continue
        found = {name: over_runs(_stacked(tables, _classes(tables), name)) for name in CATEGORIES}
        estimates = {name: {**_estimate(own, TOGETHER), "of_runs": own.share_of_runs} for name, own in found.items()}
        rows = pd.DataFrame(estimates).T
        cells |= {f"{quantity}_{key}": rows[key] for key in rows}
        if quantity == "change":
            classes = pd.Series({name: float(own.classes) for name, own in found.items()})
    return preference_of(pd.DataFrame(cells).assign(classes=classes), collapsed=collapsed)


def _flips(measured: Mapping[str, Sequence[Mapping[str, pd.DataFrame]]]) -> pd.DataFrame:
    """Categories and tags that rose on one side and fell on another, both intervals about classes and runs away from 0."""
    ends: dict[str, dict[str, tuple[float, float]]] = {}
    for side, runs in measured.items():
        tables = [run["change"] for run in runs if "change" in run]
        if len(tables) > 1:
            found = {str(name): over_runs(_stacked(tables, _classes(tables), str(name))) for name in tables[0].columns}
            ends[side] = {name: (own.mean, own.half_width(_LEVEL)) for name, own in found.items()}
    rows = [
        {"name": name, "rose_for": up, "rise": ends[up][name][0], "fell_for": down, "fall": ends[down][name][0]}
        for up in ends
        for down in ends
        for name in ends[up]
        if up != down and ends[up][name][0] > ends[up][name][1] and -ends[down][name][0] > ends[down][name][1]
    ]
    return pd.DataFrame(rows, columns=["name", "rose_for", "rise", "fell_for", "fall"])


def _unequal(sides: Mapping[str, Sequence[Study]]) -> list[str]:
    warnings = []
    facts = {
        f"{name}, run {number}" if len(own) > 1 else name: {**study.summary["meta"], "judge": study.summary["judge"]}
        for name, own in sides.items()
        for number, study in enumerate(own, start=1)
    }
    for fact in HELD_EQUAL:
        values = {name: own.get(fact, "not known") for name, own in facts.items()}
        if len({str(value) for value in values.values()}) > 1:
            names = {name: portable(str(value)) for name, value in values.items()}
            shown = ", ".join(f"{value} ({name})" for name, value in names.items())
            shown += " in different places" * (len(set(names.values())) == 1)
            warnings.append(f"{fact} is not the same: {shown}. A difference need not be the VLM's.")
    for name, own in sides.items():
        seeds = [str(study.summary["meta"].get("seed", "not known")) for study in own]
        if len(set(seeds)) < len(seeds):
            warnings.append(f"Runs of {name} share a seed ({', '.join(seeds)}): the same run twice is no other run.")
    if any(own.get("reward_normalization") == "scale" for own in facts.values()):
        warnings.append(
            "Rewards were not standardised (reward_normalization: scale): VLMs whose cosines spread more pull harder against "
            "the same KL coefficient. Train with zscore to compare."
        )
    return warnings


# ---------------------------------------------------------------- in words


def format_comparison(comparison: Comparison) -> str:
    """The comparison as monospace text: each side's shares and contributions and its verdict, then the differences that hold."""
    lines: list[str] = []
    for name, own in comparison.sides.groupby("side", sort=False):
        runs = int(own["runs"].iloc[0])
        lines.append(f"{name}: {runs} run{'s' * (runs > 1)}")
        for row in own.to_dict("records"):
            mean, low, high = (row[f"contribution_{end}"] for end in ("mean", "low", "high"))
            ends = "-" if np.isnan(mean) else f"{mean:+z.4f} {bracket(low, high, '+z.4f')}"
            line = f"  {row['category']:<12}{100 * row['share_of_clauses']:>5.1f} % of clauses   contribution {ends}"
            if runs > 1:
                line += f"   preferred in {row['preferred_in']} of {runs} runs"
            if not np.isnan(row["contribution_of_runs"]):
                line += f", {row['contribution_of_runs']:.0%} of the variance from runs"
            lines.append(line)
        lines += [f"  {sentence}" for sentence in comparison.verdicts[str(name)]]
    lines.append("")
    for (first, second), own in comparison.differences.groupby(["first", "second"], sort=False):
        if own["p"].notna().any():
            lines += _pair_in_words(str(first), str(second), own)
    if comparison.differences["p"].isna().all():
        lines.append(NOT_COVERED)
    for row in comparison.flips.to_dict("records"):
        lines.append(
            f"  {row['name']} flips: {row['rise']:+.3f} for {row['rose_for']}, {row['fall']:+.3f} for {row['fell_for']}"
        )
    return "\n".join([*lines, *comparison.needed, *(f"warning: {warning}" for warning in comparison.warnings)])


def _pair_in_words(first: str, second: str, own: pd.DataFrame) -> list[str]:
    """Which differences of two sides hold, and how large the others can be."""
    sure = own[own["p_holm"] < 0.05]
    head = f"{first} - {second} ({own['runs'].iloc[0]} runs): differences that hold for other classes and runs"
    lines = [f"{head}: {len(sure)} of {len(own)}"]
    lines += [
        f"  {row['measure']} {row['name']} {row['mean']:+.4f} {bracket(row['low'], row['high'], '+.4f')}, p {row['p_holm']:.4f}, "
        f"{row['share_of_runs']:.0%} of the variance from runs"
        for row in sure.to_dict("records")
    ]
    shares = own[own["measure"] == SHARE]
    others = shares[~(shares["p_holm"] < 0.05) & shares["within"].notna()]
    if len(others):
        largest = ", ".join(f"{row['name']} {100 * row['within']:.0f}" for row in others.to_dict("records"))
        lines.append(f"  No difference of shares larger than this many points: {largest}.")
    if shares["detectable"].notna().any():
        low, high = 100 * shares["detectable"].min(), 100 * shares["detectable"].max()
        lines.append(
            f"  To be seen in 80% of such comparisons, a share has to differ by {low:.0f} to {high:.0f} points."
        )
    return lines


def comparison_tables(comparison: Comparison) -> dict[str, pd.DataFrame]:
    """The tables of a comparison by name."""
    names = ("studies", "sides", "differences", "flips")
    return {name: getattr(comparison, name) for name in names}


def sides_of(folders: Sequence[str], studies: Sequence[Study], by: str = "vlm") -> dict[str, list[Study]]:
    """The studies of each side: those that share a fact; each for itself, by its folder, where all of them share it.

    Args:
        folders: Where the studies lie.
        studies: The studies.
        by: A fact of `summary["meta"]`.

    Raises:
        UserError: A study has no such fact.
    """
    values = []
    for folder, study in zip(folders, studies, strict=True):
        if by not in study.summary["meta"]:
            known = ", ".join(sorted(study.summary["meta"])) or "none"
            raise UserError(f"--by {by}: {folder} has no such fact; it has {known}.")
        values.append(str(study.summary["meta"][by]))
    if len(set(values)) == 1:
        values = list(folders)
    sides: dict[str, list[Study]] = {}
    for value, study in zip(values, studies, strict=True):
        sides.setdefault(value, []).append(study)
    return sides
