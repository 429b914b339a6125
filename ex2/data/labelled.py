"""`LabelledImages`, the one shape that image sets have here, and the one place that decodes an image."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from ex2.base.errors import UserError, one_line
from ex2.base.rgb import to_rgb
from ex2.base.shown import printable, some_of

if TYPE_CHECKING:
    from PIL import Image

logger = logging.getLogger("ex2")

LARGE = 1024
"""Pixels a side that large images keep where their format can be decoded at a smaller size."""
SPLITS = ("reward", "heldout", "validation")
# Pillow knows these, but would run Ghostscript, asks Windows, or has no decoder of its own.
_NOT_DECODED = ("EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG")


class BrokenImage(OSError):
    """An image that cannot be decoded, whatever its decoder raised; the message says why.

    Attributes:
        passing: Whether it may be only for now: the system refused, not the decoder.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(one_line(error))
        self.passing = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None)


@dataclass(frozen=True)
class LabelledImages:
    """N images of C classes, opened one at a time.

    Attributes:
        name: The spec it was loaded from, e.g. ``folder:data/birds``.
        class_names: C distinct names as they are put into questions and texts; the position is the class id.
        labels: Class id of each image, N.
        image_ids: N distinct ids that stay the same between runs and machines, e.g. ``puffin/0001.jpg``.
        splits: The set's own split of each image, ``reward``, ``heldout`` or ``validation``; None when it has none
            and the bank draws one by seed.
        fingerprint: Hex digest that changes when the images, their ids or the classes do.
        loader: Opens image i; called from several threads at once.
        attributes: What is known of each image beside its class, as columns of N strings by name; empty for most sets.

    Raises:
        UserError: the fields do not fit together (lengths, repeated names or ids, unknown labels or splits).
    """

    name: str
    class_names: tuple[str, ...]
    labels: tuple[int, ...]
    image_ids: tuple[str, ...]
    splits: tuple[str, ...] | None
    fingerprint: str
    loader: Callable[[int], Image.Image] = field(repr=False, compare=False)
    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False, hash=False)

    def __post_init__(self) -> None:
        images = len(self.image_ids)
        if len(self.labels) != images or (self.splits is not None and len(self.splits) != images):
            raise UserError(f"dataset {self.name}: labels, image_ids and splits must have one entry per image.")
        for column, values in self.attributes.items():
            if len(values) != images:
                raise UserError(
                    f"dataset {self.name}: attribute {column!r} has {len(values)} entries for {images} images; it needs "
                    "one per image."
                )
        if len(set(self.image_ids)) != images:
            raise UserError(f"dataset {self.name}: image_ids repeat; each image needs an id of its own.")
        if len(set(self.class_names)) != len(self.class_names) or not all(self.class_names):
            raise UserError(
                f"dataset {self.name}: class names repeat or are empty; each class needs a name of its own."
            )
        if not set(self.labels) <= set(range(len(self.class_names))):
            raise UserError(f"dataset {self.name}: labels must lie in 0 ... {len(self.class_names) - 1}.")
        unknown = sorted(set(self.splits or ()) - set(SPLITS))
        if unknown:
            raise UserError(f"dataset {self.name}: unknown split {unknown[0]!r}; splits are {', '.join(SPLITS)}.")

    def __len__(self) -> int:
        return len(self.image_ids)

    def load(self, i: int) -> Image.Image:
        """Image i in mode RGB, decoded in full and upright; transparent parts are white.

        Raises:
            BrokenImage: It cannot be read or decoded.
        """
        # Decoders raise what they like for damaged files: TypeError, IndexError, struct.error, zlib.error ...
        try:
            return to_rgb(self.loader(i))
        except Exception as error:
            raise BrokenImage(error) from error


@cache
def image_formats() -> tuple[str, ...]:
    """Pillow's names of the formats that it decodes by itself."""
    from PIL import Image

    Image.init()
    return tuple(name for name in Image.ID if name not in _NOT_DECODED)


@cache
def image_extensions() -> tuple[str, ...]:
    """How the names of files of `image_formats` end, in lower case."""
    from PIL import Image

    formats = image_formats()
    return tuple(sorted(ending for ending, name in Image.EXTENSION.items() if name in formats))


def is_image(name: str) -> bool:
    """Whether a file is an image by its name; hidden files, as some systems put beside each image, are none."""
    return name.lower().endswith(image_extensions()) and not name.startswith(".")


def say_what_is_left_out(dataset: str, files: Sequence[str]) -> None:
    """Count and name, once a run, files that are no images by their names, and links to folders (with a slash)."""
    if files and os.environ.get("RANK", "0") == "0":
        names = printable(some_of(sorted(files)))
        logger.warning(
            "dataset %s: %d passed over, which are no images by their names, or links to folders: %s.",
            dataset,
            len(files),
            names,
        )


def open_image(file: Path | IO[bytes]) -> Image.Image:
    """The decoded image in a ``file``, in the file's own mode (the first frame of an animation).

    A JPEG of twice `LARGE` pixels or more on both sides is decoded at a half, quarter or eighth of its size, but not below
    `LARGE`, which is more than any VLM looks at: a photo of 12 megapixels then takes 9 MB instead of 36.
    """
    from PIL import Image

    if isinstance(file, Path) and file.exists() and not file.is_file():  # a pipe would be waited for
        raise OSError(f"{file} is no ordinary file")
    with Image.open(file, formats=image_formats()) as image:
        image.draft(None, (LARGE, LARGE))
        image.load()
        return image


def fingerprint_of(parts: Iterable[object]) -> str:
    """SHA-256 hex digest of a series of JSON values, with unambiguous borders between them."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(json.dumps(part).encode() + b"\n")
    return digest.hexdigest()


class ImageFile(NamedTuple):
    """An image file of a set: its path below the set's folder, which is its id; its class id; its split, if it has one."""

    path: str
    label: int
    split: str | None = None


@dataclass(frozen=True)
class PathLoader:
    """Opens image i of a list of files; a class rather than a closure, so that an image set can be pickled."""

    paths: tuple[str | Path, ...]
    root: Path = Path()

    def __call__(self, i: int) -> Image.Image:
        return open_image(Path(here(str(self.paths[i]), self.root)))


def images_of_files(name: str, root: Path, class_names: tuple[str, ...], files: Sequence[ImageFile]) -> LabelledImages:
    """The image set of some files below ``root``; none is opened, and one that is missing counts as unreadable later.

    The fingerprint covers the full path of ``root``, the classes, and every file's path, class, split, size and time of change.
    """
    return LabelledImages(
        name=name,
        class_names=class_names,
        labels=tuple(file.label for file in files),
        image_ids=tuple(_as_text(file.path) for file in files),
        splits=usable_splits([file.split for file in files if file.split is not None]),
        fingerprint=fingerprint_of(
            [str(root.resolve()), class_names, *((*file, *_state(here(file.path, root))) for file in files)]
        ),
        loader=PathLoader(tuple(file.path for file in files), root),
    )


def usable_splits(splits: Sequence[str]) -> tuple[str, ...] | None:
    """A set's own splits as EX2 uses them: all the same say nothing; without test images, validation images are held out.

    (Sets whose test labels are secret are tested on their validation images.)
    """
    if len(set(splits)) < 2:
        return None
    return tuple(splits) if "heldout" in splits else tuple(split.replace("validation", "heldout") for split in splits)


def here(path: str, folder: Path) -> str:
    """A path that a table in `folder` names: relative to that, and with slashes where it was written on Windows."""
    given = os.path.join(folder, path)  # strings and not Paths: ImageNet has 1.3 million
    return given if "\\" not in path or os.path.exists(given) else os.path.join(folder, path.replace("\\", "/"))


def _as_text(path: str) -> str:
    """A path as an id that every file format can hold: bytes that are no UTF-8 stand as ``\\xe9``."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _state(path: str) -> tuple[int, int]:
    """Size and time of change of a file; of a missing one, values that no file has."""
    try:
        state = os.stat(path)
    except (OSError, ValueError):  # ValueError: a name with a NUL
        return -1, -1
    return state.st_size, state.st_mtime_ns
