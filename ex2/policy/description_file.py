"""Write sampled descriptions to a file that a killed process can go on with, without losing or repeating a text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ex2.base.errors import UserError
from ex2.base.progress import progress_bar
from ex2.policy.asks import Ask, about, check_count, sampling_seed
from ex2.texts.descriptions import Description, append_descriptions, read_descriptions

ATTEMPTS = 4
"""A blank text is sampled again this often, less one; a class that stays blank gets no record."""

Score = Callable[[list[Description]], list[Description]]


class Generator(Protocol):
    """What answers questions; `ex2.policy.sampler.TextGenerator` does."""

    def sample(self, asks: Sequence[Ask], *, seed: int, batch_size: int = 64) -> Any:
        """An iterator over lists of texts, one list a batch."""
        ...


@dataclass(frozen=True)
class Plan:
    """Everything that determines a file of descriptions.

    Attributes:
        dataset: Name of the dataset that the classes belong to.
        asks: All questions about all classes, once a sample; the position is the order in the file.
        numbers: Which sample (0, 1, ...) of its question and class each ask is.
        model: Name of the policy.
        seed: Seed of the sampling, 0 to 2**31 - 1.
        batch_size: Texts sampled at once; texts depend on it, as batches share one stream of random numbers.
        settings: Further settings that go into each record, and that the records of one file share.
    """

    dataset: str
    asks: tuple[Ask, ...]
    numbers: tuple[int, ...]
    model: str
    seed: int
    batch_size: int
    settings: dict[str, Any]

    def __len__(self) -> int:
        return len(self.asks)

    def record(self, position: int, text: str) -> Description:
        ask = self.asks[position]
        other = {} if ask.other_id is None else {"other_id": ask.other_id, "other_name": ask.other_name}
        return Description(
            dataset=self.dataset,
            class_id=ask.class_id,
            class_name=ask.class_name,
            question=ask.question,
            text=text,
            model=self.model,
            seed=self.seed,
            scores={},
            extra={"sample": self.numbers[position], **other, **self.settings},
        )


def plan_asks(
    class_names: Sequence[str],
    questions: Sequence[str],
    samples: int,
    only: Sequence[str] | None = None,
    pairs: Sequence[tuple[int, int]] | None = None,
) -> tuple[tuple[Ask, ...], tuple[int, ...]]:
    """All questions about all classes (or those in `only`), `samples` times over, with the number of each sample.

    With ordered `pairs`, all questions about the first class of each against the second. Every question is answered once
    about everything before any is answered again, so a file can be extended with more samples.

    Raises:
        UserError: They are too many.
    """
    subjects = (
        [(i, None) for i, name in enumerate(class_names) if only is None or name in only] if pairs is None else pairs
    )
    check_count(len(subjects) * len(questions) * samples, f"--samples {samples}")
    once = [about(class_names, question, *subject) for subject in subjects for question in questions]
    return tuple(once * samples), tuple(number for number in range(samples) for _ in once)


def recorded(plan: Plan, path: Path, class_names: Sequence[str]) -> set[int]:
    """Positions of the asks that the file at `path` answers already; none where there is no file.

    Raises:
        UserError: The file was made with other settings, or answers something that was not asked, or twice.
    """
    if not path.exists():
        return set()
    position_of = {
        (ask.class_id, ask.other_id, ask.other_name, ask.question, number): i
        for i, (ask, number) in enumerate(zip(plan.asks, plan.numbers, strict=True))
    }
    done: set[int] = set()
    for record in read_descriptions(path, class_names, allow_partial_last_line=True):
        wanted = {"model": plan.model, "seed": plan.seed, "dataset": plan.dataset, **plan.settings}
        found = {"model": record.model, "seed": record.seed, "dataset": record.dataset, **record.extra}
        for name, value in wanted.items():
            if found.get(name) != value:
                raise _made_otherwise(path, f"{name} {found.get(name)!r}, not {value!r}")
        other_id, other_name, sample = (record.extra.get(name) for name in ("other_id", "other_name", "sample"))
        key = (record.class_id, other_id, other_name, record.question, sample)
        whom = repr(record.class_name) + (f" against {other_name!r}" if other_name is not None else "")
        if key not in position_of:
            what = f"{record.question!r} about {whom}, sample {sample}"
            raise _made_otherwise(path, f"other questions, classes or samples: {what}, is not asked for")
        if position_of[key] in done:
            raise UserError(f"--out {path} answers {record.question!r} about {whom} twice; delete the file.")
        done.add(position_of[key])
    return done


def _made_otherwise(path: Path, difference: str) -> UserError:
    return UserError(f"--out {path} was made with {difference}: name another file, or delete this one.")


def write_answers(plan: Plan, path: Path, done: set[int], generator: Generator, score: Score | None = None) -> int:
    """Answer the asks that are not `done`, append the records to `path` after each batch; returns how many stayed blank.

    A batch is always sampled and scored as a whole, also where part of it is on file, so that a file is the same
    whether or not writing it was interrupted.
    """
    blank = 0
    with progress_bar(len(plan), "generating", "text", initial=len(done)) as bar:
        for positions, texts in sampled(plan, generator, done):
            records = [plan.record(i, text) for i, text in zip(positions, texts, strict=True) if text]
            records = records if score is None or not records else score(records)
            filled = [i for i, text in zip(positions, texts, strict=True) if text]
            append_descriptions(path, [r for i, r in zip(filled, records, strict=True) if i not in done])
            missing = set(positions) - done
            blank += len(missing) - len(missing & set(filled))
            bar.update(len(missing))
    return blank


def sampled(
    plan: Plan, generator: Generator, done: AbstractSet[int] = frozenset()
) -> Iterator[tuple[range, list[str]]]:
    """Positions and texts of each batch with an ask that is not `done`; '' for a text that stays blank."""
    for number, start in enumerate(range(0, len(plan), plan.batch_size)):
        positions = range(start, min(start + plan.batch_size, len(plan)))
        if not done >= set(positions):
            yield positions, _sample(plan, number, positions, generator)


def _sample(plan: Plan, number: int, positions: range, generator: Generator) -> list[str]:
    """Texts of batch `number`; blank ones are sampled again under other seeds, and '' where all attempts are blank."""
    texts = [""] * len(positions)
    for attempt in range(ATTEMPTS):
        empty = [i for i, text in enumerate(texts) if not text]
        if not empty:
            break
        asks = [plan.asks[positions[i]] for i in empty]
        seed = sampling_seed(plan.seed, ATTEMPTS * number + attempt)
        (answers,) = generator.sample(asks, seed=seed, batch_size=len(asks))
        for i, text in zip(empty, answers, strict=True):
            texts[i] = text.strip()
    return texts
