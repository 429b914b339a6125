"""Mutated files of texts, pairs, tables, labels and options: each is read, or refused with one line and status 2.

python -m tests.fuzz.files             # 200 files of each kind
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from ex2.base.errors import UserError

NAMES = ("ant", "bee", "red fox")

LINES = "".join(
    json.dumps({
        "dataset": "d", "class_id": i, "class_name": name, "question": "What?", "text": f"It is {n}.", "model": "m", "seed": 0,
        "scores": {"cosine": 0.5},
    }) + "\n"
    for n in range(2) for i, name in enumerate(NAMES)
)  # fmt: skip
LISTS = json.dumps({name: ["It has legs.", "It moves."] for name in NAMES})
PAIRS = json.dumps(
    {"0_1": {"classes": [0, 1], "prompt_pairs": [{"attr_type": "size", "prompt_pair": ["It is small.", "It is big."]}]}}
)
TABLE = "path,class,split\na.png,ant,train\nb.png,bee,test\nc.png,ant,test\nd.png,bee,train\n"
QUESTIONS = "What does a {} look like?\n# a comment\nDescribe a {}. -> It has\n"
ALIASES = "fox = red fox\nwasp = bee\n"
OPTIONS = "vlm: pictogram\nlearning_rate: 1.0e-4\nreward_funcs: [cosine, no_repetition]\nseed: 3\nppo:\n  lam: 0.9\n"
LABELS = "".join(
    json.dumps({"class_name": "ant", "text": "It is small.", "category": "visual"}) + "\n" for _ in range(3)
)

JUNK = (
    b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b"\xe2\x80\xa8", b"\xc3\x28", b"\r", b"\n", b'"', b"{", b"}", b"[" * 3000, b"]", b",",
    b":", b"NaN", b"null", b"true", b"1e400", b"9" * 400, b"9" * 5000, b'"\\ud800"', b"\\", b"&a ", b"*a", b"- ", b"? ", b"{}",
    b"\t", b"-1", b"!!python/object:os.system ",
)  # fmt: skip


def mutated(text: str, draw: random.Random) -> bytes:
    """The text with pieces cut out, doubled, moved or replaced by what readers stumble over."""
    data = bytearray(text.encode())
    for _ in range(draw.choice((1, 1, 2, 3))):
        place, length = draw.randrange(len(data) + 1), draw.choice((0, 1, 4, 20))
        way = draw.randrange(4)
        if way == 0:
            data[place : place + length] = draw.choice(JUNK)
        elif way == 1:
            del data[place : place + draw.choice((1, 8, 10**6))]
        elif way == 2:
            data[place:place] = data[place : place + length]
        else:
            piece = data[place : place + length]
            del data[place : place + length]
            elsewhere = draw.randrange(len(data) + 1)
            data[elsewhere:elsewhere] = piece
    return bytes(data)


def readers() -> dict[str, tuple[str, str, Callable[[Path], object]]]:
    """File name, whole content and reader by kind."""
    from ex2.commands.judge import read_labels
    from ex2.data import load_images
    from ex2.options.parse import parse_options
    from ex2.texts.descriptions import read_descriptions
    from ex2.texts.name_matching import read_aliases
    from ex2.texts.pairs import class_list_path, read_pairs
    from ex2.texts.questions import load_questions
    from ex2.zero_shot.class_texts import read_class_texts

    def pairs(path: Path) -> object:
        class_list_path(path).write_text(json.dumps(NAMES))
        return read_pairs(path, NAMES)

    return {
        "descriptions": ("d.jsonl", LINES, lambda path: read_descriptions(path, NAMES)),
        "class lists": ("d.json", LISTS, lambda path: read_class_texts(path, NAMES)),
        "pairs": ("p.json", PAIRS, pairs),
        "tables": ("t.csv", TABLE, lambda path: load_images(f"csv:{path}")),
        "questions": ("q.txt", QUESTIONS, lambda path: load_questions(str(path))),
        "aliases": ("a.txt", ALIASES, read_aliases),
        "labels": ("l.jsonl", LABELS, read_labels),
        "options": ("c.yaml", OPTIONS, lambda path: parse_options("ppo", ["--config", str(path), "--output_dir", "x"])),
    }


def tried(kind: str, folder: Path, count: int, seed: int = 0) -> Counter[str]:
    """How many files of a kind were read, refused with one line, or ended in a traceback, which is printed."""
    name, whole, read = readers()[kind]
    draw = random.Random(f"{kind} {seed}")
    outcomes: Counter[str] = Counter()
    read_whole = folder / name
    read_whole.write_text(whole, encoding="utf-8")
    read(read_whole)
    for _ in range(count):
        data = mutated(whole, draw)
        (folder / name).write_bytes(data)
        try:
            read(folder / name)
            outcomes["read"] += 1
        except UserError as error:
            outcomes["refused" if len(str(error)) < 10_000 else "too long"] += 1
        except Exception:
            print(f"{kind}: {data[:400]!r}\n{traceback.format_exc(limit=-3)}", file=sys.stderr)
            outcomes["traceback"] += 1
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=200, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    failed = False
    print(f"{'kind':<14}{'read':>6}{'refused':>9}{'traceback':>11}")
    for kind in readers():
        with tempfile.TemporaryDirectory() as folder:
            found = tried(kind, Path(folder), arguments.files, arguments.seed)
        print(f"{kind:<14}{found['read']:>6}{found['refused']:>9}{found['traceback']:>11}", flush=True)
        failed = failed or bool(found["traceback"])
    sys.exit(failed)


if __name__ == "__main__":
    main()
