"""Controls whose texts are chosen by what the VLM reads of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ex2.analysis.controls import Control, control_scores


class Table:
    """Cosines from a table, the same on reward and held-out images, in place of a VLM's."""

    def __init__(self, cosines: dict[str, float]) -> None:
        self._cosines = cosines

    def on(self, split: str) -> Table:
        return self

    def own(self, texts: Sequence[str], class_ids: Sequence[int]) -> NDArray[np.float64]:
        return np.array([self._cosines[text] for text in texts])


def test_best_of_n_is_the_best_in_each_reading() -> None:
    """With its name a tautology is best, and without it the description."""
    texts = ["A cat is a cat.", "A cat has whiskers.", "A dog barks."]
    cosines = {
        texts[0]: 0.9,
        texts[1]: 0.5,
        texts[2]: 0.4,
        "it is it.": 0.0,
        "it has whiskers.": 0.3,
        "it barks.": 0.2,
    }
    systems = {"aligned": Control([0, 1], texts[1:]), "base": Control([0, 0, 1], texts)}
    as_written, nameless = control_scores(systems, ["cat", "dog"], Table(cosines))  # type: ignore[arg-type]
    assert [s.name for s in as_written] == [s.name for s in nameless] == ["aligned", "base", "best_of_n"]
    assert list(as_written[-1].texts) == [texts[0], texts[2]]
    assert list(nameless[-1].texts) == [texts[1], texts[2]]
    assert list(nameless[-1].heldout) == [0.3, 0.2]


def test_without_an_untrained_policy_there_is_no_best_of_n() -> None:
    cosines = {"A cat has whiskers.": 0.5, "it has whiskers.": 0.3}
    (system,), _ = control_scores({"aligned": Control([0], ["A cat has whiskers."])}, ["cat"], Table(cosines))  # type: ignore[arg-type]
    assert system.name == "aligned"
