"""Tables of a study: one row a text, one row a clause, one row a set of texts that images are classified with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ex2.analysis import contribution, placebo
from ex2.analysis.contribution import Similarity
from ex2.analysis.findings import UNSURE, class_interval
from ex2.analysis.judging import Judged
from ex2.analysis.placebo import Changed
from ex2.scoring.scorer import TextScorer
from ex2.stats.intervals import DIFFERENCE, SHARE
from ex2.texts.categories import CATEGORIES, Judgement
from ex2.texts.questions import TEMPLATE
from ex2.zero_shot.vectors import class_vectors, images_of, zero_shot_by_class


def _judgement_columns(judgements: Sequence[Judgement]) -> dict[str, Any]:
    return {
        "category": [j.category or UNSURE for j in judgements],
        "probability": [j.probability for j in judgements],
        **{f"p_{name}": [j.probabilities[i] for j in judgements] for i, name in enumerate(CATEGORIES)},
        "tags": [" ".join(j.tags) for j in judgements],
    }


def text_table(judged: Sequence[Judged], similarity: Similarity, seed: int) -> pd.DataFrame:
    """One row a text: what it is about, and the contribution tests of whole texts."""
    parts = []
    for part in judged:
        columns = {
            "system": part.system,
            "class_id": part.class_ids,
            "class_name": [r.class_name for r in part.records],
            "question": [r.question for r in part.records],
            "text": [r.text for r in part.records],
            **_judgement_columns(part.texts),
            **contribution.text_tests(similarity, part.passages, part.class_ids, part.apart(seed)),
        }
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def clause_table(
    judged: Sequence[Judged], similarity: Similarity, changed: Sequence[Changed], seed: int
) -> pd.DataFrame:
    """One row a clause: what it is about, the contribution tests of clauses, and what changed clauses say about their class."""
    parts, first = [], 0
    for part, own_changed in zip(judged, changed, strict=True):
        sizes = [len(passage.clauses) for passage in part.passages]
        columns = {
            "system": part.system,
            "description": np.repeat(np.arange(first, first + len(sizes)), sizes),
            "class_id": np.repeat(part.class_ids, sizes),
            "class_name": np.repeat([r.class_name for r in part.records], sizes),
            "clause": [clause for passage in part.passages for clause in passage.clauses],
            **_judgement_columns([j for own in part.clauses for j in own]),
            **contribution.clause_tests(similarity, part.passages, part.class_ids, part.apart(seed)),
            **placebo.about(similarity, own_changed),
        }
        parts.append(pd.DataFrame(columns))
        first += len(sizes)
    return pd.concat(parts, ignore_index=True)


def zero_shot_table(aligned: Judged, similarity: Similarity, scorer: TextScorer) -> pd.DataFrame:
    """Accuracy of classifying held-out images, and its gain over the template, with texts of each category alone."""
    bank = scorer.bank
    images, labels = images_of(bank, "heldout")
    templates = similarity.embeddings([TEMPLATE.replace("{}", name) for name in bank.class_names])
    by_class = zero_shot_by_class(templates, images, labels)
    all_classes = np.arange(len(by_class))
    zero = {"gain_mean": 0.0, "gain_low": 0.0, "gain_high": 0.0}
    own = class_interval(by_class, all_classes, bounds=SHARE)
    row = {"texts": "template", **own, "template_mean": own["mean"], **zero}
    rows: list[dict[str, Any]] = [{**row, "classes": len(by_class), "n": len(by_class)}]
    embeddings = similarity.embeddings([" ".join(passage.clauses) for passage in aligned.passages])
    class_ids = np.asarray(aligned.class_ids)
    categories = np.array([j.category or UNSURE for j in aligned.texts])
    for name, chosen in (("all", categories != ""), *((name, categories == name) for name in CATEGORIES)):
        if not chosen.any():
            continue
        vectors = class_vectors(templates, embeddings[np.flatnonzero(chosen)], class_ids[chosen].tolist())
        accuracy = zero_shot_by_class(vectors, images, labels)
        covered = np.unique(class_ids[chosen])
        gain = class_interval((accuracy - by_class)[covered], covered, bounds=DIFFERENCE)
        rows.append(
            {
                "texts": name,
                **class_interval(accuracy[covered], covered, bounds=SHARE),
                "template_mean": float(by_class[covered].mean()),
                **{f"gain_{key}": value for key, value in gain.items()},
                "classes": len(covered),
                "n": int(chosen.sum()),
            }
        )
    return pd.DataFrame(rows)
