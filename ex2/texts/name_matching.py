"""Which class a name in a file means: published files write the classes of a set in many ways.

"Black-footed Albatross" is "Black footed Albatross", "Boeing 707-320" is "707-320 aircraft", "apartment building-outdoor" is
"outdoor apartment building". Names are matched one to one, from strict to loose: what a step tells apart stays apart, and a name
goes to a class only where each is the only one for the other.
"""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from ex2.base.errors import UserError
from ex2.base.files import read_json, text_lines
from ex2.base.shown import printable, some_of

logger = logging.getLogger("ex2")

_ARTICLES = frozenset({"a", "an", "the", "or", "and", "of", "in", "with"})
_IN_ORDER = 0.5
"""Share of the names that must be at their own class's position before the others are taken by position."""
_ENOUGH = (
    5  # names that are sure, before others are taken by what they leave: of three classes, "wolf" may well not be "elk"
)


def match_names(
    found: Sequence[str], class_names: Sequence[str], where: str, aliases: Mapping[str, str] | None = None
) -> list[int]:
    """The class id of each name in a file; what is written otherwise than in the set is said in one line.

    Args:
        found: Names in the file, in its order.
        class_names: Names of the set's C classes, in its order.
        where: The file, for messages.
        aliases: Class of the set by name in the file, for what cannot be guessed.

    Raises:
        UserError: Some names fit no class, or several; all are named. The message begins with `where`.
    """
    aliases = aliases or {}
    if unknown := [name for name in found if name in aliases and aliases[name] not in class_names]:
        raise UserError(f"--aliases: {aliases[unknown[0]]!r} is no class of the dataset ({some_of(class_names, 3)}).")
    ids, steps = _matched(found, class_names, aliases)
    if lost := [i for i in range(len(found)) if i not in ids]:
        raise UserError(f"{where}: {_unmatched([found[i] for i in lost], class_names, set(ids.values()), len(found))}")
    other = [i for i in ids if found[i] != class_names[ids[i]]]
    if other and os.environ.get("RANK", "0") == "0":
        counts = ", ".join(f"{count} {step}" for step, count in Counter(steps[i] for i in other).items())
        pairs = [f"{found[i]!r} is {class_names[ids[i]]!r}" for i in reversed(other)]  # the loosest first
        logger.warning(
            "%s: %d of %d names are written otherwise, and were matched %s: %s.",
            where, len(other), len(found), counts, printable(some_of(pairs)),
        )  # fmt: skip
    return [ids[i] for i in range(len(found))]


def read_aliases(path: Path | None) -> dict[str, str]:
    """What `--aliases FILE` says: an object of names in other files and classes of the set, or lines `NAME = CLASS`.

    Raises:
        UserError: There is no such file, or it holds something else.
    """
    if path is None:
        return {}
    if not path.is_file():
        raise UserError(f"--aliases {path}: no such file; write lines `NAME IN THE FILE = CLASS OF THE DATASET`.")
    if path.suffix == ".json":
        aliases = read_json(path, "the name {!r} is there twice.")
        if not isinstance(aliases, dict) or not all(isinstance(name, str) for name in aliases.values()):
            raise UserError(f"--aliases {path}: expected an object of names and classes.")
        return aliases
    aliases = {}
    for number, line in enumerate(text_lines(path, f"--aliases {path}"), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, equals, class_name = (part.strip() for part in line.rpartition("="))
        if not (name and equals and class_name):
            raise UserError(
                f"--aliases {path}:{number}: {line!r} is no line `NAME IN THE FILE = CLASS OF THE DATASET`."
            )
        aliases[name] = class_name
    return aliases


def _matched(
    found: Sequence[str], class_names: Sequence[str], aliases: Mapping[str, str]
) -> tuple[dict[int, int], dict[int, str]]:
    """Class id by position in `found`, and which step matched it."""
    ids: dict[int, int] = {}
    steps: dict[int, str] = {}

    def take(step: str, pairs: Mapping[int, int]) -> None:
        ids.update(pairs)
        steps.update(dict.fromkeys(pairs, step))

    def left() -> tuple[list[int], list[int]]:
        taken = set(ids.values())
        return [i for i in range(len(found)) if i not in ids], [k for k in range(len(class_names)) if k not in taken]

    if list(found) == list(class_names):
        return {i: i for i in range(len(found))}, dict.fromkeys(range(len(found)), "as they are")
    take("by --aliases", {i: class_names.index(aliases[name]) for i, name in enumerate(found) if name in aliases})
    common = _said_by_one_side_only(found, class_names)
    keys: tuple[tuple[str, Callable[[str], Hashable]], ...] = (
        ("as they are", lambda name: name),
        ("by their letters", lambda name: "".join(_words(name))),
        ("by their words", lambda name: tuple(sorted(map(_singular, _words(name))))),
        ("without what all names of one side have", lambda name: _bare(name, common)),
        ("without what all names of one side have", lambda name: "".join(sorted(_bare(name, common)))),
    )
    for step, key in keys:
        take(step, _same_key(found, class_names, *left(), key))
    whole = len(found) == len(class_names)
    if whole and all(i == k for i, k in ids.items()) and len(ids) >= max(_ENOUGH, _IN_ORDER * len(found)):
        take("by their place in the list", {i: i for i in left()[0]})
    parts = _same_part(found, class_names, *left(), common)
    take("by a part of their words", {i: k for i, k in parts.items() if _says_much(found[i], class_names[k], common)})
    # "beach" is no "beach wagon": one word is enough only where every class has then found its name.
    names, classes = left()
    parts = {i: k for i, k in parts.items() if i in names}
    if whole and len(names) - len(parts) < 2 and len(ids) + len(parts) >= _ENOUGH:
        take("by a part of their words", parts)
        take("as the only ones left", dict(zip(*left(), strict=True)))
    return ids, steps


def _same_key(
    found: Sequence[str],
    class_names: Sequence[str],
    names: list[int],
    classes: list[int],
    key: Callable[[str], Hashable],
) -> dict[int, int]:
    """Names and classes that are alone with their key on both sides."""
    here = Counter(key(found[i]) for i in names)
    counts = Counter(key(class_names[k]) for k in classes)
    there = {key(class_names[k]): k for k in classes}
    return {i: there[own] for i in names if (own := key(found[i])) and here[own] == counts[own] == 1}


def _same_part(
    found: Sequence[str], class_names: Sequence[str], names: list[int], classes: list[int], common: frozenset[str]
) -> dict[int, int]:
    """Names and classes where the words of one are among the other's, and that are alone with that on both sides."""
    here, there = (
        {i: set(_bare(side[i], common)) for i in own} for side, own in ((found, names), (class_names, classes))
    )
    fits = {
        i: [k for k in classes if there[k] and words and (words <= there[k] or there[k] <= words)]
        for i, words in here.items()
    }
    wanted = Counter(k for own in fits.values() for k in own)
    return {i: own[0] for i, own in fits.items() if len(own) == 1 and wanted[own[0]] == 1}


def _says_much(name: str, class_name: str, common: frozenset[str]) -> bool:
    """Whether what two names share is more than one word, or a number."""
    shared = set(_bare(name, common)) & set(_bare(class_name, common))
    return len(shared) > 1 or any(word.isdigit() for word in shared)


def _words(name: str) -> list[str]:
    """A name's words without accents, capitals, punctuation, possessive s and articles; digits apart from letters."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c)).casefold()
    plain = re.sub(r"['’`]s\b|['’`]", "", plain)
    words = [
        (found[0], found["number"] is not None) for found in re.finditer(r"[^\W\d_]+((?P<number>)(?=-?\d))?|\d+", plain)
    ]
    # The A of an A5 is no article.
    return [word for word, number in words if number or word not in _ARTICLES] or [word for word, _ in words]


def _singular(word: str) -> str:
    """A word without its plural ending: rough, but the same for both sides."""
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and re.search(r"(ss|x|ch|sh)es$", word):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _bare(name: str, common: frozenset[str]) -> tuple[str, ...]:
    words = sorted(map(_singular, _words(name)))
    return tuple(word for word in words if word not in common)


def _said_by_one_side_only(found: Sequence[str], class_names: Sequence[str]) -> frozenset[str]:
    """Words in most names of one side and in few of the other: "aircraft", "dog", "land"."""
    shares: list[dict[str, float]] = []
    for names in (found, class_names):
        words = Counter(word for name in names for word in set(map(_singular, _words(name))))
        shares.append({word: count / len(names) for word, count in words.items() if count > 2})
    return frozenset(
        word
        for own, other in (shares, shares[::-1])
        for word, share in own.items()
        if share > 0.25 and other.get(word, 0.0) < share / 2
    )


def _unmatched(lost: Sequence[str], class_names: Sequence[str], taken: set[int], total: int) -> str:
    free = [name for k, name in enumerate(class_names) if k not in taken]
    by_folded = {name.casefold(): name for name in free}
    parts = []
    for name in lost:
        nearest = get_close_matches(name.casefold(), by_folded, n=1)
        parts.append(f"{name!r}" + (f" (nearest: {by_folded[nearest[0]]!r})" if nearest else ""))
    rest = f"; classes without a name: {some_of([repr(name) for name in free])}" if free else ""
    return (
        f"{len(lost)} of {total} names are no class of the dataset, or could be several: {', '.join(parts)}{rest}. Correct "
        "them, or say which classes they are with --aliases FILE (lines `NAME = CLASS`)."
    )
