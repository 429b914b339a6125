"""Best-of-N keeps the highest scores of each subject."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ex2.scoring.best_of_n import best_of


def test_the_highest_score_of_each_class() -> None:
    class_ids = [1, 0, 1, 1]
    assert best_of(class_ids, [0.1, 0.2, 0.3, 0.3]) == [1, 2]  # of equal scores the earlier
    assert best_of(class_ids, [0.1, 0.2, 0.3, 0.4], keep=2) == [1, 3, 2]
    assert best_of([], []) == []


def test_both_orders_of_a_pair_are_subjects_of_their_own() -> None:
    assert best_of([(0, 1), (1, 0), (0, 1)], [0.1, 0.5, 0.3]) == [2, 1]


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-1, 1))), st.integers(1, 4))
def test_what_is_kept_is_no_worse_than_what_is_not(texts: list[tuple[int, float]], keep: int) -> None:
    kept = best_of([subject for subject, _ in texts], [score for _, score in texts], keep)
    for subject in range(4):
        own = [score for i, (s, score) in enumerate(texts) if s == subject and i in kept]
        rest = [score for i, (s, score) in enumerate(texts) if s == subject and i not in kept]
        assert len(own) == min(keep, len(own) + len(rest))
        assert not own or not rest or min(own) >= max(rest)
