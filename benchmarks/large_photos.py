"""Memory that `ex2 classify` takes for photos of 12 megapixels.

python benchmarks/large_photos.py            # 500 photos, 4000 x 3000 pixels each
python benchmarks/large_photos.py --photos 20 --width 800 --height 600
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

CLASSES = ("cat", "eagle", "ear of corn", "whale", "hammer")


def write_photos(folder: Path, photos: int, width: int, height: int) -> None:
    """JPEGs as cameras write them, 3 to 5 MB each at 12 megapixels: blurred noise, one picture a class, shifted a little each."""
    rng = np.random.default_rng(0)
    for c, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        small = Image.fromarray(rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8))
        whole = small.resize((width, height), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(1))
        buffer = io.BytesIO()
        whole.save(buffer, "JPEG", quality=90)
        for n in range(c, photos, len(CLASSES)):
            # A comment of its own, behind which the picture is the same: no two files are equal.
            data = buffer.getvalue()
            comment = f"photo {n}".encode()
            block = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
            (folder / name / f"{n:04d}.jpg").write_bytes(data[:2] + block + data[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=500)
    parser.add_argument("--width", type=int, default=4000)
    parser.add_argument("--height", type=int, default=3000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "photos"
        write_photos(folder, arguments.photos, arguments.width, arguments.height)
        size = sum(path.stat().st_size for path in folder.rglob("*.jpg"))
        line = ["classify", "--vlm", "pictogram", "--dataset", f"folder:{folder}", "--cache_dir", f"{root}/cache"]
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"from ex2.cli import main; main({line!r})"], check=True)
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024  # Linux counts in KiB
    megapixels = arguments.width * arguments.height / 1e6
    print(
        json.dumps(
            {
                "photos": arguments.photos,
                "megapixels": round(megapixels, 1),
                "GB_on_disk": round(size / 1e9, 2),
                "peak_GB": round(peak / 1e9, 2),
                "seconds": round(seconds, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
