"""The report of an analysis: one HTML file that needs nothing else, and the plots beside it.

The page asks for nothing from outside and runs one script, its own, which finds texts; its content security policy forbids all
else. Texts that models wrote, class names and questions are escaped. Every number on it is in one of the study's tables or in
summary.json.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import pandas as pd
from markupsafe import Markup

from ex2.analysis import study_plots
from ex2.analysis.findings import SHOWN
from ex2.analysis.judging import APART_PER_CLASS
from ex2.analysis.probe import READINGS, above
from ex2.analysis.study import Study
from ex2.base.files import write_atomically
from ex2.base.pages import hash_of, templates
from ex2.base.shown import portable
from ex2.data import LabelledImages, PlantedImages
from ex2.data.planted import CONTROLS as PLANTED_CONTROLS
from ex2.data.thumbnails import Thumbnail, thumbnail
from ex2.stats.before_after import SPOKEN_NAMES
from ex2.stats.plots import SYSTEM_LABELS
from ex2.texts.probe import SPOKEN
from ex2.texts.questions import TEMPLATE

ASSETS = Path(__file__).resolve().parent.parent / "assets" / "report"

PAGE_COLOURS = {
    study_plots.INK: "var(--ink)",
    study_plots.MUTED: "var(--muted)",
    study_plots.LINE: "var(--line)",
    study_plots.PAPER: "var(--paper)",
}
"""What plots draw in these colours takes the page's own, so that they follow it into dark mode."""

EXAMPLE_CLASSES = 6
FIRST_EXAMPLES = 2  # under the verdict
IMAGES_A_CLASS = 3

TESTS = {
    "contrast": "The headline, drawn above: what clauses say about their class. The test “added” minus “added elsewhere”, "
    "for clauses of the category minus the other judged clauses of the same class and system, as if all had the same length and "
    "place; then the mean of the systems. This takes out what pleases the VLM whatever the class, that classes differ, and that "
    "a policy's own clauses fit its reward.",
    "contrast_swapped": "Placebo: the contrast of the same clauses behind the name of another class, with that class's images.",
    "contrast_scrambled": "The contrast of the same clauses with their words in random order: how far the words alone do it.",
    "general": "The same of “added elsewhere” alone: what clauses of the category are worth for any class.",
    "added": "The class name with one clause against the class name alone, in the same form for every clause.",
    "added_elsewhere": "The same two texts with images of the other classes.",
    "clause_drop": "The description against itself without one clause; only where it has two or more, and for at most "
    f"{APART_PER_CLASS} descriptions of a class.",
    "gain": f"The description against the plain template of its class, “{TEMPLATE.replace('{}', '…')}”.",
    "specificity": "The description with images of its class, against the mean over the other classes.",
    "stripped": "Specificity of the description once the name of its class is taken out.",
    "shuffle_drop": "The description against itself with its clauses in another order. Text encoders may weigh the start of a "
    "text more: this says how far position alone can matter.",
}
"""What each test of the table `contributions` compares; all are differences of mean cosines with held-out images."""

_PLACES = ("vlm", "dataset", "policy", "descriptions", "probe", "questions", "training_questions", "model_name_or_path")
"""Facts that may name a folder of this machine; the page is passed on and leaves it out, summary.json has all."""

CONTROLS = {
    "class_name": "the name of the class and nothing else",
    "template": f"“{TEMPLATE.replace('{}', '…')}”",
    "random_words": "the template with two random words of the descriptions; where it does as well, what they say does not "
    "matter",
    "base": "the untrained policy",
    "best_of_n": "of the untrained policy's texts of a class, the one with the highest reward",
    "scrambled": "the aligned policy's texts, their words in random order",
    "swapped": "the aligned policy's texts, tried on another class",
    "renamed": "the same with the name of the other class put in: what is left is the name and generic praise",
    "aligned": "the descriptions under study",
}

MONITORS = {
    "reward_cosine": "mean cosine with the reward images of the class",
    "heldout_cosine": "mean cosine with its held-out images; a warning where it does not rise with the reward",
    "hub_score": "mean cosine with the classes that a text is not about; rises where one text fits everything",
    "duplicate_rate": "share of texts that repeat another one; rises when the policy collapses",
    "distinct_2": "distinct word pairs over all word pairs; falls when stock phrases take over",
    "repetition_rate": "share of word pairs that repeat within a text",
    "boilerplate_rate": "share of texts that talk like a photo page",
    "truncated_share": "share of texts that the VLM's tokenizer cuts",
    "words": "words a text",
}

TABLES = {
    "attribute_contributions": "the test contrast for each attribute tag: clauses with it against those without",
    "attributes": "share of clauses with each attribute tag, by system",
    "clauses": "one row a clause: category with probabilities, tags, tests",
    "counterfactuals": "what clauses say about their class beyond the same clauses with another colour or place",
    "contributions": "every test by category: mean, interval, p-value, numbers of classes and texts",
    "corrected": "shares and contributions corrected for the judge's error by the labels of people",
    "controls": "cosines of every control on reward and held-out images, and the aligned policy's advantage",
    "controls_nameless": "the same with the name of the class taken out of what the VLM reads",
    "descriptions": "one row a description: text, category with probabilities, tags, cosine with held-out images, tests",
    "learning_curve": "the metrics of the training run, one row a step",
    "preference": "for each category the quantities that the verdict follows from, what was found, and whether it is preferred",
    "probe": "cosine of the probe's sentences with held-out images, by kind: in both readings as it is and centred within class",
    "probe_differences": "one kind of the probe's sentences minus another, paired by class, in both readings",
    "share_change": "share in the aligned policy's texts minus share in the base policy's, paired by class",
    "shares": "share of each category in descriptions and in clauses, by system",
    "shares_by_class": "number and share of descriptions of each category, by class",
    "shares_by_question": "number and share of descriptions of each category, by question",
    "zero_shot": "accuracy of classifying held-out images with texts of each category, and its gain over the template",
}


def write_report(study: Study, folder: Path, images: LabelledImages | PlantedImages | None = None) -> Path:
    """Write ``report.html`` and ``plots/*.png``, ``plots/*.svg`` into a folder, each file atomically.

    All is made before the first file is written, and the page comes last.

    Args:
        study: From `analyse` or `Study.read`; its tables are not written here (`Study.write`).
        folder: Made where absent.
        images: The described classes' images, for thumbnails beside the examples; planted sets have none.

    Returns:
        Path of report.html.

    Raises:
        OSError: The disk refuses; no half-written file is left behind.
    """
    plots = study_plots.draw(study.tables)
    page = render(study, plots, images if isinstance(images, LabelledImages) else None)
    for name, plot in plots.items():
        write_atomically(folder / "plots" / f"{name}.png", plot.png)
        write_atomically(folder / "plots" / f"{name}.svg", plot.svg)
    path = folder / "report.html"
    write_atomically(path, page.encode())
    return path


def render(study: Study, plots: Mapping[str, study_plots.Plot], images: LabelledImages | None) -> str:
    """The page as HTML."""
    environment = templates(ASSETS)
    environment.filters |= {"share": share, "number": number, "p_value": p_value, "spoken": study_plots.spoken}
    environment.globals |= {"points": points, "number": number}
    environment.tests["known"] = _known
    tables, summary = study.tables, study.summary
    change, attributes = tables["share_change"], tables["attributes"]
    script = (ASSETS / "report.js").read_text(encoding="utf-8")
    examples = _examples(study, images)
    return environment.get_template("report.html.j2").render(
        css=Markup((ASSETS / "report.css").read_text(encoding="utf-8")),
        plots={name: Markup(inline_svg(plot.svg.decode(), name)) for name, plot in plots.items()},
        summary=summary,
        script=Markup(script),
        script_hash=hash_of(script),
        facts=_flat(summary["meta"]),
        intervals=summary["intervals"],
        colours=study_plots.COLOURS,
        shown=SHOWN,
        has_base="base" in set(tables["shares"]["system"]),
        preference=tables["preference"].to_dict("records"),
        shares=_by(tables["shares"], "level", "category", "system"),
        change=_by(change, "level", "category"),
        changed_classes=int(change["classes"].max()) if len(change) else 0,
        tests=TESTS,
        contributions=_by(tables["contributions"], "test", "category"),
        zero_shot=tables["zero_shot"].to_dict("records"),
        probe=_probe(tables),
        kinds=SPOKEN,
        tags=study_plots.top_tags(attributes),
        attributes=_by(attributes, "tag", "system"),
        tag_contributions=_by(tables["attribute_contributions"], "tag"),
        by_question=_stacked(tables["shares_by_question"], "question"),
        by_class=_stacked(tables["shares_by_class"], "class_name"),
        controls={
            "as written": _by(tables["controls"], "system", "images"),
            "without the name of the class": _by(tables["controls_nameless"], "system", "images"),
        },
        control_labels={name: (label, CONTROLS[name]) for name, label in SYSTEM_LABELS.items()},
        not_beaten=_not_beaten(tables["controls"]),
        monitors={name: (MONITORS.get(name, ""), ends) for name, ends in summary["monitors"].items()},
        has_metrics="learning_curve" in tables,
        controls_planted=PLANTED_CONTROLS,
        examples=examples,
        first_examples=examples[:FIRST_EXAMPLES],
        said_by_class=_said_by_class(tables["descriptions"]),
        tables=[(name, TABLES.get(name, ""), len(tables[name]), tables[name].shape[1]) for name in sorted(tables)],
    )


def inline_svg(svg: str, name: str) -> str:
    """The SVG as an element of the page: the page's colours and font, ids that start with `name`, no size of its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)

    def own(tag: re.Match[str]) -> str:
        text = tag[0]
        if text.startswith("<svg"):
            box = re.search(r'viewBox="[^"]*"', text)
            return f'<svg {box[0] if box else ""} aria-hidden="true" focusable="false">'
        text = re.sub(r" font-family: [^;\"]*;", "", text.replace("xlink:href", "href"))
        text = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", text)
        for drawn, page in PAGE_COLOURS.items():
            text = text.replace(drawn, page)
        return text

    # Only within tags: what the plot says may look like anything.
    return re.sub(r"<[^>]*>", own, svg)


# ---------------------------------------------------------------- numbers as they are shown


def _known(value: float | None) -> TypeGuard[float]:
    return value is not None and not math.isnan(value)


def points(value: float | None, signed: bool = False) -> str:
    """A share, or a difference of shares, times 100 with one decimal; a dash where it is not known."""
    return _decimal(100 * value, 1, signed) if value is not None else "–"


def share(value: float | None, decimals: int = 1) -> str:
    """A share in per cent; a dash where it is not known."""
    return f"{_decimal(100 * value, decimals)}\N{NO-BREAK SPACE}%" if _known(value) else "–"


def number(value: float | None, signed: bool = False) -> str:
    """A cosine or other number with four decimals; a dash where it is not known."""
    return _decimal(value, 4, signed) if value is not None else "–"


def _decimal(value: float, decimals: int, signed: bool = False) -> str:
    return f"{value:{'+' if signed else ''}z.{decimals}f}".replace("-", "−") if _known(value) else "–"


def p_value(value: float | None) -> str:
    """A p-value with three decimals; a dash where there is none."""
    if not _known(value):
        return "–"
    return "<\N{NO-BREAK SPACE}0.001" if value < 0.001 else f"{value:.3f}"


def _fact(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "not recorded"}[value]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_fact, value)) or "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Facts by name, those of nested mappings as ``outer.inner``."""
    flat: dict[str, str] = {}
    for name, value in facts.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = portable(_fact(value)) if name in _PLACES else _fact(value)
    return flat


# ---------------------------------------------------------------- tables as the template takes them


def _by(table: pd.DataFrame, *keys: str) -> dict[Any, dict[str, Any]]:
    """Rows by the values of one or more columns."""
    return {tuple(row[key] for key in keys): row for row in table.to_dict("records")}


def _stacked(shares: pd.DataFrame, key: str) -> dict[str, Any]:
    """What the bars of a stacked plot show: shares by category, each system's in turn, and how many rows there are in all."""
    wide = study_plots.share_table(shares, key)
    counts = shares.groupby([key, "system"])["count"].sum()
    systems = list(dict.fromkeys(wide.columns.get_level_values(0)))
    rows = [
        {
            "name": name,
            "counts": [round(counts.get((name, system), 0)) for system in systems],
            "shares": {category: [wide.loc[name, (system, category)] for system in systems] for category in SHOWN},
        }
        for name in wide.index
    ]
    return {"systems": systems, "rows": rows, "total": shares[key].nunique()}


def _probe(tables: Mapping[str, pd.DataFrame]) -> list[dict[str, Any]]:
    """Rows of the probe with, for each reading, the kinds that a kind is above; none where there is no probe."""
    if "probe" not in tables:
        return []
    over = {reading: above(tables["probe_differences"], reading) for reading in READINGS}
    return [
        {
            **row,
            **{
                f"{reading}_above": [SPOKEN[other] for other in SPOKEN if (row["kind"], other) in over[reading]]
                for reading in READINGS
            },
        }
        for row in tables["probe"].to_dict("records")
    ]


def _not_beaten(controls: pd.DataFrame) -> list[dict[str, Any]]:
    """Controls whose held-out cosine the aligned policy does not exceed with its whole interval."""
    heldout = controls[(controls["images"] == "heldout") & (controls["system"] != "aligned")]
    heldout = heldout[~(heldout["aligned_minus_low"] > 0)]  # also where that cannot be told
    return [{**row, "spoken": SPOKEN_NAMES[row["system"]]} for row in heldout.to_dict("records")]


# ---------------------------------------------------------------- examples


def _examples(study: Study, images: LabelledImages | None) -> list[dict[str, Any]]:
    """First text of each system about a few classes, drawn by seed along the alphabet without looking at any score."""
    texts = study.tables["descriptions"].reset_index(drop=True)
    generator = np.random.default_rng(study.summary["intervals"]["seed"])
    names = sorted(texts[texts["system"] == "aligned"]["class_name"].unique(), key=lambda name: (name.casefold(), name))
    drawn = [str(generator.choice(part)) for part in np.array_split(names, min(EXAMPLE_CLASSES, len(names)))]
    clauses = study.tables["clauses"]
    examples = []
    for name in drawn:
        own = texts[texts["class_name"] == name]
        base, aligned = (own[own["system"] == system] for system in ("base", "aligned"))
        # Answers to one question compare better; where there is none, the first of each.
        common = base[base["question"].isin(aligned["question"])]
        first = (common if len(common) else base).head(1)
        same = aligned[aligned["question"].isin(first["question"])]
        chosen = pd.concat([first, (same if len(same) else aligned).head(1)])
        parts = [
            {**row, "clauses": clauses[clauses["description"] == place].to_dict("records")}
            for place, row in zip(chosen.index, chosen.to_dict("records"), strict=True)
        ]
        examples.append({"class_name": name, "texts": parts, "images": _thumbnails(images, name, generator)})
    return examples


def _said_by_class(texts: pd.DataFrame) -> list[tuple[str, list[dict[str, Any]], dict[str, float]]]:
    """Every class along the alphabet: its name, its texts (the aligned policy's first), the mean cosine of each policy's."""
    columns = ["system", "category", "text", "cosine"]
    by_class = []
    for name, own in sorted(texts.groupby("class_name"), key=lambda part: (str(part[0]).casefold(), part[0])):
        said = own.sort_values("system", kind="stable")[columns].to_dict("records")
        by_class.append((str(name), said, own.groupby("system")["cosine"].mean().to_dict()))
    return by_class


def _thumbnails(images: LabelledImages | None, class_name: str, generator: np.random.Generator) -> list[Thumbnail]:
    """A few images of a class, drawn by seed, as data URIs; files that cannot be read are passed over."""
    if images is None or class_name not in images.class_names:
        return []
    class_id = images.class_names.index(class_name)
    own = np.flatnonzero(np.asarray(images.labels) == class_id)
    found: list[Thumbnail] = []
    for i in generator.permutation(own)[: 4 * IMAGES_A_CLASS]:
        picture = thumbnail(images, int(i))
        if picture is not None:
            found.append(picture)
        if len(found) == IMAGES_A_CLASS:
            break
    return found
