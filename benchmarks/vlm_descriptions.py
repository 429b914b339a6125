"""Does a VLM understand descriptions, or only names? Held-out images classified with descriptions that people wrote.

    python benchmarks/vlm_descriptions.py                       # the embedded VLM; two writers in benchmarks/descriptions/
    python benchmarks/vlm_descriptions.py --vlm hf:ID --dataset folder:DIR --descriptions FILE

A file holds for each class a true description without its name (`visual`), the same with one attribute made wrong
(`changed`, `changed_attribute`), where it lives (`habitat`) and what it is used for or does (`use`), all without the name. The
writers of the two files here saw neither the texts that the embedded VLM was trained on nor its scores, and nothing was chosen by
them; writer a had looked at one drawing of each class, writer b at none.

Top-1 in percent of the held-out images, where classes are given as

    name                        the bare name
    name-free                   its description alone
    name: description           both, all classes at once
    one class described         "name: description" of one class against the bare names of the others; images of that class only
    name + random words         the bare name and six words that have nothing to do with it
    habitat, use                that text alone

and the share of classes whose images lie nearer to the true description than to the changed one.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ex2 import TextScorer, build_bank, load_images, load_vlm
from ex2.zero_shot.vectors import images_of, predict

HERE = Path(__file__).resolve().parent / "descriptions"
RANDOM = [
    "table",
    "engine",
    "cloud",
    "paper",
    "window",
    "river",
    "stone",
    "music",
    "garden",
    "letter",
    "bridge",
    "winter",
]


def measure(scorer: TextScorer, texts: dict[str, dict[str, str]], seed: int = 0) -> dict[str, float]:
    """The figures of one writer, in percent."""
    names = scorer.bank.class_names
    images, labels = images_of(scorer.bank, "heldout")
    generator = random.Random(seed)

    def accuracy(vectors: Tensor) -> float:
        return 100 * float(predict(vectors, images, 1).correct(labels).double().mean())

    def column(key: str) -> list[str]:
        return [texts[name][key] for name in names]

    bare, plain, changed = scorer.embed(names), scorer.embed(column("visual")), scorer.embed(column("changed"))
    both = scorer.embed([f"{name}: {text}" for name, text in zip(names, column("visual"), strict=True)])
    words = scorer.embed([f"{name}: {' '.join(generator.sample(RANDOM, 6))}." for name in names])
    own_class, nearer = [], []
    for i in range(len(names)):
        own = images[labels == i]
        if len(own):
            one = torch.cat([bare[:i], both[i : i + 1], bare[i + 1 :]])
            own_class.append(float((predict(one, own, 1).class_ids[:, 0] == i).double().mean()))
            nearer.append(float((own @ plain[i]).mean() > (own @ changed[i]).mean()))
    return {
        "name": accuracy(bare),
        "name-free": accuracy(plain),
        "name: description": accuracy(both),
        "one class described": 100 * sum(own_class) / len(own_class),
        "name + random words": accuracy(words),
        "habitat": accuracy(scorer.embed(column("habitat"))),
        "use": accuracy(scorer.embed(column("use"))),
        "true nearer than changed": 100 * sum(nearer) / len(nearer),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vlm", default="pictogram")
    parser.add_argument("--dataset", default="pictograms")
    parser.add_argument("--descriptions", nargs="+", type=Path, default=sorted(HERE.glob("*.json")))
    args = parser.parse_args(argv)

    images, vlm = load_images(args.dataset), load_vlm(args.vlm)
    scorer = TextScorer(vlm, build_bank(vlm, images, progress=False))
    rows: dict[str, dict[str, Any]] = {}
    for path in args.descriptions:
        rows[path.stem] = measure(scorer, json.loads(path.read_text(encoding="utf-8")))
    print(f"{vlm.name}, {len(images_of(scorer.bank, 'heldout')[1])} held-out images, percent\n")
    print(f"| | {' | '.join(rows)} |\n| --- | {' | '.join(['---'] * len(rows))} |")
    for name in next(iter(rows.values())):
        print(f"| {name} | {' | '.join(f'{row[name]:.0f}' for row in rows.values())} |")


if __name__ == "__main__":
    main()
