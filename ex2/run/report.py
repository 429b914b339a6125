"""What a run ends with: the trained policy beside the controls it has to beat, about classes or about pairs of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ex2.base.embedded_llm import EMBEDDED
from ex2.base.files import write_atomically
from ex2.base.shown import printable
from ex2.options.run_options import RunOptions
from ex2.policy.asks import Ask
from ex2.rewards.similarity import pair_margin, raw_rewards
from ex2.run import folder as run_folder
from ex2.scoring.best_of_n import best_of
from ex2.scoring.scorer import TextScorer
from ex2.stats import before_after, before_after_page
from ex2.stats.plots import plot_learning_curve
from ex2.texts.collapse import signs_of_collapse
from ex2.texts.questions import TEMPLATE, attribute_of
from ex2.texts.readings import AS_WRITTEN, NAMELESS, Reading
from ex2.zero_shot import pair_accuracy

Samples = Sequence[tuple[Ask, str]]

_CONTROLS = {"class_name": "{}", "template": TEMPLATE}
_EXAMPLE_PAIRS = 5


def by_subject(samples: Samples) -> dict[tuple[int, ...], list[tuple[Ask, str]]]:
    """Samples of each class (or ordered pair), in their order."""
    groups: dict[tuple[int, ...], list[tuple[Ask, str]]] = {}
    for ask, text in samples:
        groups.setdefault(ask.subject, []).append((ask, text))
    return groups


def write_report(
    options: RunOptions,
    scorer: TextScorer,
    base: Samples,
    aligned: Samples,
    *,
    training_encodings: int | None,
    seconds: dict[str, float],
) -> None:
    """Write the report of a run about classes, or about pairs, and the learning curve into the run folder; print the table."""
    metrics = run_folder.read_jsonl(options.output_dir / run_folder.METRICS)
    facts = {
        "meta": _facts(options, scorer, base, metrics, training_encodings, seconds),
        "monitors": _first_and_last(metrics),
    }
    write = _write_classes if options.ex2.pairs is None else _write_pairs
    table = write(options, scorer, base, aligned, facts)
    if metrics:
        plot_learning_curve(metrics, options.output_dir / "learning_curve.png")
    print(table)


def _write_classes(
    options: RunOptions, scorer: TextScorer, base: Samples, aligned: Samples, facts: dict[str, Any]
) -> str:
    """Write `before_after.{json,md,png}`; the table, and what it comes to."""
    names = scorer.bank.class_names
    base_reward = scorer.cosine(*_columns(base), reading=options.ex2.chosen_reading())
    systems = {
        **{
            label: [(Ask(i, name, ""), text.replace("{}", name)) for i, name in enumerate(names)]
            for label, text in _CONTROLS.items()
        },
        "base": base,
        "best_of_n": _best(base, base_reward.tolist()),
        "aligned": aligned,
    }
    as_written, nameless = (
        [_system(name, scorer, samples, reading) for name, samples in systems.items()]
        for reading in (AS_WRITTEN, NAMELESS)
    )
    said = ([(ask.class_name, text) for ask, text in samples] for samples in (aligned, base))
    summary = before_after.summarise(as_written, names, nameless=nameless, collapse=signs_of_collapse(*said), **facts)
    before_after_page.write_report(summary, options.output_dir)
    return "\n".join([before_after_page.format_table(summary), "", *before_after.outcome(summary)])


def _write_pairs(
    options: RunOptions, scorer: TextScorer, base: Samples, aligned: Samples, facts: dict[str, Any]
) -> str:
    """Write `pair_accuracy.{json,md}`; the table.

    Every policy has the same number of sentences about each class of a pair: of the untrained one the first that it wrote,
    and for best-of-N the best of all, by the margin on reward images.
    """
    keep = options.ex2.eval_samples
    scores = raw_rewards(
        pair_margin,
        scorer,
        [text for _, text in base],
        [ask.class_id for ask, _ in base],
        other_ids=[ask.other_id for ask, _ in base if ask.other_id is not None],
    ).tolist()
    policies = {
        "base": [sample for group in by_subject(base).values() for sample in group[:keep]],
        "best_of_n": _best(base, scores, keep),
        "aligned": aligned,
    }
    names = scorer.bank.class_names
    pairs = [(i, j) for i, j in by_subject(aligned)][::2]  # each stands there in both orders
    texts: dict[str, Any] = {label: pair_accuracy.name_texts(names, pairs, text) for label, text in _CONTROLS.items()}
    texts |= {
        name: {subject: [text for _, text in group] for subject, group in by_subject(samples).items()}
        for name, samples in policies.items()
    }
    systems = [pair_accuracy.score_pairs(name, scorer, of, pairs) for name, of in texts.items()]
    summary = {**pair_accuracy.summarise(systems, names, pairs), **facts}
    table = pair_accuracy.format_table(summary)
    run_folder.write_json(options.output_dir / "pair_accuracy.json", summary)
    page = f"# Pair accuracy\n\n{_indented(table)}\n\n## The most confused pairs\n\n{_indented(_examples(base, aligned))}\n"
    write_atomically(options.output_dir / "pair_accuracy.md", page.encode())
    return table


def _best(samples: Samples, scores: Sequence[float], keep: int = 1) -> list[tuple[Ask, str]]:
    return [samples[i] for i in best_of([ask.subject for ask, _ in samples], scores, keep)]


def _columns(samples: Samples) -> tuple[list[str], list[int]]:
    """Texts and class ids."""
    return [text for _, text in samples], [ask.class_id for ask, _ in samples]


def _system(name: str, scorer: TextScorer, samples: Samples, reading: Reading) -> before_after.SystemScores:
    texts, class_ids = _columns(samples)
    reward, heldout = (scorer.cosine(texts, class_ids, split, reading).tolist() for split in ("reward", "heldout"))
    return before_after.SystemScores(name, class_ids, reward, heldout, texts, [ask.question for ask, _ in samples])


def _examples(base: Samples, aligned: Samples) -> str:
    """First sentence of both policies about the first pairs, which are the most confused; no score chose them."""
    before = by_subject(base)
    lines = []
    for subject, group in list(by_subject(aligned).items())[: 2 * _EXAMPLE_PAIRS]:
        ask, text = group[0]
        lines += [
            f"{ask.class_name}, not {ask.other_name}; {attribute_of(ask.question)}",
            f"  before  {before[subject][0][1]}",
            f"  after   {text}",
        ]
    return "\n".join(lines)


def _indented(text: str) -> str:
    """A code block of Markdown, in which nothing that was generated has a meaning."""
    return "\n".join(f"    {line}" for line in printable(text).splitlines())


def _facts(
    options: RunOptions,
    scorer: TextScorer,
    base: Samples,
    metrics: list[dict[str, Any]],
    training_encodings: int | None,
    seconds: dict[str, float],
) -> dict[str, Any]:
    return {
        "vlm": scorer.bank.vlm_name,
        "dataset": scorer.bank.dataset,
        "model": options.policy.model_name_or_path or EMBEDDED,
        "algorithm": options.algorithm,
        "reading": str(options.ex2.chosen_reading()),
        "seed": options.trainer.seed,
        "training_texts": max((row["sampled_texts"] for row in metrics), default=0),
        "training_text_encodings": training_encodings,
        "best_of_n": len(base) // len(by_subject(base)),
        "best_of_n_text_encodings": len(base),
        "zscore_text_encodings": len(base) if options.ex2.reward_normalization == "zscore" else 0,
        "seconds": seconds,
    }


def _first_and_last(metrics: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """First and last logged value of each monitor."""
    rows = [row for row in metrics if "monitors/hub_score" in row]
    if not rows:
        return {}
    return {
        name.removeprefix("monitors/"): {"first": rows[0][name], "last": rows[-1][name]}
        for name in rows[0]
        if name.startswith("monitors/")
    }
