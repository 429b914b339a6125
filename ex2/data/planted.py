"""Planted preferences: image sets without images, whose classes are known to prefer one kind of attribute.

The positive control of EX2 as a measuring instrument. For each class, the text embeddings of sentences of one category, with
noise, stand in for images: whoever describes the class in that category's terms comes closest. The sentences say "it" for the
class, and what its sentences of the other categories have in common with them is taken out, so that what is planted is the kind
of attribute, and neither the name nor the kind of thing that the class is. What EX2 then reports must be what was planted. Three
are negative controls, of which no kind of attribute may be reported: `planted:random`, where each class is a random direction;
`planted:common`, random directions that share one; and `planted:swapped`, where each class has the sentences about another.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ex2.base.errors import UserError, did_you_mean
from ex2.texts.class_names import strip_whole_name

if TYPE_CHECKING:
    import torch

    from ex2.vlm.base import VLM

SENTENCES = Path(__file__).resolve().parent.parent / "assets" / "planted" / "sentences.jsonl"
PLANTED = ("visual", "habitat", "non_visual", "spurious")
"""Categories that there are sentences of."""

CONTROLS = ("random", "common", "swapped")
"""Negative controls, see the module."""

KINDS = (*PLANTED, *CONTROLS)

COPIES = 8
"""Noisy copies of a sentence: so many images it stands in for."""

NOISE = 0.5
"""Length of the noise added to a unit embedding, before the sum is made a unit vector again."""


@dataclass(frozen=True)
class PlantedImages:
    """Sentences of C classes in place of images.

    Attributes:
        name: The spec, e.g. ``planted:habitat``.
        class_names: C names.
        kind: The planted category, or one of `CONTROLS`.
        sentences: For each class its sentences of that category, its name replaced by "it"; for ``swapped`` those of all
            categories about another class, and for random directions only their number counts.
        others: For each class its sentences of the other categories, likewise; none for controls.
    """

    name: str
    class_names: tuple[str, ...]
    kind: str
    sentences: tuple[tuple[str, ...], ...]
    others: tuple[tuple[str, ...], ...] = ()


def load_planted(kind: str) -> PlantedImages:
    """The set ``planted:KIND``.

    Raises:
        UserError: KIND is neither in `PLANTED` nor in `CONTROLS`.
    """
    if kind not in KINDS:
        hint = did_you_mean(kind, KINDS)
        raise UserError(f"dataset 'planted:{kind}': the planted kind must be one of {', '.join(KINDS)}.{hint}")
    rows = [json.loads(line) for line in SENTENCES.read_text(encoding="utf-8").splitlines()]
    class_names = tuple(sorted({row["class_name"] for row in rows}))
    wanted = (kind,) if kind in PLANTED else PLANTED if kind == "swapped" else PLANTED[:1]
    about = class_names[1:] + class_names[:1] if kind == "swapped" else class_names

    def said_of(name: str, categories: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(
            strip_whole_name(row["text"], name)
            for row in rows
            if row["class_name"] == name and row["category"] in categories
        )

    others = tuple(category for category in PLANTED if category != kind)
    return PlantedImages(
        f"planted:{kind}",
        class_names,
        kind,
        tuple(said_of(name, wanted) for name in about),
        tuple(said_of(name, others) for name in class_names) if kind in PLANTED else (),
    )


def plant(planted: PlantedImages, vlm: VLM, seed: int) -> tuple[torch.Tensor, list[int], list[str], list[str]]:
    """Embeddings of the images that the sentences stand in for.

    Each class's sentences are shuffled by `seed`; the first half is for the reward, the second half is held out, so that
    no sentence is on both sides. The noise is drawn from the same seed.

    Returns:
        Unit rows ``(N, D)`` on the CPU, grouped by class; class id, split and id of each row.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    texts, labels, splits, ids = [], [], [], []
    for class_id, (name, own) in enumerate(zip(planted.class_names, planted.sentences, strict=True)):
        order = torch.randperm(len(own), generator=generator).tolist()
        for place, position in enumerate(order):
            for copy in range(COPIES):
                texts.append(own[position])
                labels.append(class_id)
                splits.append("reward" if place < len(own) // 2 else "heldout")
                ids.append(f"{name}/{position}-{copy}")
    if planted.kind in ("random", "common"):
        centres = torch.nn.functional.normalize(
            torch.randn(len(planted.class_names), vlm.dim, generator=generator), dim=1
        )
        if planted.kind == "common":
            shared = torch.randn(vlm.dim, generator=generator)
            centres = torch.nn.functional.normalize(centres + torch.nn.functional.normalize(shared, dim=0), dim=1)
        clean = centres[labels]
    else:
        index = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        clean = vlm.encode_texts(list(index)).cpu()[[index[text] for text in texts]]
        if planted.others:
            common = torch.stack([vlm.encode_texts(list(others)).cpu().mean(dim=0) for others in planted.others])
            clean = torch.nn.functional.normalize(clean - common[labels], dim=1)
    noise = torch.randn(clean.shape, generator=generator)
    noisy = clean + NOISE * torch.nn.functional.normalize(noise, dim=1)
    return torch.nn.functional.normalize(noisy, dim=1), labels, splits, ids
