"""From descriptions to findings: what is said, what it adds, and how it compares with controls.

`analyse` judges every clause, runs the contribution tests and controls, and returns a `Study`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from ex2.analysis.contribution import Similarity, all_texts
from ex2.analysis.controls import control_scores, control_table, control_texts
from ex2.analysis.findings import (
    UNSURE,
    attribute_contributions,
    attribute_shares,
    contributions,
    counterfactuals,
    first_and_last,
    hacking_warnings,
    preference_table,
    preferred,
    question_warnings,
    share_change,
    shares,
    shares_by,
)
from ex2.analysis.judging import judge_all, judge_quality
from ex2.analysis.placebo import changed_clauses, texts_of
from ex2.analysis.probe import DECIDES, above, answer_to, probe_tables
from ex2.analysis.study import Study
from ex2.analysis.tables import clause_table, text_table, zero_shot_table
from ex2.analysis.verdict import counterfactual_sentences, placebo_warnings, verdict
from ex2.base.errors import UserError
from ex2.scoring.scorer import TextScorer
from ex2.stats.before_after import outcome, summarise
from ex2.texts.categories import Judge
from ex2.texts.collapse import signs_of_collapse
from ex2.texts.descriptions import Description
from ex2.texts.probe import ProbeSentence, check_probe, kinds_of


def analyse(
    aligned: Sequence[Description],
    scorer: TextScorer,
    judge: Judge,
    *,
    base: Sequence[Description] = (),
    probe: Sequence[ProbeSentence] = (),
    metrics: Sequence[Mapping[str, Any]] = (),
    meta: Mapping[str, Any] | None = None,
    seed: int = 0,
    exact: bool = True,
    progress: bool = True,
    on_step: Callable[[str], None] = lambda step: None,
) -> Study:
    """Judge, test and compare descriptions.

    Args:
        aligned: The descriptions under study; at least two classes.
        scorer: VLM and bank that the descriptions are tested with; tests use its held-out images.
        judge: Tells categories apart.
        base: Descriptions of the same classes by the untrained policy, of which best-of-N is made too; without them nothing is
            said about change.
        probe: Written sentences that ask the VLM directly (`read_probe`, `shipped_probe`); without them nothing is said about it.
        metrics: Rows of the run's metrics, for the learning curve and the monitors.
        meta: Facts about the study that the report shows.
        seed: Of what is drawn: random controls, texts that are taken apart, examples.
        exact: Encode in float32 also where the processor is faster in bfloat16.
        progress: Whether to draw progress bars.
        on_step: Told what is being done next.

    Raises:
        UserError: Descriptions of fewer than two classes, or a probe whose sentences cannot be compared.
    """
    class_names = scorer.bank.class_names
    if probe:
        check_probe(probe, class_names)  # before anything that takes long
    found = len({record.class_id for record in aligned})
    if found < 2:
        raise UserError(
            f"the descriptions are about {found} class: intervals and tests are over classes and need two; describe more classes."
        )
    shared = {record.class_id for record in aligned} & {record.class_id for record in base}
    if base and len(shared) < 2:
        raise UserError(
            f"the untrained policy's texts share {len(shared)} class(es) with the descriptions: a comparison needs two."
        )
    on_step("judging clauses")
    systems = {"aligned": aligned, **({"base": base} if base else {})}
    judged = judge_all(judge, systems, progress=progress)

    on_step("encoding texts for the contribution tests")
    similarity = Similarity(scorer, exact=exact)
    changed = [changed_clauses(part, class_names, seed) for part in judged]
    compared = [text for part in judged for text in all_texts(part.passages, part.apart(seed))]
    similarity.encode([*compared, *(text for own in changed for text in texts_of(own))], progress=progress)
    texts, clauses = text_table(judged, similarity, seed), clause_table(judged, similarity, changed, seed)

    on_step("intervals and tests")
    asked_with = texts["question"].to_numpy()[clauses["description"]]
    tables = {
        "descriptions": texts,
        "clauses": clauses,
        "shares": shares(clauses),
        "share_change": share_change(clauses),
        "shares_by_class": shares_by(clauses, ["class_id", "class_name"]),
        "shares_by_question": shares_by(clauses.assign(question=asked_with), ["question"]),
        "attributes": attribute_shares(clauses),
        "contributions": contributions(texts, clauses),
        "attribute_contributions": attribute_contributions(clauses),
        "counterfactuals": counterfactuals(clauses),
        "zero_shot": zero_shot_table(judged[0], similarity, scorer),
    }
    collapse = signs_of_collapse(*([(r.class_name, r.text) for r in records] for records in (aligned, base)))
    tables["preference"] = preference_table(tables["share_change"], tables["contributions"], collapsed=bool(collapse))
    on_step("controls")
    as_written, nameless = control_scores(control_texts(judged, class_names, seed), class_names, similarity)
    monitors = first_and_last(metrics)
    summary = summarise(
        as_written,
        class_names,
        nameless=nameless,
        meta=dict(meta or {}),
        monitors=monitors,
        collapse=collapse,
        seed=seed,
    )
    assert summary.nameless is not None
    tables["controls"], tables["controls_nameless"] = control_table(summary), control_table(summary.nameless)
    if metrics:
        tables["learning_curve"] = pd.DataFrame(list(metrics))
    asked: dict[str, Any] = {}
    unsure = float((clauses.query("system == 'aligned'")["category"] == UNSURE).mean())
    warnings = summary.warnings + hacking_warnings(texts, monitors, unsure) + question_warnings(texts)
    warnings += placebo_warnings(tables["preference"], tables["contributions"])
    if probe:
        on_step("direct probe")
        tables |= probe_tables(probe, similarity, scorer)
        answer = answer_to(preferred(tables["preference"]), kinds_of(probe), above(tables["probe_differences"]))
        asked["probe"] = {"outcome": answer.outcome, "sentence": answer.sentence, "reading": DECIDES}
        if answer.outcome == "contradicts":
            warnings.append(answer.sentence)
    facts = summary.as_dict() | {
        "judge": judge.name,
        "judge_quality": judge_quality(judge.name),
        "descriptions": len(aligned),
        "base_descriptions": len(base),
        "classes": found,
        "classes_of_dataset": len(class_names),
        "unsure": unsure,
        "verdict": [*outcome(summary), *verdict(tables["preference"])],
        "counterfactuals": counterfactual_sentences(tables["counterfactuals"]),
        "warnings": warnings,
        "tables": sorted(tables),
        **asked,
    }
    return Study(tables, facts)
