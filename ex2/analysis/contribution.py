"""Contribution tests: not only what descriptions say, but what it adds to the similarity with held-out images.

Text by text and clause by clause, each test changes one thing and keeps the rest:

    gain            the description against the plain template of its class
    specificity     the right class against the mean of the wrong classes
    stripped        specificity of the description without the name of its class
    shuffle_drop    the description against itself with its clauses in other order (position is a known confound)
    clause_drop     the description against itself without one clause
    added           the class name with one clause against the class name alone; names and word order are equal for all
                    clauses, so this compares what clauses of different categories are worth
    added_elsewhere the same two texts with images of the other classes: what of `added` is not about the class

All numbers are differences of mean cosines with the images of a class. Text encoder passes are shared: every distinct text is
encoded once.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from copy import copy

import numpy as np
import torch
from numpy.typing import NDArray

from ex2.base.bf16 import fast_matmul
from ex2.base.progress import progress_bar
from ex2.scoring.scorer import TextScorer
from ex2.texts.categories import Passage
from ex2.texts.class_names import strip_name
from ex2.texts.questions import TEMPLATE

TEXT_TESTS = ("gain", "specificity", "stripped", "shuffle_drop")
CLAUSE_TESTS = ("clause_drop", "added", "added_elsewhere")

Array = NDArray[np.float64]


class _Store:
    """Embeddings of texts, each encoded once."""

    def __init__(self, scorer: TextScorer, exact: bool) -> None:
        self._scorer = scorer
        self._exact = exact
        self._row: dict[str, int] = {}
        self._embeddings = torch.empty(0, scorer.bank.embeddings.shape[1], device=scorer.bank.device)

    def encode(self, texts: Sequence[str], *, progress: bool = False, desc: str = "encoding texts") -> None:
        new = [text for text in dict.fromkeys(texts) if text not in self._row]
        if not new:
            return  # a copy of all embeddings saved
        # Texts of as many tokens together need the least padding: of as many characters, a quarter would be padding.
        vlm, size = self._scorer.vlm, self._scorer.batch_size
        tokens = dict(zip(new, vlm.count_tokens(new), strict=True))
        new.sort(key=tokens.__getitem__)
        parts = [self._embeddings]
        with progress_bar(len(new), desc, "text", disable=not progress) as bar:
            for start in range(0, len(new), size):
                batch = new[start : start + size]
                with fast_matmul(vlm.device, exact=self._exact):
                    parts.append(self._scorer.embed(batch))
                bar.update(len(batch))
        for text in new:
            self._row[text] = len(self._row)
        self._embeddings = torch.cat(parts)

    def rows(self, texts: Sequence[str]) -> torch.Tensor:
        return self._embeddings[[self._row[text] for text in texts]]


class Similarity:
    """Mean cosines of many texts with the images of their class and of the other classes, each text encoded once.

    Args:
        scorer: VLM and bank.
        split: Images to compare with.
        exact: Encode in float32 also where the processor is faster in bfloat16; there a cosine is off by about 0.001 at random.
    """

    def __init__(self, scorer: TextScorer, split: str = "heldout", *, exact: bool = True) -> None:
        self._scorer = scorer
        self._store = _Store(scorer, exact)
        self._look_at(split)

    def _look_at(self, split: str) -> None:
        self._prototypes = self._scorer.bank.prototypes_of(split)
        self._classes = len(self._prototypes)
        self._sum = self._prototypes.sum(dim=0)

    def on(self, split: str) -> Similarity:
        """The same with the images of another split; what either of them encodes serves both."""
        other = copy(self)
        other._look_at(split)
        return other

    def encode(self, texts: Sequence[str], *, progress: bool = False, desc: str = "encoding texts") -> None:
        """Encode those of `texts` that are new."""
        self._store.encode(texts, progress=progress, desc=desc)

    def embeddings(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit embeddings (N, D) of N texts."""
        self._store.encode(texts)
        return self._store.rows(texts)

    def own(self, texts: Sequence[str], class_ids: Sequence[int]) -> Array:
        """Mean cosine (N,) of each text with the images of its class."""
        ids = torch.as_tensor(class_ids, dtype=torch.long, device=self._prototypes.device)
        return _numpy((self.embeddings(texts) * self._prototypes[ids]).sum(dim=1))

    def others(self, texts: Sequence[str], class_ids: Sequence[int]) -> Array:
        """Mean cosine (N,) of each text with the images of the other classes; NaN where there are none."""
        if self._classes < 2:
            return np.full(len(texts), np.nan)
        total = _numpy(self.embeddings(texts) @ self._sum)
        return (total - self.own(texts, class_ids)) / (self._classes - 1)


def _numpy(values: torch.Tensor) -> Array:
    return values.double().cpu().numpy()


def framed(class_name: str, clause: str = "") -> str:
    """The class name with one clause in the same form for every clause: ``tiger: it has orange fur.``"""
    rest = strip_name(clause, class_name).strip(" .,;:!?-–—") if clause else ""
    return f"{class_name}: {rest}." if rest else f"{class_name}."


def text_tests(
    similarity: Similarity, passages: Sequence[Passage], class_ids: Sequence[int], apart: Sequence[bool] | None = None
) -> dict[str, Array]:
    """The tests of whole descriptions: for each name in `TEXT_TESTS`, and ``cosine``, an array (N,).

    Args:
        similarity: Compares texts with images.
        passages: N descriptions.
        class_ids: Class of each.
        apart: Whether a description may be taken apart: `shuffle_drop` is NaN for the others, as it is for those of one clause.
            None: all of them.
    """
    apart = _several_clauses(passages, apart)
    texts = [" ".join(passage.clauses) for passage in passages]
    templates = [TEMPLATE.replace("{}", passage.class_name) for passage in passages]
    stripped = [strip_name(text, passage.class_name) for text, passage in zip(texts, passages, strict=True)]
    turned = [
        reordered(passage.clauses) if several else text
        for passage, several, text in zip(passages, apart, texts, strict=True)
    ]
    own = similarity.own(texts, class_ids)
    return {
        "cosine": own,
        "gain": own - similarity.own(templates, class_ids),
        "specificity": own - similarity.others(texts, class_ids),
        "stripped": similarity.own(stripped, class_ids) - similarity.others(stripped, class_ids),
        "shuffle_drop": np.where(apart, own - similarity.own(turned, class_ids), np.nan),
    }


def clause_tests(
    similarity: Similarity, passages: Sequence[Passage], class_ids: Sequence[int], apart: Sequence[bool] | None = None
) -> dict[str, Array]:
    """The tests of clauses, passage by passage and clause by clause: for each name in `CLAUSE_TESTS` an array (M,).

    Arguments as for `text_tests`: `clause_drop` is NaN for clauses of a description that is not taken apart or has no other.
    """
    apart = _several_clauses(passages, apart)
    ids = [class_id for passage, class_id in zip(passages, class_ids, strict=True) for _ in passage.clauses]
    whole = [" ".join(passage.clauses) for passage in passages for _ in passage.clauses]
    without = [
        _without(passage.clauses, i if several else None)
        for passage, several in zip(passages, apart, strict=True)
        for i in range(len(passage.clauses))
    ]
    of_clause = np.repeat(apart, [len(passage.clauses) for passage in passages])
    named = [framed(passage.class_name) for passage in passages for _ in passage.clauses]
    clauses = [framed(passage.class_name, clause) for passage in passages for clause in passage.clauses]
    return {
        "clause_drop": np.where(of_clause, similarity.own(whole, ids) - similarity.own(without, ids), np.nan),
        "added": similarity.own(clauses, ids) - similarity.own(named, ids),
        "added_elsewhere": similarity.others(clauses, ids) - similarity.others(named, ids),
    }


def all_texts(passages: Sequence[Passage], apart: Sequence[bool] | None = None) -> list[str]:
    """Every text that the tests of `passages` compare: encode them at once, with one progress bar."""
    texts: list[str] = []
    for passage, several in zip(passages, _several_clauses(passages, apart), strict=True):
        whole = " ".join(passage.clauses)
        texts += [whole, strip_name(whole, passage.class_name), framed(passage.class_name)]
        texts += [framed(passage.class_name, clause) for clause in passage.clauses]
        texts.append(TEMPLATE.replace("{}", passage.class_name))
        if several:
            texts.append(reordered(passage.clauses))
            texts += [_without(passage.clauses, i) for i in range(len(passage.clauses))]
    return texts


def _several_clauses(passages: Sequence[Passage], apart: Sequence[bool] | None) -> list[bool]:
    """Which descriptions are taken apart: those that may be and have clauses to spare."""
    may = [True] * len(passages) if apart is None else apart
    return [own and len(passage.clauses) > 1 for passage, own in zip(passages, may, strict=True)]


def _without(clauses: Sequence[str], i: int | None) -> str:
    """The text without clause i; None: with all of them."""
    return " ".join(clause for position, clause in enumerate(clauses) if position != i)


def reordered(clauses: Sequence[str]) -> str:
    """The clauses in another order, the same one at every call; as they are where there is only one, or all are equal."""
    given = list(clauses)
    turned = given.copy()
    if turned:
        random.Random(f"{len(turned)}:{turned[0]}").shuffle(turned)
    # Clauses may be equal, so that neither shuffling nor turning them round need change the text.
    if turned == given:
        turned.reverse()
    if turned == given:
        turned = given[1:] + given[:1]
    return " ".join(turned)
