"""Building the image bank from JPEG files against the bare image encoder on decoded images, and reading it from the cache.

    python benchmarks/bank_speed.py [--images 512] [--repeats 3] [--cached 50000]

1. `build_bank` on a folder of JPEG files of 224 to 500 pixels a side, against `encode_images` on the same images already decoded.
   VLMs: the embedded one, and CLIP ViT-B/32 with random weights.
2. `build_bank` with everything in its cache: `--cached` embeddings of dimension 512, written by the bank itself.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _common import interleaved, paired_ratio, random_open_clip, verdict

from ex2.launch import use_cores_well

CLASSES = ("bark", "gravel", "moss", "sand")


def write_jpegs(root: Path, count: int) -> None:
    """Textured JPEG files in four class folders: noise at several scales, as photographs have it."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(0)
    for i in range(count):
        size = generator.integers(224, 501, size=2)
        pixels = np.zeros((*size[::-1], 3))
        for scale in (64, 16, 4, 1):
            noise = generator.normal(size=(*(-(-size[::-1] // scale)), 3))
            pixels += noise.repeat(scale, 0).repeat(scale, 1)[: size[1], : size[0]] * scale**0.5
        folder = root / CLASSES[i % 4]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((128 + 6 * pixels).clip(0, 255).astype("uint8")).save(folder / f"{i:05}.jpg", quality=90)


def rate(vlm: Any, folder: Path, repeats: int) -> None:
    """Images a second from files and from memory, and their ratio."""
    from ex2.data import load_images
    from ex2.scoring.bank import build_bank

    images = load_images(f"folder:{folder}")
    decoded = [images.load(i) for i in range(len(images))]
    _ = vlm.fingerprint  # once for each VLM, not for each bank

    def bank(number: int) -> None:
        with tempfile.TemporaryDirectory() as cache:
            build_bank(vlm, images, max_images_per_class=len(images), cache_dir=cache, progress=False)

    seconds = interleaved({"encoder": lambda number: vlm.encode_images(decoded), "bank": bank}, repeats)
    for name, values in seconds.items():
        print(f"{vlm.name}, {name}: {len(images) / min(values):.1f} images/s")
    ratio = paired_ratio(seconds["encoder"], seconds["bank"])
    print(verdict(f"{vlm.name}: rate of the bank / rate of the bare image encoder", ratio, at_least=0.9), flush=True)


class RandomVLM:
    """Gives random unit vectors for images: fills a bank quickly."""

    name = fingerprint = "random"
    dim = 512

    def encode_images(self, images: Sequence[Any], batch_size: int = 64) -> Any:
        import torch

        return torch.nn.functional.normalize(torch.randn(len(images), self.dim), dim=1)


def cached_load(count: int, repeats: int) -> None:
    """Seconds to read a bank of `count` images from its cache."""
    from PIL import Image

    from ex2.data import LabelledImages
    from ex2.scoring.bank import build_bank

    classes = min(200, count // 4)
    pixel = Image.new("RGB", (1, 1))
    labels = tuple(i * classes // count for i in range(count))
    ids = tuple(f"class_{label:03}/image_{i:06}.jpg" for i, label in enumerate(labels))
    names = tuple(f"thing {i}" for i in range(classes))
    images = LabelledImages("random", names, labels, ids, None, "random", lambda i: pixel)
    seconds = []
    with tempfile.TemporaryDirectory() as cache:
        for number in range(repeats + 1):
            start = time.perf_counter()
            bank = build_bank(
                RandomVLM(),
                images,
                max_images_per_class=count,
                cache_dir=cache,
                batch_size=4096,
                progress=False,
            )
            if number:
                seconds.append(time.perf_counter() - start)
        assert len(bank) == count
        size = sum(file.stat().st_size for file in Path(cache).iterdir()) / 2**20
    what = f"cached load of {count} images x {RandomVLM.dim} ({size:.0f} MiB), seconds"
    print(verdict(what, sorted(seconds)[len(seconds) // 2], at_most=1))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=512, help="JPEG files; default: 512")
    parser.add_argument("--repeats", type=int, default=3, help="default: 3")
    parser.add_argument("--cached", type=int, default=50_000, help="images of the cached bank; default: 50000")
    parser.add_argument("--quick", action="store_true", help="few images, the embedded VLM only: does the script work?")
    args = parser.parse_args(argv)
    use_cores_well()
    from ex2.vlm import load_vlm

    if args.quick:
        args.images, args.repeats, args.cached = 16, 1, 400
    with tempfile.TemporaryDirectory() as folder:
        write_jpegs(Path(folder), args.images)
        for vlm in [load_vlm("pictogram")] if args.quick else [load_vlm("pictogram"), random_open_clip("ViT-B-32")]:
            rate(vlm, Path(folder), args.repeats)
    cached_load(args.cached, args.repeats)


if __name__ == "__main__":
    main()
