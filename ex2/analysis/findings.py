"""What the judged and tested texts say together: shares, change, contributions, preference, warnings.

Functions of tables: one row a text or a clause in, one row a finding out. The class is the unit of chance throughout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from ex2.analysis.contribution import CLAUSE_TESTS, TEXT_TESTS
from ex2.analysis.placebo import EDITS, PLACEBOS
from ex2.stats.intervals import (
    DIFFERENCE,
    SHARE,
    UNBOUNDED,
    cluster_means,
    detectable,
    holm,
    mean_interval,
    mean_p,
    standard_error,
)
from ex2.texts.categories import ALL_TAGS, CATEGORIES, INFORMATIVE, TAGS

UNSURE = "unsure"
SHOWN = (*CATEGORIES, UNSURE)
"""What a clause or text can be shown as, in the order of tables and plots."""

QUANTITIES = ("change", "added", "contribution", "general")
"""What the verdict on a category follows from, see `preference_table`."""

FEWEST_CLASSES = 8
"""With fewer nothing is said about preference: how skewed the classes are cannot be told from so few."""

_LEVEL = 0.95
TOGETHER = 1 - (1 - _LEVEL) / (len(QUANTITIES) * len(CATEGORIES))
"""Level of each interval that a verdict can rest on: all of the table `preference` hold at once with 95 % (Bonferroni)."""

ENDS = ("mean", "low", "high")
FEWEST_CLASSES = 5
"""Classes that must have clauses of a kind before what these add is tested: the spread of fewer says nothing of the others."""

_NOT_TESTED = {"low": np.nan, "high": np.nan, "p": np.nan, "within": np.nan, "detectable": np.nan}


# ---------------------------------------------------------------- shares


def class_interval(
    values: Any, clusters: Any, level: float = _LEVEL, bounds: tuple[float, float] = UNBOUNDED
) -> dict[str, float]:
    """Mean over classes with its interval; no interval (NaN) where there is one class only, or all classes are alike.

    Args:
        values: N numbers.
        clusters: Class of each.
        level: Of the interval.
        bounds: What the mean can be, (0, 1) for a share: the interval ends there.
    """
    values, clusters = np.asarray(values, dtype=float), np.asarray(clusters)
    means = cluster_means(values, clusters)[1]
    if len(means) < 2:
        return {"mean": float(means[0]) if len(means) else np.nan, "low": np.nan, "high": np.nan}
    return asdict(mean_interval(means, level=level, bounds=bounds))


def mixtures(clauses: pd.DataFrame, keys: Sequence[str] = ("system", "class_id")) -> dict[str, pd.DataFrame]:
    """What each description and each clause is about, as numbers whose mean is a share.

    A description is about a category to the extent that its clauses are, so that its shares do not depend on their number. Its
    most likely category would: of clauses drawn from one pool, the more there are, the more often the pool's largest wins.

    Returns:
        For each level a row a unit with `keys` and the columns `SHOWN`: the shares of the description's clauses, or 1 for the
        clause's category and 0 for the others.
    """
    one_hot = pd.DataFrame({name: (clauses["category"] == name).astype(float) for name in SHOWN})
    each = pd.concat([clauses[["description", *keys]], one_hot], axis=1)
    rules = {**dict.fromkeys(keys, "first"), **dict.fromkeys(SHOWN, "mean")}
    return {"descriptions": each.groupby("description", sort=False).agg(rules), "clauses": each}


def shares(clauses: pd.DataFrame) -> pd.DataFrame:
    """Share of each category in the texts and clauses of each system, mean over classes with its interval."""
    rows = []
    for level, table in mixtures(clauses).items():
        for system, own in table.groupby("system", sort=False):
            for category in SHOWN:
                interval = class_interval(own[category], own["class_id"], bounds=SHARE)
                rows.append({"level": level, "system": system, "category": category, **interval, "n": len(own)})
    return pd.DataFrame(rows)


def share_change(clauses: pd.DataFrame) -> pd.DataFrame:
    """Share in the aligned policy's texts minus share in the base policy's, paired by class; empty without base."""
    columns = ["level", "category", *ENDS, "p", "within", "detectable", "p_holm", "classes"]
    rows = []
    for level, table in mixtures(clauses).items():
        by_system = {s: own.groupby("class_id")[list(SHOWN)].mean() for s, own in table.groupby("system", sort=False)}
        if "base" not in by_system:
            continue
        difference = (by_system["aligned"] - by_system["base"]).dropna()
        if len(difference) < 2:
            continue
        rows += [
            {
                "level": level,
                "category": category,
                **estimate(difference[category], bounds=DIFFERENCE),
                "classes": len(difference),
            }
            for category in SHOWN
        ]
    return _corrected(rows).reindex(columns=columns)


def estimate(
    class_values: Any, level: float = TOGETHER, bounds: tuple[float, float] = UNBOUNDED, fewest: int = 2
) -> dict[str, float]:
    """The mean of one number a class, and what can be said about it; `bounds` are what the mean can be.

    Returns:
        ``mean``, ``low``, ``high``: with the interval at `level`. ``p``: of the mean being 0. ``within``: the mean is not further
        from 0 than this (equivalence). ``detectable``: from here on an effect is seen in 8 of 10 repetitions. All but the mean
        are NaN for fewer than `fewest` classes, or where all classes are alike.
    """
    values = np.asarray(class_values, dtype=float)
    if len(values) < fewest:
        return {"mean": float(values.mean()) if len(values) else np.nan, **_NOT_TESTED}
    interval = mean_interval(values, level=level, bounds=bounds)
    if not interval.known:
        return {"mean": interval.mean, **_NOT_TESTED}
    return {
        "mean": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "p": mean_p(values),
        "within": max(abs(interval.low), abs(interval.high)),
        "detectable": detectable(standard_error(values), len(values) - 1, level=level),
    }


def _corrected(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A table of tests with p-values corrected for all that are in it (Holm)."""
    table = pd.DataFrame(list(rows))
    return table.assign(p_holm=holm(table["p"])) if len(table) else table


def shares_by(clauses: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Number and share of descriptions of each category; one whose clauses are of several counts in each by its part."""
    table = mixtures(clauses, ["system", *keys])["descriptions"]
    counts = table.groupby(["system", *keys], sort=False)[list(SHOWN)].sum().rename_axis(columns="category").stack()
    found = counts[counts > 0].rename("count").reset_index()
    found["share"] = found["count"] / found.groupby(["system", *keys])["count"].transform("sum")
    return found


def has_tag(clauses: pd.DataFrame, tag: str) -> pd.Series:
    """Whether each clause has an attribute tag."""
    return (" " + clauses["tags"] + " ").str.contains(f" {tag} ", regex=False)


def attribute_shares(clauses: pd.DataFrame) -> pd.DataFrame:
    """Share of clauses with each attribute tag, by system."""
    rows = []
    for system, own in clauses.groupby("system", sort=False):
        for category, tags in TAGS.items():
            for tag in tags:
                has = has_tag(own, tag)
                interval = class_interval(has, own["class_id"], bounds=SHARE)
                rows.append({"system": system, "category": category, "tag": tag, **interval, "n": int(has.sum())})
    return pd.DataFrame(rows)


# ---------------------------------------------------------------- contributions


def contributions(texts: pd.DataFrame, clauses: pd.DataFrame) -> pd.DataFrame:
    """Each test by category: mean over classes, simultaneous 95 % interval, p-value, Holm-corrected over the whole table.

    `contrast` is the headline: within each class and system, clauses of the category against the other judged clauses in how
    much more they add for their own class than for the others (`about_class`), averaged over the systems. Pairing within class
    and system takes out that classes differ, and that a policy's own clauses fit its reward. `general` is the same of what
    clauses add for the other classes, which is not about the class at all. `contrast_swapped` and `contrast_scrambled` are the
    headline of clauses that were put to another class, or whose words are in random order (`ex2.analysis.placebo`).
    """
    rows = []
    tests = [(test, texts) for test in TEXT_TESTS] + [(test, clauses) for test in CLAUSE_TESTS]
    for test, table in tests:
        own = table[(table["system"] == "aligned") & table[test].notna()]
        values = {name: own[own["category"] == name].groupby("class_id")[test].mean() for name in CATEGORIES}
        rows += _by_category(test, values, own["category"].value_counts())
    for test, added in (("contrast", about_class(clauses)), ("general", clauses["added_elsewhere"])):
        rows += _contrasts(test, clauses, added)
    for way in PLACEBOS:
        tried = clauses[clauses[f"about_{way}"].notna()]
        rows += _contrasts(f"contrast_{way}", tried, tried[f"about_{way}"])
    return _corrected(rows)


def _contrasts(test: str, clauses: pd.DataFrame, values: pd.Series) -> list[dict[str, Any]]:
    level = matched(clauses, values)
    by_category = {name: contrast(clauses, level, clauses["category"] == name) for name in CATEGORIES}
    return _by_category(test, by_category, clauses["category"].value_counts())


def _by_category(test: str, values: Mapping[str, pd.Series], counts: Mapping[Any, int]) -> list[dict[str, Any]]:
    return [
        {
            "test": test,
            "category": name,
            **estimate(own, fewest=FEWEST_CLASSES),
            "classes": len(own),
            "n": int(counts.get(name, 0)),
        }
        for name, own in values.items()
    ]


def about_class(clauses: pd.DataFrame) -> pd.Series:
    """What each clause adds for its own class beyond what it adds for the mean of the other classes.

    What pleases the VLM whatever the class, such as the common direction of all images, or longer texts, is in both and so in
    neither.
    """
    return clauses["added"] - clauses["added_elsewhere"]


def matched(clauses: pd.DataFrame, values: pd.Series) -> pd.Series:
    """Values as if all clauses had the same length and the same place in their description.

    How much a value changes with the logarithm of the number of words and with the place is estimated within system, class and
    category, so that nothing of the difference between categories goes into it.
    """
    place = clauses.groupby("description").cumcount()
    last = clauses.groupby("description")["clause"].transform("size") - 1
    covariates = pd.DataFrame(
        {"words": np.log(clauses["clause"].str.split().str.len()), "place": place / last.clip(lower=1)}
    )
    keys = [clauses["system"], clauses["class_id"], clauses["category"]]
    within = covariates - covariates.groupby(keys).transform("mean")
    slopes, *_ = np.linalg.lstsq(
        within.to_numpy(), (values - values.groupby(keys).transform("mean")).to_numpy(), rcond=None
    )
    return values - (covariates - covariates.mean()).to_numpy() @ slopes


def contrast(clauses: pd.DataFrame, values: pd.Series, own: pd.Series, by: str = "class_id") -> pd.Series:
    """One number a class: the mean value of its `own` clauses beyond the other judged clauses; classes with both only."""
    judged = clauses["category"] != UNSURE
    keys = [clauses["system"], clauses[by]]
    inside, outside = (
        values[judged & part].groupby([key[judged & part] for key in keys]).mean() for part in (own, ~own)
    )
    return (inside - outside).dropna().groupby(level=by).mean()


def attribute_contributions(clauses: pd.DataFrame) -> pd.DataFrame:
    """The test `contrast` for each attribute tag: clauses with it against those without; Holm over all tags."""
    values = matched(clauses, about_class(clauses))
    level = 1 - (1 - _LEVEL) / len(ALL_TAGS)
    rows = []
    for category, tags in TAGS.items():
        for tag in tags:
            has = has_tag(clauses, tag)
            by_class = contrast(clauses, values, has)
            row = {"tag": tag, "category": category, **estimate(by_class, level, fewest=FEWEST_CLASSES)}
            rows.append({**row, "classes": len(by_class), "n": int(has.sum())})
    return _corrected(rows)


def counterfactuals(clauses: pd.DataFrame) -> pd.DataFrame:
    """What clauses say about their class beyond the same clauses with another colour, or another place: one row an edit."""
    rows = []
    for edit in EDITS:
        lost = (about_class(clauses) - clauses[f"about_{edit}"]).dropna()
        by_class = lost.groupby(clauses["class_id"]).mean()
        tested = estimate(by_class, 1 - (1 - _LEVEL) / len(EDITS))
        rows.append({"edit": edit, **tested, "classes": len(by_class), "n": len(lost)})
    return _corrected(rows)


# ---------------------------------------------------------------- what it amounts to


def preference_table(change: pd.DataFrame, contributions: pd.DataFrame, *, collapsed: bool = False) -> pd.DataFrame:
    """For each category the four quantities that the verdict follows from, and what follows.

    Columns ``QUANTITY_mean``, ``_low``, ``_high``, ``_p_holm``, ``_within``, ``_detectable`` for

        change        share of clauses, aligned minus base: did the policy move there?
        added         what its clauses add to the class name, for images of the class: does it pay?
        contribution  what they say about their class beyond other clauses (`contrast`): does it pay for being about the class?
        general       what they add for other classes beyond other clauses: does it pay whatever the class?

    and ``finding`` (`finding`) and ``preferred``. p-values are corrected over the whole table (Holm).

    Args:
        change: `share_change`.
        contributions: `contributions`.
        collapsed: Whether the texts have collapsed, so that no preference can be read off them.
    """
    by_test = {name: own.set_index("category") for name, own in contributions.groupby("test")}
    sources = {
        "change": change[change["level"] == "clauses"].set_index("category"),
        "added": by_test["added"],
        "contribution": by_test["contrast"],
        "general": by_test["general"],
    }
    wanted = [*ENDS, "p", "within", "detectable"]
    rows = {quantity: source.reindex(list(CATEGORIES)) for quantity, source in sources.items()}
    cells = pd.concat([own[wanted].add_prefix(f"{quantity}_") for quantity, own in rows.items()], axis=1)
    return preference_of(cells.assign(classes=rows["change"]["classes"]).astype(float), collapsed=collapsed)


def preference_of(quantities: pd.DataFrame, *, collapsed: bool) -> pd.DataFrame:
    """The preference table of quantities that are estimated already, a row a category; `preference_table` says what is in it."""
    table = quantities.copy()
    p_values = table[[f"{quantity}_p" for quantity in QUANTITIES]]
    table[[f"{quantity}_p_holm" for quantity in QUANTITIES]] = holm(p_values.to_numpy().ravel()).reshape(p_values.shape)
    table["finding"] = [finding(row, collapsed) for row in table.to_dict("records")]
    table["preferred"] = table["finding"] == "preferred"
    return table.drop(columns=list(p_values)).reset_index(names="category")


def sign(row: Mapping[str, Any], quantity: str) -> int | None:
    """1 or -1 where the whole interval of a quantity lies above or below 0, 0 where it holds 0, None where there is none."""
    low, high = row[f"{quantity}_low"], row[f"{quantity}_high"]
    if np.isnan(low) or np.isnan(high):
        return None
    return int(low > 0) - int(high < 0)


def finding(row: Mapping[str, Any], collapsed: bool = False) -> str:
    """What follows for a category from its row of the preference table.

    ================== =================================================================================================
    ``preferred``      the policy says more of it, it adds, and it adds for being about the class
    ``collapsed``      the same, but the texts have collapsed, so that it is no preference
    ``for_any_class``  the policy says more of it and it adds, but for other classes as well
    ``not_rewarded``   the policy says more of it, though it takes away, or says less about the class than other clauses
    ``undecided``      the policy says more of it; whether that pays cannot be told
    ``untested``       the policy says more of it; there is nothing to test whether that pays
    ``given_up``       the policy says less of it
    ``not_learned``    it adds for being about the class, but the policy does not clearly say more of it
    ``unchanged``      none of these: its share did not clearly change
    ``unknown``        its share changed by the same in every class, or there is nothing to compare with
    ================== =================================================================================================
    """
    change, added, about, general = (sign(row, quantity) for quantity in QUANTITIES)
    pays = added == 1 and about == 1
    if change is None:
        return "unknown"
    if change == 0:
        return "not_learned" if pays else "unchanged"
    if change < 0:
        return "given_up"
    if pays:
        return "collapsed" if collapsed else "preferred"
    if added is None or about is None:
        return "untested"
    if added == 1 and general == 1:
        return "for_any_class"
    return "not_rewarded" if -1 in (added, about) else "undecided"


def preferred(preference: pd.DataFrame) -> list[str]:
    """The categories that the preference table calls preferred."""
    return preference[preference["preferred"]]["category"].tolist()


def first_and_last(metrics: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    rows = [row for row in metrics if "monitors/hub_score" in row]
    return {
        name.removeprefix("monitors/"): {"first": rows[0][name], "last": rows[-1][name]}
        for name in (rows[0] if rows else {})
        if name.startswith("monitors/")
    }


def hacking_warnings(
    texts: pd.DataFrame, monitors: Mapping[str, Mapping[str, float]], unsure: float = 0.0
) -> list[str]:
    """Signs of reward hacking in words, besides collapse: what a reader must know before believing the findings."""
    warnings = []
    aligned = texts[texts["system"] == "aligned"]
    empty = float((~aligned["category"].isin((*INFORMATIVE, UNSURE))).mean())
    if empty > 0.5:
        warnings.append(
            f"{empty:.0%} of the descriptions say nothing specific to their class (spurious, or its name again): the reward was "
            "reached without describing."
        )
    if unsure > 0.2:
        warnings.append(f"The judge is unsure about {unsure:.0%} of the clauses: read shares with care.")
    signs = {
        "hub_score": (0.03, "one text fits many classes (hub texts)"),
        "duplicate_rate": (0.2, "texts repeat each other"),
        "boilerplate_rate": (0.1, "texts talk like a photo page"),
        "truncated_share": (0.05, "the VLM's tokenizer cuts texts, whose end is not scored"),
    }
    for name, (rise, meaning) in signs.items():
        ends = monitors.get(name)
        if ends is not None and ends["last"] - ends["first"] > rise:
            warnings.append(
                f"The monitor {name} rose from {ends['first']:.3f} to {ends['last']:.3f} in training: {meaning}."
            )
    return warnings


def question_warnings(texts: pd.DataFrame) -> list[str]:
    """A warning where the two policies were asked different questions, or in other proportions: shares depend on them."""
    counts = pd.crosstab(texts["system"], texts["question"], normalize="index")
    if "base" not in counts.index:
        return []
    apart = float((counts.loc["aligned"] - counts.loc["base"]).abs().sum() / 2)
    if apart <= 0.2:
        return []
    return [
        f"The untrained policy was asked other questions than the aligned one ({apart:.0%} of the texts would have to answer "
        "another question): what is said depends on what is asked, so a change of shares need not come from training."
    ]
