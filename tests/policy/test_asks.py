"""Asks: every question is used, and both orders of a pair are asked alike."""

from __future__ import annotations

from ex2.policy.asks import spread_asks


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
