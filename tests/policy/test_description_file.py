"""Files of sampled descriptions: order, resuming, refusing other settings, blank texts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ex2.base.errors import UserError
from ex2.policy.asks import Ask, sampling_seed
from ex2.policy.description_file import ATTEMPTS, Plan, plan_asks, recorded, write_answers
from ex2.texts.descriptions import Description, read_descriptions

NAMES = ("cat", "owl", "bat")
SEED = 5


class Scripted:
    """A generator whose texts tell seed and place in the batch; `blank` says which are blank."""

    def __init__(self, stop_after: int | None = None, blank: Sequence[tuple[str, int]] = ()) -> None:
        self.seeds: list[int] = []
        self.stop_after = stop_after
        self.blank = set(blank)

    def sample(self, asks: Sequence[Ask], *, seed: int, batch_size: int = 64) -> Iterator[list[str]]:
        if self.stop_after is not None and len(self.seeds) == self.stop_after:
            raise KeyboardInterrupt
        self.seeds.append(seed)
        attempt = (seed - sampling_seed(SEED)) % 2**32 % ATTEMPTS
        texts = [f"{ask.class_name} {ask.question} {seed} {i}" for i, ask in enumerate(asks)]
        yield ["  " if (asks[i].class_name, attempt) in self.blank else text for i, text in enumerate(texts)]


def _plan(
    samples: int = 2, seed: int = SEED, batch_size: int = 4, questions: Sequence[str] = ("q {}?", "r {}?")
) -> Plan:
    asks, numbers = plan_asks(NAMES, questions, samples)
    settings = {"temperature": 1.0, "vlm": None}
    return Plan("birds", asks, numbers, model="m", seed=seed, batch_size=batch_size, settings=settings)


def _write(plan: Plan, path: Path, generator: Scripted) -> int:
    return write_answers(plan, path, recorded(plan, path, NAMES), generator)


def test_every_question_is_answered_once_before_any_is_again() -> None:
    asks, numbers = plan_asks(NAMES, ["q {}?", "r {}?"], samples=2)
    assert [(ask.class_id, ask.question[0], number) for ask, number in zip(asks[:3], numbers, strict=False)] == [
        (0, "q", 0), (0, "r", 0), (1, "q", 0),
    ]  # fmt: skip
    assert numbers == (0,) * 6 + (1,) * 6
    assert asks[:6] == asks[6:]
    some, _ = plan_asks(NAMES, ["q {}?"], samples=1, only=["bat"])
    assert some == (Ask(2, "bat", "q {}?"),)


def test_answers_about_pairs_name_both_classes(tmp_path: Path) -> None:
    asks, numbers = plan_asks(NAMES, ["q {} {other}?"], 2, pairs=[(2, 0), (0, 2)])
    assert [ask.subject for ask in asks] == [(2, 0), (0, 2)] * 2
    plan = Plan("birds", asks, numbers, model="m", seed=5, batch_size=3, settings={})
    path = tmp_path / "out.jsonl"
    _write(plan, path, Scripted())
    first = read_descriptions(path, NAMES)[0]
    assert (first.class_name, first.extra) == ("bat", {"sample": 0, "other_id": 0, "other_name": "cat"})
    assert recorded(plan, path, NAMES) == {0, 1, 2, 3}
    for pairs in ([(2, 0)], [(2, 0), (0, 1)]):
        other, numbers = plan_asks(NAMES, ["q {} {other}?"], 2, pairs=pairs)
        with pytest.raises(UserError, match="about 'cat' against 'bat', sample 0, is not asked for"):
            recorded(replace(plan, asks=other, numbers=numbers), path, NAMES)
    path.write_text(path.read_text().replace('"other_name": "cat"', '"other_name": "owl"'))
    with pytest.raises(UserError, match="about 'bat' against 'owl', sample 0, is not asked for"):
        recorded(plan, path, NAMES)


def test_records_say_what_they_were_made_with(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    assert _write(_plan(), path, Scripted()) == 0
    records = read_descriptions(path, NAMES)
    assert len(records) == 12
    assert records[7].class_name == "cat"
    assert (records[7].question, records[7].seed, records[7].model, records[7].dataset) == ("r {}?", 5, "m", "birds")
    assert records[7].extra == {"sample": 1, "temperature": 1.0, "vlm": None}


@pytest.mark.parametrize("cut", [0, 1, 30, 10**6])
@pytest.mark.parametrize("stop_after", [0, 1, 2])
def test_an_interrupted_file_becomes_the_uninterrupted_one(tmp_path: Path, stop_after: int, cut: int) -> None:
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    _write(_plan(), whole, Scripted())
    with pytest.raises(KeyboardInterrupt):
        _write(_plan(), broken, Scripted(stop_after=stop_after))
    if broken.exists():
        broken.write_bytes(broken.read_bytes()[: -cut or None])
    _write(_plan(), broken, Scripted())
    assert broken.read_bytes() == whole.read_bytes()


def test_a_finished_file_is_not_sampled_again_and_more_samples_extend_it(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    _write(_plan(samples=1), path, Scripted())
    before = path.read_bytes()
    again = Scripted()
    assert _write(_plan(samples=1), path, again) == 0
    assert again.seeds == []
    _write(_plan(samples=2), path, Scripted())
    assert path.read_bytes().startswith(before)
    assert len(read_descriptions(path)) == 12
    with pytest.raises(
        UserError, match=r"other questions, classes or samples: 'q \{\}\?' about 'cat', sample 1, is not asked"
    ):
        recorded(_plan(samples=1), path, NAMES)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"model": "n"}, "model 'm', not 'n'"),
        ({"seed": 6}, "seed 5, not 6"),
        ({"dataset": "dogs"}, "dataset 'birds', not 'dogs'"),
        ({"settings": {"temperature": 0.5}}, r"temperature 1.0, not 0.5"),
        ({"settings": {"vlm": "pictogram"}}, "vlm None, not 'pictogram'"),
    ],
)
def test_files_of_other_settings_are_refused(tmp_path: Path, other: dict[str, object], words: str) -> None:
    path = tmp_path / "out.jsonl"
    _write(_plan(), path, Scripted())
    with pytest.raises(UserError, match=f"--out .* was made with {words}: name another file"):
        recorded(replace(_plan(), **other), path, NAMES)  # type: ignore[arg-type]


def test_other_questions_classes_and_repeated_answers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    _write(_plan(), path, Scripted())
    with pytest.raises(UserError, match=r"'r \{\}\?' about 'cat', sample 0, is not asked for"):
        recorded(_plan(questions=("q {}?", "s {}?")), path, NAMES)
    with pytest.raises(UserError, match="expected class name"):
        recorded(_plan(), path, ("dog", "owl", "bat"))
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, lines[0]]))
    with pytest.raises(UserError, match=r"answers 'q \{\}\?' about 'cat' twice"):
        recorded(_plan(), path, NAMES)


def test_blank_texts_are_sampled_again_under_other_seeds(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    generator = Scripted(blank=[("owl", 0), ("owl", 1)])
    assert _write(_plan(samples=1, batch_size=6), path, generator) == 0
    assert len(generator.seeds) == 3
    assert len(set(generator.seeds)) == 3
    assert [record.class_name for record in read_descriptions(path)] == ["cat", "cat", "owl", "owl", "bat", "bat"]


def test_texts_that_stay_blank_are_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    blank = [("owl", attempt) for attempt in range(ATTEMPTS)]
    assert _write(_plan(), path, Scripted(blank=blank)) == 4
    assert {record.class_name for record in read_descriptions(path)} == {"cat", "bat"}
    assert _write(_plan(), path, Scripted(blank=blank)) == 4  # tried again, and still none
    assert len(read_descriptions(path)) == 8
    _write(_plan(), path, Scripted())  # another policy would not be mixed in; here it fills the gaps
    assert len(read_descriptions(path)) == 12


def test_seeds_never_share_random_numbers(tmp_path: Path) -> None:
    seeds = []
    for seed in (0, 1, 2):
        generator = Scripted()
        _write(_plan(seed=seed, batch_size=1), tmp_path / f"{seed}.jsonl", generator)
        seeds += generator.seeds
    # torch's generator on the CPU reads 32 bits of a seed.
    assert len({seed % 2**32 for seed in seeds}) == len(seeds)


def test_whole_batches_are_scored_and_appended_in_order(tmp_path: Path) -> None:
    path, sizes = tmp_path / "out.jsonl", []

    def score(records: list[Description]) -> list[Description]:
        sizes.append(len(records))
        return [replace(record, scores={"length": len(record.text)}) for record in records]

    plan = _plan(batch_size=5)
    write_answers(plan, path, set(), Scripted(), score)
    assert sizes == [5, 5, 2]
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:7]))
    write_answers(plan, path, recorded(plan, path, NAMES), Scripted(), score)
    assert sizes[3:] == [5, 2]  # the broken batch as a whole
    assert path.read_text() == "".join(lines)
    assert json.loads(lines[0])["scores"] == {"length": len("cat q {}? ") + len(str(sampling_seed(SEED))) + 2}
