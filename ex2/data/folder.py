"""The reader of folders of class folders: `folder:DIR`, with or without splits."""

from __future__ import annotations

import os
from pathlib import Path

from ex2.base.errors import UserError
from ex2.base.files import from_home
from ex2.base.shown import some_of
from ex2.data.labelled import ImageFile, LabelledImages, images_of_files, is_image, logger, say_what_is_left_out
from ex2.data.names import class_name_of, split_of

_LAYOUT = "expected DIR/CLASS/IMAGE, one sub-folder of images per class, or DIR/SPLIT/CLASS/IMAGE"


def read_folder(directory: str) -> LabelledImages:
    """The image set ``folder:DIRECTORY``: each sub-folder is a class, in the order of the folders' names.

    Images lie anywhere below their class folder. Sub-folders that are all called like splits (``train``, ``val``, ``test_set``)
    and hold folders themselves are the set's splits, and so are folders like these between every class and its images. Hidden
    files and folders (leading dot) are left out, and links to folders are followed at the levels of splits and classes only.
    No image is opened: the fingerprint covers the folder's full path and every file's relative path, size and time of change.

    Raises:
        UserError: the folder is missing, has no class folders, a class has no images, or two class names are equal.
    """
    option = f"dataset 'folder:{directory}'"
    if not directory:
        raise UserError(f"{option}: no folder named after the colon; {_LAYOUT}.")
    root = from_home(directory)
    if not root.is_dir():
        state = "is not a folder" if root.exists() else "does not exist"
        raise UserError(f"{option}: {root} {state}; {_LAYOUT}.")
    folder_of: dict[str, str] = {}
    found: list[tuple[str, str, str | None]] = []
    empty: dict[str, list[str]] = {}
    others: list[str] = []
    for part, split in _parts(root, option):
        others += [entry.name for entry in os.scandir(part) if entry.is_file() and is_image(entry.name)]
        folders = _folders(part)
        if len(folders) == 1 and split is None and _holds_folders_only(folders[0]):
            raise UserError(
                f"{option}: its only class would be {folders[0].name!r}, which holds folders itself: name that one "
                f"(folder:{folders[0]}). {_LAYOUT}."
            )
        for folder in folders:
            name = _class_name(folder, option)
            if folder_of.setdefault(name, folder.name) != folder.name:
                raise UserError(
                    f"{option}: folders {folder_of[name]!r} and {folder.name!r} both give the class name {name!r}; "
                    "rename or merge them."
                )
            images, no_images = _files(folder, root)
            found += [(path, name, split) for path in images]
            others += no_images
            if not images:
                empty[name] = no_images
    for name in sorted(empty.keys() - {name for _, name, _ in found}):
        seen = f": {some_of(empty[name])} are none by their names" if empty[name] else ""
        raise UserError(
            f"{option}: class folder {folder_of[name]!r} has no images{seen}; remove it or fill it. {_LAYOUT}."
        )
    say_what_is_left_out(f"folder:{directory}", others)
    class_names = tuple(sorted(folder_of, key=lambda name: folder_of[name]))
    label_of = {name: label for label, name in enumerate(class_names)}
    files = _with_splits_below([ImageFile(path, label_of[name], split) for path, name, split in found])
    _say_where_classes_lie_below(option, root, class_names, files)
    return images_of_files(f"folder:{directory}", root, class_names, files)


def _parts(root: Path, option: str) -> list[tuple[Path, str | None]]:
    """The folders that hold class folders: those of the splits, or the root itself."""
    folders = _folders(root)
    if not folders:
        raise UserError(f"{option}: {root} has no sub-folders; {_LAYOUT}.")
    splits = {folder: split for folder in folders if (split := split_of(folder.name)) and _folders(folder)}
    if len(splits) == len(folders):
        names = ", ".join(f"{folder.name} ({split})" for folder, split in splits.items())
        logger.info("%s: its folders are splits: %s.", option, names)
        return list(splits.items())
    if len(set(splits.values())) > 1 and not any(is_image(name) for folder in splits for name in os.listdir(folder)):
        own, more = (
            some_of([folder.name for folder in folders if (folder in splits) is wanted]) for wanted in (True, False)
        )
        raise UserError(
            f"{option}: {own} are splits by their names, but {more} beside them are none: move them elsewhere. {_LAYOUT}."
        )
    return [(root, None)]


def _with_splits_below(files: list[ImageFile]) -> list[ImageFile]:
    """The files with the splits that lie between classes and images (DIR/CLASS/train/IMAGE), if that is so everywhere."""
    below = [split_of(file.path.split("/")[1]) if file.path.count("/") > 1 else None for file in files]
    if any(file.split for file in files) or not all(below) or len(set(below)) < 2:
        return files
    return [file._replace(split=split) for file, split in zip(files, below, strict=True)]


def _say_where_classes_lie_below(option: str, root: Path, class_names: tuple[str, ...], files: list[ImageFile]) -> None:
    """Warn where all classes hold folders of the same names, as sets of several styles or domains do, and no images."""
    if any(file.split for file in files):
        return
    below: list[set[str]] = [set() for _ in class_names]
    for file in files:
        parts = file.path.split("/", 2)
        below[file.label].add(parts[1] if len(parts) > 2 else "")
    common = set.intersection(*below)
    if len(below) > 1 < len(common) and not any("" in folders for folders in below):
        logger.warning(
            "%s: its classes are %s, and each holds the folders %s: if those are the classes, name one of the first "
            "(folder:%s).",
            option, some_of(class_names, 3), some_of(sorted(common), 3), root / files[0].path.split("/")[0],
        )  # fmt: skip


def _folders(folder: Path) -> list[Path]:
    found = (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return sorted(found, key=lambda path: path.name)


def _holds_folders_only(folder: Path) -> bool:
    """Whether a folder holds several folders, and no images beside them."""
    return len(_folders(folder)) > 1 and not any(is_image(name) for name in os.listdir(folder))


def _class_name(folder: Path, option: str) -> str:
    name = class_name_of(folder.name)
    if not name:
        raise UserError(f"{option}: folder {folder.name!r} gives an empty class name; rename it.")
    if not name.isascii() and any("\ud800" <= character <= "\udfff" for character in name):
        raise UserError(f"{option}: the name of folder {os.fsencode(folder.name)!r} is no UTF-8; rename it.")
    return name


def _files(folder: Path, root: Path) -> tuple[list[str], list[str]]:
    """Images below a class folder, and other files and links to folders there, as paths below the root, sorted."""
    images: list[str] = []
    others: list[str] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(parent).relative_to(root)
        others += [f"{(below / name).as_posix()}/" for name in folders if os.path.islink(os.path.join(parent, name))]
        for name in names:
            if not name.startswith("."):
                (images if is_image(name) else others).append((below / name).as_posix())
    return sorted(images), sorted(others)
