"""ImageBank: every image encoded once, cached on disk, and each class reduced to one prototype per split.

The mean cosine between a text and a class's images is the dot product of the text with the plain mean of the images'
unit embeddings. That mean is the class's prototype. It is not made a unit vector again: its length says how much the
images agree, and without it the dot product would not be the mean cosine any more.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import safetensors.torch
import torch
from PIL import Image

from ex2.base.cache import cache_folder
from ex2.base.errors import UserError
from ex2.base.files import from_home, write_atomically
from ex2.base.progress import progress_bar
from ex2.base.shown import printable, some_of
from ex2.data.labelled import SPLITS, BrokenImage, LabelledImages, fingerprint_of
from ex2.data.planted import PlantedImages, plant
from ex2.data.selection import check_classes, choose_images
from ex2.vlm.base import VLM

logger = logging.getLogger("ex2")

T = TypeVar("T")

_FORMAT = 2  # of the cache file; raise it whenever the meaning of its content changes


_ROOM = 2**26
"""Bytes of decoded images that wait for their turn, and again in a batch: an image that is larger is alone there."""


class Broken(NamedTuple):
    """Why an image could not be decoded, and whether it may be only for now (the system refused, not the decoder)."""

    reason: str
    passing: bool


@dataclass(frozen=True, eq=False)
class ImageBank:
    """Embeddings of N images of C classes, and the class prototypes that rewards and analyses use.

    Attributes:
        class_names: C names; the position is the class id.
        embeddings: ``(N, D)`` float32 unit rows, grouped by class, always on the CPU.
        labels: ``(N,)`` int64 class ids, ascending, on the CPU.
        split_ids: ``(N,)`` int64 positions in ``SPLITS``, on the CPU.
        image_ids: N ids as in the image set.
        vlm_name: Spec of the VLM that made the embeddings; ``vlm_fingerprint`` pins its weights and preprocessing.
        dataset: Name of the image set.
        skipped: Ids of chosen images that could not be decoded and are in no split.
        device: Where prototypes are, and where texts are expected; change it with ``to``.
    """

    class_names: tuple[str, ...]
    embeddings: torch.Tensor
    labels: torch.Tensor
    split_ids: torch.Tensor
    image_ids: tuple[str, ...]
    vlm_name: str
    vlm_fingerprint: str
    dataset: str
    skipped: tuple[str, ...] = ()
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    _prototypes: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def prototypes(self) -> torch.Tensor:
        """``(C, D)`` float32 means of the reward images' unit embeddings, not made unit vectors again."""
        return self.prototypes_of("reward")

    @property
    def heldout_prototypes(self) -> torch.Tensor:
        """``(C, D)`` float32 means of the held-out images' unit embeddings."""
        return self.prototypes_of("heldout")

    @property
    def reward_counts(self) -> tuple[int, ...]:
        """Reward images of each class."""
        return self.counts_of("reward")

    @property
    def heldout_counts(self) -> tuple[int, ...]:
        """Held-out images of each class."""
        return self.counts_of("heldout")

    def rows(self, split: str) -> torch.Tensor:
        """Ascending row numbers ``(M,)`` of a split: ``bank.embeddings[bank.rows("heldout")]``."""
        if split not in SPLITS:
            raise UserError(f"split: unknown split {split!r}; a bank has {', '.join(SPLITS)}.")
        return torch.nonzero(self.split_ids == SPLITS.index(split)).squeeze(1)

    def counts_of(self, split: str) -> tuple[int, ...]:
        """Images of each class in ``reward``, ``heldout`` or ``validation``."""
        return tuple(torch.bincount(self.labels[self.rows(split)], minlength=len(self.class_names)).tolist())

    def prototypes_of(self, split: str) -> torch.Tensor:
        """``(C, D)`` float32 class means over a split, on ``device``.

        Raises:
            UserError: the split is unknown or a class has no image in it.
        """
        if split not in self._prototypes:
            rows, counts = self.rows(split), self.counts_of(split)
            without = [name for name, count in zip(self.class_names, counts, strict=True) if count == 0]
            if without:
                raise UserError(
                    f"split {split!r}: {self.dataset} has no such images for {len(without)} of {len(counts)} classes "
                    f"({some_of(without)})."
                )
            groups = self.embeddings[rows].split(counts)  # rows are grouped by class
            means = torch.stack([group.double().mean(dim=0) for group in groups]).float()
            self._prototypes[split] = means.to(self.device)
        return self._prototypes[split]

    def to(self, device: str | torch.device) -> ImageBank:
        """The same bank with its prototypes on ``device``; the images' embeddings stay on the CPU."""
        device = torch.device(device)
        moved = {split: means.to(device) for split, means in self._prototypes.items()}
        return replace(self, device=device, _prototypes=moved)

    def cosine(
        self, text_embeddings: torch.Tensor, class_ids: Sequence[int] | torch.Tensor, split: str = "reward"
    ) -> torch.Tensor:
        """Mean cosine of each text with the images of its own class.

        Args:
            text_embeddings: ``(N, D)`` unit rows on ``device``.
            class_ids: N class ids, one per text.
            split: Images to compare with: ``reward``, ``heldout`` or ``validation``.

        Returns:
            ``(N,)`` float32 in -1 ... 1.

        Raises:
            UserError: a class id is out of range, or there is not one per text.
        """
        ids = torch.as_tensor(class_ids, dtype=torch.long, device=self.device)
        if ids.shape != text_embeddings.shape[:1]:
            raise UserError(f"class_ids: {ids.numel()} ids for {len(text_embeddings)} texts; give one per text.")
        # Negative ids would silently count from the end.
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < len(self.class_names):
            raise UserError(
                f"class_ids: {int(ids.min())} ... {int(ids.max())} do not fit {len(self.class_names)} classes; "
                f"ids lie in 0 ... {len(self.class_names) - 1}."
            )
        return (text_embeddings.float() * self.prototypes_of(split)[ids]).sum(dim=-1)

    def similarities(self, text_embeddings: torch.Tensor, split: str = "reward") -> torch.Tensor:
        """Mean cosine ``(N, C)`` of each of N texts, ``(N, D)`` unit rows, with the images of every class."""
        return text_embeddings.float() @ self.prototypes_of(split).T


def build_bank(
    vlm: VLM,
    images: LabelledImages | PlantedImages,
    *,
    heldout_fraction: float = 0.5,
    seed: int = 0,
    max_images_per_class: int = 256,
    cache_dir: str | Path | None = None,
    batch_size: int = 64,
    progress: bool = True,
) -> ImageBank:
    """Encode the chosen images of a set, or read their embeddings from the cache.

    Where ``torch.distributed`` is initialised this is a collective call: every process encodes its share, and all
    return the same bank. Broken image files are left out, listed in ``skipped`` and named in one warning.

    Args:
        vlm: Encodes the images; the bank does not keep it.
        images: The labelled images, with splits of their own or without; or a planted set, whose sentences' embeddings
            stand in for images, and which only ``seed`` matters for.
        heldout_fraction: Share of each class's images that is held out, in 0 ... 1 (at least one image on each
            side); only for sets without splits of their own.
        seed: Chooses the images, by their ids and not by their order; see `choose_images`.
        max_images_per_class: Most images of a class in each split.
        cache_dir: Folder of the cache files; None: ``banks`` in ``$EX2_CACHE`` or ``~/.cache/ex2``.
        batch_size: Images per encoder call, fewer where they are large. Up to two batches of decoded images are in memory.
        progress: Whether to draw a progress bar.

    Raises:
        UserError: an option is out of range, a class has too few images (that can be decoded), the VLM's embeddings
            are not finite, or the processes see different images or VLMs.
    """
    if batch_size < 1:
        raise UserError(f"batch_size: {batch_size} images make no batch; give 1 or more.")
    if isinstance(images, PlantedImages):
        return _planted_bank(vlm, images, seed)
    chosen = choose_images(images, heldout_fraction, seed, max_images_per_class)
    selection = fingerprint_of([vlm.fingerprint, *((c.image_id, c.label, c.split) for c in chosen)])
    key = fingerprint_of([_FORMAT, selection, images.fingerprint])
    folder = from_home(cache_dir) if cache_dir is not None else cache_folder() / "banks"
    path = folder / f"{key}.safetensors"
    rank, processes = _process()

    bank = _read(path, key)
    # Caches may be local to each machine: go on only if every process has the bank, or else build it together.
    # Fingerprints of image sets may differ between machines (times of files); the chosen images and VLM must not.
    states = _gather((selection, bank is not None))
    if len({digest for digest, _ in states}) > 1:
        raise UserError(f"dataset {images.name}: the {processes} processes see different images or VLMs.")
    if bank is not None and all(hit for _, hit in states):
        _warn_of_skipped(images.name, bank.skipped)
        return replace(bank, vlm_name=vlm.name, dataset=images.name)

    share = range(rank, len(chosen), processes)
    indices = [chosen[row].position for row in share]
    embeddings, broken = _encode(vlm, images, indices, batch_size, progress and rank == 0)
    good = [row for row in share if chosen[row].position not in broken]
    parts = _gather((good, embeddings, broken))

    rows = torch.tensor([row for part, _, _ in parts for row in part], dtype=torch.long)
    order = rows.argsort()
    kept = [chosen[row] for row in rows[order].tolist()]
    broken = {index: reason for _, _, part in parts for index, reason in part.items()}
    lost = [choice for choice in chosen if choice.position in broken]
    check_classes(images, kept, lost)
    bank = ImageBank(
        class_names=images.class_names,
        embeddings=torch.cat([part for _, part, _ in parts])[order],
        labels=torch.tensor([choice.label for choice in kept]),
        split_ids=torch.tensor([SPLITS.index(choice.split) for choice in kept]),
        image_ids=tuple(choice.image_id for choice in kept),
        vlm_name=vlm.name,
        vlm_fingerprint=vlm.fingerprint,
        dataset=images.name,
        skipped=tuple(choice.image_id for choice in lost),
    )
    _check_embeddings(bank)
    _warn_of_skipped(images.name, [f"{choice.image_id} ({broken[choice.position].reason})" for choice in lost])
    if int(os.environ.get("LOCAL_RANK", rank)) == 0:  # one writer on each machine
        if any(item.passing for item in broken.values()):
            logger.warning("The image bank is not cached: files that could not be read may be readable later.")
        else:
            _write(path, key, bank)
    return bank


def _planted_bank(vlm: VLM, planted: PlantedImages, seed: int) -> ImageBank:
    """The bank of a planted set; a few hundred short texts, so it is not cached."""
    embeddings, labels, splits, image_ids = plant(planted, vlm, seed)
    bank = ImageBank(
        class_names=planted.class_names,
        embeddings=embeddings,
        labels=torch.tensor(labels),
        split_ids=torch.tensor([SPLITS.index(split) for split in splits]),
        image_ids=tuple(image_ids),
        vlm_name=vlm.name,
        vlm_fingerprint=vlm.fingerprint,
        dataset=planted.name,
    )
    _check_embeddings(bank)
    return bank


def _check_embeddings(bank: ImageBank) -> None:
    lengths = bank.embeddings.norm(dim=1)
    off = torch.nonzero(~((lengths - 1).abs() < 1e-3)).flatten().tolist()  # NaN counts as off
    if off:
        raise UserError(
            f"vlm {bank.vlm_name}: the embedding of {bank.image_ids[off[0]]} and {len(off) - 1} others is not a unit "
            f"vector (length {lengths[off[0]]:.4g}). Where it is nan or inf, load the VLM with dtype float32."
        )


def _encode(
    vlm: VLM, images: LabelledImages, indices: Sequence[int], batch_size: int, progress: bool
) -> tuple[torch.Tensor, dict[int, Broken]]:
    """Embeddings ``(M, D)`` on the CPU of those images that can be decoded; the others by index."""
    parts = [torch.empty(0, vlm.dim)]
    broken: dict[int, Broken] = {}
    batch: list[Image.Image] = []

    def encode() -> None:
        if batch:
            parts.append(vlm.encode_images(batch, batch_size=batch_size).cpu())
            batch.clear()

    with progress_bar(len(indices), "encoding images", "image", disable=not progress) as bar:
        for index, image in zip(indices, _decode(images, indices, ahead=batch_size), strict=True):
            if isinstance(image, Broken):
                broken[index] = image
            else:
                if sum(map(_bytes, batch)) + _bytes(image) > _ROOM:
                    encode()
                batch.append(image)
            if len(batch) == batch_size:
                encode()
            bar.update()
        encode()
    return torch.cat(parts), broken


def _decode(images: LabelledImages, indices: Sequence[int], ahead: int) -> Iterator[Image.Image | Broken]:
    """Images in order, decoded by a few threads (Pillow frees the interpreter) up to ``ahead`` before their turn.

    A thread keeps the image that it has decoded until those that wait leave room for it, or its turn comes.
    """
    waiting_bytes, turn, over = 0, 0, False
    changed = threading.Condition()

    def decode(position: int) -> Image.Image | Broken:
        nonlocal waiting_bytes
        try:
            image: Image.Image | Broken = images.load(indices[position])
        except BrokenImage as error:
            image = Broken(str(error), error.passing)
        with changed:
            changed.wait_for(lambda: over or position == turn or waiting_bytes + _bytes(image) <= _ROOM)
            waiting_bytes += _bytes(image)
        return image

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        try:
            waiting = deque(pool.submit(decode, position) for position in range(min(ahead, len(indices))))
            for turn in range(len(indices)):
                with changed:
                    changed.notify_all()
                image = waiting.popleft().result()
                with changed:
                    waiting_bytes -= _bytes(image)
                    changed.notify_all()
                if turn + ahead < len(indices):
                    waiting.append(pool.submit(decode, turn + ahead))
                yield image
        finally:
            with changed:  # else the pool would wait for threads that wait for their turn
                over = True
                changed.notify_all()


def _bytes(image: Image.Image | Broken) -> int:
    return 0 if isinstance(image, Broken) else 3 * image.width * image.height


def _warn_of_skipped(dataset: str, skipped: Sequence[str]) -> None:
    if skipped and _process()[0] == 0:
        logger.warning(
            "dataset %s: %d broken image file(s) skipped: %s.", dataset, len(skipped), printable(some_of(skipped))
        )


def _process() -> tuple[int, int]:
    """Rank of this process and number of processes; (0, 1) outside ``torch.distributed``."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _gather(value: T) -> list[T]:
    """The ``value`` of every process, by rank."""
    processes = _process()[1]
    if processes == 1:
        return [value]
    values: list[T] = [value] * processes
    torch.distributed.all_gather_object(values, value)
    return values


def _checksum(text: str, tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _write(path: Path, key: str, bank: ImageBank) -> None:
    """Write the cache file at ``path``, in full or not at all. A disk that refuses costs a warning, not the run."""
    header = json.dumps(
        {
            "class_names": bank.class_names,
            "image_ids": bank.image_ids,
            "skipped": bank.skipped,
            "vlm_name": bank.vlm_name,
            "vlm_fingerprint": bank.vlm_fingerprint,
            "dataset": bank.dataset,
            "versions": {"torch": torch.__version__, "pillow": Image.__version__},
        }
    )
    tensors = {"embeddings": bank.embeddings, "labels": bank.labels, "split_ids": bank.split_ids}
    metadata = {"bank": header, "checksum": _checksum(key + header, tensors)}
    # `save` and not `save_file`: that one reports a full disk with the error it has for damaged files.
    content = safetensors.torch.save(tensors, metadata)
    try:
        write_atomically(path, content)
    except (OSError, UserError) as error:
        logger.warning("The image bank is not cached: cannot write %s (%s).", path, error)


def _read(path: Path, key: str) -> ImageBank | None:
    """The bank in the cache file at ``path``; None if there is none, or with a warning if it cannot be trusted."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = file.keys()
            tensors = {name: file.get_tensor(name).clone() for name in names}
    except FileNotFoundError:
        return None
    except (OSError, safetensors.SafetensorError) as error:
        logger.warning("The cached image bank %s is damaged (%s); building it again.", path, error)
        return None
    header = metadata.get("bank", "")
    if metadata.get("checksum") != _checksum(key + header, tensors):
        logger.warning("The cached image bank %s does not match its checksum; building it again.", path)
        return None
    content = json.loads(header)
    return ImageBank(
        class_names=tuple(content["class_names"]),
        image_ids=tuple(content["image_ids"]),
        skipped=tuple(content["skipped"]),
        vlm_name=content["vlm_name"],
        vlm_fingerprint=content["vlm_fingerprint"],
        dataset=content["dataset"],
        **tensors,
    )
