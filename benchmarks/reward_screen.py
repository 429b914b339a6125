"""What a reward pays for, before any training: each similarity reward under each reading, on an untrained policy's texts.

    python benchmarks/reward_screen.py                          # samples SmolLM2 on the pictograms: some minutes of one core
    python benchmarks/reward_screen.py --run runs/quickstart    # the texts that a run kept; its VLM and images
    python benchmarks/reward_screen.py --quick                  # does the script work?

Within a class (scores minus their class mean), for N texts:

    name        correlation of the reward with "the text holds the name of its class"
    words       with the number of words
    held-out    with the same reward on held-out images
    bare name   where the bare name lies among the texts, in standard deviations within classes; the same for the template and
                for a tautology, "A NAME is a NAME."
    best of N   held-out accuracy in percent of the text that the reward would choose for each class, read without the name

A reward worth training on has a low correlation with the name and a high one between images, and puts name, template and
tautology below an average text.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from ex2 import Description, TextScorer, build_bank, classify, generate, load_images, load_vlm
from ex2.rewards import SIMILARITY_REWARDS, raw_rewards
from ex2.run.folder import BASE_SAMPLES, CONFIG, read_jsonl
from ex2.scoring.best_of_n import best_of
from ex2.texts.class_names import strip_name, strip_whole_name
from ex2.texts.readings import READINGS, Reading
from ex2.zero_shot.vectors import images_of

Array = NDArray[np.float64]
CONTROLS = {"bare name": "{}", "template": "a photo of a {}", "tautology": "A {} is a {}."}


def within_classes(values: Array, class_ids: Array) -> Array:
    """Values (N,) minus the mean of their class."""
    sums, counts = np.bincount(class_ids, weights=values), np.bincount(class_ids)
    return values - (sums / np.maximum(counts, 1))[class_ids]


def correlation(a: Array, b: Array, class_ids: Array) -> float:
    """Correlation within classes; 0 where either does not vary."""
    a, b = within_classes(a, class_ids), within_classes(b, class_ids)
    spread = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / spread) if spread > 0 else 0.0


def screen(scorer: TextScorer, texts: list[str], class_ids: list[int]) -> list[dict[str, Any]]:
    """One row a reward and reading."""
    names, ids = scorer.bank.class_names, np.array(class_ids)
    own_names = [names[i] for i in class_ids]
    named = np.array([strip_whole_name(t, n, "") != " ".join(t.split()) for t, n in zip(texts, own_names, strict=True)])
    words = np.array([len(text.split()) for text in texts], dtype=float)
    images, labels = images_of(scorer.bank, "heldout")
    rows = []
    for reward, function in SIMILARITY_REWARDS.items():
        if reward == "pair_margin":
            continue
        for reading in READINGS:

            def scores(of: list[str], about: list[int], split: str = "reward", f=function, r=reading) -> Array:
                return raw_rewards(f, scorer, of, about, split, reading=Reading.of([r])).double().cpu().numpy()

            own = scores(texts, class_ids)
            spread = within_classes(own, ids).std()
            means = np.bincount(ids, weights=own) / np.maximum(np.bincount(ids), 1)
            described = sorted(set(class_ids))
            places = {}
            for label, template in CONTROLS.items():
                control = scores([template.replace("{}", names[i]) for i in described], described)
                places[label] = float(((control - means[described]) / spread).mean())
            chosen = best_of(class_ids, own.tolist())
            nameless = {names[class_ids[i]]: [strip_name(texts[i], names[class_ids[i]])] for i in chosen}
            accuracy = classify(scorer, nameless).correct(labels).double().mean().item()
            rows.append(
                {
                    "reward": reward,
                    "reading": reading,
                    "name": correlation(own, named.astype(float), ids),
                    "words": correlation(own, words, ids),
                    "held-out": correlation(own, scores(texts, class_ids, "heldout"), ids),
                    **places,
                    "best of N": 100 * accuracy,
                }
            )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    head = list(rows[0])
    cells = [[f"{v:.2f}" if isinstance(v, float) and k != "best of N" else f"{v:.0f}" if isinstance(v, float) else v
              for k, v in row.items()] for row in rows]  # fmt: skip
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *cells])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="run folder that kept the untrained policy's texts")
    parser.add_argument("--samples", type=int, default=2, help="answers to each of the eight `short` questions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args(argv)

    config = {} if args.run is None else yaml.safe_load((args.run / CONFIG).read_text(encoding="utf-8"))
    images, vlm = load_images(config.get("dataset", "pictograms")), load_vlm(config.get("vlm", "pictogram"))
    scorer = TextScorer(vlm, build_bank(vlm, images, progress=False))
    if args.run is not None:
        kept = read_jsonl(args.run / BASE_SAMPLES)
        texts, class_ids = [row["text"] for row in kept], [row["class_id"] for row in kept]
    else:
        names = images.class_names[:4] if args.quick else images.class_names
        samples = 1 if args.quick else args.samples
        records: list[Description] = generate(
            "smollm2", names, questions="short", samples=samples, max_new_tokens=24, seed=args.seed
        )
        texts, class_ids = [record.text for record in records], [record.class_id for record in records]
    torch.manual_seed(args.seed)
    print(f"{vlm.name}, {len(texts)} texts of {len(set(class_ids))} classes\n")
    print(table(screen(scorer, texts, class_ids)))


if __name__ == "__main__":
    main()
