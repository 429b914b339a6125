"""FuDD: follow-up classification with texts that contrast the classes an image is ambiguous between.

Esfandiarpoor and Bach, Follow-Up Differential Descriptions, ICLR 2024. Step one ranks all classes with one template. Step
two takes the K most likely classes of an image and scores each of them, i, with the normalised mean of the unit embeddings
of the sentences about i in its pairs with the other K - 1, each distinct sentence once, as its authors' code does. A pair
without sentences has the template for a sentence.

The mean's denominator falls out in the normalisation, so that one sum S[i, j] is kept of the sentences that only the pair of i
and j has about i. Sentences about i that several pairs have (and its template, where several have none) are kept one by one,
as a set R[i, j]. The score of image x is

    score(x, i) = x . V / |V|,    V = sum over j in the K most likely, j != i, of S[i, j] + sum over the union of the R[i, j]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, normalize

from ex2.base.errors import UserError
from ex2.base.progress import progress_bar
from ex2.texts.pairs import PairTexts
from ex2.zero_shot.vectors import TOP, Predictions, TextSums, predict, ranked

DEFAULT_K = 10

# Sums of this many candidates are made at once, and stay in the processor's cache until they are scored.
_BLOCK = 512


@dataclass(frozen=True, eq=False)
class PairSums:
    """What FuDD keeps of the sentences, for P of the C(C - 1) ordered pairs of classes; the others have the template.

    Attributes:
        rows: ``(P + R + C + 1, D)``: the sum S of each pair with sentences, each shared sentence, each class's template, and a
            row of zeros.
        table: ``(C, C)`` int32: row of S[i, j]; of a pair without sentences and on the diagonal the row of zeros.
        ends: ``(C * C + 1,)``: where the shared sentences of each ordered pair begin and end in ``shared``.
        shared: ``(M,)``: rows of the shared sentences, pair by pair; of a pair without sentences the template's.
        pairs: P.
    """

    rows: Tensor
    table: Tensor
    ends: Tensor
    shared: Tensor
    pairs: int

    @property
    def classes(self) -> int:
        return len(self.table)

    @property
    def coverage(self) -> float:
        """Share of the pairs that have sentences."""
        return self.pairs / (self.classes * (self.classes - 1))

    def vectors(self) -> Tensor:
        """Class vectors ``(C, D)``, unit rows, where all classes are candidates."""
        everyone = torch.arange(self.classes, device=self.rows.device)
        return normalize(self.against(everyone, everyone.expand(self.classes, -1)), dim=1)

    def against(self, classes: Tensor, others: Tensor) -> Tensor:
        """The sums V ``(B, D)`` of B classes, each against its own K others ``(B, K)``; a class against itself adds nothing."""
        vectors = embedding_bag(self.table[classes.unsqueeze(1), others], self.rows, mode="sum")
        pair = (classes.unsqueeze(1) * self.classes + others).flatten()
        starts, counts = self.ends[pair], self.ends[pair + 1] - self.ends[pair]
        before = counts.cumsum(0) - counts
        places = torch.arange(int(counts.sum()), device=pair.device)
        wanted = self.shared[places + (starts - before).repeat_interleave(counts)]
        entry = (
            torch.arange(len(classes), device=pair.device).repeat_interleave(others.shape[1]).repeat_interleave(counts)
        )
        once = torch.unique(entry * len(self.rows) + wanted)
        return vectors.index_add_(0, once // len(self.rows), self.rows[once % len(self.rows)])


def pair_sums(
    pairs: PairTexts, templates: Tensor, sums_of: Callable[[Sequence[str], Sequence[int], int], TextSums]
) -> PairSums:
    """Encode the sentences of all pairs.

    Args:
        pairs: Sentences, with classes numbered as the dataset numbers them.
        templates: Unit rows ``(C, D)``.
        sums_of: Encodes texts and sums them by group, given texts, group of each and number of groups.
    """
    about = {key: dict.fromkeys(own) for key, own in sorted(pairs.about().items())}
    count, classes = len(about), len(templates)
    uses = Counter((i, text) for (i, _), own in about.items() for text in own)
    row_of = {key: count + n for n, key in enumerate(key for key, times in uses.items() if times > 1)}
    single = [(row, text) for row, ((i, _), own) in enumerate(about.items()) for text in own if uses[i, text] == 1]
    grouped = [*single, *((row, text) for (_, text), row in row_of.items())]
    spoken = count + len(row_of)
    sums = sums_of([text for _, text in grouped], [row for row, _ in grouped], spoken).sums.to(templates.device)

    table = torch.full((classes, classes), spoken + classes)
    of_pair = torch.tensor(list(about), dtype=torch.long).view(-1, 2)
    table[of_pair[:, 0], of_pair[:, 1]] = torch.arange(count)
    shared = [
        [row_of[i, text] for text in about[i, j] if (i, text) in row_of] if (i, j) in about else [spoken + i] * (i != j)
        for i in range(classes)
        for j in range(classes)
    ]
    ends = torch.tensor([0, *accumulate(map(len, shared))])
    rows = torch.cat([sums, templates, torch.zeros_like(templates[:1])])
    flat = torch.tensor([row for own in shared for row in own], dtype=torch.long)
    return PairSums(rows, table.int().to(rows.device), ends.to(rows.device), flat.to(rows.device), count)


@torch.no_grad()
def follow_up(first: Predictions, images: Tensor, sums: PairSums, k: int, *, progress: bool = False) -> Predictions:
    """Step two: re-rank the ``k`` most likely classes of each image; of equal scores the lower class id goes first.

    Args:
        first: Step one of N images, at least ``k`` classes each (unless ``k`` is all of them).
        images: Unit rows ``(N, D)``.
        sums: Sentences.
        k: Candidates, in 2 ... C.
        progress: Whether to draw a progress bar.

    Returns:
        The candidates by their new scores, then the other classes of ``first`` in their order, whose scores are NaN: FuDD
        gives them none.

    Raises:
        UserError: ``k`` is out of range.
    """
    check_k(k, sums.classes)
    width = min(TOP, sums.classes)
    if k == sums.classes:  # every image has the same candidates, hence every class one vector
        return predict(sums.vectors(), images, width)
    # By class id, so that the rule for equal scores is one about columns.
    candidates = first.class_ids[:, :k].sort(dim=1).values
    second = ranked(_scores(candidates, images, sums, progress), k)
    rest = first.class_ids[:, k:]
    ids = torch.cat([candidates.gather(1, second.class_ids), rest], dim=1)
    scores = torch.cat([second.scores, torch.full_like(rest, torch.nan, dtype=second.scores.dtype)], dim=1)
    return Predictions(ids, scores).first(width)


def _scores(candidates: Tensor, images: Tensor, sums: PairSums, progress: bool) -> Tensor:
    """score(x, i) for each image and each of its candidates ``(N, K)``."""
    k = candidates.shape[1]
    # One class's sums lie side by side: with the candidates in the order of their classes they come from the cache.
    classes, entries = candidates.flatten().sort(stable=True)
    of_image = entries // k
    dots, norms = torch.empty(2, len(entries), device=images.device)
    with progress_bar(len(entries), f"follow-up, K = {k}", "candidate", disable=not progress, delay=1) as bar:
        for start in range(0, len(entries), _BLOCK):
            block = slice(start, start + _BLOCK)
            vectors = sums.against(classes[block], candidates.index_select(0, of_image[block]))
            torch.linalg.vector_norm(vectors, dim=1, out=norms[block])
            torch.sum(images.index_select(0, of_image[block]).mul_(vectors), dim=1, out=dots[block])
            bar.update(len(vectors))
    scores = torch.empty_like(dots)
    scores[entries] = dots / norms.clamp(min=1e-12)
    return scores.view_as(candidates)


def check_k(k: int, classes: int, option: str = "k") -> None:
    """Raise UserError where the number of candidates is out of range."""
    if not 2 <= k <= classes:
        raise UserError(
            f"{option}: {k} candidates are out of range; the dataset has {classes} classes: give 2 to {classes}."
        )


# ---------------------------------------------------------------- gate


def margins(first: Predictions) -> Tensor:
    """``(N,)``: how far the most likely class's score is above the second's."""
    return first.scores[:, 0] - first.scores[:, 1]


def choose_gate(first: Predictions, second: Predictions, labels: Tensor) -> float:
    """The margin from which on keeping step one's answer gives the best mean per-class accuracy on these images.

    They must not be the images that FuDD is then judged by. Of equally good margins the largest is taken, which departs
    least from FuDD; it is infinite where keeping answers never helps.

    Args:
        first: Step one's predictions of N images.
        second: Step two's.
        labels: Class ids ``(N,)``.
    """
    counts = torch.bincount(labels)
    gain = (second.correct(labels).double() - first.correct(labels).double()) / counts[labels]
    margin, order = margins(first).sort()
    # gains[m]: what re-scoring the m images of smallest margin changes; equal margins must be treated alike.
    gains = np.concatenate([[0.0], gain[order].cumsum(0).cpu().numpy()])
    values = np.concatenate([margin.double().cpu().numpy(), [np.inf]])
    possible = np.concatenate([[True], values[1:] > values[:-1]])
    best = gains[possible].max()
    return float(values[np.flatnonzero(possible & (gains >= best - 1e-12))[-1]])


def gated(first: Predictions, second: Predictions, threshold: float) -> Predictions:
    """Step one's answer where its margin is at least ``threshold``, else step two's."""
    width = second.class_ids.shape[1]
    keep = (margins(first) >= threshold).unsqueeze(1)
    return Predictions(
        torch.where(keep, first.class_ids[:, :width], second.class_ids),
        torch.where(keep, first.scores[:, :width], second.scores),
    )
