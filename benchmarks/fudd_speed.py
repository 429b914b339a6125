"""Time of FuDD (both steps) for all images at once against a plain loop over images, from the same text embeddings.

    python benchmarks/fudd_speed.py [--images 5000] [--classes 200] [--k 10] [--sentences 5] [--repeats 9]

Both rank the classes and re-score the K most likely (the tests hold them equal, ties included). Texts and images are random unit
vectors of 512 dimensions, and every pair of classes has its sentences. Printed: seconds of both and their ratio, by the clock
and in processor time, which other programs on the machine disturb less; and the seconds that summing the sentences'
embeddings takes, which is done once for a file of pairs and kept on disk.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import TypeVar

import torch
from _common import verdict
from torch import Tensor
from torch.nn.functional import normalize

from ex2.texts.pairs import PairText, PairTexts
from ex2.zero_shot.follow_up import follow_up, pair_sums
from ex2.zero_shot.vectors import TextSums, predict

SIZE = 512

T = TypeVar("T")


def reference(
    images: Tensor,
    templates: Tensor,
    about: Mapping[tuple[int, int], Sequence[str]],
    embedding: Mapping[str, Tensor],
    k: int,
) -> list[list[tuple[int, float]]]:
    """FuDD as one would write it down: for each image the candidates, best first, with their scores.

    Args:
        images: Unit rows (N, D).
        templates: Unit rows (C, D).
        about: Sentences about class i against class j, under (i, j).
        embedding: Unit vector (D,) of each sentence.
        k: Candidates.
    """
    answers = []
    for image in images:
        first = (templates @ image).tolist()
        candidates = sorted(range(len(first)), key=lambda i: (-first[i], i))[:k]
        scores = {}
        for i in candidates:
            sentences = {}  # each distinct one once
            for j in candidates:
                if (i, j) in about:
                    sentences |= {text: embedding[text] for text in about[i, j]}
                elif i != j:
                    sentences["the template"] = templates[i]
            vector = torch.stack(list(sentences.values())).mean(dim=0)
            scores[i] = float(image @ (vector / vector.norm()))
        answers.append(sorted(scores.items(), key=lambda item: (-item[1], item[0])))
    return answers


def random_units(count: int, generator: torch.Generator) -> Tensor:
    return normalize(torch.randn(count, SIZE, generator=generator), dim=1)


@torch.no_grad()
def timed(call: Callable[[], T]) -> tuple[T, float, float]:
    """What a call returns, and its seconds by the clock and of processor time (all threads)."""
    start, start_cpu = time.perf_counter(), time.process_time()
    result = call()
    return result, time.perf_counter() - start, time.process_time() - start_cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5_000, help="default: 5000")
    parser.add_argument("--classes", type=int, default=200, help="default: 200")
    parser.add_argument("--k", type=int, default=10, help="candidates; default: 10")
    parser.add_argument("--sentences", type=int, default=5, help="of each pair about each of its classes; default: 5")
    parser.add_argument("--repeats", type=int, default=9, help="of the fast side, whose median counts; default: 9")
    args = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    images, templates = random_units(args.images, generator), random_units(args.classes, generator)
    names = tuple(f"class {i}" for i in range(args.classes))
    pairs = {
        (i, j): tuple(PairText("", (f"{i}, not {j}: {n}", f"{j}, not {i}: {n}")) for n in range(args.sentences))
        for i in range(args.classes)
        for j in range(i + 1, args.classes)
    }
    contrasts = PairTexts(names, pairs)
    about = dict(sorted(contrasts.about().items()))
    texts = [text for own in about.values() for text in own]
    vectors = random_units(len(texts), generator)
    embedding = dict(zip(texts, vectors, strict=True))

    def sums_of(own: Sequence[str], ids: Sequence[int], count: int) -> TextSums:
        assert list(own) == texts, "an encoder answers in the order in which it was asked"
        return TextSums.of(vectors, ids, count)

    sums, preparation, _ = timed(lambda: pair_sums(contrasts, templates, sums_of))

    runs = []
    for _ in range(args.repeats):
        second, *times = timed(lambda: follow_up(predict(templates, images, top=args.k), images, sums, args.k))
        runs.append(times)
    # Medians, not bests: the loop, which runs for seconds, meets the machine's average too.
    fast, fast_cpu = (median(times) for times in zip(*runs, strict=True))
    answers, slow, slow_cpu = timed(lambda: reference(images, templates, about, embedding, args.k))

    agree = sum(answer[0][0] == own for answer, own in zip(answers, second.class_ids[:, 0].tolist(), strict=True))
    print(
        f"{args.images} images, {args.classes} classes, K = {args.k}, {args.sentences} sentences a pair and class, "
        f"{torch.get_num_threads()} thread(s)"
    )
    print(f"same answer for {agree} images; summing the sentences once: {preparation:.2f} s")
    print(f"loop over images: {slow:.2f} s; all at once: {fast:.3f} s")
    print(verdict("times faster by the clock", slow / fast, at_least=50))
    print(f"processor time: {slow_cpu:.2f} s; {fast_cpu:.3f} s; ratio {slow_cpu / fast_cpu:.0f}")


if __name__ == "__main__":
    main()
