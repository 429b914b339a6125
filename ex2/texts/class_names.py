"""Texts without the name of their class, so that what they say can be told apart from what they call it.

`strip_whole_name` takes out the name as it is written. `strip_name` is strict: a policy that is paid for texts without names
would find the plural, the compound or the half of a name that it leaves.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

_STOP_WORDS = frozenset({"a", "an", "and", "for", "from", "in", "of", "on", "or", "the", "to", "with"})
_TOKEN = re.compile(r"\w+(?:[-‐‑–'’.]\w+)*")
_JOINTS = re.compile(r"[-‐‑–'’._]")
_COMPOUND_FROM = (
    5  # letters of a word that gives a name away within another one: "cloverleaf", but no "bear" in "beard"
)
_ENDINGS = ("like", "ish", "ie", "y")  # of shorter ones: "catlike"


@lru_cache(maxsize=4096)
def article(name: str) -> str:
    """The indefinite article that a name takes, by its sound: "a" or "an"."""
    return str(_inflect().a(name)).split()[0] if name.strip() else "a"


def strip_name(text: str, class_name: str, stand_in: str = "it") -> str:
    """`text` without the name of its class and without any part of it.

    Besides what `strip_whole_name` takes out, each word goes that is a word of the name in any number ("cacti", "geese"), or
    is made with one ("tiny-clover-goats", "beetle-like", "cloverleaf"), with its article. Words such as "of" do not count.
    Where nothing else is left, the stand-in alone remains.
    """
    text = strip_whole_name(text, class_name, stand_in)
    words = _content_words(class_name)
    if not words:
        return text
    article = r"(?:\b(?:an?|the)\s+)?"
    pattern = re.compile(rf"({article})({_TOKEN.pattern})", re.IGNORECASE)

    def replaced(match: re.Match[str]) -> str:
        return stand_in if _names(match.group(2), words) and match.group(2) != stand_in else match.group()

    text = pattern.sub(replaced, text)
    if stand_in:
        # "it it" of "lady, beetle" says no more than "it".
        again = re.escape(stand_in)
        text = re.sub(rf"(?<!\w){again}(?:[\s\-]+{again})+(?!\w)", lambda _: stand_in, text)
    return " ".join(text.split()) or stand_in


def mentions(text: str, class_name: str) -> int:
    """How often a text has the name of its class or a part of it: what `strip_name` takes out, a name of several words once."""
    mark = "\0"  # in no text
    return strip_name(text, class_name, mark).count(mark) if text.strip() else 0


def _content_words(class_name: str) -> tuple[str, ...]:
    words = (word.casefold() for word in re.findall(r"[^\W_]+", class_name))
    return tuple(dict.fromkeys(word for word in words if len(word) > 1 and word not in _STOP_WORDS))


@lru_cache(maxsize=2**16)  # an analysis asks of the same words some million times
def _names(token: str, words: tuple[str, ...]) -> bool:
    """Whether a token is one of the words or made with one."""
    parts = [part for part in _JOINTS.split(token.casefold()) if part]
    joined = "".join(parts)
    for word in words:
        if any(part in _forms(word) or _is_derived(part, word) for part in parts):
            return True
        if len(word) >= _COMPOUND_FROM and any(form in joined for form in _forms(word)):
            return True
    return False


def _is_derived(part: str, word: str) -> bool:
    return part.startswith(word) and part[len(word) :] in _ENDINGS


@lru_cache(maxsize=4096)
def _forms(word: str) -> frozenset[str]:
    """A word, casefolded, in singular and plural, the classical plural included: cactus, cactuses, cacti."""
    forms = {word}
    if word.isascii() and word.isalpha():
        engine = _inflect()
        singular = engine.singular_noun(word)
        for known in (word, singular) if isinstance(singular, str) else (word,):
            forms |= {known, f"{known}s"}
            for classical in (False, True):
                engine.classical(all=classical)
                forms.add(engine.plural_noun(known).casefold())
    return frozenset(forms)


@lru_cache(maxsize=1)
def _inflect() -> Any:
    import typeguard

    # It would rewrite all of inflect at its import, which takes two seconds; `_forms` and `article` ask for words only.
    checking = typeguard.typechecked
    typeguard.typechecked = lambda function: function  # type: ignore[assignment]
    try:
        import inflect
    finally:
        typeguard.typechecked = checking
    return inflect.engine()


def strip_whole_name(text: str, class_name: str, stand_in: str = "it") -> str:
    """`text` without the name of its class as it is written: article, regular plural and possessive go with it, letters' case
    does not matter, and a blank is as good as a hyphen. Parts of a name stay.

    Where nothing else is left, the stand-in alone remains.
    """
    words = [word for word in re.split(r"[\s\-]+", class_name) if word]
    if words:
        # "ears of corn" is the plural of "ear of corn".
        counted = {len(words) - 1} | {i - 1 for i, word in enumerate(words) if i and word.casefold() == "of"}
        pattern = r"[\s\-]+".join(_plural(word) if i in counted else re.escape(word) for i, word in enumerate(words))
        name = rf"(?<!\w)(?:(?:an?|the)\s+)?{pattern}(?:['’]s|(?<=s)['’])?(?!\w)"
        # A function, as a stand-in may hold backslashes.
        text = re.sub(name, lambda _: stand_in, text, flags=re.IGNORECASE)
    return " ".join(text.split()) or stand_in


def _plural(word: str) -> str:
    """Regular expression of a word and its regular plural: tigers, foxes, butterflies, leaves."""
    if re.search(r"[^\W\d_aeiou]y$", word, re.IGNORECASE):
        return re.escape(word[:-1]) + "(?:y|ies)"
    if found := re.search(r"(?:l|r|ea|oa|ie)(f)$|i(fe)$", word, re.IGNORECASE):
        ending = found.group(found.lastindex or 1)
        return re.escape(word[: -len(ending)]) + f"(?:{ending}s?|ves)"
    return re.escape(word) + "(?:e?s)?"
