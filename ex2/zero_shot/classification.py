"""Classify the images of a bank with texts about their classes, in one call; `compare` sets systems side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ex2.base.errors import UserError
from ex2.scoring.scorer import TextScorer
from ex2.texts.descriptions import Description
from ex2.texts.name_matching import match_names
from ex2.texts.pairs import PairTexts
from ex2.texts.questions import TEMPLATE
from ex2.zero_shot.class_texts import ClassTexts, text_sums
from ex2.zero_shot.follow_up import DEFAULT_K, follow_up, pair_sums
from ex2.zero_shot.vectors import TOP, Average, Predictions, TextSums, images_of, predict


def classify(
    scorer: TextScorer,
    texts: Mapping[str, Sequence[str]] | Sequence[Description] | None = None,
    *,
    split: str = "heldout",
    average: Average = "embeddings",
    top: int = TOP,
) -> Predictions:
    """Rank the classes of each image of a split by their texts.

    Args:
        scorer: VLM and bank.
        texts: Class name -> texts, or descriptions; a class without any has the template. None: the template for all.
        split: Images: `reward`, `heldout` or `validation`; `ex2.zero_shot.vectors.images_of` gives their labels.
        average: How the texts of a class make its vector.
        top: Classes that a prediction names, at most C.

    Returns:
        The `top` most likely classes of the N images, in the order of the bank.

    Raises:
        UserError: Texts about a class that the bank does not have, or a split without images.
    """
    names = scorer.bank.class_names
    images, _ = images_of(scorer.bank, split)
    templates = _sums(scorer, ClassTexts.of_templates(names, [TEMPLATE])).vectors()
    if texts is None:
        return predict(templates, images, top)
    given: dict[str, Any]
    if isinstance(texts, Mapping):
        given = dict(texts)
    else:
        given = {}
        for record in texts:
            given.setdefault(record.class_name, []).append(record.text)
    ids = match_names(list(given), names, "texts")
    about = ClassTexts.of([(i, text) for i, own in zip(ids, given.values(), strict=True) for text in own])
    return predict(_sums(scorer, about).filled(templates).vectors(average), images, top)


def fudd(scorer: TextScorer, pairs: PairTexts, k: int = DEFAULT_K, *, split: str = "heldout") -> Predictions:
    """Classify with FuDD: the `k` most likely classes of each image are told apart by sentences that contrast exactly those.

    Args:
        scorer: VLM and bank.
        pairs: Sentences about pairs of classes; a pair without any has the template.
        k: Candidates, in 2 ... C; C is one pass over all classes.
        split: Images.

    Returns:
        The most likely classes of the N images; those that are no candidates have scores of NaN.

    Raises:
        UserError: `k` is out of range, sentences about other classes, or a split without images.
    """
    names = scorer.bank.class_names
    if pairs.class_names != names:
        raise UserError(
            "pairs: its classes are not those of the bank; read the file with `read_pairs(path, bank.class_names)`."
        )
    images, _ = images_of(scorer.bank, split)
    templates = _sums(scorer, ClassTexts.of_templates(names, [TEMPLATE])).vectors()
    sums = pair_sums(pairs, templates, partial(text_sums, scorer, progress=False))
    return follow_up(predict(templates, images, max(TOP, k if k < len(names) else TOP)), images, sums, k)


def _sums(scorer: TextScorer, texts: ClassTexts) -> TextSums:
    return text_sums(scorer, texts.texts, texts.class_ids, len(scorer.bank.class_names), progress=False)
