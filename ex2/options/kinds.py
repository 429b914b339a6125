"""Values of options against the types that they take, before a parser or a library computes with them."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping
from dataclasses import fields
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Any

from ex2.base.errors import UserError, shortened
from ex2.base.files import parse_json

_WORDS = {
    str: "text",
    int: "a number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a mapping",
    NoneType: "null",
}


def type_hints(parts: Iterable[type]) -> dict[str, Any]:
    """The type hint of each option of some dataclasses."""
    return {
        option.name: hint
        for part in parts
        for hints in [typing.get_type_hints(part)]
        for option in fields(part)
        if option.init
        for hint in [hints[option.name]]
    }


def check_kinds(values: Mapping[str, Any], hints: Mapping[str, Any]) -> None:
    """Refuse values from a file that an option cannot take, by name. Numbers may be text, which YAML makes of 1e-4.

    Raises:
        UserError: A list, mapping, date, number or null where something else is due; the reverse; an unknown word.
    """
    for name, value in values.items():
        members = _members(hints[name])
        if not _fits(value, members):
            quotes = " (write it in quotes)" if str in members and isinstance(value, (bool, int, float)) else ""
            raise UserError(f"{name}={shortened(str(value), 600)} must be {_expected(members)}{quotes}.")
        _check_text(name, value, members)


def in_lists(values: Mapping[str, Any], hints: Mapping[str, Any]) -> dict[str, Any]:
    """Values that are alone where an option takes a list, as on the command line, as lists of one."""
    return {
        name: [value] if isinstance(value, (str, int, float)) and _only_list(_members(hints[name])) else value
        for name, value in values.items()
    }


def check_texts(values: Mapping[str, str], hints: Mapping[str, Any]) -> None:
    """Refuse words on the command line that are none of an option's, and mappings that are no JSON, by name."""
    for name, value in values.items():
        members = _members(hints[name])
        if any(typing.get_origin(member) is tuple for member in members):  # a parser would make one of the characters
            raise UserError(f"{name}={shortened(value, 600)}: write {_expected(members)} into a config file.")
        _check_text(name, value, members)


def _check_text(name: str, value: Any, members: list[Any]) -> None:
    """Refuse a word that is none of those that an option lists, and for a mapping text that is none."""
    if dict in members and isinstance(value, str) and value != "None":
        _check_mapping(name, value)
    known = [str(item.value) for kind in members if isinstance(kind, type) and issubclass(kind, Enum) for item in kind]
    if known and isinstance(value, str) and value not in known:
        raise UserError(f"{name}={shortened(value, 600)} is unknown: choose one of {', '.join(known)}.")


def _members(hint: Any) -> list[Any]:
    """The types that a value may have; lists and the like with their elements."""
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return [type(value) for value in typing.get_args(hint)]
    if origin is not None and origin not in (list, tuple, dict):
        return [member for inner in typing.get_args(hint) for member in _members(inner)]
    return [dict if origin is dict else hint]


def _fits(value: Any, members: list[Any]) -> bool:
    if isinstance(value, str) and "\0" in value:
        return False
    if isinstance(value, (list, tuple)):
        return any(_elements_fit(value, hint) for hint in members)
    kinds = {*members, *(typing.get_origin(member) for member in members)}
    if isinstance(value, bool) or value is None:
        return type(value) in kinds
    if isinstance(value, (int, float)):
        lists = [hint for hint in members if typing.get_origin(hint) is list]
        element = {kind for hint in lists for inner in typing.get_args(hint) for kind in _members(inner)}
        return bool(kinds & {int, float} or element & {int, float})
    if isinstance(value, str):
        return not _only_list(members) or any(_elements_fit([value], hint) for hint in members)
    return isinstance(value, dict) and dict in kinds


def _only_list(members: list[Any]) -> bool:
    return all(typing.get_origin(member) in (list, tuple) for member in members if member is not NoneType)


def _elements_fit(values: Iterable[Any], hint: Any) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin not in (list, tuple) or (origin is tuple and Ellipsis not in inner and len(inner) != len(list(values))):
        return False
    members = [member for inner in typing.get_args(hint) for member in _members(inner)]
    # Text for a number is converted by the parser, but not within a list.
    return all(
        not isinstance(value, (list, tuple))
        and _fits(value, members)
        and (str in members or not isinstance(value, str))
        for value in values
    )


def _expected(members: list[Any]) -> str:
    kinds = [typing.get_origin(member) or member for member in members]
    words = [_WORDS.get(list if kind is tuple else kind, "text") for kind in kinds if kind is not NoneType]
    for member in members:
        if (inner := typing.get_args(member)) and set(inner) & {int, float}:
            count = f"{len(inner)} " if typing.get_origin(member) is tuple else ""
            words = [f"a list of {count}numbers"]
    return " or ".join(dict.fromkeys(words))


def _check_mapping(name: str, value: str) -> None:
    """A mapping on the command line is JSON, or a file that holds it."""
    if value.lstrip().startswith("{"):
        try:
            parse_json(value.encode(errors="replace"))
        except ValueError as error:
            raise UserError(f"{name}={shortened(value, 600)} is {error}.") from None
    elif not value or "\0" in value or len(value) > 4096 or not Path(value).is_file():
        raise UserError(f"""{name}={shortened(value, 600)} is neither JSON, as '{{"a": 1}}', nor a file.""")
