"""Labels of people: sheets, what is refused in them, agreement, and the correction, by hand and in repeated draws."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ex2.analysis.corrected import (
    Sample,
    add_labels,
    agreement_with_judge,
    correct,
    corrected_table,
    labels_needed,
    ratio,
)
from ex2.analysis.labels import Sheet, allocate, clause_id, draw, krippendorff_alpha, read_labels, units, write_sheet
from ex2.analysis.study import Study
from ex2.base.errors import UserError
from ex2.texts.categories import CATEGORIES

V, H, K, N, S, E = CATEGORIES


def clauses_of(truth: list[str], judged: list[str], seed: int = 0) -> pd.DataFrame:
    """A study's clauses, of ten classes and two systems, whose judge is 80 % sure of what it says."""
    generator = np.random.default_rng(seed)
    p = {f"p_{name}": [0.8 if name == said else 0.04 for said in judged] for name in CATEGORIES}
    return pd.DataFrame(
        {
            "system": ["aligned" if i % 2 else "base" for i in range(len(truth))],
            "class_id": [i % 10 for i in range(len(truth))],
            "class_name": [f"c{i % 10}" for i in range(len(truth))],
            "clause": [f"It is {label} {i}." for i, label in enumerate(truth)],
            "category": judged,
            **p,
            "added": generator.normal(size=len(truth)) + np.array([label == V for label in truth]),
            "added_elsewhere": 0.0,
        }
    )


def filled(sheet: Sheet, clauses: pd.DataFrame) -> pd.DataFrame:
    """Labels of one person who is always right: the clause says what it is."""
    table = units(clauses)
    said = [table.loc[key, "clause"].split()[2] for key in sheet.strata]
    return pd.DataFrame({"clause_id": list(sheet.strata), "annotator": "me", "category": said})


# ---------------------------------------------------------------- sheets

CLAUSES = clauses_of([V] * 60 + [N] * 40, [V] * 30 + [N] * 66 + [S] * 4)


def test_each_judged_category_has_its_part_and_nobody_sees_what_it_is(tmp_path: Path) -> None:
    sheet = draw(CLAUSES, 50, ["anna", "ben"], seed=0)
    assert sheet.sizes == {N: 66, S: 4, V: 30}
    counts = Counter(sheet.strata.values())
    assert counts[S] == 4  # all there are
    assert counts[N] + counts[V] == 46
    assert abs(counts[N] - 33) <= 3
    assert draw(CLAUSES, 50, ["anna", "ben"], seed=0) == sheet
    assert set(draw(CLAUSES, 50, ["anna"], seed=1).strata) != set(sheet.strata)
    files = write_sheet(sheet, CLAUSES, tmp_path)
    with files[0].open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 100
    assert {row["annotator"] for row in rows} == {"anna", "ben"}
    assert {row["category"] for row in rows} == {""}
    page = files[1].read_text(encoding="utf-8")
    assert page.count("<fieldset data-key=") == 50
    assert "http" not in page.replace("http-equiv", "")
    assert list(sheet.strata.values()) != sorted(sheet.strata.values())  # the order gives nothing away


def test_allocation_by_hand() -> None:
    assert allocate({"a": 100, "b": 50, "c": 3}, 38) == {"a": 24, "b": 11, "c": 3}
    assert allocate({"a": 6, "b": 6}, 12) == {"a": 6, "b": 6}
    assert sum(allocate({"a": 1000, "b": 10, "c": 7}, 99).values()) == 99


def test_equal_clauses_are_labelled_once() -> None:
    twice = pd.concat([CLAUSES, CLAUSES], ignore_index=True)
    assert len(units(twice)) == len(units(CLAUSES)) == 100
    assert clause_id("owl", "It hoots.") != clause_id("elk", "It hoots.")


@pytest.mark.parametrize(
    ("n", "annotators", "message"),
    [
        (101, ["me"], "--n 101: the study has 100 distinct clauses; label at most so many."),
        (13, ["me"], "--n 13 is too few: 14 are needed for 5 of each judged category."),
        (50, ["me", "me"], "--annotators me me: each person needs a name of their own."),
        (50, [" "], "--annotators  : each person needs a name of their own."),
    ],
)
def test_what_cannot_be_drawn(n: int, annotators: list[str], message: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        draw(CLAUSES, n, annotators, seed=0)


@pytest.fixture
def sheet_file(tmp_path: Path) -> Path:
    return write_sheet(draw(CLAUSES, 20, ["anna", "ben"], seed=0), CLAUSES, tmp_path)[0]


def rewritten(path: Path, **changes: str) -> Path:
    """The sheet with all of anna's rows labelled, the first one changed."""
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["category"] = V if row["annotator"] == "anna" else ""
    rows[0] |= changes
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_labels_are_read_and_empty_rows_wait(sheet_file: Path) -> None:
    sheet, labels = read_labels([rewritten(sheet_file)], set(units(CLAUSES).index))
    assert len(labels) == len(sheet.strata) == 20
    assert set(labels["annotator"]) == {"anna"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"clause_id": "0123"},
            "2: clause '0123' is not in this study's sample; use the sheet that `ex2 label` wrote for it.",
        ),
        ({"category": "looks"}, f"2: category 'looks' is none of {', '.join(CATEGORIES)}"),
        ({"annotator": "anne"}, "2: annotator 'anne' is none of anna, ben. Did you mean anna?"),
        ({"annotator": ""}, "2: annotator '' is none of anna, ben."),
    ],
)
def test_a_wrong_line_is_named(sheet_file: Path, changes: dict[str, str], message: str) -> None:
    path = rewritten(sheet_file, **changes)
    with pytest.raises(UserError, match=f"^{re.escape(f'{path}:{message}')}$"):
        read_labels([path], set(units(CLAUSES).index))


def test_clauses_of_another_study_are_refused(sheet_file: Path) -> None:
    with pytest.raises(UserError, match=r":2: clause '[0-9a-f]{12}' is not in this study's sample"):
        read_labels([rewritten(sheet_file)], {"other"})


def test_files_that_are_no_sheets_are_refused(sheet_file: Path, tmp_path: Path) -> None:
    known = set(units(CLAUSES).index)
    with pytest.raises(UserError, match=r"no row has a category yet; fill in the column"):
        read_labels([sheet_file], known)
    with pytest.raises(UserError, match="no such file"):
        read_labels([tmp_path / "nowhere.csv"], known)
    sheet_file.write_text("clause_id,category\n", encoding="utf-8")
    with pytest.raises(UserError, match="the column annotator is missing"):
        read_labels([sheet_file], known)
    (tmp_path / "sheet.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"sheet.json is damaged"):
        read_labels([sheet_file], known)
    (tmp_path / "sheet.json").unlink()
    with pytest.raises(UserError, match=r"sheet.json is missing; keep labels in the folder"):
        read_labels([sheet_file], known)


def test_one_person_says_one_thing(sheet_file: Path) -> None:
    path = rewritten(sheet_file)
    first = path.read_text(encoding="utf-8").splitlines()[1]
    with path.open("a", encoding="utf-8") as file:
        file.write(first.replace(V, N) + "\n")
    with pytest.raises(UserError, match="labels clause '[0-9a-f]+' twice, differently; keep one of the rows"):
        read_labels([path], set(units(CLAUSES).index))


def test_a_spreadsheet_with_semicolons_is_read(sheet_file: Path) -> None:
    path = rewritten(sheet_file)
    rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    path.write_text("\ufeff" + "\n".join(";".join(row) for row in rows) + "\n", encoding="utf-8")
    assert len(read_labels([path], set(units(CLAUSES).index))[1]) == 20


# ---------------------------------------------------------------- agreement


def said(*rows: str) -> pd.DataFrame:
    """Each string is a clause, each letter a person: v or n; a blank is no label."""
    names = {"v": V, "n": N}
    return pd.DataFrame(
        [(str(i), str(j), names[c]) for i, row in enumerate(rows) for j, c in enumerate(row) if c != " "],
        columns=["clause_id", "annotator", "category"],
    )


def test_alpha_by_hand() -> None:
    # Four clauses by two people: three agreed (v, v, n), one not. Coincidences: 6 of 8 values agree; 5 v and 3 n, so by chance
    # (5 x 4 + 3 x 2) / 7 = 26 / 7. Alpha = (6 - 26 / 7) / (8 - 26 / 7) = 16 / 30.
    assert krippendorff_alpha(said("vv", "vv", "nn", "vn")) == pytest.approx(16 / 30)
    assert krippendorff_alpha(said("vv", "vv", "nn", "vn", "v ", "n ")) == pytest.approx(16 / 30)  # alone: no pair
    assert krippendorff_alpha(said("vv", "nn")) == 1
    assert krippendorff_alpha(said("vv", "vv")) == 1
    assert np.isnan(krippendorff_alpha(said("v", "n")))


# ---------------------------------------------------------------- correction


def test_correction_by_hand() -> None:
    """Six clauses in two strata of 4 and 2; labelled are two and two. The share of the first category."""
    judged = np.array([[0.9, 0.1]] * 4 + [[0.2, 0.8]] * 2)
    labels = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    sample = Sample(judged, np.array([0, 1, 4, 5]), labels, np.array([0, 0, 1, 1]), np.array([4, 2]))
    weights = np.zeros((6, 2))
    weights[:, 0] = 1 / 6
    found = correct(sample, weights)
    assert found.judged == pytest.approx((4 * 0.9 + 2 * 0.2) / 6)
    # Errors of the first stratum (0.1, -0.9) / 6, mean -0.4 / 6, four clauses; of the second -0.2 / 6 twice, all of its clauses.
    assert found.mean == pytest.approx((4 * 0.9 + 2 * 0.2 - 4 * 0.4 - 2 * 0.2) / 6)
    # First: squares about the mean 2 x 0.25, pooled over all four labels 0.5 / 4 more, over 2; times 4 x 4 (1 - 2 / 4) / 2.
    assert found.error == pytest.approx(np.sqrt(16 * 0.5 * ((0.5 + 0.125) / 2) / 2) / 6)


def test_labels_of_everything_are_the_answer() -> None:
    truth = np.eye(3)[[0, 0, 1, 2]]
    sample = Sample(np.full((4, 3), 1 / 3), np.arange(4), truth, np.zeros(4, dtype=int), np.array([4]))
    weights = np.zeros((4, 3))
    weights[:, 0] = 1 / 4
    found = correct(sample, weights)
    assert (found.mean, found.error, found.low, found.high) == pytest.approx((0.5, 0, 0.5, 0.5))
    quotient = ratio(sample, np.arange(4)[:, None] * np.eye(3)[0], np.ones((4, 1)) * np.eye(3)[0])
    assert quotient.mean == pytest.approx((0 + 1) / 2)


def test_intervals_hold_the_truth_in_repeated_draws() -> None:
    """A judge that takes half of what is visual for something else: its bias goes, and 95 % intervals hold in about 95 %."""
    generator = np.random.default_rng(0)
    truth = generator.choice([V, H, N, S], 500, p=[0.5, 0.1, 0.25, 0.15]).tolist()
    judged = [N if label == V and generator.random() < 0.5 else label for label in truth]
    clauses = clauses_of(truth, judged)
    worth = clauses["added"]
    found = pd.concat(
        [
            corrected_table(clauses, sheet := draw(clauses, 100, ["me"], seed), filled(sheet, clauses), worth)
            for seed in range(60)
        ]
    )
    of_class = pd.crosstab([clauses["system"], clauses["class_id"]], pd.Series(truth), normalize="index")
    right = of_class.groupby(level="system").mean()
    own = found[(found["quantity"] == "share") & (found["category"] == V) & (found["system"] == "aligned")]
    assert abs(own["judged"].mean() - right.loc["aligned", V]) > 0.15
    assert own["mean"].mean() == pytest.approx(right.loc["aligned", V], abs=0.02)
    shares = found[(found["quantity"] == "share") & found["category"].isin([V, H, N, S])]
    known = np.array([right.loc[s, c] for s, c in zip(shares["system"], shares["category"], strict=True)])
    assert 0.91 <= ((shares["low"] <= known) & (known <= shares["high"])).mean() <= 0.99
    centred = worth - worth.groupby([clauses["system"], clauses["class_id"]]).transform("mean")
    is_visual = np.array(truth) == V
    contrast = centred[is_visual].mean() - centred[~is_visual].mean()
    own = found[(found["quantity"] == "contribution") & (found["category"] == V)]
    assert own["mean"].mean() == pytest.approx(contrast, abs=0.1)
    assert ((own["low"] <= contrast) & (contrast <= own["high"])).mean() > 0.85


def test_labels_needed_by_hand() -> None:
    # Half width 0.06 with 100 of 10,000: c = 0.0036 / (0.01 - 0.0001); for 0.03 it takes 1 / (0.0009 / c + 0.0001) = 388.3.
    assert labels_needed(0.06, 100, 10_000, 0.03) == 389
    assert labels_needed(0.06, 100, 10_000, 0.06) == 100
    assert labels_needed(0.06, 100, 150, 0.0001) <= 150


def test_a_study_says_what_its_labels_say() -> None:
    sheet = draw(CLAUSES, 60, ["me"], seed=0)
    labels = filled(sheet, CLAUSES)
    study = Study({"clauses": CLAUSES}, {"tables": ["clauses"]})
    add_labels(study, sheet, labels)
    assert study.summary["tables"] == ["clauses", "corrected"]
    assert study.summary["labels"]["labelled"] == 60
    # Of 30 judged visual all are right, of 66 judged non_visual 36, of 4 judged spurious none.
    assert study.summary["labels"]["agreement_with_judge"] == pytest.approx(66 / 100, abs=0.08)
    assert agreement_with_judge(CLAUSES, sheet, labels) == study.summary["labels"]["agreement_with_judge"]
    json.dumps(study.summary)
    with pytest.raises(
        UserError, match=r"^--precision 0.01: 60 labels give shares to within 0\.\d+; label about \d+ clauses"
    ):
        add_labels(Study({"clauses": CLAUSES}, {"tables": []}), sheet, labels, precision=0.01)


def test_every_judged_category_needs_a_label() -> None:
    sheet = draw(CLAUSES, 60, ["me"], seed=0)
    labels = filled(sheet, CLAUSES)
    labels = labels[labels["clause_id"].map(sheet.strata) != S]
    with pytest.raises(UserError, match="no clause that was judged spurious has a label; label all of the sheet"):
        corrected_table(CLAUSES, sheet, labels, CLAUSES["added"])
