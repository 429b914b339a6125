"""Texts about classes, from templates and files, and the sums of their embeddings that classification works from.

A file is JSON lines of descriptions as `ex2 generate` writes them, or, where its name ends in ``.json``, one object of class
names and lists of texts, ``{"puffin": ["It has ...", ...]}``, the form that classify_by_description and CuPL use. Either
way texts belong to classes by name; what published files call otherwise is matched (`ex2.texts.name_matching`).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import safetensors.torch
import torch

from ex2.base.errors import UserError
from ex2.base.files import read_json, write_atomically
from ex2.base.progress import progress_bar
from ex2.base.shown import some_of
from ex2.data.labelled import fingerprint_of
from ex2.scoring.scorer import TextScorer
from ex2.texts.class_names import strip_name
from ex2.texts.descriptions import read_descriptions
from ex2.texts.name_matching import match_names
from ex2.texts.questions import TEMPLATE
from ex2.zero_shot.vectors import TextSums

logger = logging.getLogger("ex2")

TEMPLATE_SET = (
    TEMPLATE,
    "a picture of one {}",
    "a {} seen up close",
    "a {} seen from afar",
    "a {} in full view",
    "a drawing of a {}",
    "an icon of a {}",
    "a {} in bright light",
    "a {} in dim light",
)
"""EX2's own set of templates."""

Names = Literal["as_written", "with", "without"]

_FORMAT = 1  # of the cache file; raise it whenever the meaning of its content changes
_CHUNK = 2048  # texts between two steps of the progress bar


@dataclass(frozen=True)
class ClassTexts:
    """N texts about the classes of a dataset.

    Attributes:
        class_ids: Class of each text.
        texts: The texts; one that occurs twice counts twice.
    """

    class_ids: tuple[int, ...]
    texts: tuple[str, ...]

    @classmethod
    def of(cls, pairs: Sequence[tuple[int, str]]) -> ClassTexts:
        """From class ids with texts."""
        return cls(tuple(class_id for class_id, _ in pairs), tuple(text for _, text in pairs))

    @classmethod
    def of_templates(cls, class_names: Sequence[str], templates: Sequence[str]) -> ClassTexts:
        """Every template, each with one ``{}``, filled in with every class name."""
        names = enumerate(class_names)
        return cls.of([(i, template.replace("{}", name)) for i, name in names for template in templates])

    def named(self, class_names: Sequence[str], names: str) -> ClassTexts:
        """The texts with the names of their classes in them, or without.

        with: ``NAME: TEXT`` where a text does not name its class. without: the name replaced by "it".
        """
        if names == "as_written":
            return self
        texts = []
        for class_id, text in zip(self.class_ids, self.texts, strict=True):
            name, plain = class_names[class_id], " ".join(text.split())
            stripped = strip_name(plain, name)
            texts.append(stripped if names == "without" else plain if stripped != plain else f"{name}: {plain}")
        return replace(self, texts=tuple(texts))

    def undescribed(self, classes: int) -> list[int]:
        """Ids of those of ``classes`` classes that no text is about."""
        return sorted(set(range(classes)) - set(self.class_ids))


def read_class_texts(
    path: Path, class_names: Sequence[str], *, allow_empty: bool = False, aliases: Mapping[str, str] | None = None
) -> ClassTexts:
    """The texts in a file of descriptions, or of class names and lists of texts.

    Args:
        path: The file; see the head of this module.
        class_names: The dataset's classes. A text about any other class is refused; names in ``.json`` files are matched
            (`ex2.texts.name_matching`).
        allow_empty: Accept classes without texts.
        aliases: Class of the dataset by name in a ``.json`` file.

    Raises:
        UserError: The file is absent or broken, names other classes, or has no text for a class.
    """
    if path.suffix == ".json":
        texts = _read_lists(path, class_names, aliases)
    else:
        records = read_descriptions(path, class_names)
        texts = ClassTexts.of([(record.class_id, record.text) for record in records])
    if (empty := texts.undescribed(len(class_names))) and not allow_empty:
        names = some_of([class_names[i] for i in empty])
        raise UserError(
            f"{path}: {len(empty)} of {len(class_names)} classes have no text: {names}; add some, or let the template stand in "
            "for them (--empty_class template)."
        )
    return texts


def _read_lists(path: Path, class_names: Sequence[str], aliases: Mapping[str, str] | None) -> ClassTexts:
    if not path.is_file():
        raise UserError(f"{path}: no such file; `ex2 generate` writes files of descriptions")
    lists = read_json(path, "class {!r} is there twice; merge its texts.")
    if not isinstance(lists, dict):
        raise UserError(f"{path}: expected class names with lists of texts, found {type(lists).__name__}.")
    pairs = []
    for class_id, (name, texts) in zip(
        match_names(list(lists), class_names, str(path), aliases), lists.items(), strict=True
    ):
        if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
            raise UserError(f"{path}: class {name!r} needs a list of texts, none of them empty.")
        pairs += [(class_id, text) for text in texts]
    return ClassTexts.of(pairs)


# ---------------------------------------------------------------- sums of embeddings, cached


def text_sums(
    scorer: TextScorer,
    texts: Sequence[str],
    groups: Sequence[int],
    count: int,
    *,
    cache: Path | None = None,
    progress: bool = True,
    desc: str = "encoding texts",
) -> TextSums:
    """The sum of the unit embeddings of each group's texts, on the VLM's device; equal texts are encoded once.

    The sums are kept on disk: a class list has few texts, but the pairs of FuDD have hundreds of thousands, and a sum is all
    that is left of them. Memory holds the sums and one chunk of embeddings.

    Args:
        scorer: The VLM.
        texts: N texts.
        groups: Group of each text, in 0 ... ``count`` - 1.
        count: G.
        cache: Folder of cache files; None: no cache.
        progress: Whether to draw a progress bar.
        desc: What the bar says.

    Raises:
        UserError: An embedding is not finite.
    """
    key = fingerprint_of([_FORMAT, scorer.vlm.fingerprint, count, *zip(groups, texts, strict=True)])
    path = None if cache is None else cache / f"{key}.safetensors"
    sums = None if path is None else _read(path, key)
    if sums is None:
        sums = _encode(scorer, texts, groups, count, progress, desc)
        if path is not None:
            _write(path, key, sums)
    counts = torch.bincount(torch.tensor(groups, dtype=torch.long), minlength=count)
    return TextSums(sums.to(scorer.vlm.device), counts.to(scorer.vlm.device))


def _encode(
    scorer: TextScorer, texts: Sequence[str], groups: Sequence[int], count: int, progress: bool, desc: str
) -> torch.Tensor:
    members: dict[str, list[int]] = {}
    for text, group in zip(texts, groups, strict=True):
        members.setdefault(text, []).append(group)
    distinct = sorted(members, key=len)  # long texts beside long ones: the least padding
    sums = torch.zeros(count, scorer.bank.embeddings.shape[1], device=scorer.vlm.device)
    with progress_bar(len(distinct), desc, "text", disable=not progress) as bar:
        for start in range(0, len(distinct), _CHUNK):
            chunk = distinct[start : start + _CHUNK]
            rows = [row for row, text in enumerate(chunk) for _ in members[text]]
            ids = torch.tensor([group for text in chunk for group in members[text]], device=sums.device)
            sums.index_add_(0, ids, scorer.embed(chunk)[rows])
            bar.update(len(chunk))
    return sums


def _checksum(key: str, sums: torch.Tensor) -> str:
    return hashlib.sha256(key.encode() + sums.numpy().tobytes()).hexdigest()


def _write(path: Path, key: str, sums: torch.Tensor) -> None:
    """Write the cache file. A disk that refuses costs a warning, not the run."""
    sums = sums.cpu()
    try:
        write_atomically(path, safetensors.torch.save({"sums": sums}, {"checksum": _checksum(key, sums)}))
    except (OSError, UserError) as error:
        logger.warning("The class vectors are not cached: cannot write %s (%s).", path, error)


def _read(path: Path, key: str) -> torch.Tensor | None:
    """The sums in a cache file; None if there is none, or with a warning if it cannot be trusted."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            sums, checksum = file.get_tensor("sums").clone(), (file.metadata() or {}).get("checksum")
    except FileNotFoundError:
        return None
    except (OSError, safetensors.SafetensorError) as error:
        logger.warning("The cached class vectors %s are damaged (%s); encoding the texts again.", path, error)
        return None
    if checksum != _checksum(key, sums):
        logger.warning("The cached class vectors %s do not match their checksum; encoding the texts again.", path)
        return None
    return sums
