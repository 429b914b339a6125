"""The embedded pictograms: small drawings of animals, plants and foods, each in several design families.

Every family keeps one role: the families that the embedded VLM was trained on give the reward images, and families it
has never seen give the held-out images. Authors and licences are in ``assets/pictograms/LICENSES.json``.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import parse_qsl

from ex2.base.errors import UserError
from ex2.data.labelled import LabelledImages, PathLoader, fingerprint_of
from ex2.data.names import class_name_of

PICTOGRAMS = Path(__file__).resolve().parent.parent / "assets" / "pictograms"

# What a family was to the training of the embedded VLM -> what its images are to the bank. Families "held-out" came later: most
# are black and gray, so that colours cannot be seen in them, and they are held out where they are asked for.
_SPLIT_OF = {"train": "reward", "validation": "validation", "test": "heldout", "held-out": "heldout"}


def load_pictograms(root: Path = PICTOGRAMS, query: str = "") -> LabelledImages:
    """The image set ``pictograms``: ``root/images/CLASS/FAMILY.webp``, split by family as ``LICENSES.json`` says.

    Its attributes are ``family``, ``palette`` (up to three main colours, the largest first), ``background`` (always
    white), ``size`` (how much of the picture is drawn: small below 25 % of its pixels, large from 45 %, else medium) and
    ``count`` (always 1). The fingerprint covers the content of every image and its split.

    Args:
        root: Folder of the assets.
        query: Whose images are held out: ``heldout=FAMILY,FAMILY``, or ``heldout=all``; empty: the families in colour that the
            VLM's training keeps for its test.

    Raises:
        UserError: the image files are missing from the installation, or the query or a family in it is unknown.
    """
    files = sorted((root / "images").glob("*/*.webp"), key=lambda path: (path.parent.name, path.name))
    if not files:
        raise UserError(f"dataset 'pictograms': no images under {root / 'images'}; install the package again.")
    split_of = _splits(root, query)
    folders = sorted({path.parent.name for path in files})
    files = [path for path in files if path.stem in split_of]
    class_names = tuple(class_name_of(folder) for folder in folders)
    class_id = {folder: i for i, folder in enumerate(folders)}
    image_ids = tuple(f"{path.parent.name}/{path.name}" for path in files)
    splits = tuple(split_of[path.stem] for path in files)
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    return LabelledImages(
        name="pictograms" + (query and f"?{query}"),
        class_names=class_names,
        labels=tuple(class_id[path.parent.name] for path in files),
        image_ids=image_ids,
        splits=splits,
        fingerprint=fingerprint_of(["pictograms", class_names, *zip(image_ids, splits, digests, strict=True)]),
        loader=PathLoader(tuple(files)),
        attributes=_attributes(root, files, image_ids),
    )


def _splits(root: Path, query: str) -> dict[str, str]:
    """Split of each family, without the held-out families that are not asked for."""
    families = json.loads((root / "LICENSES.json").read_text(encoding="utf-8"))
    roles = {family: entry["vlm_split"] for family, entry in families.items()}
    heldout = [family for family, role in roles.items() if _SPLIT_OF[role] == "heldout"]
    options = dict(parse_qsl(query, keep_blank_values=True))
    if query and list(options) != ["heldout"]:
        raise UserError(f"dataset 'pictograms?{query}': the only option is heldout=all, or heldout=FAMILY,FAMILY ...")
    tests = [family for family in heldout if roles[family] == "test"]
    kept = {"": tests, "heldout=all": heldout}.get(query) or options["heldout"].split(",")
    unknown = [family for family in kept if family not in heldout]
    if unknown:
        raise UserError(
            f"dataset 'pictograms?{query}': no held-out family {unknown[0]!r}; there are {', '.join(heldout)}."
        )
    return {family: _SPLIT_OF[role] for family, role in roles.items() if family in kept or family not in heldout}


def _attributes(root: Path, files: Sequence[Path], image_ids: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    """Columns of what is known of the images; the colours and sizes were computed from their pixels by the build."""
    with (root / "attributes.csv").open(encoding="utf-8", newline="") as file:
        known = {row["image"]: row for row in csv.DictReader(file)}
    return {
        "family": tuple(path.stem for path in files),
        "palette": tuple(known[image_id]["palette"] for image_id in image_ids),
        "background": ("white",) * len(files),
        "size": tuple(known[image_id]["size"] for image_id in image_ids),
        "count": ("1",) * len(files),
    }
