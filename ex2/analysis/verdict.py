"""The verdict in words: what was rewarded, what was not, and how sure that is. No sentence says more than its table.

The sentences go to the terminal, the report and `ex2 compare` as they are. Each starts with what was found about a category
(`findings.finding`), then says what it rests on, with the numbers of the table `preference`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ex2.analysis.findings import FEWEST_CLASSES, preferred, sign
from ex2.stats.intervals import POWER, bracket

Row = Mapping[str, Any]

NO_BASE = "No statement about preference: there are no texts of the untrained policy to compare with."
NOTHING = (
    "No preference found: there is no kind of clause that training made more frequent, that brings a text nearer to images of "
    "its class, and that does so for being about that class."
)
STARTS = {
    "preferred": "Preferred",
    "collapsed": "Not to be called preferred",
    "for_any_class": "Rewarded whatever the class",
    "not_rewarded": "Not rewarded",
    "undecided": "Undecided",
    "untested": "Not tested",
    "not_learned": "Not learned",
    "given_up": "Given up",
}
"""How the sentence about each finding starts, in the order of the sentences."""


def verdict(preference: pd.DataFrame, runs: int = 1) -> list[str]:
    """The preference table in sentences.

    Args:
        preference: `preference_table`.
        runs: Training runs that it comes from; the intervals of several are about other runs too.
    """
    if preference["change_mean"].isna().all():
        return [NO_BASE]
    classes = preference["classes"].max()
    if classes < FEWEST_CLASSES:
        return [
            f"No statement about preference: {classes:.0f} classes are too few to tell it from chance; describe {FEWEST_CLASSES} "
            "or more."
        ]
    rows = preference.to_dict("records")
    said = [sentence(row) for finding in STARTS for row in rows if row["finding"] == finding]
    unchanged = [
        f"{spoken(row['category'])} ({_at_most(row['change_within'])})" for row in rows if row["finding"] == "unchanged"
    ]
    if unchanged:
        said.append(f"No clear change of share: {', '.join(unchanged)}.")
    alike = [
        f"{spoken(row['category'])} ({_points(row['change_mean'], '+')})" for row in rows if row["finding"] == "unknown"
    ]
    if alike:
        said.append(f"Cannot be told: {', '.join(alike)}; the change of share is the same in every class.")
    return [*([] if preferred(preference) else [NOTHING]), *said, how_sure(preference, runs)]


def sentence(row: Row) -> str:
    """What was found about a category and what that rests on: a row of the table `preference` whose finding is in `STARTS`."""
    more = f"The policy says more of it after training ({_ends(row, 'change')})"
    less = f"The policy says less of it after training ({_ends(row, 'change')})"
    nearer = f"such clauses bring a text nearer to images of its class (cosine {_ends(row, 'added')})"
    away = f"such clauses take a text away from images of its class (cosine {_ends(row, 'added')})"
    tells_more = f"say more about that class than other clauses do (cosine {_ends(row, 'contribution')})"
    tells_less = f"say less about their class than other clauses do (cosine {_ends(row, 'contribution')})"
    match row["finding"]:
        case "preferred":
            said = f"{more}, {nearer}, and they {tells_more}."
        case "collapsed":
            said = f"{more}, {nearer}, and they {tells_more}; but texts that have collapsed do not show what the VLM prefers."
        case "for_any_class":
            said = f"{more}, and {nearer}, but other classes' images too, by {_ends(row, 'general')} more than other clauses do."
        case "not_rewarded":
            said = f"{more}, but {away}." if sign(row, "added") == -1 else f"{more}, but such clauses {tells_less}."
        case "undecided":
            said = (
                f"{more}; whether that pays cannot be told: such clauses add {_ends(row, 'added')} to the cosine with images of "
                f"the class, and {_ends(row, 'contribution')} about that class beyond other clauses."
            )
        case "untested":
            said = f"{more}, but too few classes have such clauses beside others to say whether that pays."
        case "not_learned":
            said = (
                f"{nearer.capitalize()}, and they {tells_more}, but the policy does not clearly say more of it after training "
                f"({_ends(row, 'change')})."
            )
        case "given_up" if sign(row, "added") == 1 and sign(row, "contribution") == 1:
            said = f"{less}, although {nearer}, and they {tells_more}."
        case "given_up" if sign(row, "added") == -1:
            said = f"{less}, and {away}."
        case _:
            said = f"{less}."
    return f"{STARTS[row['finding']]}: {spoken(row['category'])}. {said}"


def how_sure(preference: pd.DataFrame, runs: int = 1) -> str:
    """What the verdict covers, and how large an effect must be to be seen."""
    classes = f"{preference['classes'].max():.0f}"
    if runs == 1:
        covers = (
            f"for other classes like these {classes}; another run may turn elsewhere (train three or more: ex2 compare)"
        )
    else:
        covers = f"for other classes like these {classes} and other training runs like these {runs}"
    change, contribution = (preference[f"{quantity}_detectable"].dropna() for quantity in ("change", "contribution"))
    seen = [
        *([f"a change of share of {_range(100 * change, '.1f', most=100)} points"] if len(change) else []),
        *([f"a contribution of {_range(contribution, '.3f')}"] if len(contribution) else []),
    ]
    power = (
        f" Large enough to be seen in {POWER:.0%} of such studies, by category: {' and '.join(seen)}." if seen else ""
    )
    return f"How sure: all intervals hold together with 95 % confidence {covers}.{power}"


def _range(values: pd.Series, form: str, most: float = np.inf) -> str:
    ends = [f"{end:{form}}" if end <= most else f"over {most:.0f}" for end in (values.min(), values.max())]
    return " to ".join(dict.fromkeys(ends))


def spoken(category: str) -> str:
    """A category as it is written in prose."""
    return category.replace("_", "-")


def _at_most(within: float) -> str:
    # A few runs bound so little that the interval reaches beyond what a share can change by.
    return f"at most {_points(within)} either way" if within < 1 else "any change is possible"


def _points(value: float, sign: str = "") -> str:
    return f"{100 * value:{sign}.1f} points"


def _ends(row: Row, quantity: str) -> str:
    mean, low, high = (row[f"{quantity}_{end}"] for end in ("mean", "low", "high"))
    if quantity == "change":
        return f"{_points(mean, '+')} {bracket(100 * low, 100 * high, '+.1f')}"
    return f"{mean:+z.3f} {bracket(low, high, '+.3f')}"


def format_preference(preference: pd.DataFrame, shares: pd.DataFrame) -> str:
    """Share, what clauses add and what they say about their class, by category, as monospace text.

    Args:
        preference: `preference_table`.
        shares: `shares`.
    """
    means = shares[shares["level"] == "clauses"].set_index(["system", "category"])["mean"]

    def share(system: str, category: str) -> str:
        return f"{100 * means[system, category]:.1f} %" if (system, category) in means.index else "-"

    width = max(len("category"), *map(len, preference["category"])) + 1
    head = ("base", "aligned", "share change", "added to the name", "about its class")
    lines = [f"{'category':<{width}}{head[0]:>8}{head[1]:>9}  {head[2]:<30}{head[3]:<24}{head[4]}"]
    for row in preference.to_dict("records"):
        cells = [
            "-" if np.isnan(row[f"{what}_mean"]) else _ends(row, what) for what in ("change", "added", "contribution")
        ]
        name = row["category"]
        line = f"{name:<{width}}{share('base', name):>8}{share('aligned', name):>9}  {cells[0]:<30}{cells[1]:<24}{cells[2]}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def placebo_warnings(preference: pd.DataFrame, contributions: pd.DataFrame) -> list[str]:
    """A warning for each preferred category whose clauses do as well behind the name of another class.

    Args:
        preference: `preference_table`.
        contributions: `contributions`.
    """
    swapped = contributions[contributions["test"] == "contrast_swapped"].set_index("category")
    warnings = []
    for name in preferred(preference):
        row = swapped.loc[name]
        if row["low"] > 0:
            ends = f"{row['mean']:+.3f} {bracket(row['low'], row['high'], '+.3f')}"
            warnings.append(
                f"The same {spoken(name)} clauses put to other classes say more about these than other clauses do as well "
                f"(cosine {ends}): the preference need not be about the class."
            )
    return warnings


def counterfactual_sentences(counterfactuals: pd.DataFrame) -> list[str]:
    """What happens to what clauses say about their class when one word is changed; nothing about edits that too few classes have.

    Args:
        counterfactuals: `findings.counterfactuals`.
    """
    words = {"recoloured": "colour", "moved": "place"}
    said = []
    for row in counterfactuals[counterfactuals["classes"] >= FEWEST_CLASSES].to_dict("records"):
        ends = f"cosine {row['mean']:+.3f} {bracket(row['low'], row['high'], '+.3f')}"
        if row["low"] > 0:
            found = f"lose some of what they say about their class ({ends}): the VLM reads the {words[row['edit']]}"
        elif row["high"] < 0:
            found = f"say more about their class ({ends}): what the policy says of {words[row['edit']]} is often wrong"
        else:
            found = f"do not clearly say less about their class ({ends})"
        said.append(f"With another {words[row['edit']]}, {row['n']} clauses that name one {found}.")
    return said
