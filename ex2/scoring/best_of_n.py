"""Best-of-N: the texts that a reward would choose among those of an untrained policy, the control that costs no training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def best_of(subjects: Sequence[int | tuple[int, ...]], scores: Sequence[float], keep: int = 1) -> list[int]:
    """Positions of the `keep` texts with the highest scores about each subject; of equal scores the earlier goes first.

    Args:
        subjects: What each of N texts is about: a class id, or the ids of a pair.
        scores: Score of each text.
        keep: Texts of a subject that are kept at most.

    Returns:
        Subject by subject in ascending order, the best first.
    """
    kept = Counter[int | tuple[int, ...]]()
    best = []
    for i in sorted(range(len(subjects)), key=lambda i: (subjects[i], -scores[i], i)):
        kept[subjects[i]] += 1
        if kept[subjects[i]] <= keep:
            best.append(i)
    return best
