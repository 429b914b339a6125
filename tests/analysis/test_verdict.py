"""The verdict in words: every sentence is held against its table, of made-up studies and of tables drawn at random."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ex2.analysis import report
from ex2.analysis.findings import ENDS, FEWEST_CLASSES, QUANTITIES, finding, preference_table
from ex2.analysis.verdict import NO_BASE, NOTHING, STARTS, format_preference, how_sure, spoken, verdict
from ex2.texts.categories import CATEGORIES

MORE, LESS, UNCLEAR = (0.1, 0.05, 0.15), (-0.1, -0.15, -0.05), (0.02, -0.03, 0.07)
NOT_KNOWN = (0.1, np.nan, np.nan)


def row(
    change: tuple, added: tuple = UNCLEAR, contribution: tuple = UNCLEAR, general: tuple = UNCLEAR
) -> dict[str, Any]:
    cells = dict(zip(QUANTITIES, (change, added, contribution, general), strict=True))
    return {
        f"{quantity}_{end}": value for quantity, ends in cells.items() for end, value in zip(ENDS, ends, strict=True)
    }


def table_of(rows: list[dict[str, Any]], *, classes: float = 54, collapsed: bool = False) -> pd.DataFrame:
    """A preference table of these rows, one a category."""

    def source(quantity: str, **columns: Any) -> pd.DataFrame:
        ends = pd.DataFrame([{end: own[f"{quantity}_{end}"] for end in ENDS} for own in rows])
        known = ends["low"].notna()
        within = ends[["low", "high"]].abs().max(axis=1)
        return ends.assign(
            category=CATEGORIES,
            p=np.where(known, 0.2, np.nan),
            within=within.where(known),
            detectable=within.where(known),
            **columns,
        )

    tests = {"added": "added", "contribution": "contrast", "general": "general"}
    return preference_table(
        source("change", level="clauses", classes=classes),
        pd.concat([source(quantity, test=test, classes=classes) for quantity, test in tests.items()]),
        collapsed=collapsed,
    )


# ---------------------------------------------------------------- by hand


@pytest.mark.parametrize(
    ("cells", "found"),
    [
        ((MORE, MORE, MORE), "preferred"),
        ((MORE, MORE, UNCLEAR, MORE), "for_any_class"),
        ((MORE, MORE, LESS, MORE), "for_any_class"),
        ((MORE, LESS, MORE), "not_rewarded"),  # less harmful than other clauses is no preference
        ((MORE, UNCLEAR, LESS), "not_rewarded"),
        ((MORE, UNCLEAR, MORE), "undecided"),
        ((MORE, MORE, UNCLEAR), "undecided"),
        ((MORE, NOT_KNOWN, MORE), "untested"),
        ((MORE, MORE, NOT_KNOWN), "untested"),
        ((LESS, MORE, MORE), "given_up"),
        ((UNCLEAR, MORE, MORE), "not_learned"),
        ((UNCLEAR, LESS, MORE), "unchanged"),
        ((NOT_KNOWN, MORE, MORE), "unknown"),
    ],
)
def test_what_follows_for_a_category(cells: tuple, found: str) -> None:
    assert finding(row(*cells)) == found
    assert finding(row(*cells), collapsed=True) == ("collapsed" if found == "preferred" else found)


def test_a_preference_in_words() -> None:
    others = [row(UNCLEAR, LESS) for _ in CATEGORIES[1:]]
    said = verdict(table_of([row(MORE, (0.02, 0.01, 0.03), (0.03, 0.01, 0.05)), *others]))
    assert said[0] == (
        "Preferred: visual. The policy says more of it after training (+10.0 points [+5.0, +15.0]), such clauses bring a text "
        "nearer to images of its class (cosine +0.020 [+0.010, +0.030]), and they say more about that class than other clauses "
        "do (cosine +0.030 [+0.010, +0.050])."
    )
    assert said[1].startswith("No clear change of share: habitat (at most 7.0 points either way), ")
    assert said[2].startswith(
        "How sure: all intervals hold together with 95 % confidence for other classes like these 54; another"
    )
    assert "Large enough to be seen in 80% of such studies" in said[2]
    assert len(said) == 3


def test_clauses_that_only_harm_less_than_others_are_not_preferred() -> None:
    """A category whose clauses lower the cosine was called preferred once, since other clauses lowered it more."""
    table = table_of([row(MORE, (-0.021, -0.030, -0.012), (0.02, 0.01, 0.03)), *[row(LESS) for _ in CATEGORIES[1:]]])
    said = verdict(table)
    assert not table["preferred"].any()
    assert said[0] == NOTHING
    assert said[1].startswith("Not rewarded: visual. The policy says more of it after training")
    assert "but such clauses take a text away from images of its class (cosine -0.021 [-0.030, -0.012])." in said[1]


def test_nothing_is_preferred_where_texts_have_collapsed() -> None:
    table = table_of([row(MORE, MORE, MORE) for _ in CATEGORIES], collapsed=True)
    assert not table["preferred"].any()
    said = verdict(table)
    assert said[0] == NOTHING
    assert not any(sentence.startswith("Preferred") for sentence in said)
    assert said[1].startswith("Not to be called preferred: visual. ")


def test_no_verdict_without_base_or_with_few_classes() -> None:
    unknown = (np.nan, np.nan, np.nan)
    assert verdict(table_of([row(unknown, MORE, MORE) for _ in CATEGORIES])) == [NO_BASE]
    few = table_of([row(MORE, MORE, MORE) for _ in CATEGORIES], classes=FEWEST_CLASSES - 1)
    (said,) = verdict(few)
    assert said.startswith(f"No statement about preference: {FEWEST_CLASSES - 1} classes are too few")


def test_several_runs_are_covered_and_said_to_be() -> None:
    table = table_of([row(MORE, MORE, MORE) for _ in CATEGORIES])
    assert "another run may turn elsewhere" in how_sure(table)
    assert "for other classes like these 54 and other training runs like these 5." in how_sure(table, runs=5)


def test_no_share_is_said_to_change_by_more_than_there_is() -> None:
    table = table_of([row((0.1, -1.4, 1.6), UNCLEAR, UNCLEAR) for _ in CATEGORIES])
    assert "visual (any change is possible)" in verdict(table, runs=3)[1]
    table["change_detectable"] = [0.085, *[1.44] * (len(CATEGORIES) - 1)]
    assert "a change of share of 8.5 to over 100 points" in how_sure(table, runs=3)
    table["change_detectable"] = 1.44
    assert "a change of share of over 100 points" in how_sure(table, runs=3)


# ---------------------------------------------------------------- of any table


def ends() -> st.SearchStrategy[tuple[float, float, float]]:
    """A mean within its interval, or one without."""
    numbers = st.integers(-1200, 1200).map(lambda thousandth: thousandth / 1000)
    known = st.tuples(numbers, numbers, numbers).map(sorted).map(lambda three: (three[1], three[0], three[2]))
    return st.one_of(known, numbers.map(lambda mean: (mean, np.nan, np.nan)))


ROWS = st.lists(st.builds(row, ends(), ends(), ends(), ends()), min_size=len(CATEGORIES), max_size=len(CATEGORIES))

# What each phrase claims: the quantity, and on which side of 0 all of its interval lies; None: it may hold 0 or be unknown.
CLAIMS = {
    "The policy says more of it after training": ("change", 1),
    "The policy says less of it after training": ("change", -1),
    "does not clearly say more of it after training": ("change", 0),
    "uch clauses bring a text nearer to images of its class": ("added", 1),
    "uch clauses take a text away from images of its class": ("added", -1),
    "say more about that class than other clauses do": ("contribution", 1),
    "say less about their class than other clauses do": ("contribution", -1),
    "other classes' images too": ("general", 1),
}
NUMBERS = re.compile(
    r"\((?:cosine )?([+-]\d+\.\d+)(?: points)? \[(?:cannot be told|([+-]\d+\.\d+), ([+-]\d+\.\d+))\]\)"
)


def side(cells: pd.Series, quantity: str) -> int:
    return int(cells[f"{quantity}_low"] > 0) - int(cells[f"{quantity}_high"] < 0)


@settings(deadline=None)
@given(ROWS, st.booleans(), st.integers(2, 60), st.integers(1, 5))
def test_no_sentence_says_more_than_its_table(rows: list, collapsed: bool, classes: int, runs: int) -> None:
    table = table_of(rows, classes=classes, collapsed=collapsed).set_index("category")
    said = verdict(table.reset_index(), runs)
    if classes < FEWEST_CLASSES:
        assert len(said) == 1
        assert f"{classes} classes are too few" in said[0]
        return
    named = {spoken(name): name for name in CATEGORIES}
    told = []
    for sentence in said:
        start, _, rest = sentence.partition(": ")
        if start in STARTS.values():
            category = named[rest.partition(". ")[0]]
            told.append(category)
            check_sentence(start, rest, table.loc[category], collapsed)
        elif start == "No clear change of share":
            for shown, most in re.findall(r"([\w-]+) \(at most (\d+\.\d) points either way\)", sentence):
                cells = table.loc[named[shown]]
                told.append(named[shown])
                assert cells["change_low"] <= 0 <= cells["change_high"]
                assert float(most) == pytest.approx(100 * max(-cells["change_low"], cells["change_high"]), abs=0.051)
                assert float(most) <= 100
            for shown in re.findall(r"([\w-]+) \(any change is possible\)", sentence):
                cells = table.loc[named[shown]]
                told.append(named[shown])
                assert cells["change_low"] <= 0 <= cells["change_high"]
                assert max(-cells["change_low"], cells["change_high"]) >= 1
        elif start == "Cannot be told":
            for shown, mean in re.findall(r"([\w-]+) \(([+-]\d+\.\d) points\)", sentence):
                told.append(named[shown])
                assert np.isnan(table.loc[named[shown], "change_low"])
                assert float(mean) == pytest.approx(100 * table.loc[named[shown], "change_mean"], abs=0.051)
        else:
            assert sentence == NOTHING or start == "How sure"
    # Every category is spoken of once, and "nothing" is said exactly where nothing is preferred.
    assert sorted(told) == sorted(CATEGORIES)
    assert (NOTHING in said) == (not table["preferred"].any())
    assert said[-1].startswith("How sure: all intervals hold together")
    assert ("other training runs" in said[-1]) == (runs > 1)


def check_sentence(start: str, rest: str, cells: pd.Series, collapsed: bool) -> None:
    """Every claim of a sentence about a category, and every number in it, against the category's row."""
    claimed = {quantity: wanted for phrase, (quantity, wanted) in CLAIMS.items() if phrase in rest}
    for quantity, wanted in claimed.items():
        assert side(cells, quantity) == wanted, (start, rest)
    if start == "Preferred":
        assert not collapsed
        assert claimed == {"change": 1, "added": 1, "contribution": 1}
    if start == "Rewarded whatever the class":
        assert claimed == {"change": 1, "added": 1, "general": 1}
        assert side(cells, "contribution") != 1
    if start == "Not rewarded":
        assert claimed["change"] == 1
        assert -1 in claimed.values()
    if start == "Undecided":
        assert 0 in (side(cells, "added"), side(cells, "contribution"))
        assert -1 not in (side(cells, "added"), side(cells, "contribution"))
    if start == "Not tested":
        assert np.isnan([cells["added_low"], cells["contribution_low"]]).any()
    if start == "Given up":
        assert claimed["change"] == -1
    shown = {round(float(mean), 3) for mean, *_ in NUMBERS.findall(rest)}
    known = {round(scale * cells[f"{q}_mean"], places) for q in QUANTITIES for scale, places in ((1, 3), (100, 1))}
    assert shown <= known
    for mean, low, high in NUMBERS.findall(rest):
        ends_of = [(100, "change", 1)] if "points" in rest.split(mean)[1][:8] else [(1, q, 3) for q in QUANTITIES[1:]]
        assert any(
            round(scale * cells[f"{q}_mean"], places) == float(mean)
            and (
                not low
                or [round(scale * cells[f"{q}_{end}"], places) for end in ("low", "high")] == [float(low), float(high)]
            )
            for scale, q, places in ends_of
        )


@settings(deadline=None, max_examples=30)
@given(ROWS)
def test_the_table_in_text_has_a_line_a_category(rows: list) -> None:
    table = table_of(rows)
    shares = pd.DataFrame(
        [{"level": "clauses", "system": "aligned", "category": name, "mean": 0.25} for name in CATEGORIES]
    )
    lines = format_preference(table, shares).splitlines()
    assert [line.split()[0] for line in lines] == ["category", *CATEGORIES]
    assert all(
        f"{100 * cells['change_mean']:+z.1f} points" in line
        for cells, line in zip(table.to_dict("records"), lines[1:], strict=True)
    )


@pytest.mark.parametrize("clauses", [1, 3, 57, 79])
def test_the_table_in_text_rounds_shares_as_the_report_does(clauses: int) -> None:
    """Of 80 clauses: every second share lies in the middle between two numbers with one decimal."""
    mean = clauses / 80
    shares = pd.DataFrame([{"level": "clauses", "system": "aligned", "category": "visual", "mean": mean}])
    row = {"category": "visual"} | {f"{what}_{end}": mean for what in QUANTITIES for end in ("mean", "low", "high")}
    line = format_preference(pd.DataFrame([row]), shares).splitlines()[1]
    assert line.split()[2:4] == report.share(mean).split()
    assert f" {report.points(mean, True)} points " in line
