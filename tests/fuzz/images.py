"""Mutated images of every format that Pillow writes, through `build_bank`: a file that is wrong is skipped and named.

python -m tests.fuzz.images            # 3,000 images, with a table by format
python -m tests.fuzz.images --images 300 --seed 1
"""

from __future__ import annotations

import argparse
import io
import random
import tempfile
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ex2.data import LabelledImages, load_images
from ex2.data.labelled import BrokenImage, image_formats
from ex2.scoring.bank import build_bank

ENDINGS = (
    ".apng", ".avif", ".blp", ".bmp", ".dds", ".dib", ".gif", ".icns", ".ico", ".j2k", ".jfif", ".jp2", ".jpeg", ".msp",
    ".pbm", ".pcx", ".pfm", ".pgm", ".png", ".ppm", ".qoi", ".sgi", ".tga", ".tiff", ".webp", ".xbm",
)  # fmt: skip
"""Of all formats that Pillow both writes and reads."""

GOOD = 2
"""Whole images of each class on both sides, so that no class is left without."""


class PixelVLM:
    """Embeds a picture by its 16 mean colours: fast, and as strict as real ones about what it is given."""

    name, dim, max_text_tokens, logit_scale, logit_bias, fingerprint = "pixels", 48, 77, 100.0, 0.0, "pixels"
    device = torch.device("cpu")

    def encode_images(self, images: Sequence[Image.Image], batch_size: int = 64) -> torch.Tensor:
        assert all(image.mode == "RGB" for image in images)
        pixels = np.stack([np.asarray(image.resize((4, 4)), dtype=np.float32).reshape(-1) for image in images])
        return torch.nn.functional.normalize(torch.from_numpy(pixels) + 1, dim=1)


def originals(size: int = 24) -> dict[str, bytes]:
    """One whole image of each ending."""
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    found = {}
    for ending in ENDINGS:
        image = Image.fromarray(noise)
        kind = Image.registered_extensions()[ending]
        mode = {"MSP": "1", "XBM": "1", "BLP": "P"}.get(kind) or {".pbm": "1", ".pgm": "L", ".pfm": "F"}.get(
            ending, "RGB"
        )
        if kind in ("ICNS", "ICO"):
            image = image.resize((32, 32))
        buffer = io.BytesIO()
        image.convert(mode).save(buffer, kind)
        found[ending] = buffer.getvalue()
    return found


def mutated(data: bytes, draw: random.Random) -> bytes:
    """The data with a few bytes changed, cut off, left out, doubled, or put into the wrong place."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        place = draw.randrange(min(len(changed), draw.choice((32, 256, 10**6)))) if changed else 0
        way = draw.randrange(6)
        if way == 0 and changed:
            changed[place] = draw.randrange(256)
        elif way == 1 and changed:
            changed[place] ^= 1 << draw.randrange(8)
        elif way == 2:
            del changed[place : place + draw.choice((1, 2, 8, 10**6))]
        elif way == 3:
            changed[place:place] = draw.randbytes(draw.choice((1, 4, 64)))
        elif way == 4:
            changed[place : place + 4] = draw.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"))
        else:
            changed[place:place] = changed[place : place + 64]
    return bytes(changed)


def write(folder: Path, images: int, seed: int) -> LabelledImages:
    """A folder of two classes with so many mutated images, and whole ones."""
    draw, whole = random.Random(seed), originals()
    for n in range(images):
        ending = ENDINGS[n % len(ENDINGS)]
        other = draw.choice(ENDINGS) if draw.random() < 0.1 else ending  # some have the ending of another format
        path = folder / ("ant" if n % 2 else "bee") / f"{n:05d}{other}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(mutated(whole[ending], draw))
    for name in ("ant", "bee"):
        for n in range(4 * GOOD):
            (folder / name / f"whole{n}.png").write_bytes(whole[".png"])
    found = load_images(f"folder:{folder}")
    assert isinstance(found, LabelledImages)
    return found


def check(images: LabelledImages, cache: Path) -> tuple[Counter[str], Counter[str]]:
    """Build the bank: every image is in it or named as skipped; read and skipped images by ending."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own remarks on damaged files
        bank = build_bank(PixelVLM(), images, max_images_per_class=10**6, cache_dir=cache, progress=False)  # type: ignore[arg-type]
    assert sorted([*bank.image_ids, *bank.skipped]) == sorted(images.image_ids)
    assert bank.embeddings.isfinite().all()
    return Counter(Path(i).suffix for i in bank.image_ids), Counter(Path(i).suffix for i in bank.skipped)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        images = write(Path(folder) / "set", arguments.images, arguments.seed)
        read, skipped = check(images, Path(folder) / "cache")
        kinds: Counter[str] = Counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for i in range(len(images)):
                try:
                    images.load(i)
                except BrokenImage as error:
                    kinds[type(error.__cause__).__name__] += 1
    print(
        f"{arguments.images} mutated images, {len(image_formats())} formats known to Pillow, {len(ENDINGS)} endings tried"
    )
    print("ending   read  skipped")
    for ending in ENDINGS:
        print(f"{ending:<8}{read[ending]:>5}{skipped[ending]:>9}")
    print(f"{'all':<8}{sum(read.values()):>5}{sum(skipped.values()):>9}")
    print("raised by decoders: " + ", ".join(f"{name} {count}" for name, count in kinds.most_common()))


if __name__ == "__main__":
    main()
