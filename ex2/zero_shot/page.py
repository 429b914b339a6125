"""What a comparison of systems comes to: in two sentences for each file of descriptions, and as a page with images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from ex2.base.pages import templates
from ex2.base.shown import portable
from ex2.data.labelled import LabelledImages
from ex2.data.thumbnails import Thumbnail, thumbnail
from ex2.stats.intervals import DIFFERENCE, Interval, mean_interval
from ex2.zero_shot.systems import CONTROLS, Comparison
from ex2.zero_shot.vectors import share_by_class

ASSETS = Path(__file__).resolve().parent.parent / "assets"

SHOWN_CLASSES = 4
"""Classes that gained most, and as many that lost most."""

SHOWN_IMAGES = 3
"""Images of such a class that changed sides."""

_NAME, _RANDOM = "class_name", "random_words"
_WITHOUT = "Their class names were taken out: this says how much the descriptions say, not how to classify best."
_SPOKEN = {_NAME: "the class names alone", _RANDOM: "the template and random words"}


class Changed(NamedTuple):
    """A class whose images are taken for others with the descriptions than by its name.

    Attributes:
        class_name: Its name.
        gain: Change of its accuracy, between -1 and 1.
        images: Some that are right with one of the two only: the picture, and what the wrong one took it for.
    """

    class_name: str
    gain: float
    images: list[tuple[Thumbnail, str]]


def described(comparison: Comparison) -> list[str]:
    """Systems that are descriptions: neither controls, nor beside the names, nor FuDD."""
    return [
        row["system"]
        for row in comparison.rows
        if row["system"] not in CONTROLS and row["name_weight"] is None and row["k"] is None
    ]


def differences(comparison: Comparison, system: str) -> dict[str, Interval]:
    """Accuracy of a system minus that of class names, and of random words: mean over classes with its interval."""
    ours = _by_class(comparison, system)
    found = {}
    for control in _SPOKEN:
        if control in comparison.predictions:
            change = ours - _by_class(comparison, control)
            tested = change[~np.isnan(change)]
            if len(tested) > 1:
                found[control] = mean_interval(tested, bounds=DIFFERENCE)
    return found


def conclusion(comparison: Comparison, names: str) -> dict[str, str]:
    """By file of descriptions how it compares with names and random words, and what to do about it.

    Args:
        comparison: The results.
        names: What was done with class names in descriptions: ``as_written``, ``with`` or ``without``.
    """
    said = {}
    top1 = {row["system"]: row["top1"] for row in comparison.rows}
    for system in described(comparison):
        against = differences(comparison, system)
        if _NAME not in against:
            continue
        parts = [
            f"{_verb(difference)} {_SPOKEN[control]} ({100 * top1[control]:.1f} %; {_in_points(difference)})"
            for control, difference in against.items()
        ]
        said[system] = (
            f"With the descriptions {system} {100 * top1[system]:.1f} % of the images are classified rightly, "
            f"{' and '.join(parts)}. {_WITHOUT if names == 'without' else _advice(against)}"
        )
    return said


def classification_page(comparison: Comparison, meta: Mapping[str, Any], images: LabelledImages) -> bytes:
    """The page as HTML in UTF-8; what names folders of this machine is in results.json alone.

    Args:
        comparison: The results.
        meta: As `Comparison.write` takes it.
        images: The images that were classified.
    """
    report = ASSETS / "report"
    page = templates(ASSETS / "classification").get_template("report.html.j2")
    return page.render(
        css=Markup((report / "report.css").read_text(encoding="utf-8")),
        vlm=portable(str(meta["vlm"])),
        dataset=portable(str(meta["dataset"])),
        split=meta["split"],
        names=meta["names"].replace("_", " "),
        count=len(comparison.labels),
        conclusion=conclusion(comparison, meta["names"]).values(),
        rows=comparison.rows,
        systems={system: _changed(comparison, system, images) for system in described(comparison)},
    ).encode()


def _by_class(comparison: Comparison, system: str) -> NDArray[np.float64]:
    right = comparison.predictions[system].correct(comparison.labels)
    return share_by_class(right, comparison.labels, len(comparison.bank.class_names))


def _verb(difference: Interval) -> str:
    if difference.low > 0:
        return "more than with"
    return "fewer than with" if difference.high < 0 else "not clearly more or fewer than with"


def _in_points(difference: Interval) -> str:
    low, high = (f"{100 * end:+.1f}" for end in (difference.low, difference.high))
    interval = f" [{low}, {high}]" if difference.known else ""
    return f"a class's mean {100 * difference.mean:+.1f} points{interval}"


def _advice(against: Mapping[str, Interval]) -> str:
    if not against[_NAME].low > 0:
        return "Use the class names, or names and descriptions as vectors where that row is better."
    if _RANDOM in against and not against[_RANDOM].low > 0:
        return "Random words do as well, so what the descriptions say need not be what helps."
    return "Use the descriptions."


def _changed(comparison: Comparison, system: str, images: LabelledImages) -> dict[str, list[Changed]]:
    """The classes that a system gains and loses most beside the class names; none where these were not tried."""
    if _NAME not in comparison.predictions:
        return {"gained": [], "lost": []}
    gain = _by_class(comparison, system) - _by_class(comparison, _NAME)
    order = [int(i) for i in np.argsort(np.nan_to_num(gain), kind="stable")]
    return {
        "gained": [_of_class(comparison, system, i, gain[i], images) for i in order[::-1] if gain[i] > 0][
            :SHOWN_CLASSES
        ],
        "lost": [_of_class(comparison, system, i, gain[i], images) for i in order if gain[i] < 0][:SHOWN_CLASSES],
    }


def _of_class(comparison: Comparison, system: str, class_id: int, gain: float, images: LabelledImages) -> Changed:
    bank = comparison.bank
    ours, theirs = (comparison.predictions[name].class_ids[:, 0] for name in (system, _NAME))
    right, wrong = (ours, theirs) if gain > 0 else (theirs, ours)
    here = comparison.labels == class_id
    moved = ((right == class_id) & (wrong != class_id) & here).nonzero().flatten().tolist()
    places = {image_id: i for i, image_id in enumerate(images.image_ids)}
    rows = bank.rows(comparison.split).tolist()
    shown: list[tuple[Thumbnail, str]] = []
    for i in moved:
        picture = thumbnail(images, places[bank.image_ids[rows[i]]])
        if picture is not None and len(shown) < SHOWN_IMAGES:
            shown.append((picture, bank.class_names[int(wrong[i])]))
    return Changed(bank.class_names[class_id], float(gain), shown)
