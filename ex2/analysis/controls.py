"""The controls that descriptions have to beat: names, templates, random words, the untrained policy, changed texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ex2.analysis.contribution import Similarity
from ex2.analysis.judging import Judged
from ex2.scoring.best_of_n import best_of
from ex2.stats.before_after import IMAGE_SETS, Summary, SystemScores
from ex2.texts.controls import WAFFLES_PER_CLASS, random_words, renamed, scrambled, some_of_each_class, swapped
from ex2.texts.questions import TEMPLATE
from ex2.texts.readings import nameless

CHANGED_PER_CLASS = 32  # descriptions that are scrambled, swapped and renamed at most


@dataclass(frozen=True)
class Control:
    """Texts of one system.

    Attributes:
        class_ids: Class whose images each text is scored on.
        texts: The texts.
        named: Class whose name a text may hold; None: the class that it is scored on.
    """

    class_ids: list[int]
    texts: list[str]
    named: list[int] | None = None

    def without_names(self, names: Sequence[str]) -> list[str]:
        """What the VLM reads of the texts where names are taken out."""
        return [nameless(text, names[i]) for text, i in zip(self.texts, self.named or self.class_ids, strict=True)]


def control_texts(judged: Sequence[Judged], names: Sequence[str], seed: int) -> dict[str, Control]:
    """The texts of every system of the controls table but best-of-N, which `control_scores` picks for each reading.

    Args:
        judged: The descriptions under study first, then perhaps the untrained policy's.
        names: Class names.
        seed: Of what is drawn.
    """
    aligned = judged[0]
    texts, ids = [r.text for r in aligned.records], aligned.class_ids
    described = sorted(set(ids))
    changed = some_of_each_class(ids, CHANGED_PER_CLASS, seed)
    changed_texts, changed_ids = [texts[i] for i in changed], [ids[i] for i in changed]
    others = swapped(changed_ids, seed)
    waffle = random_words(
        names, [r.text for part in judged for r in part.records], min(WAFFLES_PER_CLASS, len(texts)), seed
    )
    waffle = [(class_id, text) for class_id, text in waffle if class_id in set(described)]
    return {
        "class_name": Control(described, [names[i] for i in described]),
        "template": Control(described, [TEMPLATE.replace("{}", names[i]) for i in described]),
        "random_words": Control([i for i, _ in waffle], [text for _, text in waffle]),
        **{part.system: Control(part.class_ids, [r.text for r in part.records]) for part in judged},
        "scrambled": Control(changed_ids, [scrambled(text, seed) for text in changed_texts]),
        "swapped": Control(others, changed_texts, changed_ids),
        "renamed": Control(
            others,
            [
                renamed(text, names[own], names[other])
                for text, own, other in zip(changed_texts, changed_ids, others, strict=True)
            ],
        ),
    }


def control_scores(
    systems: Mapping[str, Control], names: Sequence[str], similarity: Similarity
) -> tuple[list[SystemScores], list[SystemScores]]:
    """Scores of every system on reward and held-out images: as written, and without the names of the classes.

    Where there is an untrained policy, its text of each class that the reward images like best is a system of its own,
    `best_of_n`: in each reading the best in that reading.
    """
    rewarded = similarity.on("reward")

    def scores(name: str, control: Control, read: list[str]) -> SystemScores:
        own = control.class_ids
        # Texts are counted as they are: without names, more of them are equal.
        return SystemScores(name, own, rewarded.own(read, own), similarity.own(read, own), control.texts)

    def all_scores(read: Callable[[Control], list[str]]) -> list[SystemScores]:
        found = [scores(name, control, read(control)) for name, control in systems.items()]
        if (base := systems.get("base")) is not None:
            best = best_of(base.class_ids, rewarded.own(read(base), base.class_ids).tolist())
            chosen = Control([base.class_ids[i] for i in best], [base.texts[i] for i in best])
            found.append(scores("best_of_n", chosen, read(chosen)))
        return found

    return all_scores(lambda control: control.texts), all_scores(lambda control: control.without_names(names))


def control_table(summary: Summary) -> pd.DataFrame:
    """One row a system and image set, with the aligned policy's advantage over it."""
    rows = []
    for name, system in summary.systems.items():
        advantage = summary.advantages.get(name)
        for images in IMAGE_SETS:
            ahead = {} if advantage is None else getattr(advantage, images).as_dict()
            row: dict[str, Any] = {"system": name, "images": images, **getattr(system, images).as_dict()}
            row |= {f"aligned_minus_{end}": ahead.get(end, np.nan) for end in ("mean", "low", "high")}
            rows.append({**row, "distinct": system.distinct, "n": system.n, "classes": system.classes})
    return pd.DataFrame(rows)
