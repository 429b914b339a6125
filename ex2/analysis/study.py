"""From descriptions to findings: what is said, what it adds, and how it compares with controls, as tables.

`analyse` judges every clause, runs the contribution tests and controls, and returns a `Study`: tidy tables and a summary
from which the report, the notebooks and `ex2 compare` work.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ex2.analysis import contribution
from ex2.analysis.before_after import SystemScores, summarise
from ex2.analysis.categories import CATEGORIES, TAGS, Judge, Judgement, Passage, of_text
from ex2.analysis.contribution import CLAUSE_TESTS, TEXT_TESTS, Similarity
from ex2.analysis.statistics import cluster_bootstrap_mean, cluster_means, holm, sign_flip_p
from ex2.descriptions import Description
from ex2.errors import UserError
from ex2.files import write_atomically
from ex2.questions import TEMPLATE
from ex2.rewards.scoring import TextScorer

UNSURE = "unsure"
SHOWN = (*CATEGORIES, UNSURE)

PER_CLASS_CONTROLS = 8  # texts a class of the random-words control at most
_LEVEL = 0.95


@dataclass
class Study:
    """What an analysis found.

    Attributes:
        tables: Tidy tables by name; `docs/analysis.md` describes their columns.
        summary: What the tables say together, ready for JSON: facts about the study, the controls, the verdict on each
            category and warnings in words.
    """

    tables: dict[str, pd.DataFrame]
    summary: dict[str, Any]

    def write(self, folder: Path) -> None:
        """Write ``summary.json`` and each table as Parquet and CSV into ``folder/tables``, each file atomically."""
        for name, table in self.tables.items():
            write_atomically(folder / "tables" / f"{name}.parquet", table.to_parquet(index=False))
            write_atomically(folder / "tables" / f"{name}.csv", table.to_csv(index=False).encode())
        text = json.dumps(self.summary, indent=2, ensure_ascii=False, allow_nan=False)
        write_atomically(folder / "summary.json", (text + "\n").encode())

    @classmethod
    def read(cls, folder: Path) -> Study:
        """The study that `ex2 analyze` wrote into a folder.

        Raises:
            UserError: The folder holds none, or not a whole one.
        """
        path = folder / "summary.json"
        if not path.is_file():
            raise UserError(f"{folder} holds no analysis: summary.json is missing; `ex2 analyze` writes it.")
        try:
            summary = json.loads(path.read_text(encoding="utf-8"))
            tables = {name: pd.read_parquet(folder / "tables" / f"{name}.parquet") for name in summary["tables"]}
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise UserError(f"{folder} holds a damaged analysis ({error}); run `ex2 analyze` again.") from error
        return cls(tables, summary)


@dataclass(frozen=True)
class Judged:
    """The texts of one system with their judgements.

    Attributes:
        system: ``aligned`` (the descriptions under study) or ``base`` (the untrained policy's).
        records: N descriptions.
        passages: N.
        clauses: Judgements of each passage's clauses.
        texts: Judgement of each text.
    """

    system: str
    records: Sequence[Description]
    passages: list[Passage]
    clauses: list[tuple[Judgement, ...]]
    texts: list[Judgement] = field(default_factory=list)

    @property
    def class_ids(self) -> list[int]:
        return [record.class_id for record in self.records]


def judge_all(judge: Judge, systems: Mapping[str, Sequence[Description]], *, progress: bool = True) -> list[Judged]:
    """Cut all texts into clauses and judge them in one go."""
    passages = {name: [Passage.of(r.class_name, r.text) for r in records] for name, records in systems.items()}
    everything = [passage for own in passages.values() for passage in own]
    answers = judge.judge(everything, progress=progress)
    judged = []
    start = 0
    for name, records in systems.items():
        own = answers[start : start + len(records)]
        start += len(records)
        judged.append(Judged(name, records, passages[name], own, [of_text(clauses) for clauses in own]))
    return judged


def analyse(
    aligned: Sequence[Description],
    scorer: TextScorer,
    judge: Judge,
    *,
    base: Sequence[Description] = (),
    best_of_n: Sequence[Description] = (),
    metrics: Sequence[Mapping[str, Any]] = (),
    meta: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: bool = True,
    on_step: Callable[[str], None] = lambda step: None,
) -> Study:
    """Judge, test and compare descriptions.

    Args:
        aligned: The descriptions under study; at least two classes.
        scorer: VLM and bank that the descriptions are tested with; tests use its held-out images.
        judge: Tells categories apart.
        base: Descriptions of the same classes by the untrained policy; without them nothing is said about change.
        best_of_n: The best of the untrained policy's descriptions of each class under the reward.
        metrics: Rows of the run's metrics, for the learning curve and the monitors.
        meta: Facts about the study that the report shows.
        seed: Of the bootstrap and the random controls.
        progress: Whether to draw progress bars.
        on_step: Told what is being done next.

    Raises:
        UserError: Descriptions of fewer than two classes.
    """
    class_names = scorer.bank.class_names
    found = len({record.class_id for record in aligned})
    if found < 2:
        raise UserError(
            f"the descriptions are about {found} class: intervals and tests are over classes and need two; describe more classes."
        )
    on_step("judging clauses")
    systems = {"aligned": aligned, **({"base": base} if base else {})}
    judged = judge_all(judge, systems, progress=progress)

    on_step("encoding texts for the contribution tests")
    similarity = Similarity(scorer)
    similarity.encode([t for part in judged for t in contribution.all_texts(part.passages)], progress=progress)
    texts, clauses = _text_table(judged, similarity), _clause_table(judged, similarity)

    on_step("bootstrap")
    tables = {
        "descriptions": texts,
        "clauses": clauses,
        "shares": _shares(texts, clauses, seed),
        "share_change": _share_change(texts, clauses, seed),
        "shares_by_class": _shares_by(texts, ["class_id", "class_name"]),
        "shares_by_question": _shares_by(texts, ["question"]),
        "attributes": _attributes(clauses, seed),
        "contributions": _contributions(texts, clauses, seed),
        "zero_shot": _zero_shot(judged[0], similarity, scorer, seed),
    }
    tables["preference"] = _preference(tables["share_change"], tables["contributions"])
    on_step("controls")
    controls = _controls(judged, best_of_n, scorer, similarity, seed)
    monitors = _first_and_last(metrics)
    summary = summarise(controls, class_names, meta=dict(meta or {}), monitors=monitors, seed=seed)
    tables["controls"] = _control_table(summary)
    if metrics:
        tables["learning_curve"] = pd.DataFrame(list(metrics))
    summary |= {
        "judge": judge.name,
        "descriptions": len(aligned),
        "base_descriptions": len(base),
        "classes": found,
        "classes_of_dataset": len(class_names),
        "unsure": float((texts.query("system == 'aligned'")["category"] == UNSURE).mean()),
        "verdict": verdict(tables["preference"]),
        "warnings": summary["warnings"] + hacking_warnings(texts, monitors),
        "tables": sorted(tables),
    }
    return Study(tables, summary)


# ---------------------------------------------------------------- one row a text, one row a clause


def _judgement_columns(judgements: Sequence[Judgement]) -> dict[str, Any]:
    return {
        "category": [j.category or UNSURE for j in judgements],
        "probability": [j.probability for j in judgements],
        **{f"p_{name}": [j.probabilities[i] for j in judgements] for i, name in enumerate(CATEGORIES)},
        "tags": [" ".join(j.tags) for j in judgements],
    }


def _text_table(judged: Sequence[Judged], similarity: Similarity) -> pd.DataFrame:
    parts = []
    for part in judged:
        columns = {
            "system": part.system,
            "class_id": part.class_ids,
            "class_name": [r.class_name for r in part.records],
            "question": [r.question for r in part.records],
            "text": [r.text for r in part.records],
            **_judgement_columns(part.texts),
            **contribution.text_tests(similarity, part.passages, part.class_ids),
        }
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def _clause_table(judged: Sequence[Judged], similarity: Similarity) -> pd.DataFrame:
    parts, first = [], 0
    for part in judged:
        sizes = [len(passage.clauses) for passage in part.passages]
        columns = {
            "system": part.system,
            "description": np.repeat(np.arange(first, first + len(sizes)), sizes),
            "class_id": np.repeat(part.class_ids, sizes),
            "class_name": np.repeat([r.class_name for r in part.records], sizes),
            "clause": [clause for passage in part.passages for clause in passage.clauses],
            **_judgement_columns([j for own in part.clauses for j in own]),
            **contribution.clause_tests(similarity, part.passages, part.class_ids),
        }
        parts.append(pd.DataFrame(columns))
        first += len(sizes)
    return pd.concat(parts, ignore_index=True)


# ---------------------------------------------------------------- shares


def _interval(values: Any, clusters: Any, seed: int, level: float = _LEVEL) -> dict[str, float]:
    """Mean over classes with its interval; no interval (NaN) where there is one class only."""
    values, clusters = np.asarray(values, dtype=float), np.asarray(clusters)
    if len(np.unique(clusters)) < 2:
        mean = float(cluster_means(values, clusters)[1][0]) if len(values) else np.nan
        return {"mean": mean, "low": np.nan, "high": np.nan}
    return cluster_bootstrap_mean(values, clusters, level=level, seed=seed).as_dict()


def _shares(texts: pd.DataFrame, clauses: pd.DataFrame, seed: int) -> pd.DataFrame:
    rows = []
    for level, table in (("descriptions", texts), ("clauses", clauses)):
        for system, own in table.groupby("system", sort=False):
            for category in SHOWN:
                rows.append(
                    {
                        "level": level,
                        "system": system,
                        "category": category,
                        **_interval(own["category"] == category, own["class_id"], seed),
                        "n": len(own),
                    }
                )
    return pd.DataFrame(rows)


def _share_change(texts: pd.DataFrame, clauses: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Share in the aligned policy's texts minus share in the base policy's, paired by class; empty without base."""
    columns = ["level", "category", "mean", "low", "high", "p", "p_holm", "classes"]
    rows = []
    for level, table in (("descriptions", texts), ("clauses", clauses)):
        shares = {s: _class_shares(own) for s, own in table.groupby("system", sort=False)}
        if "base" not in shares:
            continue
        difference = (shares["aligned"] - shares["base"]).dropna()
        if len(difference) < 2:
            continue
        tests = [_tested(difference[category].to_numpy(), seed, len(CATEGORIES)) for category in SHOWN]
        corrected = holm([test["p"] for test in tests])
        rows += [
            {"level": level, "category": category, **test, "p_holm": p, "classes": len(difference)}
            for category, test, p in zip(SHOWN, tests, corrected, strict=True)
        ]
    return pd.DataFrame(rows, columns=columns)


def _class_shares(table: pd.DataFrame) -> pd.DataFrame:
    """One row a class: the share of each category."""
    return pd.crosstab(table["class_id"], table["category"], normalize="index").reindex(columns=SHOWN, fill_value=0.0)


def _tested(class_values: NDArray[np.float64], seed: int, together: int) -> dict[str, float]:
    """Mean of one number a class, its interval at 95 % for `together` of them at once (Bonferroni), and its p-value."""
    level = 1 - (1 - _LEVEL) / together
    interval = cluster_bootstrap_mean(class_values, np.arange(len(class_values)), level=level, seed=seed)
    return {**interval.as_dict(), "p": sign_flip_p(class_values, seed=seed)}


def _shares_by(texts: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    counts = texts.groupby(["system", *keys, "category"], sort=False).size().rename("count").reset_index()
    counts["share"] = counts["count"] / counts.groupby(["system", *keys])["count"].transform("sum")
    return counts


def _attributes(clauses: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Share of clauses with each attribute tag, by system."""
    rows = []
    for system, own in clauses.groupby("system", sort=False):
        padded = " " + own["tags"] + " "
        for category, tags in TAGS.items():
            for tag in tags:
                has = padded.str.contains(f" {tag} ", regex=False)
                interval = _interval(has, own["class_id"], seed)
                rows.append({"system": system, "category": category, "tag": tag, **interval, "n": int(has.sum())})
    return pd.DataFrame(rows)


# ---------------------------------------------------------------- contributions


def _contributions(texts: pd.DataFrame, clauses: pd.DataFrame, seed: int) -> pd.DataFrame:
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


def _zero_shot(aligned: Judged, similarity: Similarity, scorer: TextScorer, seed: int) -> pd.DataFrame:
    """Accuracy of classifying held-out images, and its gain over the template, with texts of each category alone."""
    bank = scorer.bank
    rows_of = bank.rows("heldout")
    device = bank.device
    images, labels = bank.embeddings[rows_of].to(device), bank.labels[rows_of].to(device)
    templates = similarity.embeddings([TEMPLATE.replace("{}", name) for name in bank.class_names])
    by_class = contribution.zero_shot_by_class(templates, images, labels)
    all_classes = np.arange(len(by_class))
    zero = {"gain_mean": 0.0, "gain_low": 0.0, "gain_high": 0.0}
    row = {"texts": "template", **_interval(by_class, all_classes, seed), **zero}
    rows: list[dict[str, Any]] = [{**row, "classes": len(by_class), "n": len(by_class)}]
    embeddings = similarity.embeddings([" ".join(passage.clauses) for passage in aligned.passages])
    class_ids = np.asarray(aligned.class_ids)
    categories = np.array([j.category or UNSURE for j in aligned.texts])
    for name, chosen in (("all", categories != ""), *((name, categories == name) for name in CATEGORIES)):
        if not chosen.any():
            continue
        vectors = contribution.class_vectors(templates, embeddings[np.flatnonzero(chosen)], class_ids[chosen].tolist())
        accuracy = contribution.zero_shot_by_class(vectors, images, labels)
        covered = np.unique(class_ids[chosen])
        gain = _interval((accuracy - by_class)[covered], covered, seed)
        rows.append(
            {
                "texts": name,
                **_interval(accuracy[covered], covered, seed),
                **{f"gain_{key}": value for key, value in gain.items()},
                "classes": len(covered),
                "n": int(chosen.sum()),
            }
        )
    return pd.DataFrame(rows)


# ---------------------------------------------------------------- what it amounts to


def _preference(change: pd.DataFrame, contributions: pd.DataFrame) -> pd.DataFrame:
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
                **{f"contribution_{key}": adds[key] for key in ("mean", "low", "high", "p_holm")},
                "preferred": bool(
                    moved is not None and moved["low"] > 0 and moved["p_holm"] < 0.05
                    and adds["low"] > 0 and adds["p_holm"] < 0.05
                ),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def verdict(preference: pd.DataFrame) -> str:
    """The preference table in one sentence."""
    preferred = preference[preference["preferred"]]["category"].tolist()
    if preferred:
        kinds = " and ".join(name.replace("_", "-") for name in preferred)
        return (
            f"Preferred: {kinds}. Training moved the policy there, and such clauses add more similarity with held-out images "
            "than others do."
        )
    if preference["change_mean"].isna().all():
        return "No statement about preference: there are no texts of the untrained policy to compare with."
    return (
        "No preference found: no category both gained share in training and adds more similarity with held-out images than the "
        "others."
    )


def _controls(
    judged: Sequence[Judged], best_of_n: Sequence[Description], scorer: TextScorer, similarity: Similarity, seed: int
) -> list[SystemScores]:
    """Every system of the controls table with its scores on reward and held-out images."""
    names = scorer.bank.class_names
    rewarded = Similarity(scorer, "reward")
    aligned = judged[0]
    texts, ids = [r.text for r in aligned.records], aligned.class_ids
    described = sorted(set(ids))
    others = contribution.swapped(ids, names, seed)
    waffle = contribution.random_words(
        names, [r.text for part in judged for r in part.records], min(PER_CLASS_CONTROLS, len(texts)), seed
    )
    waffle = [(class_id, text) for class_id, text in waffle if class_id in set(described)]
    systems: dict[str, tuple[list[int], list[str]]] = {
        "class_name": (described, [names[i] for i in described]),
        "template": (described, [TEMPLATE.replace("{}", names[i]) for i in described]),
        "random_words": ([i for i, _ in waffle], [text for _, text in waffle]),
        **{part.system: (part.class_ids, [r.text for r in part.records]) for part in judged},
        "scrambled": (ids, [contribution.scrambled(text, seed) for text in texts]),
        "swapped": (others, texts),
        "renamed": (
            others,
            [contribution.renamed(t, names[i], names[o]) for t, i, o in zip(texts, ids, others, strict=True)],
        ),
    }
    if best_of_n:
        systems["best_of_n"] = ([r.class_id for r in best_of_n], [r.text for r in best_of_n])
    return [
        SystemScores(name, own, rewarded.own(system_texts, own), similarity.own(system_texts, own), system_texts)
        for name, (own, system_texts) in systems.items()
    ]


def _control_table(summary: Mapping[str, Any]) -> pd.DataFrame:
    """Controls, one row a system and image set, with the aligned policy's advantage over it."""
    rows = []
    for name, entry in summary.items():
        if not (isinstance(entry, dict) and "heldout" in entry and not name.startswith("aligned_minus_")):
            continue
        for images in ("reward", "heldout"):
            row: dict[str, Any] = {"system": name, "images": images, **entry[images]}
            advantage = summary.get(f"aligned_minus_{name}", {}).get(images, {})
            row |= {f"aligned_minus_{key}": advantage.get(key, np.nan) for key in ("mean", "low", "high")}
            rows.append({**row, "distinct": entry["distinct"], "n": entry["n"], "classes": entry["classes"]})
    return pd.DataFrame(rows)


def _first_and_last(metrics: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    rows = [row for row in metrics if "monitors/hub_score" in row]
    return {
        name.removeprefix("monitors/"): {"first": rows[0][name], "last": rows[-1][name]}
        for name in (rows[0] if rows else {})
        if name.startswith("monitors/")
    }


def hacking_warnings(texts: pd.DataFrame, monitors: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Signs of reward hacking in words: what a reader must know before believing the findings."""
    warnings = []
    aligned = texts[texts["system"] == "aligned"]
    spurious = float((aligned["category"] == "spurious").mean())
    if spurious > 0.5:
        warnings.append(
            f"{spurious:.0%} of the descriptions say nothing specific to their class (spurious): the reward was reached without "
            "describing."
        )
    unsure = float((aligned["category"] == UNSURE).mean())
    if unsure > 0.2:
        warnings.append(f"The judge is unsure about {unsure:.0%} of the descriptions: read shares with care.")
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
