"""What the judged and tested texts say together: shares, change, contributions, preference, warnings.

Functions of tables: one row a text or a clause in, one row a finding out. The class is the unit of chance throughout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ex2.analysis.contribution import CLAUSE_TESTS, TEXT_TESTS
from ex2.stats.intervals import cluster_bootstrap_mean, cluster_means, holm, sign_flip_p
from ex2.texts.categories import CATEGORIES, TAGS

UNSURE = "unsure"
SHOWN = (*CATEGORIES, UNSURE)
"""What a clause or text can be shown as, in the order of tables and plots."""

FEWEST_CLASSES = 8
"""With fewer, the smallest p of a sign-flip test, 2 / 2**classes, is not below 0.05 once corrected for five categories; where
more of them occur it takes nine."""

_LEVEL = 0.95


# ---------------------------------------------------------------- shares


def class_interval(values: Any, clusters: Any, seed: int, level: float = _LEVEL) -> dict[str, float]:
    """Mean over classes with its interval; no interval (NaN) where there is one class only."""
    values, clusters = np.asarray(values, dtype=float), np.asarray(clusters)
    if len(np.unique(clusters)) < 2:
        mean = float(cluster_means(values, clusters)[1][0]) if len(values) else np.nan
        return {"mean": mean, "low": np.nan, "high": np.nan}
    return cluster_bootstrap_mean(values, clusters, level=level, seed=seed).as_dict()


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


def shares(clauses: pd.DataFrame, seed: int) -> pd.DataFrame:
    rows = []
    for level, table in mixtures(clauses).items():
        for system, own in table.groupby("system", sort=False):
            for category in SHOWN:
                rows.append(
                    {
                        "level": level,
                        "system": system,
                        "category": category,
                        **class_interval(own[category], own["class_id"], seed),
                        "n": len(own),
                    }
                )
    return pd.DataFrame(rows)


def share_change(clauses: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Share in the aligned policy's texts minus share in the base policy's, paired by class; empty without base.

    Categories that no text has did not change for certain, and are none of those that are tested together.
    """
    columns = ["level", "category", "mean", "low", "high", "p", "p_holm", "classes"]
    rows = []
    for level, table in mixtures(clauses).items():
        by_system = {s: own.groupby("class_id")[list(SHOWN)].mean() for s, own in table.groupby("system", sort=False)}
        if "base" not in by_system:
            continue
        difference = (by_system["aligned"] - by_system["base"]).dropna()
        if len(difference) < 2:
            continue
        found = [name for name in SHOWN if any((own[name] > 0).any() for own in by_system.values())]
        tested = {name: _tested(difference[name].to_numpy(), seed, len(found)) for name in found}
        corrected = dict(zip(found, holm([test["p"] for test in tested.values()]), strict=True))
        nothing = {"mean": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}
        rows += [
            {
                "level": level,
                "category": name,
                **tested.get(name, nothing),
                "p_holm": corrected.get(name, 1.0),
                "classes": len(difference),
            }
            for name in SHOWN
        ]
    return pd.DataFrame(rows, columns=columns)


def _tested(class_values: NDArray[np.float64], seed: int, together: int) -> dict[str, float]:
    """Mean of one number a class, its interval at 95 % for `together` of them at once (Bonferroni), and its p-value."""
    level = 1 - (1 - _LEVEL) / together
    interval = cluster_bootstrap_mean(class_values, np.arange(len(class_values)), level=level, seed=seed)
    return {**interval.as_dict(), "p": sign_flip_p(class_values, seed=seed)}


def shares_by(clauses: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Number and share of descriptions of each category; one whose clauses are of several counts in each by its part."""
    table = mixtures(clauses, ["system", *keys])["descriptions"]
    counts = table.groupby(["system", *keys], sort=False)[list(SHOWN)].sum().rename_axis(columns="category").stack()
    found = counts[counts > 0].rename("count").reset_index()
    found["share"] = found["count"] / found.groupby(["system", *keys])["count"].transform("sum")
    return found


def attribute_shares(clauses: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Share of clauses with each attribute tag, by system."""
    rows = []
    for system, own in clauses.groupby("system", sort=False):
        padded = " " + own["tags"] + " "
        for category, tags in TAGS.items():
            for tag in tags:
                has = padded.str.contains(f" {tag} ", regex=False)
                interval = class_interval(has, own["class_id"], seed)
                rows.append({"system": system, "category": category, "tag": tag, **interval, "n": int(has.sum())})
    return pd.DataFrame(rows)


# ---------------------------------------------------------------- contributions


def contributions(texts: pd.DataFrame, clauses: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Each test by category: mean over classes, simultaneous 95 % interval, p-value, Holm-corrected over the categories.

    `contrast` is the headline: within each class and system, clauses of the category against the other judged clauses
    in the test `added`, averaged over the systems. Pairing within class and system takes out that classes differ, and
    that a policy's own clauses fit its reward.
    """
    rows = []
    tests = [("aligned", test, texts) for test in TEXT_TESTS] + [("aligned", test, clauses) for test in CLAUSE_TESTS]
    for system, test, table in tests:
        own = table[(table["system"] == system) & table[test].notna()]
        values = {name: own[own["category"] == name].groupby("class_id")[test].mean().to_numpy() for name in CATEGORIES}
        counts = own["category"].value_counts()
        rows += _family(test, values, {name: int(counts.get(name, 0)) for name in CATEGORIES}, seed)
    counts = clauses["category"].value_counts()
    rows += _family(
        "contrast",
        {name: added_contrast(clauses, name).to_numpy() for name in CATEGORIES},
        {name: int(counts.get(name, 0)) for name in CATEGORIES},
        seed,
    )
    return pd.DataFrame(rows)


def added_contrast(clauses: pd.DataFrame, category: str, by: str = "class_id") -> pd.Series:
    """One number a class: what clauses of the category add beyond the other judged clauses; classes with both only."""
    judged = clauses[clauses["category"] != UNSURE]
    own = judged["category"] == category
    inside = judged[own].groupby(["system", by])["added"].mean()
    outside = judged[~own].groupby(["system", by])["added"].mean()
    return (inside - outside).dropna().groupby(by).mean()


def _family(
    test: str, values: Mapping[str, NDArray[np.float64]], counts: Mapping[str, int], seed: int
) -> list[dict[str, Any]]:
    """Rows of one test; a category that fewer than two classes have has no interval and no p-value."""
    tested = [name for name in CATEGORIES if len(values[name]) > 1]
    results = {name: _tested(values[name], seed, max(len(tested), 1)) for name in tested}
    corrected = dict(zip(tested, holm([results[name]["p"] for name in tested]) if tested else [], strict=True))
    nothing = {"low": np.nan, "high": np.nan, "p": np.nan}
    return [
        {
            "test": test,
            "category": name,
            **results.get(name, {"mean": float(values[name].mean()) if len(values[name]) else np.nan, **nothing}),
            "p_holm": corrected.get(name, np.nan),
            "classes": len(values[name]),
            "n": counts[name],
        }
        for name in CATEGORIES
    ]


# ---------------------------------------------------------------- what it amounts to


def preference_table(change: pd.DataFrame, contributions: pd.DataFrame) -> pd.DataFrame:
    """For each category: did the policy move there, do its clauses add more than others, and so: is it preferred?"""
    by_clause = change[change["level"] == "clauses"].set_index("category")
    contrast = contributions[contributions["test"] == "contrast"].set_index("category")
    rows = []
    for name in CATEGORIES:
        moved = by_clause.loc[name] if name in by_clause.index else None
        adds = contrast.loc[name]
        rows.append(
            {
                "category": name,
                **{f"change_{key}": np.nan if moved is None else moved[key] for key in ("mean", "low", "high", "p_holm")},
                "classes": np.nan if moved is None else min(moved["classes"], contrast["classes"].max()),
                **{f"contribution_{key}": adds[key] for key in ("mean", "low", "high", "p_holm")},
                "preferred": bool(
                    moved is not None and moved["low"] > 0 and moved["p_holm"] < 0.05
                    and adds["low"] > 0 and adds["p_holm"] < 0.05
                ),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def preferred(preference: pd.DataFrame) -> list[str]:
    """The categories that the preference table calls preferred."""
    return preference[preference["preferred"]]["category"].tolist()


def verdict(preference: pd.DataFrame) -> str:
    """The preference table in one or two sentences, none of which says more than the table does."""
    liked = preferred(preference)
    if liked:
        return (
            f"Preferred: {_spoken(liked)}. Training moved the policy there, and such clauses add more similarity with held-out "
            "images than others do."
        )
    if preference["change_mean"].isna().all():
        return "No statement about preference: there are no texts of the untrained policy to compare with."
    classes = preference["classes"].max()
    if classes < FEWEST_CLASSES:
        return (
            f"No statement about preference: {classes:.0f} classes are too few for a corrected p-value below 0.05; describe "
            f"{FEWEST_CLASSES} or more."
        )
    gained, adds = preference["change_mean"] > 0, preference["contribution_mean"]
    both = preference[gained & (adds > 0)]["category"].tolist()
    untested = preference[gained & adds.isna()]["category"].tolist()
    said = [
        "No preference found: no category both gained share in training and adds more similarity with held-out images than the "
        f"others{', beyond chance' if both else ''}."
    ]
    if both:
        said.append(f"Undecided: {_spoken(both)} did both, but within chance.")
    if untested:
        said.append(f"Not tested: {_spoken(untested)} gained share, but stands beside other clauses in no class.")
    return " ".join(said)


def _spoken(categories: Sequence[str]) -> str:
    return " and ".join(name.replace("_", "-") for name in categories)


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
    """Signs of reward hacking in words: what a reader must know before believing the findings."""
    warnings = []
    aligned = texts[texts["system"] == "aligned"]
    empty = float(aligned["category"].isin(["spurious", "name_echo"]).mean())
    if empty > 0.5:
        warnings.append(
            f"{empty:.0%} of the descriptions say nothing specific to their class (spurious, or its name again): the reward was "
            "reached without describing."
        )
    if unsure > 0.2:
        warnings.append(f"The judge is unsure about {unsure:.0%} of the clauses: read shares with care.")
    words = {system: own["text"].str.split().str.len().mean() for system, own in texts.groupby("system")}
    if "base" in words and words["aligned"] < words["base"] / 2:
        warnings.append(
            f"Descriptions shrank from {words['base']:.1f} to {words['aligned']:.1f} words: the policy learned to say less."
        )
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


def format_preference(preference: pd.DataFrame, shares: pd.DataFrame) -> str:
    """Share and contribution of each category, as monospace text.

    Args:
        preference: `preference_table`.
        shares: `shares`.
    """
    means = shares[shares["level"] == "clauses"].set_index(["system", "category"])["mean"]

    def share(system: str, category: str) -> str:
        return f"{means[system, category]:.3f}" if (system, category) in means.index else "-"

    lines = [f"{'category':<12}{'base':>8}{'aligned':>9}   share change           contribution"]
    for row in preference.to_dict("records"):
        name = row["category"]
        ends = [
            f"{row[f'{what}_mean']:+.3f} [{row[f'{what}_low']:+.3f}, {row[f'{what}_high']:+.3f}]"
            for what in ("change", "contribution")
        ]
        mark = "  preferred" if row["preferred"] else ""
        lines.append(f"{name:<12}{share('base', name):>8}{share('aligned', name):>9}   {ends[0]}  {ends[1]}{mark}")
    return "\n".join(lines)
