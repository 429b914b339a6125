"""Labelled image sets: `load_images(spec)` turns a spec into a `LabelledImages`, decoding nothing yet."""

from __future__ import annotations

import difflib

from ex2.data.images import LabelledImages
from ex2.data.planted import PlantedImages
from ex2.errors import UserError

__all__ = ["LabelledImages", "PlantedImages", "list_datasets", "load_images"]

_FORMS = (
    ("pictograms", "the embedded pictograms of animals, plants and foods, with their own splits"),
    ("folder:DIR", "one sub-folder of images per class, DIR/CLASS/... ; the folder's name is the class name"),
    (
        "planted:KIND",
        "a control without images: classes known to prefer visual, habitat, non_visual or spurious text, or random ones",
    ),
)


def list_datasets() -> list[tuple[str, str]]:
    """Spec pattern and one-line description of every kind of image set."""
    return list(_FORMS)


def load_images(spec: str) -> LabelledImages | PlantedImages:
    """The image set that ``spec`` names: ``pictograms``, ``folder:DIR`` or ``planted:KIND``.

    Raises:
        UserError: the spec is unknown, the folder is missing or not laid out as one sub-folder per class, or the planted
            kind is unknown.
    """
    scheme, colon, rest = spec.partition(":")
    if spec == "pictograms":
        from ex2.data.pictograms import load_pictograms

        return load_pictograms()
    if scheme == "folder" and colon:
        from ex2.data.images import read_folder

        return read_folder(rest)
    if scheme == "planted" and colon:
        from ex2.data.planted import load_planted

        return load_planted(rest)
    raise UserError(f"dataset: unknown image set {spec!r}.{_suggestion(spec)} Known: {_known()}.")


def _suggestion(spec: str) -> str:
    from pathlib import Path

    if spec and Path(spec).expanduser().is_dir():
        return f" It is a folder: write 'folder:{spec}'."
    scheme, colon, rest = spec.partition(":")
    candidates = ["folder", "planted"] if colon else ["pictograms", "folder", "planted"]
    nearest = difflib.get_close_matches(scheme.lower(), candidates, n=1, cutoff=0.6)
    if not nearest:
        return ""
    if nearest[0] == "planted":
        return f" Did you mean 'planted:{rest or 'visual'}'?"
    return " Did you mean 'pictograms'?" if nearest[0] == "pictograms" else f" Did you mean 'folder:{rest or 'DIR'}'?"


def _known() -> str:
    return "; ".join(f"{form} ({text})" for form, text in _FORMS)
