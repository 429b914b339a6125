"""Comparisons over training runs: what one run a side leaves open, what several show, and what is said of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from ex2.analysis.comparison import NOT_COVERED, compare, comparison_tables, format_comparison, sides_of
from ex2.analysis.findings import contributions, preference_table, share_change, shares
from ex2.analysis.study import Study
from ex2.base.errors import UserError
from ex2.stats.plots import comparison_png
from ex2.texts.categories import CATEGORIES

CLASSES, CLAUSES = 24, 12


def study(seed: int, *, visual: float = 0.4, adds: float = 0.0, vlm: str = "a", run: float = 0.0) -> Study:
    """A made-up study: the aligned policy says visual clauses with this chance, which differs by class and by `run`."""
    rng = np.random.default_rng(seed)
    rows = []
    tilt = np.random.default_rng(0).normal(size=CLASSES) * 0.1  # of the classes, the same in all studies
    for system, chance in (("aligned", visual + run), ("base", 0.3)):
        for class_id in range(CLASSES):
            own = rng.random(CLAUSES) < np.clip(chance + tilt[class_id], 0.05, 0.95)
            rows += [
                {"system": system, "class_id": class_id, "category": "visual" if is_visual else "habitat"}
                for is_visual in own
            ]
    clauses = pd.DataFrame(rows)
    count = len(clauses)
    pays = adds * (clauses["category"] == "visual")
    clauses = clauses.assign(
        description=np.arange(count), clause="it has legs",
        tags=np.where(clauses["category"] == "visual", "colour", "place"),
        class_name="class " + clauses["class_id"].astype(str), added=pays + 0.02 * rng.normal(size=count),
        added_elsewhere=0.01 * rng.normal(size=count), clause_drop=np.nan,
        about_swapped=np.nan, about_scrambled=np.nan,
    )  # fmt: skip
    texts = clauses[["system", "class_id", "category"]].assign(
        gain=0.0, specificity=0.0, stripped=0.0, shuffle_drop=0.0
    )
    tables = {"clauses": clauses, "shares": shares(clauses), "share_change": share_change(clauses)}
    tables["contributions"] = contributions(texts, clauses)
    tables["preference"] = preference_table(tables["share_change"], tables["contributions"])
    meta = {"vlm": vlm, "dataset": "made up", "seed": seed, "reward_normalization": "zscore"}
    return Study(tables, {"meta": meta, "judge": "none", "collapse": []})


@pytest.fixture(scope="module")
def runs() -> dict[str, list[Study]]:
    """Three runs of one VLM, which differ by 0.05, and three of another that say 0.5 less of what is visual: less than base."""
    lean = (-0.05, 0.0, 0.05)
    return {
        "a": [study(i, visual=0.6, adds=0.05, run=lean[i]) for i in range(3)],
        "b": [study(10 + i, visual=0.1, vlm="b", run=lean[i]) for i in range(3)],
    }


def test_one_run_a_side_calls_no_difference(runs: dict[str, list[Study]]) -> None:
    found = compare({"a": runs["a"][0], "b": runs["b"][0]}, see=0.1)
    assert found.differences[["low", "high", "p", "p_holm", "within", "detectable"]].isna().all(axis=None)
    own = found.differences.set_index(["measure", "name"]).loc[("share_of_clauses", "visual")]
    assert own["mean"] == pytest.approx(0.4, abs=0.1)  # what was seen is still shown
    text = format_comparison(found)
    assert "nan" not in text  # the made-up studies have clauses of two categories only
    assert [line.split()[1:5] for line in text.splitlines() if "name_echo" in line] == [
        ["0.0", "%", "of", "clauses"]
    ] * 2
    assert NOT_COVERED in text
    assert "cannot be told from one run a side" in text
    assert found.flips.empty


def test_several_runs_show_a_difference_and_how_much_comes_from_runs(runs: dict[str, list[Study]]) -> None:
    found = compare(runs, see=0.2)
    own = found.differences.set_index(["measure", "name"]).loc[("share_of_clauses", "visual")]
    assert own["mean"] == pytest.approx(0.45, abs=0.1)
    assert 0 < own["low"] < own["mean"] < own["high"]
    assert own["p_holm"] < 0.05
    assert own["within"] == pytest.approx(own["high"])
    assert 0 < own["share_of_runs"] <= 1
    assert (own["runs"], own["classes"]) == ("3 and 3", CLASSES)
    text = format_comparison(found)
    assert "a - b (3 and 3 runs): differences that hold for other classes and runs" in text
    assert "share_of_clauses visual +0." in text
    assert "To see a difference of 20 points in any share between a and b with these 24 classes: " in text
    assert found.flips.set_index("name").loc["visual", "fell_for"] == "b"


def test_runs_of_one_vlm_do_not_differ(runs: dict[str, list[Study]]) -> None:
    mixed = {
        "first": [runs["a"][0], study(20, visual=0.6, run=0.05)],
        "second": [runs["a"][1], study(21, visual=0.6, run=-0.05)],
    }
    found = compare(mixed)
    assert not (found.differences.query("measure == 'share_of_clauses'")["p_holm"] < 0.05).any()
    assert "No difference of shares larger than this many points: visual " in format_comparison(found)


def test_single_runs_of_one_job_get_one_verdict_over_all(runs: dict[str, list[Study]]) -> None:
    found = compare({f"run {i}": own for i, own in enumerate(runs["a"])})
    assert list(found.verdicts) == ["run 0", "run 1", "run 2", "all 3 runs"]
    together = found.sides[found.sides["side"] == "all 3 runs"].set_index("category")
    assert together.loc["visual", "runs"] == 3
    means = [own.tables["preference"].set_index("category").loc["visual", "change_mean"] for own in runs["a"]]
    assert together.loc["visual", "change_mean"] == pytest.approx(np.mean(means))
    # Three runs that differ: less is sure than from the classes of one.
    single = runs["a"][1].tables["preference"].set_index("category").loc["visual"]
    assert (
        together.loc["visual", "change_high"] - together.loc["visual", "change_low"]
        > single["change_high"] - single["change_low"]
    )
    assert 0 < together.loc["visual", "change_of_runs"] <= 1
    assert "other training runs like these 3" in found.verdicts["all 3 runs"][-1]
    assert "preferred in" in format_comparison(found)
    assert comparison_png(found.sides).startswith(b"\x89PNG")
    # Where anything else differs they are no runs of one job.
    assert "all 2 runs" not in compare({"a": runs["a"][0], "b": runs["b"][0]}).verdicts


def test_a_collapse_in_any_run_ends_every_preference_over_runs(runs: dict[str, list[Study]]) -> None:
    fallen = [*runs["a"][:2], replace(runs["a"][2], summary={**runs["a"][2].summary, "collapse": ["shrank"]})]
    assert not compare({"a": fallen, "b": runs["b"]}).sides.query("side == 'a'")["preferred"].any()


def test_sides_are_what_shares_a_fact(runs: dict[str, list[Study]]) -> None:
    studies = [runs["a"][0], runs["b"][0], runs["a"][1]]
    folders = ["x", "y", "z"]
    assert {name: len(own) for name, own in sides_of(folders, studies).items()} == {"a": 2, "b": 1}
    assert list(sides_of(folders, studies, "dataset")) == folders  # all share it
    with pytest.raises(
        UserError, match=r"--by colour: x has no such fact; it has dataset, reward_normalization, seed, vlm\."
    ):
        sides_of(folders, studies, "colour")


def test_what_is_not_equal_is_warned_of(runs: dict[str, list[Study]]) -> None:
    other = replace(runs["b"][0], summary={**runs["b"][0].summary, "judge": "other"})
    warnings = compare({"a": [runs["a"][0], runs["a"][0]], "b": other}).warnings
    assert any(
        warning.startswith("judge is not the same: none (a, run 1), none (a, run 2), other (b)") for warning in warnings
    )
    a, b = runs["a"][0], runs["b"][0]
    moved = [
        replace(s, summary=s.summary | {"meta": s.summary["meta"] | {"dataset": f"folder:/{n}/birds"}})
        for n, s in (("x", a), ("y", b))
    ]
    warnings += compare({"a": moved[0], "b": moved[1]}).warnings
    assert any(
        "dataset is not the same: folder:birds (a), folder:birds (b) in different places." in w for w in warnings
    )
    assert any(warning.startswith("Runs of a share a seed (0, 0)") for warning in warnings)
    assert not any(warning.startswith("seed") for warning in warnings)  # runs differ in it on purpose


def test_tables_have_a_row_for_everything(runs: dict[str, list[Study]]) -> None:
    tables = comparison_tables(compare(runs))
    assert len(tables["studies"]) == 6 * len(CATEGORIES)
    assert len(tables["sides"]) == 2 * len(CATEGORIES)
    with pytest.raises(UserError, match="two analyses or more, got 1"):
        compare({"a": runs["a"]})
