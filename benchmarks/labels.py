"""How well shares are corrected by a hundred labels: bias and coverage over many draws from clauses that are all labelled.

    python benchmarks/labels.py LABELS.jsonl [--judge local] [--n 100] [--draws 200]

LABELS.jsonl has lines with class_name, text and category. Each draw hides all labels but N, drawn as `ex2 label` draws them, and
corrects the shares; the truth is what all labels say. Prints for each category the share, what the judge alone says, the mean
corrected one, its mean half width, and in how many draws the interval holds the truth.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from ex2.analysis.agreement import in_four_categories, knows_four
from ex2.analysis.corrected import Sample, correct
from ex2.analysis.judges import load_judge
from ex2.analysis.labels import allocate
from ex2.commands.judge import read_labels
from ex2.texts.categories import CATEGORIES, Passage, of_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--judge", default="local")
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--draws", type=int, default=200)
    args = parser.parse_args()
    rows = read_labels(args.labels)
    passages = [Passage.of(row["class_name"], row["text"]) for row in rows]
    answers = load_judge(args.judge).judge(passages, progress=False)
    four = knows_four([row["category"] for row in rows])
    judged = [
        in_four_categories(passage, clauses) if four else of_text(clauses)
        for passage, clauses in zip(passages, answers, strict=True)
    ]
    p = np.array([judgement.probabilities for judgement in judged])
    truth = np.array([[float(row["category"] == name) for name in CATEGORIES] for row in rows])
    shown = [judgement.category or "unsure" for judgement in judged]
    names = sorted(set(shown))
    members = {i: np.flatnonzero([name == other for other in shown]) for i, name in enumerate(names)}
    sizes = {i: len(own) for i, own in members.items()}
    counts = allocate(sizes, args.n)
    estimates = np.empty((args.draws, len(CATEGORIES), 3))
    for draw in range(args.draws):
        generator = np.random.default_rng(draw)
        chosen = {i: generator.choice(own, counts[i], replace=False) for i, own in members.items()}
        labelled = np.concatenate(list(chosen.values()))
        strata = np.concatenate([np.full(len(own), i) for i, own in chosen.items()])
        sample = Sample(p, labelled, truth[labelled], strata, np.array(list(sizes.values())))
        for k in range(len(CATEGORIES)):
            weights = np.zeros_like(p)
            weights[:, k] = 1 / len(p)
            found = correct(sample, weights)
            estimates[draw, k] = found.mean, found.low, found.high
    print(f"{len(rows)} clauses, {args.n} labels, {args.draws} draws, judge {args.judge}")
    print("category    share  judged  corrected  half width  coverage")
    held = []
    for k, name in enumerate(CATEGORIES):
        share = truth[:, k].mean()
        if not share and not p[:, k].any():
            continue
        mean, low, high = estimates[:, k].T
        inside = (low <= share) & (share <= high)
        held.append(inside)
        judge = np.mean([category == name for category in shown])
        print(
            f"{name:<11}{share:6.3f}{judge:8.3f}{mean.mean():11.3f}{np.mean(high - low) / 2:12.3f}{inside.mean():10.3f}"
        )
    print(f"coverage over all categories {np.mean(held):.3f}")


if __name__ == "__main__":
    main()
