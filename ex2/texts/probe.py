"""Probe sentences: what a VLM is asked directly, without a policy in between.

For each class a few written sentences of each kind, none with the name of its class. JSON lines, one object a sentence:

    {"class_name": "owl", "kind": "visual", "text": "It has large round eyes in a flat face."}

The kinds are finer than the categories of findings: what a thing is used for or does, and what kind of thing it is, are
told apart, since a VLM may prefer one of them and not the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ex2.base.errors import UserError, did_you_mean
from ex2.base.files import json_lines, json_object
from ex2.texts.class_names import strip_name

KINDS = {"visual": "visual", "habitat": "habitat", "use": "non_visual", "kind": "kind", "chatter": "spurious"}
"""The category that each kind of sentence belongs to, in the order of tables: looks; where it is found; what it does and what
people do with it; what kind of thing it is; talk of a photo page."""

SPOKEN = {"visual": "visual", "habitat": "habitat", "use": "use", "kind": "kind of thing", "chatter": "page chatter"}
"""The kinds as they are shown."""

SHIPPED = Path(__file__).resolve().parent.parent / "assets" / "probe"
"""Folder of the probes that come with EX2: ``DATASET.jsonl``."""

_KEYS = ("class_name", "kind", "text")


@dataclass(frozen=True)
class ProbeSentence:
    """One written sentence about one class.

    Attributes:
        class_name: The class; its name, or a part of it, is not in the text.
        kind: One of `KINDS`.
        text: The sentence, white space collapsed; never blank.

    Raises:
        UserError: A field is no string, the kind is unknown, or the text is blank or holds the name.
    """

    class_name: str
    kind: str
    text: str

    def __post_init__(self) -> None:
        for key in _KEYS:
            if not isinstance(getattr(self, key), str):
                raise UserError(f"{key} must be a string, found {getattr(self, key)!r}")
        if self.kind not in KINDS:
            hint = did_you_mean(self.kind, KINDS)
            raise UserError(f"kind {self.kind!r} is none of {', '.join(KINDS)}.{hint}")
        object.__setattr__(self, "text", " ".join(self.text.split()))
        if not self.text:
            raise UserError("text is empty")
        # Parts count too: "It has red fur." would tell the red fox by its name.
        nameless = strip_name(self.text, self.class_name)
        if nameless != self.text:
            raise UserError(
                f"the sentence holds the name of its class {self.class_name!r}, or a part of it (without: {nameless!r}); "
                "say it in other words"
            )


def shipped_probe(dataset: str, class_names: Sequence[str]) -> list[ProbeSentence]:
    """The sentences that come with EX2 for a dataset, by its name; none where there are no such."""
    files = {path.stem: path for path in SHIPPED.glob("*.jsonl")}
    return read_probe(files[dataset], class_names) if dataset in files else []


def read_probe(path: Path, class_names: Sequence[str]) -> list[ProbeSentence]:
    """Read a file of probe sentences in file order; blank lines are skipped, and so are keys that are not needed.

    Args:
        path: JSON lines.
        class_names: The dataset's class names; the sentences may be about some of them.

    Raises:
        UserError: File absent, broken JSON, a malformed sentence or one about an unknown class; the message starts with
            ``FILE:LINE``. Or there are fewer than two classes or kinds, or a class lacks a kind that others have.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; a probe is a file of JSON lines with {', '.join(_KEYS)}")
    sentences = []
    for number, line in json_lines(path):
        try:
            sentence = _decode(line)
            _check_class(sentence.class_name, class_names)
        except UserError as error:
            raise UserError(f"{path}:{number}: {error}") from None
        sentences.append(sentence)
    try:
        check_probe(sentences, class_names)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return sentences


def check_probe(sentences: Sequence[ProbeSentence], class_names: Sequence[str]) -> None:
    """Refuse sentences that are about other classes, or whose kinds cannot be compared within each class.

    Raises:
        UserError: An unknown class, fewer than two classes or kinds, or a class without a sentence of a kind that others have.
    """
    for sentence in sentences:
        _check_class(sentence.class_name, class_names)
    found = Counter((sentence.class_name, sentence.kind) for sentence in sentences)
    classes, kinds = dict.fromkeys(name for name, _ in found), kinds_of(sentences)
    if len(classes) < 2 or len(kinds) < 2:
        raise UserError(
            f"a probe compares two or more kinds of sentences over two or more classes, found {len(kinds)} and {len(classes)}"
        )
    for name in classes:
        for kind in kinds:
            if not found[name, kind]:
                raise UserError(
                    f"class {name!r} has no sentence of the kind {kind!r}: kinds are compared within a class, so each class "
                    "needs all of them"
                )


def kinds_of(sentences: Sequence[ProbeSentence]) -> list[str]:
    """The kinds that there are sentences of, in the order of `KINDS`."""
    found = {sentence.kind for sentence in sentences}
    return [kind for kind in KINDS if kind in found]


def _decode(line: bytes) -> ProbeSentence:
    value = json_object(line, _KEYS, "a probe sentence")
    return ProbeSentence(**{key: value[key] for key in _KEYS})


def _check_class(name: str, class_names: Sequence[str]) -> None:
    count = list(class_names).count(name)
    if count > 1:
        raise UserError(
            f"class {name!r}: the dataset has {count} classes of that name, which a probe cannot tell apart"
        )
    if not count:
        raise UserError(f"class {name!r} is not in the dataset.{did_you_mean(name, class_names)}")
