"""Systems side by side: the same images classified with templates, descriptions and FuDD, each beside the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ex2.base.files import to_json, write_atomically
from ex2.base.shown import to_csv
from ex2.scoring.bank import ImageBank
from ex2.scoring.scorer import TextScorer
from ex2.stats.intervals import bracket
from ex2.stats.plots import sweep_png
from ex2.texts.controls import WAFFLES_PER_CLASS, random_words
from ex2.texts.pairs import PairTexts
from ex2.texts.questions import TEMPLATE
from ex2.zero_shot.class_texts import TEMPLATE_SET, ClassTexts, text_sums
from ex2.zero_shot.follow_up import PairSums, choose_gate, follow_up, gated, margins, pair_sums
from ex2.zero_shot.vectors import (
    TOP,
    Average,
    Predictions,
    beside_name,
    choose_weight,
    evaluate,
    images_of,
    mean_nll,
    predict,
    share_by_class,
)

if TYPE_CHECKING:
    import pandas as pd


CONTROLS = ("class_name", "template", "template_set", "random_words")
"""Systems that are no descriptions."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """What each system made of the N images of a split.

    Attributes:
        bank: The images.
        split: Those that were classified.
        labels: Their class ids ``(N,)``.
        predictions: Predictions of each system.
        rows: One flat row a system, the table of results; `docs/classify.md` describes the columns.
    """

    bank: ImageBank
    split: str
    labels: Tensor
    predictions: dict[str, Predictions]
    rows: list[dict[str, Any]]

    def predicted(self) -> pd.DataFrame:
        """One row an image and system: what it is, what it was taken for, and with what scores."""
        import pandas as pd

        names = np.array(self.bank.class_names, dtype=object)
        labels = self.labels.cpu().numpy()
        image_ids = [self.bank.image_ids[row] for row in self.bank.rows(self.split).tolist()]
        parts = []
        for system, predictions in self.predictions.items():
            ids = predictions.class_ids.cpu().numpy()
            columns = {
                "system": system,
                "image_id": image_ids,
                "class_id": labels,
                "class_name": names[labels],
                "predicted_ids": list(ids),
                "predicted_names": list(names[ids]),
                "scores": list(predictions.scores.cpu().numpy()),
                "correct": ids[:, 0] == labels,
            }
            parts.append(pd.DataFrame(columns))
        return pd.concat(parts, ignore_index=True)

    def per_class(self) -> pd.DataFrame:
        """One row a class and system: images and top-1 accuracy, empty for classes without images."""
        import pandas as pd

        names = self.bank.class_names
        columns = {"class_id": range(len(names)), "class_name": names, "n": self.bank.counts_of(self.split)}
        parts = [
            pd.DataFrame(
                {"system": system, **columns, "top1": share_by_class(own.correct(self.labels), self.labels, len(names))}
            )
            for system, own in self.predictions.items()
        ]
        return pd.concat(parts, ignore_index=True)

    def write(self, folder: Path, meta: Mapping[str, Any]) -> None:
        """Write predictions.parquet, results.json (with ``meta``), results.csv, per_class.csv and, of a sweep, sweep.png."""
        import pandas as pd

        files = {
            "predictions.parquet": self.predicted().to_parquet(index=False),
            "per_class.csv": to_csv(self.per_class()),
            "results.csv": to_csv(pd.DataFrame(self.rows)),
            "results.json": to_json({"meta": dict(meta), "systems": self.rows}),
        }
        if len({row["k"] for row in self.rows} - {None}) > 1:
            files["sweep.png"] = sweep_png(self.rows)
        else:
            (folder / "sweep.png").unlink(missing_ok=True)  # of an earlier sweep
        for name, data in files.items():
            write_atomically(folder / name, data)

    def table(self) -> str:
        """The results in percent, as monospace text."""
        return format_table(self.rows)


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of `Comparison`, or of the results.json that it writes, in percent, as monospace text."""
    width = max(len(row["system"]) for row in rows)
    fudd = "  true in K" * any(row["among_k"] is not None for row in rows)
    lines = [
        f"{'system':<{width}}   top-1   top-5     NLL   mean per class [95 %]     minus template [95 %]  fixed  broken"
        f"       n{fudd}"
    ]
    for row in rows:
        mean = _in_percent(row, "per_class", "6.2f")
        gain = "" if row["system"] == "template" else _in_percent(row, "gain", "+6.2f")
        nll = f"{row['nll']:6.3f}" if row["nll"] is not None else ""
        cells = [f"{100 * row['top1']:6.2f}", f"{100 * row['top5']:6.2f}", f"{nll:>6}", mean, f"{gain:>24}"]
        cells += [f"{row['fixed']:5d}", f"{row['broken']:6d}", f"{row['n']:6d}"]
        among = "" if row["among_k"] is None else f"{100 * row['among_k']:9.2f}"
        lines.append("  ".join([f"{row['system']:<{width}}", *cells, among]).rstrip())
    return "\n".join(lines)


def with_controls(
    class_names: Sequence[str],
    described: Mapping[str, ClassTexts],
    *,
    templates: Sequence[str] = TEMPLATE_SET,
    pairs: PairTexts | None = None,
    seed: int = 0,
) -> dict[str, ClassTexts]:
    """Descriptions beside what they have to beat: class name, template, template set, and random words.

    Args:
        class_names: Names of the classes.
        described: Texts of each system.
        templates: The template set, each with one ``{}``.
        pairs: Sentences for FuDD, whose words are drawn where there are no descriptions.
        seed: Of the random words.
    """
    controls = {
        "class_name": ClassTexts.of_templates(class_names, ["{}"]),
        "template": ClassTexts.of_templates(class_names, [TEMPLATE]),
        "template_set": ClassTexts.of_templates(class_names, templates),
    }
    pool = [text for own in described.values() for text in own.texts]
    if pairs is not None and not pool:
        pool = [text for own in pairs.about().values() for text in own]
    if not pool:
        return controls
    words = ClassTexts.of(random_words(class_names, pool, WAFFLES_PER_CLASS, seed))
    return {**controls, **described, "random_words": words}


def compare(
    scorer: TextScorer,
    systems: Mapping[str, ClassTexts],
    *,
    split: str = "heldout",
    pairs: PairTexts | None = None,
    ks: Sequence[int] = (),
    gate: bool = False,
    average: Average = "embeddings",
    cache: Path | None = None,
    progress: bool = True,
) -> Comparison:
    """Classify the images of a split with every system.

    Args:
        scorer: VLM and bank.
        systems: Texts of each system; ``template``, one text a class, is step one of FuDD and what all are compared
            with. A class without texts has the template's vector. With ``class_name`` among them, each system that is no
            control is tried beside the names too: unit(name + a x texts), a chosen on the reward images.
        split: Images: ``reward``, ``heldout`` or ``validation``.
        pairs: Sentences for FuDD.
        ks: Numbers of candidates to try FuDD with.
        gate: Try FuDD with a gate too, chosen on the reward images: for another split than theirs.
        average: How texts make a vector; FuDD's is always ``embeddings``, as published.
        cache: Folder of cached class vectors; None: no cache.
        progress: Whether to draw progress bars.

    Raises:
        UserError: The split has no images, or a number of candidates is out of range.
    """
    bank = scorer.bank
    classes = len(bank.class_names)
    images, labels = images_of(bank, split)
    sums_of = partial(text_sums, scorer, cache=cache, progress=progress)

    sums = {name: sums_of(own.texts, own.class_ids, classes, desc=f"encoding {name}") for name, own in systems.items()}
    templates = sums["template"].vectors()
    vectors = {name: own.filled(templates).vectors(average) for name, own in sums.items()}
    facts: dict[str, dict[str, Any]] = {name: _text_facts(scorer, own.texts) for name, own in systems.items()}
    for name in _described(systems) if split != "reward" else ():
        beside, weight = _beside_names(scorer, vectors["class_name"], vectors[name])
        vectors[f"name+{name}"], facts[f"name+{name}"] = beside, {**facts[name], "name_weight": weight}
    scale = scorer.vlm.logit_scale
    predictions = {name: predict(own, images) for name, own in vectors.items()}
    for name, own in vectors.items():
        facts[name]["nll"] = mean_nll(own, images, labels, scale)
    if pairs is not None:
        contrasts = pair_sums(pairs, templates, partial(sums_of, desc="encoding pairs"))
        text_facts = _text_facts(scorer, [text for own in pairs.about().values() for text in own])
        for name, second, own_facts in _follow_ups(bank, images, labels, templates, contrasts, ks, gate, progress):
            predictions[name], facts[name] = second, {**text_facts, **own_facts}
    blank = {"nll": None, "name_weight": None, "k": None, "among_k": None, "coverage": None, "gate": None, "kept": None}
    rows = [
        {**evaluate(name, own, predictions["template"], labels).row(), **blank, **facts[name]}
        for name, own in predictions.items()
    ]
    return Comparison(bank, split, labels, predictions, rows)


def _in_percent(row: Mapping[str, Any], name: str, form: str) -> str:
    low, high = (None if row[f"{name}_{end}"] is None else 100 * row[f"{name}_{end}"] for end in ("low", "high"))
    return f"{100 * row[f'{name}_mean']:{form}} {bracket(low, high, form)}"


def _described(systems: Mapping[str, ClassTexts]) -> list[str]:
    """Systems that can be tried beside the names: those that are no controls, where the names are among the systems."""
    return [name for name in systems if name not in CONTROLS] if "class_name" in systems else []


def _beside_names(scorer: TextScorer, names: Tensor, texts: Tensor) -> tuple[Tensor, float]:
    """Class vectors of names with texts beside them, and the weight of these, chosen on the reward images."""
    images, labels = images_of(scorer.bank, "reward")
    weight = choose_weight(names, texts, images, labels, scorer.vlm.logit_scale)
    return beside_name(names, texts, weight), weight


def _follow_ups(
    bank: ImageBank,
    images: Tensor,
    labels: Tensor,
    templates: Tensor,
    contrasts: PairSums,
    ks: Sequence[int],
    gate: bool,
    progress: bool,
) -> list[tuple[str, Predictions, dict[str, Any]]]:
    """Name, predictions and facts of FuDD with each number of candidates, without and with a gate."""
    classes = len(templates)
    width = max([TOP, *(k for k in ks if k < classes)])
    first = predict(templates, images, width)
    if gate:
        reward_images, reward_labels = images_of(bank, "reward")
        reward_first = predict(templates, reward_images, width)
    found = []
    for k in ks:
        name = f"fudd_{'all' if k == classes else k}"
        second = follow_up(first, images, contrasts, k, progress=progress)
        among = 1.0 if k == classes else float(first.correct(labels, top=k).double().mean())
        facts: dict[str, Any] = {"k": k, "among_k": among, "coverage": contrasts.coverage}
        found.append((name, second, facts))
        if gate:
            reward_second = follow_up(reward_first, reward_images, contrasts, k, progress=progress)
            threshold = choose_gate(reward_first, reward_second, reward_labels)
            kept = float((margins(first) >= threshold).double().mean())
            # An infinite threshold keeps nothing, and JSON has no infinity.
            facts = {**facts, "gate": threshold if np.isfinite(threshold) else None, "kept": kept}
            found.append((f"{name}_gated", gated(first, second, threshold), facts))
    return found


def _text_facts(scorer: TextScorer, texts: Sequence[str]) -> dict[str, int]:
    """How many texts, and how many of them are longer than the VLM reads."""
    counts = scorer.vlm.count_tokens(texts) if texts else []
    return {"texts": len(texts), "cut_texts": sum(count > scorer.vlm.max_text_tokens for count in counts)}
