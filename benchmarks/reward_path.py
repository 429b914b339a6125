"""What a reward costs beyond its text encoding: the reward path (texts in, rewards out) against the bare text encoder.

    python benchmarks/reward_path.py [--vlm pictogram] [--texts 32 256] [--repeats 30]

1. The reward path against the VLM's tokenizer and text tower on the same texts.
2. The reward path with 10 to 1,000 images a class, and with 10 to 1,000 classes.
3. Its time outside the text encoder against a straightforward implementation: image embeddings in a dictionary on the host, and
   the whole similarity matrix of texts and images at every call.

Banks are random unit vectors of the VLM's dimension. Texts are different sentences, drawn anew for each round, so that nothing
is remembered from the round before. Sides take turns; a ratio is the median over rounds of the ratio within a round.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from _common import interleaved, paired_ratio, random_bank, sentences, verdict

from ex2.launch import use_cores_well

SCALE = 100.0


class Rounds:
    """Texts and class ids of round i, the same for all sides."""

    def __init__(self, texts: int, classes: int) -> None:
        self.texts, self.classes, self.pool = texts, classes, sentences()

    def __call__(self, number: int) -> tuple[list[str], list[int]]:
        generator = random.Random(number)
        return generator.sample(self.pool, self.texts), [generator.randrange(self.classes) for _ in range(self.texts)]


class TimedVLM:
    """A VLM that adds up the seconds spent in its text encoder."""

    def __init__(self, vlm: Any) -> None:
        self.vlm, self.seconds = vlm, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.vlm, name)

    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> Any:
        start = time.perf_counter()
        try:
            return self.vlm.encode_texts(texts, batch_size)
        finally:
            self.seconds += time.perf_counter() - start


def reward_path(vlm: Any, bank: Any) -> Callable[[list[str], list[int]], list[float]]:
    """EX2's cosine reward."""
    from ex2.rewards import build_rewards
    from ex2.scoring import TextScorer

    (reward,) = build_rewards(["cosine"], TextScorer(vlm, bank), scale=SCALE)
    return lambda texts, class_ids: reward(prompts=[""] * len(texts), completions=texts, class_id=class_ids)


def straightforward(vlm: Any, bank: Any) -> Callable[[list[str], list[int]], list[float]]:
    """The same reward as one would first write it."""
    import torch

    rows = bank.rows("reward")
    embeddings = {i: bank.embeddings[rows[bank.labels[rows] == i]] for i in range(len(bank.class_names))}
    owners = torch.cat([torch.full((len(images),), i) for i, images in embeddings.items()])

    def reward(texts: list[str], class_ids: list[int]) -> list[float]:
        similarity = vlm.encode_texts(texts) @ torch.cat(list(embeddings.values())).to(vlm.device).T
        means = [similarity[n, (owners == class_id).to(vlm.device)].mean() for n, class_id in enumerate(class_ids)]
        return [SCALE * mean.item() for mean in means]

    return reward


def against_bare_encoder(vlm: Any, sizes: Sequence[int], repeats: int) -> None:
    """Ratio of the reward path to the tokenizer and text tower alone."""
    import torch

    reward = reward_path(vlm, random_bank(vlm, classes=200, images=30))
    for size in sizes:
        rounds = Rounds(size, 200)

        def bare(number: int, rounds: Rounds = rounds) -> None:
            with torch.no_grad():
                vlm._text_features(rounds(number)[0])

        def path(number: int, rounds: Rounds = rounds) -> None:
            reward(*rounds(number))

        seconds = interleaved({"bare": bare, "path": path}, repeats)
        ratio = paired_ratio(seconds["path"], seconds["bare"])
        print(f"{size} texts: bare text encoder {1e3 * statistics.median(seconds['bare']):.1f} ms")
        print(verdict(f"reward path / bare text encoder, {size} texts", ratio, at_most=1.10), flush=True)


def flatness(vlm: Any, size: int, largest: int, repeats: int) -> None:
    """Time of the reward path at growing banks, relative to the smallest one."""
    steps = [count for count in (10, 100, 1000) if count <= largest]
    for what, shapes in (("images a class", [(10, n) for n in steps]), ("classes", [(n, 10) for n in steps])):
        sides = {}
        for (classes, images), count in zip(shapes, steps, strict=True):
            reward, rounds = reward_path(vlm, random_bank(vlm, classes, images)), Rounds(size, classes)
            sides[str(count)] = lambda number, reward=reward, rounds=rounds: reward(*rounds(number))
        seconds = interleaved(sides, repeats)
        ratios = {count: paired_ratio(seconds[count], seconds[str(steps[0])]) for count in seconds}
        print(f"{what}: " + ", ".join(f"{count}: {ratio:.3f}" for count, ratio in ratios.items()))
        off = max(abs(ratio - 1) for ratio in ratios.values())
        print(verdict(f"largest change over {what}", off, at_most=0.10), flush=True)


def against_straightforward(vlm: Any, classes: int, images: int, size: int, repeats: int) -> float:
    """Ratio of the times outside the text encoder."""
    bank, rounds = random_bank(vlm, classes, images), Rounds(size, classes)
    outside: dict[str, list[float]] = {}
    rewards = {}
    for name, build in (("EX2", reward_path), ("straightforward", straightforward)):
        timed = TimedVLM(vlm)
        reward = build(timed, bank)
        outside[name] = []
        for number in range(repeats + 1):
            timed.seconds = 0.0
            texts, class_ids = rounds(number)
            start = time.perf_counter()
            rewards[name] = reward(texts, class_ids)
            outside[name].append(time.perf_counter() - start - timed.seconds)
    assert all(abs(a - b) < 1e-3 for a, b in zip(*rewards.values(), strict=True)), "the two rewards must be equal"
    milliseconds = {name: 1e3 * statistics.median(values[1:]) for name, values in outside.items()}
    print(f"{classes} classes x {images} images: " + ", ".join(f"{n} {ms:.2f} ms" for n, ms in milliseconds.items()))
    return paired_ratio(outside["straightforward"][1:], outside["EX2"][1:])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vlm", default="pictogram", help="default: pictogram")
    parser.add_argument("--texts", type=int, nargs="+", default=[32, 256], help="texts a call; default: 32 256")
    parser.add_argument("--repeats", type=int, default=30, help="rounds of each comparison; default: 30")
    parser.add_argument("--quick", action="store_true", help="few rounds on small banks: does the script work?")
    args = parser.parse_args(argv)
    use_cores_well()
    from ex2.vlm import load_vlm

    if args.quick:
        args.texts, args.repeats = [8], 2
    vlm = load_vlm(args.vlm)
    against_bare_encoder(vlm, args.texts, args.repeats)
    flatness(vlm, args.texts[0], 100 if args.quick else 1000, args.repeats)
    # The last is the size of CUB-200 at the paper's limit of images; at smaller sizes there is less to save.
    for classes, images in [(20, 10)] if args.quick else [(54, 30), (200, 30), (200, 256)]:
        ratio = against_straightforward(vlm, classes, images, args.texts[0], args.repeats)
        what = f"straightforward / EX2 outside the text encoder, {classes} x {images} images, {args.texts[0]} texts"
        print(verdict(what, ratio, at_least=20), flush=True)


if __name__ == "__main__":
    main()
