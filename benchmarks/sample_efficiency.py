"""How fast runs learn per sampled text: compares finished (or running) runs on the same VLM and images.

    accelerate launch train/ppo_ex2.py  --config configs/quickstart.yaml      --seed 0 --output_dir runs/ppo_0
    accelerate launch train/grpo_ex2.py --config configs/quickstart_grpo.yaml --seed 0 --output_dir runs/grpo_0
    python benchmarks/sample_efficiency.py runs/ppo_0 runs/grpo_0

Each rollout asks about other classes, and classes differ more than policies do. So each text's cosine is taken relative to the
mean cosine of the untrained policy's texts about the same class (from the first run's base_samples.jsonl), and a block of
rollouts is averaged. Printed: gain in cosine over the untrained policy, reward images / held-out images.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from ex2.data import load_images
from ex2.run.folder import BASE_SAMPLES, CONFIG, SAMPLES, read_jsonl
from ex2.scoring import TextScorer
from ex2.scoring.bank import build_bank
from ex2.vlm import load_vlm


def class_means(scorer: TextScorer, rows: list[dict[str, Any]], split: str) -> Tensor:
    """Mean cosine (C,) of the texts of each class."""
    class_ids = torch.tensor([row["class_id"] for row in rows])
    cosines = scorer.cosine([row["text"] for row in rows], class_ids.tolist(), split)
    count = torch.bincount(class_ids, minlength=len(scorer.bank.class_names))
    return torch.zeros(len(count)).index_add(0, class_ids, cosines) / count


def gains(scorer: TextScorer, rows: list[dict[str, Any]], untrained: Tensor, split: str) -> Tensor:
    """Cosine of each text minus the untrained policy's mean for its class, (N,), in the order of sampling."""
    class_ids = [row["class_id"] for row in rows]
    return scorer.cosine([row["text"] for row in rows], class_ids, split) - untrained[class_ids]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="Run folders; the first gives the untrained policy's texts.")
    parser.add_argument("--block", type=int, default=160, help="Sampled texts averaged in a row of the table.")
    args = parser.parse_args(argv)

    config = yaml.safe_load((args.runs[0] / CONFIG).read_text(encoding="utf-8"))
    vlm = load_vlm(config["vlm"])
    scorer = TextScorer(vlm, build_bank(vlm, load_images(config["dataset"]), progress=False))
    base = read_jsonl(args.runs[0] / BASE_SAMPLES)
    untrained = {split: class_means(scorer, base, split) for split in ("reward", "heldout")}
    samples = {run: read_jsonl(run / SAMPLES) for run in args.runs}
    gain = {
        run: {split: gains(scorer, rows, untrained[split], split) for split in untrained}
        for run, rows in samples.items()
    }
    print(f"{'sampled texts':>15}" + "".join(f"{run.name:>20}" for run in args.runs))
    for start in range(0, max(map(len, samples.values())) - args.block + 1, args.block):
        cells = []
        for run in args.runs:
            block = [gain[run][split][start : start + args.block] for split in ("reward", "heldout")]
            cells.append(" / ".join(f"{x.mean():+.3f}" for x in block) if len(block[0]) == args.block else "")
        print(f"{start + 1:>7}-{start + args.block:<7}" + "".join(f"{cell:>20}" for cell in cells))


if __name__ == "__main__":
    main()
