"""The reader of Hugging Face datasets: `hf:ID_OR_DIR`.

Their tables are memory-mapped and indexable, so an image costs nothing until it is chosen and opened. A set that is too large
to have on disk is streamed: its first images of each class are copied into such a table, and the stream is then left.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from ex2.base.errors import UserError, did_you_mean, first_line
from ex2.base.files import from_home
from ex2.base.hub import looks_like_path
from ex2.data.labelled import LabelledImages, fingerprint_of, here, open_image, usable_splits
from ex2.data.names import class_name_of, split_of

if TYPE_CHECKING:
    import datasets
    from PIL import Image

_OPTIONS = ("split", "image", "label", "config", "stream")
_NO_LABEL = (None, -1, "")


@dataclass(frozen=True)
class Source:
    """What ``hf:ID_OR_DIR?split=S&image=COLUMN&label=COLUMN&config=NAME&stream=N`` says; all after ``?`` may be left out."""

    spec: str
    location: str
    split: str | None = None
    image: str | None = None
    label: str | None = None
    config: str | None = None
    stream: int = 0

    @property
    def option(self) -> str:
        """How messages call it."""
        return f"dataset '{self.spec}'"


def load_hf(rest: str) -> LabelledImages:
    """The image set ``hf:REST``: a dataset on the hub, in its cache, or in a local folder of any kind `datasets` reads.

    The column of images and the one of class labels are found by type, or named with ``?image=`` and ``?label=``. Splits
    called train, test and validation become reward, held-out and validation images, others are left out; without a test
    split, validation images are held out. With ``?split=S`` only that split is used, and images are held out by seed.
    Rows without a label (-1 or null) are left out. An image's id is its split and row: ``train/17``.

    With ``?stream=N`` the dataset is streamed, and the first N images of each class in each split are kept on disk in the
    cache of `datasets`.

    Raises:
        UserError: the dataset, the split or a column is missing, or its labels have no names.
    """
    source = _parse(rest)
    import datasets

    parts = {name: part for name, part in _open(source).items() if len(part)}
    if not parts:
        raise UserError(f"{source.option}: there are no rows with labels.")
    image, label = _columns(source, next(iter(parts.values())).features)
    rows: list[datasets.Dataset] = []
    split_names: list[str] = []
    ids: list[str] = []
    labels: list[str] = []
    known: list[str] = []
    for name, part in parts.items():
        column, classes = _labels(source, part, label)
        kept = [row for row, value in enumerate(column) if value]
        rows.append(_image_rows(source, part, image).select(kept))
        split_names += [name] * len(kept)
        ids += [f"{name}/{row}" for row in kept]
        labels += [value for value in column if value]
        known += classes
    if not labels:
        raise UserError(f"{source.option}: no row has a label in {label!r}.")

    position = {value: i for i, value in enumerate(dict.fromkeys(known))}
    class_names = _distinct_names(list(position), source.option, label)
    files = [Path(file["filename"]) for part in parts.values() for file in part.cache_files]
    return LabelledImages(
        name=source.spec,
        class_names=class_names,
        labels=tuple(position[value] for value in labels),
        image_ids=tuple(ids),
        splits=usable_splits([split_of(name) or "reward" for name in split_names]),
        fingerprint=fingerprint_of(
            ["hf", image, class_names, *((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files)]
        ),
        loader=RowLoader(datasets.concatenate_datasets(rows), image, Path(source.location)),
    )


@dataclass(frozen=True)
class RowLoader:
    """Opens the image in row i of a dataset whose column of images is not decoded."""

    rows: datasets.Dataset
    column: str
    root: Path
    """What paths in the column are relative to."""

    def __call__(self, i: int) -> Image.Image:
        image = self.rows[i][self.column]
        if image is None or not (image["bytes"] or image["path"]):
            raise OSError("the row has no image")
        return open_image(io.BytesIO(image["bytes"]) if image["bytes"] else Path(here(image["path"], self.root)))


def _parse(rest: str) -> Source:
    location, _, query = rest.partition("?")
    spec, given = f"hf:{rest}", dict(parse_qsl(query, keep_blank_values=True))
    if not location:
        raise UserError(f"dataset '{spec}': no dataset named after the colon; expected hf:ID or hf:DIR.")
    for name, value in given.items():
        if name not in _OPTIONS:
            hint = did_you_mean(name, _OPTIONS)
            raise UserError(f"dataset '{spec}': unknown option {name!r}; options are {', '.join(_OPTIONS)}.{hint}")
        if not value or (name == "stream" and not (value.isdecimal() and int(value))):
            raise UserError(
                f"dataset '{spec}': {name}={value} is no {'positive number' if name == 'stream' else name}."
            )
    folder = from_home(location)
    if looks_like_path(location) and not folder.is_dir():
        raise UserError(
            f"dataset '{spec}': {folder} is no folder; expected what `save_to_disk` writes, Parquet files, or "
            "DIR/SPLIT/CLASS/IMAGE."
        )
    stream = int(given.pop("stream", 0))
    return Source(spec, str(folder) if folder.is_dir() else location, stream=stream, **given)


def _open(source: Source) -> dict[str, datasets.Dataset]:
    """The chosen splits as indexable datasets; of a streamed source, as much as `stream` says."""
    import datasets

    folder = Path(source.location)
    try:
        if any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
            saved = datasets.load_from_disk(source.location)
            named = isinstance(saved, datasets.DatasetDict)
            return _chosen(source, saved if named else {str(saved.split or "train"): saved})
        if not source.stream:
            return _chosen(source, datasets.load_dataset(source.location, source.config))
        version = datasets.load_dataset_builder(source.location, source.config).cache_dir
        streams = _chosen(source, datasets.load_dataset(source.location, source.config, streaming=True))
        labelled = {name: stream for name, stream in streams.items() if _has_labels(source, stream)}
        return {name: _copy(source, name, stream, version) for name, stream in labelled.items()}
    except UserError:
        raise
    except Exception as error:  # each kind of dataset fails in its own way
        # A failed build only says that it failed; its cause says why.
        failed = isinstance(error, datasets.exceptions.DatasetGenerationError)
        reason = first_line((error.__cause__ if failed else None) or error)
        raise UserError(f"{source.option}: cannot be loaded ({reason}); check the name and the connection.") from error


def _chosen(source: Source, splits: Mapping[str, Any]) -> dict[str, Any]:
    known = ", ".join(splits)
    if source.split is not None:
        if source.split not in splits:
            raise UserError(f"{source.option}: there is no split {source.split!r}; the dataset has {known}.")
        return {source.split: splits[source.split]}
    if len(splits) == 1:
        return dict(splits)
    chosen = {name: part for name, part in splits.items() if split_of(name)}
    if not chosen:
        raise UserError(f"{source.option}: the splits {known} have no usual name; choose one with ?split=.")
    return chosen


def _columns(source: Source, features: Mapping[str, Any] | None) -> tuple[str, str]:
    """Names of the columns of images and of labels."""
    import datasets

    if features is None:
        raise UserError(f"{source.option}: the stream does not say what its columns are; leave out ?stream=.")
    image = _column(source, features, "image", source.image, lambda feature: isinstance(feature, datasets.Image))
    label = _column(source, features, "label", source.label, lambda feature: isinstance(feature, datasets.ClassLabel))
    feature = _item(features[label])
    if not isinstance(feature, datasets.ClassLabel) and not re.fullmatch(
        r"(large_)?string|u?int\d+", str(getattr(feature, "dtype", ""))
    ):
        raise UserError(
            f"{source.option}: column {label!r} has no names of classes, but {_kind(feature)}; name a column of strings "
            f"with ?label=; the dataset has {', '.join(features)}."
        )
    return image, label


def _item(feature: Any) -> Any:
    """What a column holds, or what the lists in it hold."""
    import datasets

    return feature.feature if isinstance(feature, datasets.List | datasets.LargeList) else feature


def _kind(feature: Any) -> str:
    if isinstance(feature, Mapping):
        return f"objects of {', '.join(map(str, feature))}"
    return f"values of type {getattr(feature, 'dtype', type(feature).__name__)}"


def _column(
    source: Source, features: Mapping[str, Any], option: str, asked: str | None, fits: Callable[[Any], bool]
) -> str:
    found = [asked] if asked is not None else [name for name, feature in features.items() if fits(feature)]
    name = found[0] if len(found) == 1 else option
    if name not in features:
        what = f"no column {asked!r}" if asked else f"{'several columns' if found else 'no column'} of type {option}"
        raise UserError(f"{source.option}: {what}; name one with ?{option}=; the dataset has {', '.join(features)}.")
    return name


def _labels(source: Source, part: datasets.Dataset, column: str) -> tuple[list[str | None], list[str]]:
    """The label of each row as the dataset writes it, None where there is none; and the classes there are, in order."""
    values = [
        _only(value, row, f"{source.option}: column {column!r}")
        for row, value in enumerate(part.select_columns(column).with_format("arrow")[:].column(column).to_pylist())
    ]
    names: list[str] | None = getattr(_item(part.features[column]), "names", None)
    if names is None:
        texts = [None if value in _NO_LABEL or not str(value).strip() else str(value) for value in values]
        return texts, sorted({text for text in texts if text})
    return [None if value in _NO_LABEL else names[value] for value in values], names


def _distinct_names(labels: list[str], option: str, column: str) -> tuple[str, ...]:
    """The class names that labels give."""
    label_of: dict[str, str] = {}
    for label in labels:
        name = class_name_of(label)
        if label_of.setdefault(name, label) != label:
            raise UserError(
                f"{option}: {label_of[name]!r} and {label!r} in column {column!r} both give the class name {name!r}; write one "
                "class in one way."
            )
    return tuple(label_of)


def _only(value: Any, row: int, where: str) -> Any:
    """The one label in a list of labels."""
    if not isinstance(value, list):
        return value
    if len(value) > 1:
        raise UserError(f"{where} has {len(value)} labels in row {row}: an image has one class; name another column.")
    return value[0] if value else None


def _image_rows(source: Source, part: datasets.Dataset, column: str) -> datasets.Dataset:
    import datasets
    import pyarrow

    try:
        return part.select_columns(column).cast_column(column, datasets.Image(decode=False))
    except (pyarrow.ArrowException, TypeError, ValueError, OSError) as error:
        raise UserError(f"{source.option}: column {column!r} holds no images; name another with ?image=.") from error


def _has_labels(source: Source, stream: datasets.IterableDataset) -> bool:
    """Whether any of the first rows has one: test splits with secret labels can be long, and would be read to the end."""
    label = _columns(source, stream.features)[1]
    return any(row[label] not in (*_NO_LABEL, []) for row in stream.select_columns([label]).take(1000))


def _copy(source: Source, split: str, stream: datasets.IterableDataset, version: str) -> datasets.Dataset:
    """The first images of each class of a stream, in the cache of `datasets` under everything that they depend on."""
    import datasets

    image, label = _columns(source, stream.features)
    wanted = {"location": source.location, "config": source.config, "split": split, "most": source.stream}
    return datasets.Dataset.from_generator(
        _first_rows,
        features=datasets.Features({image: datasets.Image(), label: stream.features[label]}),
        gen_kwargs={**wanted, "image": image, "label": label, "version": version},
    )


def _first_rows(
    location: str, config: str | None, split: str, most: int, image: str, label: str, version: str
) -> Iterator[dict[str, Any]]:
    """Rows with an image file as it is, until every class has `most`; `version` only tells the cache of a change."""
    import datasets
    import fsspec

    stream = datasets.load_dataset(location, config, split=split, streaming=True)
    classes = getattr(_item(stream.features[label]), "num_classes", None)
    counts: Counter[Any] = Counter()
    for row in stream.select_columns([image, label]).cast_column(image, datasets.Image(decode=False)):
        value, content = _only(row[label], 0, f"dataset '{location}': column {label!r}"), row[image]
        if value in _NO_LABEL or content is None or counts[value] == most:
            continue
        counts[value] += 1
        if not content["bytes"]:
            with fsspec.open(content["path"], "rb") as file:
                content = {"bytes": file.read(), "path": None}
        yield {image: content, label: value}
        if len(counts) == classes and min(counts.values()) == most:
            return
