"""Time and memory of `ex2 analyze` with the local judge, against the bare text encoder on the same number of texts.

    python benchmarks/analyze_speed.py [--descriptions 10000]

The descriptions are pairs of labelled sentences (ex2/assets/judge/train.jsonl), all different, about 20 words and two or more
clauses each, on the embedded pictograms. Printed: seconds and peak memory of the command as a process of its own, and how long
the text encoder alone takes for the texts that the contribution tests compare.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ex2.analysis.contribution import all_texts
from ex2.analysis.judges.local import ASSETS
from ex2.analysis.judging import Judged
from ex2.data import load_images
from ex2.launch import use_cores_well
from ex2.texts.categories import Passage
from ex2.texts.descriptions import Description, write_descriptions


def write(path: Path, count: int, seed: int) -> Judged:
    """A file of `count` descriptions, and the same as the analysis sees them, but for their categories."""
    sentences = [json.loads(line)["text"] for line in (ASSETS / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    names = load_images("pictograms").class_names
    generator = random.Random(seed)
    records = []
    for i in range(count):
        class_id = i % len(names)
        text = " ".join(f"{sentence.rstrip('.')}." for sentence in generator.sample(sentences, 2))
        question = f"Question {i // len(names) % 25} about a {{}}?"
        extra = {"vlm": "pictogram"}
        records.append(
            Description("pictograms", class_id, names[class_id], question, text, "sentences", seed, {}, extra=extra)
        )
    write_descriptions(path, records)
    return Judged("aligned", records, [Passage.of(r.class_name, r.text) for r in records], [])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--descriptions", type=int, default=10_000, help="default: 10000")
    args = parser.parse_args()
    use_cores_well()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "descriptions.jsonl"
        judged = write(path, args.descriptions, seed=0)
        command = [
            sys.executable,
            "-c",
            "from ex2.cli import main; main()",
            "analyze",
            str(path),
            "--out",
            f"{folder}/out",
        ]
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
        seconds = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # kibibytes on Linux

    from ex2.vlm import load_vlm

    vlm = load_vlm("pictogram")
    texts = list(dict.fromkeys(all_texts(judged.passages, judged.apart(seed=0))))
    start = time.perf_counter()
    vlm.encode_texts(texts)
    encoder = time.perf_counter() - start
    print(
        f"{args.descriptions} descriptions, {sum(len(p.clauses) for p in judged.passages)} clauses, {len(texts)} texts compared"
    )
    print(
        f"ex2 analyze: {seconds:.0f} s, peak {memory:.2f} GiB; bare text encoder: {encoder:.0f} s; ratio {seconds / encoder:.2f}"
    )


if __name__ == "__main__":
    main()
