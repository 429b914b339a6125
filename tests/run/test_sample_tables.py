"""Tables of samples in wandb and trackio, which share what they are called with; wandb's own is in test_training.py."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from ex2.run.sample_tables import SampleTables

ROWS = [
    {"step": 6, "class_name": "cat", "text": "It purrs.", "scores": {"cosine": 0.25, "whole_sentence": 1.0}},
    {"step": 6, "class_name": "owl", "text": "It hoots", "scores": {"cosine": 0.5, "whole_sentence": 0.0}},
]


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What a stand-in for trackio gets."""
    found: list[dict[str, Any]] = []
    fake = SimpleNamespace(log=found.append, Table=lambda dataframe: dataframe)
    monkeypatch.setitem(sys.modules, "trackio", fake)  # type: ignore[arg-type]
    return found


def test_a_rollout_is_a_table_with_a_column_for_each_reward_term(logged: list[dict[str, Any]]) -> None:
    SampleTables(["trackio", "tensorboard"], 6).log(6, ROWS)
    (entry,) = logged
    assert entry["train/global_step"] == 6
    expected = {
        "step": [6, 6],
        "class_name": ["cat", "owl"],
        "text": ["It purrs.", "It hoots"],
        "cosine": [0.25, 0.5],
        "whole_sentence": [1.0, 0.0],
    }
    assert entry["samples"].to_dict("list") == expected


@pytest.mark.parametrize(
    ("mirrors", "every", "step"), [(["trackio"], 6, 4), (["trackio"], 0, 6), (["tensorboard"], 6, 6)]
)
def test_there_is_none_between_the_turns_or_where_nobody_wants_one(
    mirrors: list[str], every: int, step: int, logged: list[dict[str, Any]]
) -> None:
    SampleTables(mirrors, every).log(step, ROWS)
    assert logged == []
