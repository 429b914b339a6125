"""The before / after report of a training run as a table for the terminal, as Markdown, and as files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ex2.base.files import to_json, write_atomically
from ex2.base.shown import markdown, portable
from ex2.stats.before_after import IMAGE_SETS, SYSTEM_ORDER, Advantage, Summary, SystemSummary, level_of, outcome
from ex2.stats.plots import before_after_png


def _rows(summary: Summary) -> tuple[list[list[str]], list[list[str]]]:
    """Cells of the system rows and of the paired-difference rows."""

    def cells(
        label: str, entry: SystemSummary | Advantage, sign: str, count: str, *, distinct: bool = True
    ) -> list[str]:
        values = [getattr(entry, images) for images in IMAGE_SETS]
        shown = [value.shown(f"{sign}z.4f") for value in values]
        return [label, *shown, f"{entry.distinct:{sign}.3f}" if distinct else "", count]

    systems = [cells(name, system, "", str(system.n)) for name, system in summary.systems.items()]
    differences = []
    for name in SYSTEM_ORDER:
        if name in summary.advantages:
            # More texts repeat more: shares of distinct texts compare only between equal numbers of texts.
            comparable = summary.systems[name].n == summary.systems["aligned"].n
            differences.append(cells(f"aligned - {name}", summary.advantages[name], "+", "", distinct=comparable))
    return systems, differences


def format_table(summary: Summary) -> str:
    """The systems and the paired differences as a monospace table, at most 100 columns wide; one for each reading."""
    if summary.nameless is None:
        return _one_table(summary)
    return f"Read as written\n{_one_table(summary)}\n\nRead without the class name\n{_one_table(summary.nameless)}"


def _one_table(summary: Summary) -> str:
    systems, differences = _rows(summary)
    interval = f"[{level_of(summary)} interval]"
    header = [
        ["system", "reward cosine", "held-out cosine", "distinct", "n"],
        ["", interval, interval, "", ""],
    ]
    rows = [*header, *systems, *differences]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header[0]))]
    lines = []
    for row in rows:
        padded = [row[0].ljust(widths[0])] + [
            cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    first_difference = len(header) + len(systems)
    return "\n".join([*lines[:2], rule, *lines[2:first_difference], rule, *lines[first_difference:]])


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{markdown(str(key))} {_fact(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(_fact(item) for item in value)
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "not available"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else markdown(str(value))


def _without_path(key: str, value: Any) -> Any:
    return portable(value) if key in ("vlm", "dataset", "model") and isinstance(value, str) else value


def to_markdown(summary: Summary) -> str:
    """The report as Markdown: table, paired differences, warnings, examples, monitors, facts about the run."""
    warnings = [f"- {markdown(warning)}" for warning in summary.warnings] or ["None."]
    introduction = (
        "Mean cosine similarity between texts and images of their class: the images that the reward used, and held-out "
        f"images that training never saw. Every class counts equally; {level_of(summary)} intervals are about "
        "classes: they say how far the result carries over to other classes, not to other training "
        "seeds. `distinct` is the share of distinct texts; it is compared only between equal numbers of texts."
    )
    if summary.nameless is not None:
        introduction += (
            " The VLM reads each text twice: as it is written, where a class name alone scores high, and without the name of "
            "its class, where only what is said counts; of the bare class name only the word `it` is left."
        )
    parts = [
        "# Before and after training",
        *(["\n".join(f"- {markdown(sentence)}" for sentence in outcome(summary))] if outcome(summary) else []),
        introduction,
        *_markdown_tables(summary, "" if summary.nameless is None else ", as written"),
        *([] if summary.nameless is None else _markdown_tables(summary.nameless, ", without the class name")),
        "![Mean cosine similarity of each system with intervals](before_after.png)",
        "## Warnings",
        "\n".join(warnings),
        "## Examples",
        "Classes drawn by seed along the alphabet, the first sample of each policy; none was chosen by its score.",
    ]
    for example in summary.examples:
        parts.append(f"### {markdown(example['class_name'])}")
        if example["question"]:
            parts.append(f"Question: {markdown(example['question'])}")
        rows = [[when, markdown(example[when]), f"{example[f'{when}_heldout']:.4f}"] for when in ("before", "after")]
        parts.append("\n".join(["| | text | held-out cosine |", "| :- | :- | -: |", *map(_markdown_row, rows)]))
    if summary.monitors:
        rows = [[markdown(name), _fact(m.get("first")), _fact(m.get("last"))] for name, m in summary.monitors.items()]
        table = ["| monitor | first | last |", "| :- | -: | -: |", *map(_markdown_row, rows)]
        parts += ["## Training monitors", "\n".join(table)]
    if summary.meta:
        parts += [
            "## Run",
            "\n".join(f"- {markdown(key)}: {_fact(_without_path(key, value))}" for key, value in summary.meta.items()),
        ]
    return "\n\n".join(parts) + "\n"


def _markdown_tables(summary: Summary, reading: str) -> list[str]:
    systems, differences = _rows(summary)
    level = level_of(summary)
    head = f"reward cosine [{level} interval] | held-out cosine [{level} interval] | distinct |"
    return [
        f"## Systems{reading}",
        "\n".join([f"| system | {head} n |", "| :- | -: | -: | -: | -: |", *map(_markdown_row, systems)]),
        f"## Differences, paired by class{reading}",
        "\n".join([f"| difference | {head}", "| :- | -: | -: | -: |", *(_markdown_row(r[:-1]) for r in differences)]),
    ]


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def write_report(summary: Summary, out_dir: str | os.PathLike[str]) -> list[Path]:
    """Write ``before_after.json``, ``.md`` and ``.png`` into ``out_dir`` (made where absent), each atomically.

    All three are made before the first is written, so an error leaves nothing half-written.

    Raises:
        ValueError: A number that is not finite (JSON has no such numbers).
    """
    contents = {
        "before_after.json": to_json(summary.as_dict()),
        "before_after.md": to_markdown(summary).encode(),
        "before_after.png": before_after_png(summary.as_dict()),
    }
    paths = []
    for name, data in contents.items():
        paths.append(Path(out_dir) / name)
        write_atomically(paths[-1], data)
    return paths
