"""The before / after report of a training run: what the aligned policy gained, next to the controls it has to beat.

Each system is a set of texts with two cosines per text: with the images the reward used, and with held-out images of
the same class. `summarise` turns them into a `Summary`, `outcome` and `find_warnings` put it into words;
`ex2.stats.before_after_page` shows it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ex2.base.errors import UserError
from ex2.base.shown import listed
from ex2.stats.intervals import Interval, bracket, cluster_interval, paired_difference

SYSTEM_ORDER = (
    "class_name", "template", "random_words", "base", "best_of_n", "scrambled", "swapped", "renamed", "aligned",
)  # fmt: skip
SPOKEN_NAMES = {
    "class_name": "the bare class name",
    "template": "the template",
    "base": "the base policy",
    "best_of_n": "best-of-n sampling",
    "random_words": "the template with random words",
    "scrambled": "its own texts with their words in random order",
    "swapped": "its texts about other classes",
    "renamed": "its texts about other classes with the name replaced",
}
IMAGE_SETS = ("reward", "heldout")
NAMELESS = "nameless"  # the key of the second reading in the JSON
_MINUS = "aligned_minus_"
METHOD = "the wider of Student's t and Hall's skewness-corrected t over classes"


@dataclass(frozen=True)
class SystemScores:
    """The texts of one system and their scores.

    Attributes:
        name: One of ``SYSTEM_ORDER``.
        class_ids: ``(N,)`` class of each text.
        reward: ``(N,)`` mean cosine similarity between each text and its class's reward images.
        heldout: ``(N,)`` the same with the class's held-out images.
        texts: N texts.
        questions: N questions that the texts answer; None for systems without questions.
    """

    name: str
    class_ids: ArrayLike
    reward: ArrayLike
    heldout: ArrayLike
    texts: Sequence[str]
    questions: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.name not in SYSTEM_ORDER:
            raise ValueError(f"system {self.name!r} is none of {', '.join(SYSTEM_ORDER)}")
        columns = {"class_ids": self.class_ids, "reward": self.reward, "heldout": self.heldout}
        sizes = {key: np.shape(column) for key, column in columns.items()} | {"texts": (len(self.texts),)}
        if self.questions is not None:
            sizes["questions"] = (len(self.questions),)
        if len(set(sizes.values())) != 1:
            raise ValueError(f"system {self.name!r}: columns of different shapes: {sizes}")


@dataclass(frozen=True)
class SystemSummary:
    """What the texts of one system come to.

    Attributes:
        reward: Mean cosine with the reward images; every class counts equally.
        heldout: The same with held-out images.
        distinct: Share of distinct texts.
        n: Texts.
        classes: Classes that they are about.
    """

    reward: Interval
    heldout: Interval
    distinct: float
    n: int
    classes: int

    def as_dict(self) -> dict[str, Any]:
        return {**_ends(self), "distinct": self.distinct, "n": self.n, "classes": self.classes}


@dataclass(frozen=True)
class Advantage:
    """The aligned policy minus another system, paired by class.

    Attributes:
        reward: Difference of the mean cosines with the reward images.
        heldout: The same with held-out images.
        distinct: Difference of the shares of distinct texts.
    """

    reward: Interval
    heldout: Interval
    distinct: float

    def as_dict(self) -> dict[str, Any]:
        return {**_ends(self), "distinct": self.distinct}


def _ends(entry: SystemSummary | Advantage) -> dict[str, dict[str, float | None]]:
    return {images: getattr(entry, images).as_dict() for images in IMAGE_SETS}


@dataclass(frozen=True)
class Summary:
    """The report as numbers.

    Attributes:
        systems: In ``SYSTEM_ORDER``.
        advantages: Of the aligned policy over every other system, the base policy first.
        intervals: How the intervals were made: ``level``, ``method``; ``seed``, which the examples are drawn with.
        meta: Facts about the run.
        examples: Texts before and after, see `pick_examples`.
        monitors: First and last value of each training monitor.
        warnings: Plain sentences, see `find_warnings`.
        collapse: In which ways the texts have collapsed, each the end of a sentence about them; empty where they have not.
        nameless: The same systems with the name of the class taken out of what the VLM reads; None where that was not scored.
    """

    systems: dict[str, SystemSummary]
    advantages: dict[str, Advantage]
    intervals: dict[str, Any]
    meta: dict[str, Any]
    examples: list[dict[str, Any]]
    monitors: dict[str, Any]
    warnings: list[str]
    collapse: list[str] = field(default_factory=list)
    nameless: Summary | None = None

    def as_dict(self) -> dict[str, Any]:
        """As it goes into JSON: each system by its name, ``aligned_minus_NAME`` for each advantage, then the rest."""
        facts = ("intervals", "meta", "examples", "monitors", "warnings", "collapse")
        nameless = {} if self.nameless is None else {NAMELESS: self.nameless.numbers()}
        return self.numbers() | {name: getattr(self, name) for name in facts} | nameless

    def numbers(self) -> dict[str, Any]:
        """Systems and advantages alone, as they stand in the JSON."""
        return {name: entry.as_dict() for name, entry in self.systems.items()} | {
            f"{_MINUS}{name}": entry.as_dict() for name, entry in self.advantages.items()
        }

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> Summary:
        """From the JSON of a report.

        Raises:
            KeyError, TypeError: It is no such report.
        """
        if "aligned" not in report:
            raise KeyError("aligned")
        blank = {"intervals": report["intervals"], "meta": {}, "examples": [], "monitors": {}, "warnings": []}

        def parsed(entry: Mapping[str, Any]) -> dict[str, Any]:
            numbers = {name: value for name, value in entry.items() if name not in IMAGE_SETS}
            if not all(isinstance(value, (int, float)) for value in numbers.values()):
                raise TypeError(f"{numbers} are not all numbers")
            return {**numbers, **{images: Interval.of(entry[images]) for images in IMAGE_SETS}}

        return cls(
            {name: SystemSummary(**parsed(report[name])) for name in SYSTEM_ORDER if name in report},
            {
                key.removeprefix(_MINUS): Advantage(**parsed(entry))
                for key, entry in report.items()
                if key.startswith(_MINUS)
            },
            **{name: report[name] for name in ("intervals", "meta", "examples", "monitors", "warnings")},
            collapse=report.get("collapse", []),  # reports of older runs have none
            nameless=cls.of({**blank, **report[NAMELESS]}) if NAMELESS in report else None,
        )


def distinct_share(texts: Sequence[str]) -> float:
    """Unique texts / texts, after folding case and whitespace; 0.0 without texts."""
    return len({" ".join(text.casefold().split()) for text in texts}) / len(texts) if texts else 0.0


def summarise(
    systems: Sequence[SystemScores],
    class_names: Sequence[str],
    *,
    nameless: Sequence[SystemScores] = (),
    meta: Mapping[str, Any] | None = None,
    monitors: Mapping[str, Any] | None = None,
    collapse: Sequence[str] = (),
    level: float = 0.95,
    seed: int = 0,
) -> Summary:
    """Means, differences and intervals, with what a reader has to be told about them.

    Args:
        systems: In any order, each once; ``aligned`` is needed, the others are compared where present.
        class_names: Names of all classes; ``class_ids`` index them.
        nameless: The same systems with cosines of texts without the names of their classes.
        meta: Free facts about the run (VLM, dataset, model, seed, texts sampled, encodings spent, seconds ...).
        monitors: Training monitors, each ``{"first": number, "last": number}``.
        collapse: In which ways the texts have collapsed (`ex2.texts.collapse.signs_of_collapse`).
        level: Level of the intervals.
        seed: Draws the example classes.

    Returns:
        Non-finite numbers in meta and monitors become None there.

    Raises:
        ValueError: A system twice, or ``aligned`` absent.
        UserError: Fewer than two classes, a score that is not finite, a class id without a name.
    """
    by_name = {system.name: system for system in systems}
    if len(by_name) != len(systems) or "aligned" not in by_name:
        raise ValueError(f"need aligned, and each system once; got {[system.name for system in systems]}")
    summaries = {
        name: _summarise_system(by_name[name], len(class_names), level) for name in SYSTEM_ORDER if name in by_name
    }
    aligned = by_name["aligned"]
    others = [name for name in ("base", *(name for name in SYSTEM_ORDER[:-1] if name != "base")) if name in by_name]
    summary = Summary(
        systems=summaries,
        advantages={name: _advantage(aligned, by_name[name], summaries, level) for name in others},
        intervals={
            "level": level,
            "method": METHOD,
            "seed": seed,
        },
        meta=_plain(meta or {}),
        examples=pick_examples(by_name["base"], aligned, class_names, seed=seed) if "base" in by_name else [],
        monitors=_plain(monitors or {}),
        warnings=[],
        collapse=list(collapse),
        nameless=summarise(nameless, class_names, level=level, seed=seed) if nameless else None,
    )
    return replace(summary, warnings=find_warnings(summary))


def _summarise_system(system: SystemScores, class_count: int, level: float) -> SystemSummary:
    ids = np.asarray(system.class_ids)
    if len(ids) and not 0 <= ids.min() <= ids.max() < class_count:
        raise UserError(f"system {system.name}: class ids {ids.min()} to {ids.max()}, but {class_count} class names")

    def mean(images: str) -> Interval:
        try:
            return cluster_interval(getattr(system, images), ids, level=level)
        except UserError as error:
            raise UserError(f"system {system.name}, {images} images: {error}") from None

    return SystemSummary(
        mean("reward"), mean("heldout"), distinct_share(system.texts), n=len(ids), classes=len(np.unique(ids))
    )


def _advantage(
    aligned: SystemScores, other: SystemScores, summaries: Mapping[str, SystemSummary], level: float
) -> Advantage:
    def difference(images: str) -> Interval:
        ours, theirs = getattr(aligned, images), getattr(other, images)
        return paired_difference(ours, aligned.class_ids, theirs, other.class_ids, level=level)

    distinct = summaries[aligned.name].distinct - summaries[other.name].distinct
    return Advantage(difference("reward"), difference("heldout"), distinct)


def _plain(value: Any) -> Any:
    """A copy made of JSON's own types: numpy numbers and paths converted, non-finite numbers as None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def pick_examples(
    base: SystemScores, aligned: SystemScores, class_names: Sequence[str], k: int = 5, seed: int = 0
) -> list[dict[str, Any]]:
    """Before / after texts of up to ``k`` classes, chosen without looking at any score.

    The classes that both systems have are sorted by name and cut into k equal stretches; the seed draws one class of
    each. Of each class the first sample of each system is shown; of the aligned one the first that answers the same
    question, where there is one.

    Returns:
        Dicts of ``class_name, question, before, before_heldout, after, after_heldout``. Where the two questions
        differ, ``question`` names both.
    """
    base_ids, aligned_ids = np.asarray(base.class_ids), np.asarray(aligned.class_ids)
    shared = sorted(np.intersect1d(base_ids, aligned_ids).tolist(), key=lambda i: (class_names[i].casefold(), i))
    rng = np.random.default_rng(seed)
    examples = []
    for stretch in np.array_split(shared, min(k, len(shared))) if shared else []:
        class_id = int(rng.choice(stretch))
        before = int(np.flatnonzero(base_ids == class_id)[0])
        candidates = np.flatnonzero(aligned_ids == class_id).tolist()
        asked = base.questions[before] if base.questions else ""
        same = [i for i in candidates if aligned.questions and aligned.questions[i] == asked]
        after = (same or candidates)[0]
        answered = aligned.questions[after] if aligned.questions else ""
        examples.append(
            {
                "class_name": class_names[class_id],
                "question": asked if asked == answered else f"before: {asked} / after: {answered}",
                "before": base.texts[before],
                "before_heldout": float(np.asarray(base.heldout)[before]),
                "after": aligned.texts[after],
                "after_heldout": float(np.asarray(aligned.heldout)[after]),
            }
        )
    return examples


def find_warnings(summary: Summary) -> list[str]:
    """Plain sentences about what a reader could otherwise overlook; empty when there is nothing to say.

    "Above" means that the whole interval of the paired difference lies above zero.
    """
    warnings = []
    gain = summary.advantages.get("base")
    overfit = gain is not None and gain.reward.low > 0 and not gain.heldout.low > 0
    if gain is None:
        warnings.append("There are no texts of the untrained policy to compare with.")
    elif overfit:
        warnings.append(
            f"The reward rose on the reward images {_in_words(summary, gain.reward)}, but not on held-out images "
            f"{_in_words(summary, gain.heldout)}: the policy has overfitted to the reward images."
        )
    elif not gain.reward.low > 0:
        warnings.append(
            "Training is not shown to have raised the reward: difference between the aligned and the base policy on the reward "
            f"images {_in_words(summary, gain.reward)}."
        )
    unbeaten: dict[str, list[str]] = {"is worse than": [], "is not shown to beat": []}
    for name, spoken in SPOKEN_NAMES.items():
        difference = summary.advantages.get(name)
        if difference is not None and not difference.heldout.low > 0 and not (name == "base" and overfit):
            beats = "is worse than" if difference.heldout.high < 0 else "is not shown to beat"
            unbeaten[beats].append(f"{spoken} ({difference.heldout.shown('+z.4f')})")
    warnings += [
        f"On held-out images the aligned policy {beats} {listed(names)}: differences of the cosine, {level_of(summary)} "
        "intervals."
        for beats, names in unbeaten.items()
        if names
    ]
    aligned = summary.systems["aligned"]
    base = summary.systems.get("base", aligned)
    if aligned.n != base.n:
        warnings.append(
            f"The base policy has {base.n} texts and the aligned policy {aligned.n}: more texts repeat more, so "
            "their shares of distinct texts are not comparable."
        )
    fewer = [name for name, system in summary.systems.items() if system.classes != aligned.classes]
    if fewer:
        counts = ", ".join(f"{name} {summary.systems[name].classes}" for name in (*fewer, "aligned"))
        warnings.append(
            f"The systems cover different numbers of classes ({counts}): their means are not comparable, while "
            "differences use the classes that both have."
        )
    if summary.nameless is not None:
        said = find_warnings(replace(summary.nameless, systems=_alike(summary.nameless.systems)))
        warnings += [f"Without the class name: {warning}" for warning in said]
    return warnings


def _alike(systems: Mapping[str, SystemSummary]) -> dict[str, SystemSummary]:
    """Systems without differences in numbers and shares of texts, which were warned of already."""
    return {name: replace(system, distinct=1.0, n=1, classes=1) for name, system in systems.items()}


def outcome(summary: Summary) -> list[str]:
    """What training did, in sentences that need no judge: did texts collapse, and are they nearer to unseen images?"""
    return [*collapse_said(summary), *nearness_said(summary)]


def collapse_said(summary: Summary) -> list[str]:
    """That texts collapsed, where they did."""
    if not summary.collapse:
        return []
    return [
        f"Collapse: the policy's texts {'; they '.join(summary.collapse)}. That is a shortcut to the reward and no description: "
        "what is said does not show what the VLM prefers."
    ]


def nearness_said(summary: Summary) -> list[str]:
    """Whether texts are nearer to unseen images than the untrained policy's, in each reading."""
    said = []
    readings = (
        {"The": summary}
        if summary.nameless is None
        else {"As written, the": summary, "Without names, the": summary.nameless}
    )
    for start, part in readings.items():
        beside = [
            f"{_nearer(part.advantages[name].heldout)} {spoken} (cosine {part.advantages[name].heldout.shown('+z.4f')})"
            for name, spoken in (
                ("base", "the untrained policy's"),
                ("best_of_n", "the best of the untrained policy's"),
            )
            if name in part.advantages
        ]
        if beside:
            said.append(f"{start} policy's texts are {' and '.join(beside)}, on images that training never saw.")
    return said


def _nearer(difference: Interval) -> str:
    if difference.low > 0:
        return "nearer to their class than"
    return f"{'further from' if difference.high < 0 else 'not clearly nearer to or further from'} their class than"


def level_of(summary: Summary) -> str:
    """The level of the intervals as it is written."""
    return f"{100 * summary.intervals['level']:g} %"


def _in_words(summary: Summary, interval: Interval) -> str:
    ends = bracket(interval.low, interval.high, "+z.4f")
    return f"(difference {interval.mean:+z.4f}, {level_of(summary)} interval {ends})"
