"""Image sets by their specs: `load_images(spec)` turns one into a `LabelledImages`, decoding nothing yet."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from ex2.base.errors import UserError
from ex2.base.files import from_home
from ex2.base.hub import fetched_before, looks_like_path
from ex2.data.benchmarks import BENCHMARKS, load_benchmark
from ex2.data.folder import read_folder
from ex2.data.labelled import LabelledImages
from ex2.data.names import split_class_names
from ex2.data.naming import require_names, with_names
from ex2.data.planted import PlantedImages

_FORMS = (
    ("pictograms", "the embedded pictograms of animals, plants and foods, with their own splits"),
    ("pictogram-scenes", "the same drawings on drawn backgrounds, in known sizes and numbers, with the same splits"),
    ("folder:DIR", "one sub-folder of images per class, DIR/CLASS/... ; the folder's name is the class name"),
    ("csv:FILE", "a table of image files with the columns path,class[,split]"),
    ("hf:ID_OR_DIR", "a Hugging Face dataset, on the hub or in a folder; ?split=S&image=COLUMN&label=COLUMN&stream=N"),
    *((f"{scheme}:DIR", benchmark.about) for scheme, benchmark in BENCHMARKS.items()),
    (
        "planted:KIND",
        "a control without images: classes known to prefer visual, habitat, non_visual or spurious text, or none: random, "
        "common, swapped",
    ),
)


_NAMED_BY_USERS = ("folder", "csv", "hf")


def list_datasets() -> list[tuple[str, str]]:
    """Spec pattern and one-line description of every kind of image set; `docs/datasets.md` has the layouts."""
    return list(_FORMS)


def load_images(given: str) -> LabelledImages | PlantedImages:
    """The image set that ``given`` names, in one of the forms of `list_datasets`, perhaps with ``?class_names=FILE``.

    Raises:
        UserError: the spec is unknown, or its folder or file is missing or not laid out as it should be.
    """
    spec, file = split_class_names(given)
    spec, given = _with_scheme(spec), _with_scheme(given)
    images = _read(spec)
    scheme = spec.partition(":")[0]
    if file is None and scheme not in _NAMED_BY_USERS:
        return images
    if not isinstance(images, LabelledImages):
        raise UserError(f"dataset {given!r}: {spec} has names of its own: leave class_names out.")
    return with_names(images, file, given)


def source_of_dataset(given: str) -> str | None:
    """Where a dataset would be fetched from; None where it is on this machine, or could not be fetched either."""
    scheme, _, rest = split_class_names(_with_scheme(given))[0].partition(":")
    location = rest.partition("?")[0]
    if scheme != "hf" or looks_like_path(location) or Path(location).is_dir() or fetched_before(location, "dataset"):
        return None
    return f"the hub's dataset {location}"


def check_dataset(spec: str) -> None:
    """Raise UserError where a spec has none of the forms of `list_datasets`, or names a path that is not there."""
    spec, names = split_class_names(_with_scheme(spec))
    if names is not None:
        require_names(from_home(names))
    scheme, colon, rest = spec.partition(":")
    if not colon and spec.partition("?")[0] not in ("pictograms", "pictogram-scenes"):
        raise _unknown(spec)
    if colon and scheme not in (*_NAMED_BY_USERS, *BENCHMARKS, "planted") and "?" not in scheme:
        raise _unknown(spec)
    path = from_home(rest)
    if scheme in ("folder", *BENCHMARKS) and rest and not os.path.isdir(path):
        state = "is not a folder" if os.path.exists(path) else "does not exist"
        raise UserError(f"dataset '{spec}': {path} {state}.")
    location = from_home(rest.partition("?")[0])
    if (scheme == "csv" and rest or scheme == "hf" and looks_like_path(rest)) and not os.path.exists(location):
        raise UserError(f"dataset '{spec}': {location} does not exist.")


def _with_scheme(spec: str) -> str:
    """A path without its scheme, with it: a folder, a table, or what `datasets` has saved."""
    location = split_class_names(spec)[0]
    path = from_home(location)
    # Not Path.exists, which fails at names that are too long.
    if location in ("pictograms", "pictogram-scenes") or not os.path.exists(path):
        return spec
    if path.is_dir():
        saved = any((path / name).is_file() for name in ("dataset_dict.json", "state.json"))
        return f"{'hf' if saved else 'folder'}:{spec}"
    return f"csv:{spec}" if path.suffix == ".csv" else spec


def _read(spec: str) -> LabelledImages | PlantedImages:
    scheme, colon, rest = spec.partition(":")
    embedded, _, query = spec.partition("?")
    if embedded == "pictograms":
        from ex2.data.pictograms import load_pictograms

        return load_pictograms(query=query)
    if embedded == "pictogram-scenes":
        from ex2.data.pictogram_scenes import load_pictogram_scenes

        return load_pictogram_scenes(query=query)
    if scheme == "folder" and colon:
        return read_folder(rest)
    if scheme == "csv" and colon:
        from ex2.data.csv import read_csv

        return read_csv(rest)
    if scheme == "hf" and colon:
        from ex2.data.huggingface import load_hf

        return load_hf(rest)
    if scheme in BENCHMARKS and colon:
        return load_benchmark(scheme, rest)
    if scheme == "planted" and colon:
        from ex2.data.planted import load_planted

        return load_planted(rest)
    raise _unknown(spec)


def _unknown(spec: str) -> UserError:
    if looks_like_path(spec):
        state = (
            "is a file, and only tables (.csv) and folders are image sets" if os.path.exists(spec) else "does not exist"
        )
        return UserError(f"dataset: {spec} {state}.")
    return UserError(f"dataset: unknown image set {spec!r}.{_suggestion(spec)} Known: {_known()}.")


def _suggestion(spec: str) -> str:
    scheme, colon, rest = spec.partition(":")
    forms = {form.partition(":")[0]: form for form, _ in _FORMS if ":" in form or not colon}
    nearest = difflib.get_close_matches(scheme.lower(), forms, n=1, cutoff=0.6)
    if not nearest:
        return ""
    if nearest[0] == "planted":
        return f" Did you mean 'planted:{rest or 'visual'}'?"
    return f" Did you mean '{nearest[0]}:{rest}'?" if rest else f" Did you mean '{forms[nearest[0]]}'?"


def _known() -> str:
    return ", ".join(form for form, _ in _FORMS) + " (see `ex2 list datasets`)"
