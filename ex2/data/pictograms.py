"""The embedded pictograms: small drawings of animals, plants and foods, each in several design families.

Every family keeps one role: the families that the embedded VLM was trained on give the reward images, and families it
has never seen give the held-out images. Authors and licences are in ``assets/pictograms/LICENSES.json``.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ex2.base.errors import UserError
from ex2.data.labelled import LabelledImages, PathLoader, class_name_of, fingerprint_of

PICTOGRAMS = Path(__file__).resolve().parent.parent / "assets" / "pictograms"

# What a family was to the training of the embedded VLM -> what its images are to the bank.
_SPLIT_OF = {"train": "reward", "validation": "validation", "test": "heldout", "held-out": "heldout"}


def load_pictograms(root: Path = PICTOGRAMS) -> LabelledImages:
    """The image set ``pictograms``: ``root/images/CLASS/FAMILY.webp``, split by family as ``LICENSES.json`` says.

    The fingerprint covers the content of every image and its split.

    Raises:
        UserError: the image files are missing from the installation.
    """
    files = sorted((root / "images").glob("*/*.webp"), key=lambda path: (path.parent.name, path.name))
    if not files:
        raise UserError(f"dataset 'pictograms': no images under {root / 'images'}; install the package again.")
    families = json.loads((root / "LICENSES.json").read_text(encoding="utf-8"))
    folders = sorted({path.parent.name for path in files})
    class_names = tuple(class_name_of(folder) for folder in folders)
    class_id = {folder: i for i, folder in enumerate(folders)}
    image_ids = tuple(f"{path.parent.name}/{path.name}" for path in files)
    splits = tuple(_SPLIT_OF[families[path.stem]["vlm_split"]] for path in files)
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    return LabelledImages(
        name="pictograms",
        class_names=class_names,
        labels=tuple(class_id[path.parent.name] for path in files),
        image_ids=image_ids,
        splits=splits,
        fingerprint=fingerprint_of(["pictograms", class_names, *zip(image_ids, splits, digests, strict=True)]),
        loader=PathLoader(tuple(files)),
    )
