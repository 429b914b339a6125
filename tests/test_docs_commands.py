"""Every block of README and docs is run as it is printed: in the order of the pages, in one shell and one folder.

The text is taken as it is; what is tiny is the environment (tests/docs_session.py). Training commands get a few options
more behind them (one rollout, short texts), because the real ones take minutes to hours; `smollm2` and the models of the
hub are random models of two layers under the same names, CIFAR-100 has two classes; the pictograms have 8 classes; plots
are blank. So names of options, paths, files, their order and what each command needs of those before it are tried; times
and results are not, they are measured (benchmarks/RESULTS.md). Launchers parse their options and then start one process
(tests/test_launch.py and tests/run/test_two_processes.py have real ones). `pip install` only looks whether the files that
it names are there (tests/test_packaging.py builds and uses a wheel). What readers bring along is small too: `photos`,
`data/CUB_200_2011`, and the labels that people fill in.

A block that a reader cannot run anywhere says so in its first line: `# needs a GPU`, `# needs a hub`, `# takes hours`.
Those that need a hub run all the same, with the stand-ins; of the others options are parsed, and runs are put together by
`--dry_run`.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from tests.data.test_benchmarks import cub
from tests.docs_session import ROOT, Session
from tests.vlm.conftest import _clip

MARKS = ("needs a GPU", "needs a hub", "takes hours")
LANGUAGES = {"bash", "python", "yaml", "json", "text"}
TITLED = {"json", "text", "yaml", "python"}
NOT_SHOWN = {"ppo.md"}  # tests/test_docs_ppo.py

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Block:
    """A block of a page: where it stands, its language, the file that it is (`title="..."`), its text."""

    page: str
    line: int
    language: str
    title: str | None
    text: str

    @property
    def mark(self) -> str | None:
        """Why a reader may not be able to run it."""
        match = re.match(r"# ([\w ]+)", self.text)
        return match[1] if match and match[1] in MARKS else None


def pages() -> list[Path]:
    """README and the pages of docs/ in the order of the site."""

    def listed(entry: object) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        else:
            for child in entry.values() if isinstance(entry, dict) else entry:  # type: ignore[attr-defined]
                yield from listed(child)

    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    return [ROOT / "README.md", *(ROOT / "docs" / name for name in listed(nav) if (ROOT / "docs" / name).is_file())]


def blocks_of(path: Path) -> Iterator[Block]:
    name = path.relative_to(ROOT).as_posix()
    text = path.read_text(encoding="utf-8")
    for match in re.finditer(r'^```(\S*)(?: title="([^"]+)")?\n(.*?)^```$', text, re.MULTILINE | re.DOTALL):
        yield Block(name, text[: match.start()].count("\n") + 1, match[1], match[2], match[3])


def test_every_block_says_what_it_is() -> None:
    """So no command hides in a block that is not run: each has a language, and there are no blocks by indentation."""
    for path in pages():
        text = path.read_text(encoding="utf-8")
        fences = re.findall(r"^ *```.*$", text, re.MULTILINE)
        blocks = list(blocks_of(path))
        assert len(fences) == 2 * len(blocks), path.name
        assert {block.language for block in blocks} <= LANGUAGES, path.name
        outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
        assert not re.search(r"^(?:[^\s*\d-].*)?\n\n {4,}\S", outside, re.MULTILINE), path.name
        for block in blocks:
            if block.language in ("text", "json", "yaml"):
                assert not re.search(r"^\$?\s*(ex2|python|pip|accelerate|make) ", block.text, re.MULTILINE), block


def test_options_that_are_shown_exist() -> None:
    from dataclasses import fields

    from ex2.options.ex2_options import EX2Config
    from ex2.options.policy_options import PolicyConfig
    from ex2.rl.ppo_config import PPOConfig

    known = {field.name for config in (EX2Config, PolicyConfig, PPOConfig) for field in fields(config)}
    shown = [block for path in pages() for block in blocks_of(path) if block.language == "yaml" and block.title is None]
    assert len(shown) > 3
    for block in shown:
        assert set(yaml.safe_load(block.text)) <= known | {"base"}, block


_CLIPS = ("openai/clip-vit-base-patch32", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K")


@pytest.fixture(scope="module")
def session(tiny_chat_llm: Path, class_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    folder = tmp_path_factory.mktemp("docs")
    torch.manual_seed(0)
    clip = folder / "clip"
    for part in _clip():
        part.save_pretrained(clip)
    policies = (
        "smollm2", "Qwen/Qwen2.5-0.5B-Instruct", "mistralai/Mistral-7B-v0.1", "Qwen/Qwen3-4B-Instruct-2507",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
    )  # fmt: skip
    models = dict.fromkeys(policies, tiny_chat_llm) | dict.fromkeys(_CLIPS, clip)
    running = Session(folder / "session", models)
    cub(running.work / "data" / "CUB_200_2011")
    shutil.copytree(class_folder, running.work / "photos")
    yield running
    running.close()


def fill_in_labels(folder: Path) -> None:
    """What people do between `ex2 label` and `ex2 analyze --labels`: each row gets a category."""
    for path in folder.glob("labels*/labels.csv"):
        table = pd.read_csv(path, keep_default_na=False)
        table["category"] = [("visual", "spurious")[i % 2] for i in range(len(table))]
        table.to_csv(path, index=False)


def test_blocks_run_in_order(session: Session, record_property: pytest.RecordProperty) -> None:
    count: Counter[str] = Counter()
    failed = []
    for block in (block for path in pages() for block in blocks_of(path) if path.name not in NOT_SHOWN):
        if block.title is not None:
            (session.work / block.title).write_text(block.text, encoding="utf-8")
            count["files"] += 1
        elif block.language == "bash":
            fill_in_labels(session.work)
            status, said = session.shell(block.text, dry=block.mark in ("needs a GPU", "takes hours"))
        elif block.language == "python":
            status, said = session.python(block.page, block.text)
        if block.title is None and block.language in ("bash", "python"):
            count[block.mark or "run"] += 1
            if status != 0:
                failed.append(f"{block.page}:{block.line}: status {status}\n{block.text}\n{said[-3000:]}")
    record_property("blocks", dict(count))
    print(f"\nblocks: {dict(count)}")
    assert not failed, "\n\n".join(failed)
    assert count["run"] > count["needs a GPU"] + count["needs a hub"] + count["takes hours"]
