"""What is asked of a policy: questions about classes or pairs of them, each with seeds of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ex2.base.errors import UserError

MOST = 10**7
"""Asks at once; each takes hundreds of bytes."""


def sampling_seed(seed: int, number: int = 0) -> int:
    """Seed of the random numbers `number`, counted on from those of the user's `seed`.

    torch's generator on the CPU reads 32 bits only. Multiples of the golden ratio lie as evenly over them as can be
    (Knuth, The Art of Computer Programming, volume 3, section 6.4), so those of one seed do not meet those of another.
    """
    return (seed * 0x9E3779B1 + number) % 2**32


@dataclass(frozen=True)
class Ask:
    """One question about one class, perhaps in contrast with another one, to be answered once."""

    class_id: int
    class_name: str
    question: str
    other_id: int | None = None
    other_name: str | None = None

    @property
    def subject(self) -> tuple[int, ...]:
        """Id of the class, or of the class and the other one."""
        return (self.class_id,) if self.other_id is None else (self.class_id, self.other_id)


def about(class_names: Sequence[str], question: str, class_id: int, other_id: int | None = None) -> Ask:
    """The ask of `question` about a class, against another one where `other_id` is given."""
    return Ask(class_id, class_names[class_id], question, other_id, None if other_id is None else class_names[other_id])


def check_count(count: int, what: str) -> None:
    """Refuse more asks than memory holds, before a machine comes to a halt over them.

    Raises:
        UserError: There are more than `MOST`; the message begins with `what`.
    """
    if count > MOST:
        raise UserError(f"{what} are {count:,} answers, and at most {MOST:,} are kept in memory: ask for fewer.")


def spread_asks(
    class_names: Sequence[str],
    questions: Sequence[str],
    samples: int,
    pairs: Sequence[tuple[int, int]] | None = None,
) -> list[Ask]:
    """`samples` asks a class, class by class; questions rotate, one further for each class, so that all are used.

    With ordered `pairs`, `samples` asks about each. Both orders of a pair, side by side, get the same questions, so that
    their answers can be compared.

    Raises:
        UserError: They are too many to be kept in memory.
    """
    check_count((len(class_names) if pairs is None else len(pairs)) * samples, f"{samples} samples of each")
    if pairs is None:
        return [
            about(class_names, questions[(i + n) % len(questions)], i)
            for i in range(len(class_names))
            for n in range(samples)
        ]
    return [
        about(class_names, questions[(k // 2 + n) % len(questions)], i, j)
        for k, (i, j) in enumerate(pairs)
        for n in range(samples)
    ]
