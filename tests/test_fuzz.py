"""Short parts of the fuzzers; the whole: `python -m tests.fuzz`, and what its docstring names."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import pytest

from tests.fuzz.cases import all_cases
from tests.fuzz.files import readers, tried
from tests.fuzz.images import ENDINGS, check, write
from tests.fuzz.material import Material, basic
from tests.fuzz.promise import Case, run

FEW = {"damaged checkpoints": 4, "checkpoints of strangers": 2, "hostile names": 6, "full disks": 6, "environments": 6}
"""Cases of the kinds that take long; of each other kind, forty are tried."""


@pytest.fixture(scope="module")
def material(
    tiny_llm: Path, class_folder: Path, trained_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> Material:
    return basic(tiny_llm, class_folder, trained_run, tmp_path_factory.mktemp("material"))


@pytest.fixture(scope="module")
def cases(material: Material) -> dict[str, list[Case]]:
    found = defaultdict(list)
    for case in all_cases(material):
        found[case.kind].append(case)
    return found


def test_there_are_many(cases: dict[str, list[Case]]) -> None:
    assert sum(map(len, cases.values())) >= 700
    named = Counter((case.kind, case.name) for kind in cases.values() for case in kind)
    assert not [name for name, count in named.items() if count > 1]


@pytest.mark.filterwarnings("ignore")  # of libraries about damaged files
@pytest.mark.parametrize(
    "kind",
    [
        "options of commands", "training options", "training options in files", "damaged files of a run",
        "damaged values of a run",
                "damaged checkpoints", "checkpoints of strangers", "hostile names", "full disks", "environments",
    ],
)  # fmt: skip
def test_every_case_ends_well_or_in_one_line(kind: str, cases: dict[str, list[Case]], tmp_path: Path) -> None:
    of_kind = [case for case in cases[kind] if " disk" not in case.name]  # disks are mounted by the whole only
    chosen = of_kind[:: max(1, len(of_kind) // FEW.get(kind, 40))]
    complaints = {}
    for number, case in enumerate(chosen):
        folder = tmp_path / str(number)
        folder.mkdir()
        if (complaint := run(case, folder).complaint(case)) is not None:
            complaints[case.name] = complaint
    assert not complaints


def test_a_broken_promise_is_seen(tmp_path: Path) -> None:
    def ends(act: object, ends: str = "either", names: tuple[str, ...] = ("--x",)) -> str | None:
        case = Case("", "", act, names, ends)  # type: ignore[arg-type]
        return run(case, tmp_path).complaint(case)

    def say(*lines: str, status: int = 2) -> object:
        import sys

        def act(_: Path) -> None:
            print("\n".join(lines), file=sys.stderr)
            sys.exit(status)

        return act

    assert ends(say("error: --x 1 is wrong")) is None
    assert "2 lines" in str(ends(say("warning: y", "error: --x 1 is wrong")))
    assert "names none" in str(ends(say("error: 1 is wrong")))
    assert "status 1" in str(ends(say("error: --x", status=1)))
    assert "characters" in str(ends(say("error: --x" + "y" * 5000)))
    assert "control" in str(ends(say("error: --x \x1b[31m")))
    assert "KeyError" in str(ends(lambda _: {}["a"]))
    assert ends(lambda _: None, "refused") == "was taken"
    assert "was refused" in str(ends(say("error: --x"), "well"))


def test_mutated_images_are_read_or_named(tmp_path: Path) -> None:
    assert len(ENDINGS) >= 20
    read, skipped = check(write(tmp_path / "set", 6 * len(ENDINGS), seed=1), tmp_path / "cache")
    assert sum(skipped.values()) > 50
    assert sum(read.values()) > 50


@pytest.mark.parametrize("kind", [kind for kind in readers() if kind != "options"])  # those take long
def test_mutated_files_are_read_or_refused(kind: str, tmp_path: Path) -> None:
    outcomes = tried(kind, tmp_path, 60, seed=1)
    assert outcomes["traceback"] == 0
    assert outcomes["refused"] > 5
