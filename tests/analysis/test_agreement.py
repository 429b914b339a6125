"""Agreement of a judge with labels: every number worked out by hand on a table of ten texts, and what must never change it."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ex2.analysis.agreement import (
    UNSURE,
    Agreement,
    agreement,
    calibration_error,
    cohens_kappa,
    f1_scores,
    format_agreement,
    in_four_categories,
    knows_four,
)
from ex2.base.errors import UserError
from ex2.stats.intervals import expanded_tail
from ex2.texts.categories import CATEGORIES, Judgement, Passage

V, H, K, N, S, E = CATEGORIES
# label, answer (None: unsure), class
TEN = [
    (V, V, "owl"), (V, V, "owl"), (V, V, "elk"), (V, H, "elk"),
    (H, H, "owl"), (H, H, "fox"), (H, None, "fox"),
    (N, N, "elk"), (N, N, "fox"),
    (S, V, "bee"),
]  # fmt: skip


def compare(rows: list[tuple[str, str | None, str]], **options) -> Agreement:
    labels, answers, clusters = map(list, zip(*rows, strict=True))
    return agreement(labels, answers, clusters, **{"n_boot": 500, **options})


def test_ten_texts_by_hand() -> None:
    result = compare(TEN)
    assert result.n == 10
    assert result.accuracy.mean == pytest.approx((3 + 2 + 2 + 0) / 10)
    # F1 is 2 x hits / (labels + answers): visual 4 labels and 3 + 1 answers, habitat 3 and 2 + 1, non_visual 2 and 2,
    # spurious 1 label that nothing met.
    f1 = {V: 2 * 3 / (4 + 4), H: 2 * 2 / (3 + 3), N: 2 * 2 / (2 + 2), S: 0.0}
    assert {name: result.f1[name] for name in f1} == pytest.approx(f1)
    assert math.isnan(result.f1[K])
    assert math.isnan(result.f1[E])
    assert result.macro_f1.mean == pytest.approx((0.75 + 2 / 3 + 1 + 0) / 4)
    # Agreement by chance: (4 x 4 + 3 x 3 + 2 x 2 + 1 x 0) / 10 x 10 = 0.29; the unsure column, 0 labels x 1, adds nothing.
    assert result.kappa.mean == pytest.approx((0.7 - 0.29) / (1 - 0.29))
    assert result.unsure == 0.1
    assert result.confusion == {
        V: {V: 3, H: 1, K: 0, N: 0, S: 0, E: 0, UNSURE: 0},
        H: {V: 0, H: 2, K: 0, N: 0, S: 0, E: 0, UNSURE: 1},
        K: {V: 0, H: 0, K: 0, N: 0, S: 0, E: 0, UNSURE: 0},
        N: {V: 0, H: 0, K: 0, N: 2, S: 0, E: 0, UNSURE: 0},
        S: {V: 1, H: 0, K: 0, N: 0, S: 0, E: 0, UNSURE: 0},
        E: {V: 0, H: 0, K: 0, N: 0, S: 0, E: 0, UNSURE: 0},
    }
    assert (result.forced_accuracy, result.calibration_error) == (None, None)


def test_unsure_counts_as_missed_but_not_as_a_wrong_answer() -> None:
    result = compare(TEN)
    wrong = compare([(label, answer or V, name) for label, answer, name in TEN])
    assert wrong.accuracy.mean == result.accuracy.mean
    assert wrong.f1[V] == pytest.approx(2 * 3 / (4 + 5))  # a wrong answer costs the category it names
    assert wrong.f1[H] == result.f1[H]
    right = compare([(label, answer or H, name) for label, answer, name in TEN])
    assert right.accuracy.mean == pytest.approx(0.8)
    silent = compare([(label, None, name) for label, _, name in TEN])
    assert (silent.accuracy.mean, silent.macro_f1.mean, silent.kappa.mean, silent.unsure) == (0.0, 0.0, 0.0, 1.0)


def test_first_choices_count_where_the_judge_is_unsure() -> None:
    best = [answer or H for _, answer, _ in TEN]
    # Bins of the ten texts below: one at 0.45 that is right, four at 0.75 of which two are right, five at 1 of which all are.
    probabilities = [1.0, 1.0, 1.0, 0.75, 0.75, 1.0, 0.45, 1.0, 0.75, 0.75]
    result = compare(TEN, best=best, probabilities=probabilities)
    assert result.forced_accuracy == pytest.approx(0.8)
    assert result.calibration_error == pytest.approx(abs(0.45 - 1) * 0.1 + abs(0.75 - 0.5) * 0.4 + 0.0 * 0.5)
    assert result.accuracy == compare(TEN).accuracy


def test_perfect_and_chance_agreement() -> None:
    perfect = compare([(label, label, name) for label, _, name in TEN])
    for interval in (perfect.accuracy, perfect.macro_f1, perfect.kappa):
        assert (interval.mean, interval.low, interval.high) == (1.0, 1.0, 1.0)
    # Answers that do not depend on the label, 3 : 1 for both labels: kappa is 0, whatever the accuracy.
    chance = compare([(label, answer, "owl") for label in (V, H) for answer in (V, V, V, H)])
    assert chance.accuracy.mean == 0.5
    assert chance.kappa.mean == pytest.approx(0, abs=1e-12)
    assert compare([(V, H, "a"), (H, V, "b")]).kappa.mean == -1.0  # never right: (0 - 0.5) / (1 - 0.5)
    assert compare([(V, V, "a"), (V, V, "b")]).kappa.mean == 1.0  # one category only: defined as 1


@given(arrays(np.float64, (4, 4), elements=st.integers(0, 9)).filter(lambda table: table.sum() > 0))
def test_kappa_and_f1_by_their_definitions(table: np.ndarray) -> None:
    pairs = [(i, j) for i in range(4) for j in range(4) for _ in range(int(table[i, j]))]
    met = sum(i == j for i, j in pairs) / len(pairs)
    by_chance = sum(i == j for i, _ in pairs for _, j in pairs) / len(pairs) ** 2  # any label with any answer
    kappa = 1.0 if by_chance == 1 else (met - by_chance) / (1 - by_chance)
    assert cohens_kappa(table) == pytest.approx(kappa)
    assert cohens_kappa(table.T) == pytest.approx(kappa)
    assert cohens_kappa(table * 3) == pytest.approx(kappa)
    for k, score in enumerate(f1_scores(table)):
        hits, labels, answers = table[k, k], table[k].sum(), table[:, k].sum()
        if hits:
            harmonic = 1 / np.mean([labels / hits, answers / hits])  # of precision and recall
            assert score == pytest.approx(harmonic)
        elif labels + answers:
            assert score == 0
        else:
            assert math.isnan(score)


def test_calibration_error_by_hand() -> None:
    probabilities = np.array([0.92, 0.98, 0.61, 0.69, 0.55])
    right = np.array([True, True, True, False, False])
    # Bin 0.9 to 1: 0.95 on average, 1 right; 0.6 to 0.7: 0.65, 0.5 right; 0.5 to 0.6: 0.55, 0 right.
    assert calibration_error(probabilities, right) == pytest.approx(0.05 * 2 / 5 + 0.15 * 2 / 5 + 0.55 * 1 / 5)
    # 1 shares the last bin with 0.9: 0.95 on average, 0.5 right. In a bin of its own it would make (1 + 0.1) / 2.
    assert calibration_error(np.array([1.0, 0.9]), np.array([False, True])) == pytest.approx(0.45)
    assert calibration_error(np.ones(3), np.array([True] * 3)) == 0.0


def test_calibrated_probabilities_have_a_small_error() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.uniform(0.25, 1, 20_000)
    right = rng.uniform(size=20_000) < probabilities
    assert calibration_error(probabilities, right) < 0.015
    assert calibration_error(np.minimum(probabilities + 0.2, 1), right) > 0.1


# ---------------------------------------------------------------- labels of four categories


def test_kinds_and_echoes_count_where_four_categories_put_them() -> None:
    assert knows_four([V, N])
    assert not knows_four([V, K])
    assert not knows_four([E])
    passage = Passage("arctic tern", ("A tern is a bird.", "a long-range migrant seabird"))
    bare, narrow = Judgement((0.1, 0.1, 0.4, 0.1, 0.1, 0.2)), Judgement((0.0, 0.1, 0.5, 0.2, 0.2, 0.0))
    only = [
        in_four_categories(Passage("arctic tern", (text,)), [j])
        for text, j in zip(passage.clauses, (bare, narrow), strict=True)
    ]
    assert only[0].probabilities == pytest.approx((0.1, 0.1, 0, 0.1, 0.1 + 0.4 + 0.2, 0))
    assert only[1].probabilities == pytest.approx((0.0, 0.1, 0, 0.2 + 0.5, 0.2, 0))
    text = in_four_categories(passage, [bare, narrow])
    assert text.probabilities == pytest.approx((0.05, 0.1, 0, 0.4, 0.45, 0))


# ---------------------------------------------------------------- intervals


def many(classes: int = 20, each: int = 6) -> list[tuple[str, str | None, str]]:
    rng = np.random.default_rng(0)
    rows = []
    for k in range(classes):
        skill = rng.uniform(0.4, 1.0)
        for _ in range(each):
            label = CATEGORIES[rng.integers(len(CATEGORIES))]
            answer = label if rng.uniform() < skill else rng.choice([*CATEGORIES, None])
            rows.append((label, answer, f"c{k}"))
    return rows


def test_intervals_hold_the_mean_and_the_seed_decides() -> None:
    rows = many()
    result = compare(rows)
    for interval in (result.accuracy, result.macro_f1, result.kappa):
        assert interval.low < interval.mean < interval.high
    assert compare(rows) == result
    assert compare(rows, seed=1).accuracy != result.accuracy
    assert compare(rows[::-1]).accuracy == result.accuracy


def test_intervals_are_those_of_accuracy_over_classes_expanded() -> None:
    """Classes of one size: the accuracy is the mean over classes, and so are the resamples."""
    rows = many()
    accuracy = compare(rows, n_boot=10_000).accuracy
    by_class = pd.Series([a == label for label, a, _ in rows]).groupby([name for *_, name in rows]).mean().to_numpy()
    resampled = np.random.default_rng(1).choice(by_class, size=(10_000, len(by_class))).mean(axis=1)
    tail = expanded_tail(len(by_class))
    ends = [by_class.mean(), *np.quantile(resampled, [tail, 1 - tail])]
    assert [accuracy.mean, accuracy.low, accuracy.high] == pytest.approx(ends, abs=0.01)
    # Two classes, one all right and one all wrong: resamples are 0, 0.5 and 1, and the expanded interval takes in all.
    ends = compare([(V, V, "a"), (H, H, "a"), (V, H, "b"), (H, None, "b")]).accuracy
    assert (ends.mean, ends.low, ends.high) == (0.5, 0.0, 1.0)


def test_repeating_every_text_makes_no_interval_narrower() -> None:
    rows = many()
    assert replace(compare(rows * 3), n=0, confusion={}) == replace(compare(rows), n=0, confusion={})
    apart = compare([(label, answer, f"{name}-{i}") for i, (label, answer, name) in enumerate(rows * 3)])
    assert apart.accuracy.high - apart.accuracy.low < 0.7 * (compare(rows).accuracy.high - compare(rows).accuracy.low)


# ---------------------------------------------------------------- what a user may bring


def test_categories_that_never_occur_are_left_out_of_the_mean() -> None:
    result = compare([(V, V, "a"), (V, H, "b"), (H, H, "b")])
    # 2 x 1 / (2 + 1) twice; non_visual and spurious are neither labels nor answers.
    assert result.macro_f1.mean == pytest.approx(2 / 3)
    assert math.isnan(result.f1[N])
    assert math.isnan(result.f1[S])
    named = compare([(V, V, "a"), (V, H, "b"), (H, N, "b")])  # as a mere answer it counts, and is 0
    assert named.f1[N] == 0.0
    assert named.macro_f1.mean == pytest.approx((2 * 1 / 3 + 0 + 0) / 3)


def test_one_class_has_numbers_but_no_intervals() -> None:
    result = compare([(V, V, "owl"), (V, H, "owl")])
    assert result.accuracy.mean == 0.5
    for interval in (result.accuracy, result.macro_f1, result.kappa):
        assert math.isnan(interval.low)
        assert math.isnan(interval.high)


def test_numbers_go_into_strict_json() -> None:
    result = compare([(V, V, "owl"), (V, H, "owl")], best=[V, V], probabilities=[0.9, 0.4])
    read = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert read["accuracy"] == {"mean": 0.5, "low": None, "high": None}
    assert read["f1"] == {V: pytest.approx(2 / 3), H: 0.0, K: None, N: None, S: None, E: None}
    assert read["forced_accuracy"] == 1.0
    assert read["confusion"][V][H] == 1


def test_no_labels_are_refused() -> None:
    with pytest.raises(UserError, match="^there are no labelled texts to compare with.$"):
        agreement([], [], [])


def test_table_shows_every_number() -> None:
    best = [answer or H for _, answer, _ in TEN]
    text = format_agreement(compare(TEN, best=best, probabilities=[0.8] * 10))
    for line in (
        r"texts     10",
        r"macro-F1  0.604 [",
        r"accuracy  0.700 [",
        r"kappa     0.577 [",
        r"unsure    0.100",
        r"accuracy of the first choice 0.800",
        r"expected calibration error 0.000",
    ):
        assert line in text
    rows = [line.split() for line in text.splitlines()[-7:]]
    assert rows == [
        ["label", *CATEGORIES, UNSURE, "F1"],
        [V, "3", "1", "0", "0", "0", "0", "0", "0.750"],
        [H, "0", "2", "0", "0", "0", "0", "1", "0.667"],
        [K, "0", "0", "0", "0", "0", "0", "0", "nan"],
        [N, "0", "0", "0", "2", "0", "0", "0", "1.000"],
        [S, "1", "0", "0", "0", "0", "0", "0", "0.000"],
        [E, "0", "0", "0", "0", "0", "0", "0", "nan"],
    ]
    assert "first choice" not in format_agreement(compare(TEN))
