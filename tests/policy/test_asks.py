"""Asks: every question is used, and both orders of a pair are asked alike."""

from __future__ import annotations

import pytest

from ex2.base.errors import UserError
from ex2.policy.asks import spread_asks
from ex2.policy.description_file import plan_asks


def test_no_machine_comes_to_a_halt_over_them() -> None:
    with pytest.raises(
        UserError, match="^6000000 samples of each are 12,000,000 answers, and at most 10,000,000 are kept"
    ):
        spread_asks(["cat", "owl"], ["q {}"], samples=6_000_000)
    with pytest.raises(UserError, match="^--samples 1000000000 are 3,000,000,000 answers, .*: ask for fewer"):
        plan_asks(["cat", "owl"], ["q {}", "r {}", "s {}"], 1_000_000_000, only=["owl"])


def test_spread_asks_use_every_question() -> None:
    asks = spread_asks(["cat", "owl", "bat"], ["q0 {}", "q1 {}", "q2 {}"], samples=2)
    assert [ask.class_id for ask in asks] == [0, 0, 1, 1, 2, 2]
    assert [ask.question[:2] for ask in asks] == ["q0", "q1", "q1", "q2", "q2", "q0"]
    assert asks[2].class_name == "owl"


def test_both_orders_of_a_pair_get_the_same_questions() -> None:
    questions = ["q0 {} {other}", "q1 {} {other}", "q2 {} {other}"]
    asks = spread_asks(["cat", "owl", "bat"], questions, samples=2, pairs=[(0, 2), (2, 0), (0, 1), (1, 0)])
    assert [ask.subject for ask in asks[::2]] == [(0, 2), (2, 0), (0, 1), (1, 0)]
    assert [ask.question[:2] for ask in asks] == ["q0", "q1", "q0", "q1", "q1", "q2", "q1", "q2"]
    assert (asks[0].class_name, asks[0].other_name) == ("cat", "bat")
