"""How often contributions are found that are not there: texts judged once, on images that want none of their attributes.

    python benchmarks/false_contributions.py DESCRIPTIONS [--base BASE] [--vlm pictogram] [--dataset pictograms] [--trials 100]

Each trial hands every class other prototypes: those of another class (`swapped`), random directions around a common one
(`common`), or independent random directions (`random`). A trial is false where the interval of any category's contribution
leaves out zero. Printed, in percent of the trials: for `contrast` as `ex2 analyze` has it (about the class, matched for length
and place), without the matching, and for what clauses add alone, as it was before; all with the intervals of the table
`contributions`. `real` is the one trial with the real prototypes: what is found there.

Then the planted kinds, without training a policy: sentences of all kinds, none of which stands in for a held-out image, as
clauses on planted images. A kind counts as recovered where it has the largest contribution; `spurious`, which is about no
class, where it has the largest `general`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import normalize

from ex2.analysis.contribution import framed
from ex2.analysis.findings import about_class, contrast, estimate, matched
from ex2.analysis.judges import load_judge
from ex2.analysis.judging import Judged, judge_all
from ex2.data import PlantedImages, load_images
from ex2.data.planted import PLANTED, load_planted, plant
from ex2.scoring.bank import build_bank
from ex2.texts.categories import CATEGORIES, INFORMATIVE
from ex2.texts.descriptions import read_descriptions
from ex2.vlm import VLM, load_vlm


def clause_rows(judged: list[Judged]) -> pd.DataFrame:
    """What contributions need to know of each clause besides its cosines."""
    rows = [
        {
            "system": part.system, "description": f"{part.system} {number}", "class_id": record.class_id, "clause": clause,
            "category": judgement.category or "unsure", "class_name": record.class_name,
        }
        for part in judged
        for number, (record, passage, own) in enumerate(zip(part.records, part.passages, part.clauses, strict=True))
        for clause, judgement in zip(passage.clauses, own, strict=True)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def found(
    clauses: pd.DataFrame, added: torch.Tensor, ids: torch.Tensor, prototypes: torch.Tensor
) -> dict[str, list[str]]:
    """The categories whose contribution is called one, by each way of measuring it.

    Args:
        clauses: `clause_rows`.
        added: Difference of the embeddings of ``NAME: clause.`` and ``NAME.``, a row a clause.
        ids: Class of each clause.
        prototypes: ``(C, D)``.
    """
    cosines = (added @ prototypes.T).double()
    own = cosines.gather(1, ids[:, None])[:, 0]
    elsewhere = (cosines.sum(dim=1) - own) / (len(prototypes) - 1)
    clauses = clauses.assign(added=own.numpy(), added_elsewhere=elsewhere.numpy())
    ways = {
        "about the class, matched": matched(clauses, about_class(clauses)),
        "about the class": about_class(clauses),
        "added alone": clauses["added"],
    }
    called: dict[str, list[str]] = {}
    for way, values in ways.items():
        rows = {name: estimate(contrast(clauses, values, clauses["category"] == name)) for name in CATEGORIES}
        called[way] = [name for name, row in rows.items() if row["low"] > 0 or row["high"] < 0]
    return called


def recovered(vlm: VLM, kind: str, seed: int) -> bool:
    """Whether the sentences of the planted kind have the largest contribution on images planted with it."""
    vectors, labels, splits, _ = plant(load_planted(kind), vlm, seed)
    heldout = torch.tensor([split == "heldout" for split in splits])
    classes = torch.tensor(labels)
    names = load_planted(kind).class_names
    prototypes = torch.stack([vectors[heldout & (classes == i)].mean(dim=0) for i in range(len(names))])
    rows = []
    for category in PLANTED:
        for class_id, own in enumerate(load_planted(category).sentences):
            order = _order(load_planted(category), seed)[class_id]
            rows += [
                {
                    "system": "aligned", "class_id": class_id, "category": category, "clause": own[i],
                    "description": f"{class_id} {category} {i}",
                }
                for i in order[: len(own) // 2]
            ]  # fmt: skip
    clauses = pd.DataFrame(rows)
    texts = [framed(names[row.class_id], row.clause) for row in clauses.itertuples()]
    bare = vlm.encode_texts([framed(name) for name in names]).cpu()
    ids = torch.tensor(clauses["class_id"].to_numpy())
    cosines = ((vlm.encode_texts(texts).cpu() - bare[ids]) @ prototypes.T).double()
    own_cosine = cosines.gather(1, ids[:, None])[:, 0]
    elsewhere = (cosines.sum(dim=1) - own_cosine) / (len(names) - 1)
    clauses = clauses.assign(added=own_cosine.numpy(), added_elsewhere=elsewhere.numpy())
    values = clauses["added_elsewhere"] if kind not in INFORMATIVE else about_class(clauses)
    level = matched(clauses, values)
    means = {name: contrast(clauses, level, clauses["category"] == name).mean() for name in PLANTED}
    return max(means, key=means.__getitem__) == kind


def _order(planted: PlantedImages, seed: int) -> list[list[int]]:
    """How `plant` shuffles each class's sentences: the first half is for the reward."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randperm(len(own), generator=generator).tolist() for own in planted.sentences]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("descriptions", type=Path)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--vlm", default="pictogram")
    parser.add_argument("--dataset", default="pictograms")
    parser.add_argument("--trials", type=int, default=100)
    args = parser.parse_args()
    images, vlm = load_images(args.dataset), load_vlm(args.vlm)
    bank = build_bank(vlm, images, progress=False)
    systems = {"aligned": read_descriptions(args.descriptions, images.class_names)}
    if args.base is not None:
        systems["base"] = read_descriptions(args.base, images.class_names)
    clauses = clause_rows(judge_all(load_judge("local"), systems, progress=False))
    pairs = list(zip(clauses["class_name"], clauses["clause"], strict=True))
    texts = list(dict.fromkeys([framed(name) for name, _ in pairs] + [framed(*pair) for pair in pairs]))
    place = {text: row for row, text in enumerate(texts)}
    embeddings = vlm.encode_texts(texts).cpu()
    added = (
        embeddings[[place[framed(*pair)] for pair in pairs]] - embeddings[[place[framed(name)] for name, _ in pairs]]
    )
    ids = torch.tensor(clauses["class_id"].to_numpy())
    real = bank.prototypes_of("heldout").cpu()
    classes, width = real.shape
    generator = torch.Generator().manual_seed(0)

    def swapped() -> torch.Tensor:
        order = torch.randperm(classes, generator=generator)
        turned = torch.empty_like(order)
        turned[order] = order.roll(1)  # one cycle: no class keeps its own
        return real[turned]

    def random() -> torch.Tensor:
        return normalize(torch.randn(classes, width, generator=generator), dim=1)

    def common() -> torch.Tensor:
        return normalize(random() + normalize(torch.randn(width, generator=generator), dim=0), dim=1)

    print(f"{len(clauses)} clauses about {len(set(clauses['class_id']))} of {classes} classes, {args.trials} trials")
    for way, names in found(clauses, added, ids, real).items():
        print(f"real      {way:<26}{', '.join(names) or 'nothing'}")
    kinds: dict[str, Callable[[], torch.Tensor]] = {"swapped": swapped, "common": common, "random": random}
    for kind, draw in kinds.items():
        trials = [found(clauses, added, ids, draw()) for _ in range(args.trials)]
        for way in trials[0]:
            print(f"{kind:<10}{way:<26}{100 * np.mean([bool(trial[way]) for trial in trials]):5.1f} %", flush=True)
    cells = {(kind, seed): recovered(vlm, kind, seed) for kind in PLANTED for seed in range(3)}
    lost = [f"{kind}, seed {seed}" for (kind, seed), found_it in cells.items() if not found_it]
    print(f"planted kinds recovered: {sum(cells.values())} of {len(cells)}{'; not ' * bool(lost)}{'; '.join(lost)}")


if __name__ == "__main__":
    main()
