"""Plots of a study as PNG and SVG, narrow enough for a phone.

5 inches are 360 points, so that a phone shows the SVG at about one pixel a point, and every text is at least 10 of them. Each
category has one colour everywhere, four of them from Okabe and Ito's colour-blind safe palette; `unsure` is grey and
hatched. Image sets and monitors are drawn in black and grey, so that no colour means two things. Texts stay texts in the SVG.
"""

from __future__ import annotations

import io
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ex2.analysis.findings import SHOWN
from ex2.stats.plots import HELDOUT_COSINE_KEYS, KL_KEYS, REWARD_COSINE_KEYS, SYSTEM_LABELS, X_KEYS, laid_out
from ex2.texts.categories import CATEGORIES

COLOURS = {
    "visual": "#0072B2", "habitat": "#009E73", "kind": "#8A63C9", "non_visual": "#CC79A7", "spurious": "#D55E00",
    "name_echo": "#967700", "unsure": "#8A8A8A",
}  # fmt: skip
"""Colour of each category; each has a contrast of 3 to 1 or more with white and with near-black."""

INK, MUTED, LINE, PAPER = "#1b1f24", "#59636e", "#d5dae0", "#ffffff"
SYSTEMS = ("base", "aligned")
MONITORS = {
    "hub_score": "hub score (cosine)",
    "duplicate_rate": "duplicates (share)",
    "boilerplate_rate": "boilerplate (share)",
    "truncated_share": "truncated (share)",
}
ROWS = 30  # classes or questions shown at most
TOP_TAGS = 12

_WIDTH_INCHES, _DPI = 5.0, 200
_SIZE = 11  # points
_STYLE: dict[Any, Any] = {
    "font.size": _SIZE, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": MUTED, "axes.titlecolor": INK,
    "axes.titlesize": _SIZE, "axes.titlelocation": "left", "axes.labelsize": _SIZE, "xtick.color": MUTED, "ytick.color": MUTED,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK, "legend.frameon": False, "legend.fontsize": _SIZE,
    "axes.facecolor": PAPER, "figure.facecolor": PAPER, "savefig.facecolor": PAPER, "hatch.color": PAPER,
    "grid.color": LINE, "svg.fonttype": "none", "svg.hashsalt": "ex2",
    "text.parse_math": False,  # names and questions may hold dollar signs
}  # fmt: skip


@dataclass(frozen=True)
class Plot:
    """One plot in its two forms, both on white; the PNG is 1,000 pixels wide."""

    png: bytes
    svg: bytes


def draw(tables: Mapping[str, pd.DataFrame]) -> dict[str, Plot]:
    """Every plot that the tables of a study have something to draw for, by name."""
    figures: dict[str, Callable[[], Figure | None]] = {
        "shares": lambda: _shares(tables["shares"]),
        "contributions": lambda: _contributions(tables["contributions"]),
        "attributes": lambda: _attributes(tables["attributes"]),
        "by_question": lambda: _by_question(tables["shares_by_question"]),
        "by_class": lambda: _by_class(tables["shares_by_class"]),
        "controls": lambda: _controls(tables["controls"]),
        "learning_curve": lambda: _learning_curve(tables.get("learning_curve")),
    }
    plots = {}
    with _style():
        for name, make in figures.items():
            figure = make()
            if figure is not None:
                laid_out(figure)
                plots[name] = Plot(_save(figure, "png"), _save(figure, "svg"))
    return plots


def spoken(name: str) -> str:
    """A category, tag or system as it is written in prose."""
    return "non-visual" if name == "non_visual" else name.replace("_", " ")


def share_table(shares: pd.DataFrame, key: str) -> pd.DataFrame:
    """Shares of the categories, one row a class or question: the `ROWS` most extreme where there are more.

    Extreme are those whose shares in the aligned policy's texts are furthest from the mean over all rows (half the sum of
    absolute differences). Rows are ordered by those shares, so that like stand beside like.

    Args:
        shares: The table ``shares_by_class`` or ``shares_by_question``.
        key: ``class_name`` or ``question``.

    Returns:
        Columns (system, category) for the systems that occur, NaN where a system has no such texts; index `key`.
    """
    wide = shares.pivot_table(index=key, columns=["system", "category"], values="share", sort=False)
    systems = [system for system in SYSTEMS if system in wide.columns.get_level_values(0)]
    parts = {}
    for system in systems:
        own = wide[system].reindex(columns=list(SHOWN))
        # A category without texts has no row; a class without any texts of the system is not known.
        parts[system] = own.fillna(0.0).where(own.notna().any(axis=1))
    table = pd.concat(parts, axis=1)
    distance = (table["aligned"] - table["aligned"].mean()).abs().sum(axis=1) / 2
    table = table.loc[distance.sort_values(ascending=False, kind="stable").index[:ROWS]]
    return table.sort_values([("aligned", name) for name in SHOWN], ascending=False, kind="stable")


# ---------------------------------------------------------------- figures


@contextmanager
def _style() -> Iterator[None]:
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # Of class names in other scripts; the SVG leaves glyphs to the reader's fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _figure(height: float) -> Figure:
    return Figure(figsize=(_WIDTH_INCHES, height), dpi=_DPI, layout="constrained")


def _shares(table: pd.DataFrame) -> Figure:
    figure = _figure(6.0)
    levels = ("descriptions", "clauses")
    for axes, level in zip(figure.subplots(2, 1, sharex=True), levels, strict=True):
        own = table[table["level"] == level]
        _pairs(axes, own, "category", SHOWN, [COLOURS[name] for name in SHOWN])
        axes.set_title(f"of {level}")
        _per_cent(axes)
    axes.set_xlabel("share, mean over classes, with 95 % interval")
    _system_legend(figure, table["system"])
    return figure


def _contributions(table: pd.DataFrame) -> Figure | None:
    rows = table[table["test"] == "contrast"].set_index("category").reindex(list(CATEGORIES))
    if rows["mean"].isna().all():
        return None
    figure = _figure(3.2)
    axes = figure.subplots()
    axes.axvline(0, color=INK, linewidth=1.2)
    for place, (name, row) in enumerate(rows.iterrows()):
        if np.isnan(row["mean"]):
            axes.text(0, place, "nothing to compare", va="center", ha="center", color=MUTED, bbox=_HALO)
        _interval(axes, row, place, COLOURS[str(name)])
    _name_rows(axes, list(CATEGORIES))
    axes.margins(x=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("cosine about the class beyond other clauses,\nmean over classes, simultaneous 95 % interval")
    return figure


def _attributes(table: pd.DataFrame) -> Figure | None:
    tags = top_tags(table)
    if not tags:
        return None
    figure = _figure(1.5 + 0.36 * len(tags))
    axes = figure.subplots()
    colour = table.drop_duplicates("tag").set_index("tag")["category"].map(COLOURS)
    _pairs(axes, table, "tag", tags, [colour[tag] for tag in tags])
    _per_cent(axes)
    axes.set_xlabel("share of clauses, with 95 % interval")
    _system_legend(figure, table["system"])
    return figure


def top_tags(attributes: pd.DataFrame) -> list[str]:
    """The `TOP_TAGS` attribute tags with the largest share in either system, largest first; none where no text has any."""
    largest = attributes.groupby("tag", sort=False)["mean"].max().sort_values(ascending=False, kind="stable")
    return largest[largest > 0].index[:TOP_TAGS].tolist()


def _by_question(shares: pd.DataFrame) -> Figure:
    table = share_table(shares, "question")
    labels = [_short(str(question) or "(no question)", 46, lines=2) for question in table.index]
    return _stacked_rows(table, labels)


def _stacked_rows(table: pd.DataFrame, labels: Sequence[list[str]]) -> Figure:
    """One stacked bar a system below each label, for labels that are too long to stand beside bars."""
    systems = list(dict.fromkeys(table.columns.get_level_values(0)))
    y, ticks, positions = 0.0, [], []
    for lines in labels:
        positions.append(y)
        y += 0.95 * len(lines)
        ticks += [y + 0.9 * place for place in range(len(systems))]
        y += 0.9 * len(systems) + 0.35
    figure = _figure(1.3 + 0.19 * y)
    axes = figure.subplots()
    for place, system in enumerate(systems):
        _stack(axes, table[system], ticks[place :: len(systems)], 0.78)
    for top, lines in zip(positions, labels, strict=True):
        for number, line in enumerate(lines):
            axes.text(0, top + 0.95 * number, line, va="center").set_in_layout(False)
    axes.set_yticks(ticks, [system for _ in labels for system in systems])
    axes.set_ylim(y - 0.2, -0.7)
    _finish_stacks(figure, [axes])
    return figure


def _by_class(shares: pd.DataFrame) -> Figure:
    table = share_table(shares, "class_name")
    systems = list(dict.fromkeys(table.columns.get_level_values(0)))
    figure = _figure(1.5 + 0.235 * len(table))
    panels = figure.subplots(1, len(systems), sharey=True, squeeze=False)[0]
    for axes, system in zip(panels, systems, strict=True):
        _stack(axes, table[system], range(len(table)), 0.8)
        axes.set_title(f"{system} policy")
    names = [_short(str(name), 18)[0] for name in table.index]
    panels[0].set_yticks(range(len(table)), names)
    panels[0].set_ylim(len(table) - 0.5, -0.5)
    _finish_stacks(figure, panels)
    return figure


def _controls(table: pd.DataFrame) -> Figure:
    names = [name for name in SYSTEM_LABELS if name in set(table["system"])]
    figure = _figure(1.5 + 0.56 * len(names))
    axes = figure.subplots()
    for images, colour, marker, offset in (("reward", MUTED, "o", 0.24), ("heldout", INK, "s", 0.5)):
        own = table[table["images"] == images].set_index("system")
        for place, name in enumerate(names):
            _interval(axes, own.loc[name], place + offset, colour, marker)
        if images == "heldout":
            axes.axvline(own.loc["aligned", "mean"], color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
    axes.set_yticks([])
    axes.set_ylim(len(names) - 0.1, -0.35)
    axes.margins(x=0.06)
    left = axes.get_xlim()[0]
    for place, name in enumerate(names):
        axes.axhline(place - 0.3, color=LINE, linewidth=0.8, zorder=0)
        axes.text(left, place - 0.08, f" {SYSTEM_LABELS[name]}", va="center", bbox=_HALO)
    axes.set_xlim(left=left)
    _tidy(axes, "x")
    axes.set_xlabel("cosine, mean over classes, with 95 % interval\n(dashed: aligned policy, held-out images)")
    handles = [_dot(MUTED, "o", "reward images"), _dot(INK, "s", "held-out images")]
    figure.legend(handles=handles, loc="outside upper left", ncols=2, handletextpad=0.2)
    return figure


def _learning_curve(table: pd.DataFrame | None) -> Figure | None:
    x_key = next((key for key in X_KEYS if table is not None and key in table), None)
    if table is None or x_key is None:
        return None
    curves = {"reward images": REWARD_COSINE_KEYS, "held-out images": HELDOUT_COSINE_KEYS}
    cosines = {label: _series(table, x_key, keys) for label, keys in curves.items()}
    # Above 1 a reward was logged after its scale: no cosine any more.
    cosines = {label: points for label, points in cosines.items() if len(points) and points.abs().max() <= 1}
    small = {title: _series(table, x_key, (f"monitors/{name}",)) for name, title in MONITORS.items()}
    small |= {
        "KL from reference (nats)": _series(table, x_key, KL_KEYS),
        "words a text": _series(table, x_key, ("monitors/words",)),
    }
    small = {title: points for title, points in small.items() if len(points)}
    if not cosines and not small:
        return None
    rows: list[Any] = [["cosine", "cosine"]] if cosines else []
    titles = list(small)
    rows += [[titles[i], titles[min(i + 1, len(titles) - 1)]] for i in range(0, len(titles), 2)]
    figure = _figure(0.5 + 2.2 * bool(cosines) + 1.45 * ((len(titles) + 1) // 2))
    heights = [1.6 if row[0] == "cosine" else 1.0 for row in rows]
    panels: dict[str, Axes] = figure.subplot_mosaic(rows, height_ratios=heights, sharex=True)
    for label, points in cosines.items():
        colour, style = (INK, "-") if label == "held-out images" else (MUTED, (0, (4, 2)))
        panels["cosine"].plot(points.index, points, color=colour, linestyle=style, linewidth=1.6, label=label)
    if cosines:
        panels["cosine"].set_title("cosine with images of the class")
        figure.legend(*panels["cosine"].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    for title, points in small.items():
        panels[title].plot(points.index, points, color=INK, linewidth=1.3)
        panels[title].set_title(title)
    for axes in panels.values():
        _tidy(axes, "both")
        axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        if "(share)" in axes.get_title(loc="left"):
            top = max(0.2, 1.08 * axes.dataLim.y1)
            axes.set_ylim(-0.04 * top, top)  # a line at 0 stays in sight
    figure.supxlabel(X_KEYS[x_key], fontsize=_SIZE)
    return figure


# ---------------------------------------------------------------- parts of figures

_HALO = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.5}


def _pairs(axes: Axes, table: pd.DataFrame, key: str, names: Sequence[str], colours: Sequence[str]) -> None:
    """For each name the base policy's mean (hollow) and the aligned policy's (filled), with intervals."""
    systems = [system for system in SYSTEMS if system in set(table["system"])]
    for number, system in enumerate(systems):
        own = table[table["system"] == system].set_index(key)
        offset = 0.34 * (number - (len(systems) - 1) / 2)
        for place, (name, colour) in enumerate(zip(names, colours, strict=True)):
            _interval(axes, own.loc[name], place + offset, colour, hollow=system == "base")
    _name_rows(axes, names)


def _interval(axes: Axes, row: Any, y: float, colour: str, marker: str = "o", hollow: bool = False) -> None:
    """A mean and, where there is one, its interval; nothing where there is no mean."""
    if np.isnan(row["mean"]):
        return
    if not np.isnan(row["low"]):
        axes.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=2, solid_capstyle="butt")
    axes.plot(
        [row["mean"]], [y], marker, color=colour, markersize=7.5, markeredgewidth=2,
        markerfacecolor=PAPER if hollow else colour, clip_on=False, zorder=3,
    )  # fmt: skip


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [spoken(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    _tidy(axes, "x")


def _per_cent(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    axes.set_xlim(left=0)


def _stack(axes: Axes, shares: pd.DataFrame, positions: Iterable[float], height: float) -> None:
    """One stacked bar a row of shares (columns `SHOWN`)."""
    positions = list(positions)
    left = np.zeros(len(shares))
    for name in SHOWN:
        widths = shares[name].fillna(0.0).to_numpy()
        hatch = "////" if name == "unsure" else None
        axes.barh(positions, widths, height, left, color=COLOURS[name], hatch=hatch, edgecolor=PAPER, linewidth=0.5)
        left += widths
    for place in np.flatnonzero(shares.isna().all(axis=1)):
        axes.text(0, positions[place], " no texts", va="center", color=MUTED)


def _finish_stacks(figure: Figure, panels: Iterable[Axes]) -> None:
    for axes in panels:
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.5, 1], ["0", "50", "100"])
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, pad=6)
    patches = [
        Patch(facecolor=COLOURS[n], label=spoken(n), hatch="////" if n == "unsure" else None, edgecolor=PAPER)
        for n in SHOWN
    ]
    figure.legend(handles=patches, loc="outside upper left", ncols=3, handlelength=1.2, columnspacing=1.2)
    figure.supxlabel("share of descriptions (%)", fontsize=_SIZE)


def _system_legend(figure: Figure, systems: pd.Series) -> None:
    handles = [
        _dot(INK, "o", f"{system} policy", hollow=system == "base") for system in SYSTEMS if system in set(systems)
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=2, handletextpad=0.2)


def _dot(colour: str, marker: str, label: str, hollow: bool = False) -> Line2D:
    return Line2D(
        [], [], color=colour, marker=marker, linestyle="none", markersize=7.5, markeredgewidth=2,
        markerfacecolor=PAPER if hollow else colour, label=label,
    )  # fmt: skip


def _tidy(axes: Axes, grid_axis: Any) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis=grid_axis, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0, pad=9)


def _series(table: pd.DataFrame, x_key: str, keys: Sequence[str]) -> pd.Series:
    """The first of `keys` that the metrics have, by x; of a step that was logged twice (a resumed run) the last value."""
    for key in keys:
        if key in table:
            points = (
                table[[x_key, key]].apply(pd.to_numeric, errors="coerce").dropna().drop_duplicates(x_key, keep="last")
            )
            if len(points):
                return points.set_index(x_key)[key].sort_index()
    return pd.Series(dtype=float)


def _short(text: str, width: int, lines: int = 1) -> list[str]:
    """A text on a few lines at most, each up to `width` letters wide, without characters that SVG does not allow."""
    rest = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    wrapped: list[str] = []
    while rest and len(wrapped) < lines:
        # Chinese, Japanese and Korean characters are as wide as two letters.
        columns = np.cumsum([2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in rest])
        end = int(np.searchsorted(columns, width, side="right"))
        if end < len(rest):
            last = len(wrapped) == lines - 1
            end = end - 1 if last else rest.rfind(" ", 0, end + 1) if " " in rest[: end + 1] else end
            wrapped.append(rest[:end].rstrip() + ("…" if last else ""))
        else:
            wrapped.append(rest)
        rest = rest[end:].lstrip()
    return wrapped or [""]


# ---------------------------------------------------------------- files


def _save(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    # No date: the same study gives the same bytes.
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type")) if kind == "svg" else None
    figure.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()
