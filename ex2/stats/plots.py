"""Plots as PNG files: 9 inches at 200 dots an inch, laid out to stay readable when shown 900 pixels wide.

Figures are drawn through matplotlib's object interface (no pyplot, hence no global state, no display). Colours are
from Okabe and Ito's colour-blind safe palette, and marker shapes differ too.
"""

from __future__ import annotations

import io
import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ex2.base.errors import UserError
from ex2.base.files import write_atomically
from ex2.base.shown import portable
from ex2.stats.intervals import Interval

BLUE, VERMILION, GREEN = "#0072B2", "#D55E00", "#009E73"
WIDTH_INCHES, DPI = 9.0, 200

SYSTEM_LABELS = {
    "class_name": "class name",
    "template": "template",
    "base": "base policy",
    "best_of_n": "best of n",
    "random_words": "random words",
    "scrambled": "aligned, scrambled",
    "swapped": "aligned, other class",
    "renamed": "aligned, other class, renamed",
    "aligned": "aligned policy",
}
IMAGE_SET_STYLES = {"reward": ("reward images", BLUE, "o", -0.13), "heldout": ("held-out images", VERMILION, "s", 0.13)}

# The first key that any row of metrics has is taken; later ones are other names of the same quantity.
X_KEYS = {"sampled_texts": "sampled texts", "step": "training step"}
REWARD_COSINE_KEYS = ("monitors/reward_cosine", "rewards/cosine/mean", "reward_cosine")
HELDOUT_COSINE_KEYS = ("monitors/heldout_cosine", "heldout_cosine")
KL_KEYS = ("kl", "objective/kl", "monitors/kl")


def plot_before_after(summary: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Draw every system's mean cosine with its interval, on reward and on held-out images; written atomically.

    Args:
        summary: What ``before_after.summarise`` returns.
        path: PNG file to write.
    """
    write_atomically(path, before_after_png(summary))


def plot_learning_curve(metrics: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Draw cosines over training, with the KL divergence from the reference policy below; written atomically.

    Args:
        metrics: Rows of a run's ``metrics.jsonl``. Each quantity is drawn from the rows that have it as a finite
            number; a repeated step (a resumed run) counts once, the last time. The x axis is ``sampled_texts`` where
            rows have it, else ``step``. Where no cosine with the reward images is logged, ``reward`` is drawn instead,
            in a panel of its own since its scale is another.
        path: PNG file to write.

    Raises:
        UserError: No row has anything to draw.
    """
    write_atomically(path, learning_curve_png(metrics))


def before_after_png(summary: Mapping[str, Any]) -> bytes:
    """The PNG of ``plot_before_after``."""
    names = [name for name in SYSTEM_LABELS if name in summary]
    panels = {"": summary}
    if "nameless" in summary:
        panels = {"as written": summary, "without the class name": summary["nameless"]}
    level = f"{100 * summary['intervals']['level']:g} %"
    x_label = f"cosine similarity of text and images (mean over classes, {level} interval)"
    if len(panels) > 1:
        x_label = f"mean cosine, {level} interval"
    figure = Figure(figsize=(WIDTH_INCHES, 1.9 + 0.62 * len(names)), dpi=DPI, layout="constrained")
    row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, systems) in zip(row, panels.items(), strict=True):
        for images, (label, colour, marker, offset) in IMAGE_SET_STYLES.items():
            values = [systems[name][images] for name in names]
            axes.errorbar(
                [value["mean"] for value in values],
                [place + offset for place in range(len(names))],
                xerr=[
                    [_bar(value["mean"], value["low"]) for value in values],
                    [_bar(value["mean"], value["high"]) for value in values],
                ],
                fmt=marker,
                color=colour,
                markersize=7,
                elinewidth=2,
                capsize=4,
                label=label,
            )
        axes.set_title(title, fontsize=11)
        axes.set_xlabel(x_label)
        axes.margins(x=0.06)
        _tidy(axes, "x")
    row[0].set_yticks(range(len(names)), [SYSTEM_LABELS[name] for name in names])
    row[0].set_ylim(len(names) - 0.5, -0.5)
    gain = summary["aligned_minus_base"]["heldout"]
    change = f"aligned minus base, held-out, paired by class: {Interval.of(gain).shown('+.4f')}"
    facts = [portable(str(summary["meta"][key])) for key in ("vlm", "dataset", "model") if summary["meta"].get(key)]
    lines = [*textwrap.wrap(" · ".join(facts), width=95), change]
    figure.suptitle("\n".join(lines), fontsize=11, parse_math=False)
    figure.legend(*row[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=11)
    return _to_png(figure)


def _bar(mean: float, end: float | None) -> float:
    """How far an error bar reaches from its mean: not at all where the end of the interval cannot be told."""
    return 0.0 if end is None or math.isnan(end) else abs(end - mean)


def learning_curve_png(metrics: Sequence[Mapping[str, Any]]) -> bytes:
    """The PNG of ``plot_learning_curve``."""
    x_key = next((key for key in X_KEYS if any(_is_number(row.get(key)) for row in metrics)), None)
    if x_key is None:
        raise UserError(f"the metrics have no {' or '.join(X_KEYS)} to draw a learning curve against")
    reward_cosine = _series(metrics, x_key, REWARD_COSINE_KEYS)
    if any(abs(y) > 1 for _, y in reward_cosine):  # logged after reward_scale, so no cosine any more
        reward_cosine = []
    reward = [] if reward_cosine else _series(metrics, x_key, ("reward",))
    cosines = [
        ("reward images", BLUE, "o", reward_cosine),
        ("held-out images", VERMILION, "s", _series(metrics, x_key, HELDOUT_COSINE_KEYS)),
    ]
    candidates = [
        ("cosine similarity", cosines),
        ("reward", [("reward", BLUE, "o", reward)]),
        ("KL from reference\n(nats)", [("KL", GREEN, "^", _series(metrics, x_key, KL_KEYS))]),
    ]
    panels = [(unit, [curve for curve in curves if curve[3]]) for unit, curves in candidates]
    panels = [(unit, curves) for unit, curves in panels if curves]
    if not panels:
        raise UserError("the metrics have no cosine, reward or KL to draw a learning curve of")
    heights = [3.4 if row == 0 else 2.0 for row in range(len(panels))]
    figure = Figure(figsize=(WIDTH_INCHES, sum(heights) + 0.6), dpi=DPI, layout="constrained")
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (unit, curves) in zip(grid, panels, strict=True):
        for label, colour, marker, points in curves:
            xs, ys = zip(*points, strict=True)
            shown_marker = marker if len(points) <= 60 else None
            axes.plot(xs, ys, color=colour, marker=shown_marker, markersize=4, linewidth=1.8, label=label)
        axes.set_ylabel(unit)
        _tidy(axes, "both")
        if unit == "cosine similarity":
            axes.legend(frameon=False, fontsize=11, ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
    grid[-1].set_xlabel(X_KEYS[x_key])
    grid[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    return _to_png(figure)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _series(metrics: Sequence[Mapping[str, Any]], x_key: str, keys: Sequence[str]) -> list[tuple[float, float]]:
    """Points ``(x, y)`` in the order of x, of the first of ``keys`` that has any; empty where none has."""
    for key in keys:
        points = {row[x_key]: row[key] for row in metrics if _is_number(row.get(x_key)) and _is_number(row.get(key))}
        if points:
            return sorted(points.items())
    return []


def _tidy(axes: Axes, grid_axis: Literal["x", "both"]) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid_axis, color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=11)
    axes.xaxis.label.set_fontsize(11)
    axes.yaxis.label.set_fontsize(11)


def laid_out(figure: Figure) -> Figure:
    """The figure with everything in its place for good: else each file would lay it out again, and draw it once more for that."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine(None)
    return figure


def _to_png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    laid_out(figure).savefig(buffer, format="png")
    return buffer.getvalue()


def comparison_png(studies: Any) -> bytes:
    """The PNG of sides: share of clauses and contribution of each category, one colour a side.

    Args:
        studies: The table ``Comparison.sides``.
    """
    palette = (BLUE, VERMILION, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000")
    names = list(dict.fromkeys(studies["side"]))
    categories = list(dict.fromkeys(studies["category"]))
    height = 1.6 + 0.28 * len(names) * len(categories)
    figure = Figure(figsize=(WIDTH_INCHES, height), dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    thickness = 0.8 / len(names)
    for place, name in enumerate(names):
        own = studies[studies["side"] == name].set_index("category").loc[categories]
        rows = [row + (place - (len(names) - 1) / 2) * thickness for row in range(len(categories))]
        colour = palette[place % len(palette)]
        left.barh(rows, own["share_of_clauses"], height=thickness * 0.9, color=colour, label=name)
        means = own["contribution_mean"]
        errors = [means - own["contribution_low"], own["contribution_high"] - means]
        right.errorbar(means, rows, xerr=errors, fmt="o", color=colour, capsize=3)
    left.set_yticks(range(len(categories)), [name.replace("_", "-") for name in categories])
    left.invert_yaxis()
    left.set_xlabel("share of clauses")
    right.axvline(0, color="#888888", linewidth=1)
    right.set_xlabel("contribution: cosine added beyond other clauses\n(simultaneous 95 % interval)")
    for axes in (left, right):
        _tidy(axes, "x")
    figure.legend(loc="outside upper center", ncols=min(len(names), 3), frameon=False, fontsize=11)
    return _to_png(figure)


def sweep_png(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """The PNG of FuDD over its number of candidates: accuracy beside the template's, and how often the class is among them.

    Args:
        rows: ``Comparison.rows``, those of FuDD with ``k``.
    """
    template = next(row for row in rows if row["system"] == "template")
    follow_ups = [row for row in rows if row["k"] is not None]
    places = {k: place for place, k in enumerate(sorted({row["k"] for row in follow_ups}))}
    figure = Figure(figsize=(WIDTH_INCHES, 6.0), dpi=DPI, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    for label, colour, marker, shift, own in (
        ("FuDD", BLUE, "o", -0.06, [row for row in follow_ups if row["kept"] is None]),
        ("FuDD with a gate", VERMILION, "s", 0.06, [row for row in follow_ups if row["kept"] is not None]),
    ):
        if own:
            means = [100 * row["per_class_mean"] for row in own]
            ends = [
                [100 * _bar(row["per_class_mean"], row[f"per_class_{end}"]) for row in own] for end in ("low", "high")
            ]
            xs = [places[row["k"]] + shift for row in own]
            upper.errorbar(xs, means, ends, color=colour, marker=marker, capsize=4, label=label)
    upper.axhline(100 * template["per_class_mean"], color="#888888", linestyle="--", label="template")
    upper.set_ylabel("mean per-class accuracy (%)\n(95 % interval)")
    upper.legend(frameon=False, fontsize=11, ncols=3, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
    among = {row["k"]: 100 * row["among_k"] for row in follow_ups}
    lower.plot(list(places.values()), [among[k] for k in places], color=GREEN, marker="^")
    lower.set_ylabel("true class among\nthe candidates (%)")
    lower.set_xticks(list(places.values()), list(map(str, places)))
    lower.set_xlabel("candidates K")
    for axes in (upper, lower):
        _tidy(axes, "both")
    return _to_png(figure)
