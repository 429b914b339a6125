"""Judging: all texts are cut into clauses, and a judge says what each of them is about."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ex2.texts.categories import Judge, Judgement, Passage, of_text
from ex2.texts.controls import some_of_each_class
from ex2.texts.descriptions import Description

QUALITY = Path(__file__).resolve().parents[1] / "assets" / "judge" / "quality.json"
"""What `python -m tools.build_judge` measured of each judge on held-out sentences."""

APART_PER_CLASS = 64  # descriptions of a system that are tried with clauses in other order or left out, at most


@dataclass(frozen=True)
class Judged:
    """The texts of one system with their judgements.

    Attributes:
        system: ``aligned`` (the descriptions under study) or ``base`` (the untrained policy's).
        records: N descriptions.
        passages: N.
        clauses: Judgements of each passage's clauses.
        texts: Judgement of each text.
    """

    system: str
    records: Sequence[Description]
    passages: list[Passage]
    clauses: list[tuple[Judgement, ...]]
    texts: list[Judgement] = field(default_factory=list)

    @property
    def class_ids(self) -> list[int]:
        return [record.class_id for record in self.records]

    def apart(self, seed: int) -> list[bool]:
        """Which descriptions are taken apart; more of a class would take long and narrow its interval little."""
        chosen = set(some_of_each_class(self.class_ids, APART_PER_CLASS, seed))
        return [position in chosen for position in range(len(self.records))]


def judge_all(judge: Judge, systems: Mapping[str, Sequence[Description]], *, progress: bool = True) -> list[Judged]:
    """Cut all texts into clauses and judge them in one go."""
    passages = {name: [Passage.of(r.class_name, r.text) for r in records] for name, records in systems.items()}
    everything = [passage for own in passages.values() for passage in own]
    answers = judge.judge(everything, progress=progress)
    judged = []
    start = 0
    for name, records in systems.items():
        own = answers[start : start + len(records)]
        start += len(records)
        judged.append(Judged(name, records, passages[name], own, [of_text(clauses) for clauses in own]))
    return judged


def judge_quality(name: str) -> dict[str, float] | None:
    """How good a judge is on held-out clauses in the styles of real descriptions; None where that was not measured.

    Returns:
        ``n``, ``macro_f1``, ``accuracy`` and ``calibration_error``.
    """
    quality = json.loads(QUALITY.read_text(encoding="utf-8")) if QUALITY.is_file() else {}
    if name not in quality:
        return None
    found = quality[name]["heldout_real"]
    return {
        "n": found["n"],
        "macro_f1": found["macro_f1"]["mean"],
        "accuracy": found["accuracy"]["mean"],
        "calibration_error": found["calibration_error"],
    }
