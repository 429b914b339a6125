"""`LabelledImages`, the one shape that image sets have here, and the reader of folders of class folders."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from ex2.base.errors import UserError
from ex2.base.rgb import to_rgb
from ex2.data.names import class_name_of

if TYPE_CHECKING:
    from PIL import Image

LARGE = 1024
"""Pixels a side that large images keep where their format can be decoded at a smaller size."""
SPLITS = ("reward", "heldout", "validation")
IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_LAYOUT = "expected DIR/CLASS/IMAGE, one sub-folder of images per class, with files ending in " + " ".join(
    IMAGE_EXTENSIONS
)


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
            OSError, SyntaxError, PIL.Image.DecompressionBombError: the file cannot be read or is broken.
        """
        return to_rgb(self.loader(i))


def open_image(file: Path | IO[bytes]) -> Image.Image:
    """The decoded image in a ``file``, in the file's own mode (the first frame of an animation).

    A JPEG of twice `LARGE` pixels or more on both sides is decoded at a half, quarter or eighth of its size, but not below
    `LARGE`, which is more than any VLM looks at: a photo of 12 megapixels then takes 9 MB instead of 36.
    """
    from PIL import Image

    with Image.open(file) as image:
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
        return open_image(self.root / self.paths[i])


def images_of_files(name: str, root: Path, class_names: tuple[str, ...], files: Sequence[ImageFile]) -> LabelledImages:
    """The image set of some files below ``root``; none is opened, and one that is missing counts as unreadable later.

    Splits that are all the same say nothing, so the set then has none. The fingerprint covers the full path of
    ``root``, the classes, and every file's path, class, split, size and time of change.
    """
    splits = tuple(file.split for file in files if file.split is not None)
    return LabelledImages(
        name=name,
        class_names=class_names,
        labels=tuple(file.label for file in files),
        image_ids=tuple(file.path for file in files),
        splits=splits if len(set(splits)) > 1 else None,
        fingerprint=fingerprint_of(
            [str(root.resolve()), class_names, *((*file, *_state(os.path.join(root, file.path))) for file in files)]
        ),
        loader=PathLoader(tuple(file.path for file in files), root),
    )


def read_folder(directory: str) -> LabelledImages:
    """The image set ``folder:DIRECTORY``: each sub-folder is a class, in the order of the folders' names.

    Images lie anywhere below their class folder. Hidden files and folders (leading dot) are left out, and links
    to folders are followed at the class level only. No image is opened: the fingerprint covers the folder's
    full path and every file's relative path, size and time of change.

    Raises:
        UserError: the folder is missing, has no class folders, a class has no images, or two class names are equal.
    """
    option = f"dataset 'folder:{directory}'"
    if not directory:
        raise UserError(f"{option}: no folder named after the colon; {_LAYOUT}.")
    root = Path(directory).expanduser()
    if not root.is_dir():
        state = "is not a folder" if root.exists() else "does not exist"
        raise UserError(f"{option}: {root} {state}; {_LAYOUT}.")
    folders = sorted((p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")), key=lambda p: p.name)
    if not folders:
        raise UserError(f"{option}: {root} has no sub-folders; {_LAYOUT}.")

    folder_of: dict[str, str] = {}
    files: list[ImageFile] = []
    for folder in folders:
        name = class_name_of(folder.name)
        if not name:
            raise UserError(f"{option}: folder {folder.name!r} gives an empty class name; rename it.")
        if name in folder_of:
            raise UserError(
                f"{option}: folders {folder_of[name]!r} and {folder.name!r} both give the class name {name!r}; "
                "rename or merge them."
            )
        images = _image_files(folder)
        if not images:
            raise UserError(f"{option}: class folder {folder.name!r} has no images; remove it or fill it. {_LAYOUT}.")
        files += [ImageFile(path.relative_to(root).as_posix(), len(folder_of)) for path in images]
        folder_of[name] = folder.name
    return images_of_files(f"folder:{directory}", root, tuple(folder_of), files)


def _state(path: str) -> tuple[int, int]:
    """Size and time of change of a file; of a missing one, values that no file has."""
    try:
        state = os.stat(path)
    except OSError:
        return -1, -1
    return state.st_size, state.st_mtime_ns


def _image_files(folder: Path) -> list[Path]:
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(parent, name) for name in names if not name.startswith(".") and name.lower().endswith(IMAGE_EXTENSIONS)
        ]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())
