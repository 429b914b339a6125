"""Passes, tokens and seconds of a rollout, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from ex2.run.cost import EFFICIENCY, GPU, HOST_SECONDS, Work, rollout_work, seconds

PAPER: dict[str, Any] = {
    "texts": 32, "length": 32, "prompt": 64, "scoring_texts": 32, "training_texts": 8, "epochs": 4, "with_reference": True,
    "recomputes": False,
}  # fmt: skip


def test_passes_and_tokens_of_the_paper_s_job() -> None:
    work = rollout_work(**PAPER)
    assert (work.scoring_passes, work.training_passes) == (2, 16)  # policy and reference; 4 epochs of 32 / 8
    assert (work.scored_tokens, work.trained_tokens) == (2 * 32 * 96, 4 * 32 * 96)
    one_by_one = rollout_work(**PAPER | {"scoring_texts": 1, "training_texts": 1})
    assert (one_by_one.scoring_passes, one_by_one.training_passes) == (64, 128)
    assert (one_by_one.scored_tokens, one_by_one.trained_tokens) == (work.scored_tokens, work.trained_tokens)
    assert rollout_work(**PAPER | {"with_reference": False}).scoring_passes == 1
    assert rollout_work(**PAPER | {"scoring_texts": 100}).scoring_texts == 32  # no more than there are


@pytest.mark.parametrize(
    ("bandwidth", "operations", "a_pass"),
    [
        (1e15, 1e18, 2 * HOST_SECONDS),  # two layers to launch
        (1e3, 1e18, 1.0),  # 1,000 bytes to read
        (1e15, 1e3, None),  # multiplying: by tokens
    ],
)
def test_a_pass_takes_what_limits_it(bandwidth: float, operations: float, a_pass: float | None) -> None:
    work = Work(
        texts=2,
        length=3,
        prompt=5,
        scoring_passes=2,
        scoring_texts=2,
        training_passes=4,
        training_texts=1,
        recomputes=True,
    )
    found = seconds(work, GPU("any", 1, bandwidth, operations), parameters=10, layers=2, weight_bytes=1000)
    if (
        a_pass is not None
    ):  # the prompts and 2 more tokens; 2 scoring passes; 4 x (forward, twice backward, again forward)
        assert found == pytest.approx((3 + 2 + 16) * a_pass)
    else:
        tokens = (2 * 5 + 2 * 2) + 2 * (2 * 8) + 4 * 4 * 8
        assert found == pytest.approx(2 * 10 * tokens / (EFFICIENCY * operations))
