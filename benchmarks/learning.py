"""PPO, GRPO, RLOO and best-of-N at equal numbers of sampled tokens on the embedded data: held-out cosine and monitors.

    python benchmarks/learning.py [--out runs/learning] [--seeds 0 1 2] [--jobs 2] [--max_steps 48]

Trains configs/quickstart.yaml (PPO), quickstart_grpo.yaml and quickstart_rloo.yaml with each seed, one core a run. A run that is
finished is not repeated, one that was interrupted goes on from its checkpoint; further options go to training. Writes
OUT/learning.png and OUT/learning.md.

Classes differ more than policies do, and each rollout asks about a few. So a text counts as its cosine minus the mean of the
untrained policy's texts about its class (of the same seed's PPO run), and the figure shows the untrained policy's mean plus
the mean of that over classes. Intervals (95 %) are over classes, texts of all seeds together. Best-of-N picks, for each class,
the text with the highest cosine to the reward images among N of the untrained policy's: the mean over all choices of N, with as
many sampled tokens as the others had by then. The table has each final policy's before / after report besides: fresh texts
about all classes, at the end of training. Tokens are those of completions, not of prompts.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from _common import train_run
from numpy.typing import NDArray

from ex2.base.files import write_atomically
from ex2.stats.intervals import Interval, cluster_interval

CONFIGS = {"ppo": "quickstart.yaml", "grpo": "quickstart_grpo.yaml", "rloo": "quickstart_rloo.yaml"}
LABELS = {"ppo": "PPO", "grpo": "GRPO", "rloo": "RLOO", "best_of_n": "best of N"}
COLOURS = {"ppo": "#0072B2", "grpo": "#D55E00", "rloo": "#009E73", "best_of_n": "#CC79A7"}
MONITORS = {
    "hub_score": "hub score",
    "duplicate_rate": "duplicate rate",
    "distinct_2": "distinct-2",
    "words": "words a text",
}


@dataclass(frozen=True)
class BaseTexts:
    """The untrained policy's texts of one run: class id, tokens, cosine on reward and on held-out images, (N,) each."""

    class_ids: NDArray[Any]
    tokens: NDArray[Any]
    reward: NDArray[Any]
    heldout: NDArray[Any]

    def class_means(self) -> NDArray[Any]:
        """Mean held-out cosine of each class, (C,)."""
        return np.bincount(self.class_ids, weights=self.heldout) / np.bincount(self.class_ids)


def score_base(run: Path) -> BaseTexts:
    """Read and score the texts that a run sampled from the untrained policy."""
    from ex2.data import load_images
    from ex2.policy.llm import load_tokenizer, resolve_model
    from ex2.run.folder import BASE_SAMPLES, CONFIG, read_jsonl
    from ex2.scoring import TextScorer
    from ex2.scoring.bank import build_bank
    from ex2.vlm import load_vlm

    config = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8"))
    rows = read_jsonl(run / BASE_SAMPLES)
    texts, class_ids = [row["text"] for row in rows], [row["class_id"] for row in rows]
    tokenizer = load_tokenizer(resolve_model(config["model_name_or_path"], config["cache_dir"]))
    # The file holds texts, not tokens: one more for the end of a text that ended before the limit.
    limit = config["max_completion_length"]
    tokens = [min(len(tokenizer(text, add_special_tokens=False)["input_ids"]) + 1, limit) for text in texts]
    vlm = load_vlm(config["vlm"])
    scorer = TextScorer(vlm, build_bank(vlm, load_images(config["dataset"]), progress=False))
    cosines = [scorer.cosine(texts, class_ids, split).cpu().numpy() for split in ("reward", "heldout")]
    return BaseTexts(np.array(class_ids), np.array(tokens), *cosines)


def expected_best(reward: NDArray[Any], heldout: NDArray[Any], n: int) -> float:
    """Mean held-out cosine of the best of `n` of K texts by reward, over all choices of n: no draw, no noise.

    The text of rank k (1 is the worst) is the best of those chosen in C(k - 1, n - 1) of C(K, n) choices.
    """
    ranked = heldout[np.argsort(reward, kind="stable")]
    weights = np.array([comb(k, n - 1) for k in range(len(ranked))]) / comb(len(ranked), n)
    return float(weights @ ranked)


def best_of_n(base: Sequence[BaseTexts], budget: float) -> list[tuple[float, Interval]]:
    """(sampled tokens, held-out cosine) of best-of-N for N = 1, 2, ... within a budget, averaged over seeds."""
    points = []
    counts = [np.bincount(texts.class_ids) for texts in base]
    for n in range(1, int(min(count.min() for count in counts)) + 1):
        tokens = float(
            np.mean([texts.tokens.mean() * len(count) * n for texts, count in zip(base, counts, strict=True)])
        )
        if n > 1 and tokens > budget:  # one text a class is the untrained policy itself
            break
        values = [
            expected_best(texts.reward[texts.class_ids == i], texts.heldout[texts.class_ids == i], n)
            for texts in base
            for i in range(len(counts[0]))
        ]
        points.append((tokens, cluster_interval(values, list(range(len(counts[0]))) * len(base))))
    return points


@dataclass(frozen=True)
class Trained:
    """What one run sampled, in order: class id, gain over the untrained policy and sampled tokens before each text, (N,) each;
    and the monitors of each rollout with the tokens sampled by then."""

    class_ids: NDArray[Any]
    gains: NDArray[Any]
    tokens: NDArray[Any]
    monitors: list[tuple[float, dict[str, float]]]


def read_run(run: Path, untrained: NDArray[Any]) -> Trained:
    """Read a run's samples and metrics; `untrained` is the untrained policy's mean held-out cosine of each class, (C,)."""
    from ex2.run.folder import METRICS, SAMPLES, read_jsonl

    rows = read_jsonl(run / SAMPLES)
    rollouts = [row for row in read_jsonl(run / METRICS) if "completions/mean_length" in row]
    size = len(rows) // len(rollouts)
    lengths = np.array([row["completions/mean_length"] for row in rollouts])
    ids = np.array([row["class_id"] for row in rows])
    gains = np.array([row["scores"]["heldout_cosine"] for row in rows]) - untrained[ids]
    after = np.cumsum(lengths) * size
    monitors = [
        (tokens, {name: row[f"monitors/{name}"] for name in MONITORS})
        for tokens, row in zip(after.tolist(), rollouts, strict=True)
    ]
    return Trained(ids, gains, np.repeat(after, size), monitors)


def curve(runs: Sequence[Trained], start: float, budget: float, blocks: int) -> list[tuple[float, Interval]]:
    """(sampled tokens, held-out cosine) of a policy in training, in equal blocks of tokens up to a budget.

    Args:
        runs: One a seed.
        start: The untrained policy's mean held-out cosine.
        budget: Sampled tokens a run.
        blocks: Points of the curve.
    """
    points = []
    edges = np.linspace(0, budget, blocks + 1)
    for low, high in zip(edges, edges[1:], strict=False):
        inside = [(run.tokens > low) & (run.tokens <= high) for run in runs]
        gains = np.concatenate([run.gains[mask] for run, mask in zip(runs, inside, strict=True)])
        ids = np.concatenate([run.class_ids[mask] for run, mask in zip(runs, inside, strict=True)])
        if len(np.unique(ids)) > 1:
            gain = cluster_interval(gains, ids)
            points.append((float(high), Interval(start + gain.mean, start + gain.low, start + gain.high)))
    return points


def monitor_curve(runs: Sequence[Trained], name: str, budget: float, blocks: int) -> list[tuple[float, float]]:
    """(sampled tokens, mean over seeds and rollouts) of a monitor, in the blocks of `curve`."""
    edges = np.linspace(0, budget, blocks + 1)
    points = []
    for low, high in zip(edges, edges[1:], strict=False):
        values = [values[name] for run in runs for tokens, values in run.monitors if low < tokens <= high]
        if values:
            points.append((float(high), float(np.mean(values))))
    return points


Curves = Mapping[str, Sequence[tuple[float, Interval]]]
Monitors = Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]


def figure(curves: Curves, monitors: Monitors, start: float) -> bytes:
    """The PNG: held-out cosine on the left, monitors beside it."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(12, 5.2), dpi=150, layout="constrained")
    grid = drawing.add_gridspec(2, 4)
    left = drawing.add_subplot(grid[:, :2])
    for name, points in curves.items():
        xs = [tokens for tokens, _ in points]
        colour = COLOURS[name]
        left.plot(xs, [value.mean for _, value in points], marker="o", color=colour, label=LABELS[name])
        left.fill_between(
            xs, [v.low for _, v in points], [v.high for _, v in points], color=colour, alpha=0.15, linewidth=0
        )
    left.axhline(start, color="#888888", linewidth=1, linestyle="--", label="untrained policy")
    left.set_xlabel("sampled tokens")
    left.set_ylabel("cosine with held-out images (95 % interval over classes)")
    left.legend(frameon=False)
    for place, (name, label) in enumerate(MONITORS.items()):
        axes = drawing.add_subplot(grid[place // 2, 2 + place % 2])
        for algorithm, points in monitors[name].items():
            axes.plot(*zip(*points, strict=True), color=COLOURS[algorithm])
        axes.set_title(label, fontsize=10)
    for axes in drawing.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#dddddd", linewidth=0.8)
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png")
    return buffer.getvalue()


def final_cosine(run: Path, system: str) -> str:
    """Held-out cosine of `system` in a run's before / after report, with its interval; empty where there is no report."""
    report = run / "before_after.json"
    if not report.is_file():
        return ""
    value = json.loads(report.read_text(encoding="utf-8"))[system]["heldout"]
    return Interval.of(value).shown(".4f")


def table(out: Path, curves: Curves, monitors: Monitors, start: float, seeds: Sequence[int]) -> str:
    """Markdown: the last block of tokens before the budget, and each seed's final policy on texts of its own."""
    finals = [f"final policy, seed {seed}" for seed in seeds]
    head = ["method", "sampled tokens", "held-out cosine", *finals, *MONITORS.values()]
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
    for name, points in curves.items():
        tokens, value = points[-1]
        run, system = (name, "aligned") if name in CONFIGS else ("ppo", "best_of_n")
        cells = [LABELS[name], f"{tokens:.0f}", value.shown(".4f")]
        cells += [final_cosine(out / f"{run}_{seed}", system) for seed in seeds]
        cells += [f"{monitors[monitor][name][-1][1]:.3g}" if name in CONFIGS else "" for monitor in MONITORS]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(
        [
            *lines,
            "",
            f"Untrained policy: {start:.4f}. Every class asked about has equal weight; seeds {', '.join(map(str, seeds))}.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("runs/learning"), help="folder of the runs; default: runs/learning"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, one core each; default: 2")
    parser.add_argument("--blocks", type=int, default=6, help="points of a curve; default: 6")
    args, extra = parser.parse_known_args(argv)  # what is left over goes to training
    args.out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(args.jobs) as pool:
        futures = [
            pool.submit(train_run, args.out / f"{name}_{seed}", name, CONFIGS[name], seed, extra)
            for seed in args.seeds
            for name in CONFIGS
        ]
        for future in futures:
            future.result()

    base = {seed: score_base(args.out / f"ppo_{seed}") for seed in args.seeds}
    start = float(np.mean([texts.class_means().mean() for texts in base.values()]))
    runs = {
        name: [read_run(args.out / f"{name}_{seed}", base[seed].class_means()) for seed in args.seeds]
        for name in CONFIGS
    }
    budget = float(min(run.tokens[-1] for trained in runs.values() for run in trained))
    curves = {name: curve(trained, start, budget, args.blocks) for name, trained in runs.items()}
    curves["best_of_n"] = best_of_n(list(base.values()), budget)
    monitors = {
        monitor: {name: monitor_curve(trained, monitor, budget, args.blocks) for name, trained in runs.items()}
        for monitor in MONITORS
    }
    text = table(args.out, curves, monitors, start, args.seeds)
    write_atomically(args.out / "learning.png", figure(curves, monitors, start))
    write_atomically(args.out / "learning.md", (text + "\n").encode())
    print(text)
    gains = {name: points[-1][1].mean - start for name, points in curves.items()}
    best = gains.pop("best_of_n")
    if len(curves["best_of_n"]) > 1:
        ratios = ", ".join(f"{LABELS[name]} {gain / best:.2f}" for name, gain in gains.items())
        print(f"gain over the untrained policy / best-of-N's: {ratios}")


if __name__ == "__main__":
    main()
