"""A shell in which the commands of the documents run on tiny stand-ins, for tests/test_docs_commands.py.

`Session` starts two processes. bash reads the blocks as they are printed, in one session, in a folder that looks like a
checkout. Its `ex2`, `python`, `pip`, `accelerate`, `torchrun` and `vllm` are shims that hand each command line to the other
one, the executor, where torch is imported once and `ex2` runs as it does for users. What is tiny there, and what is only
checked, is said at `TRAINING`, `stand_ins` and `_CHECKED`.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import os
import re
import runpy
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent

# Appended to every training command, where it wins over config and command line: one rollout of two updates, short texts; and
# four questions, unless it is about pairs.
TRAINING = shlex.split(
    "--max_steps 2 --save_steps 2 --best_of_n 2 --eval_samples 1 --max_completion_length 8 "
    "--use_cpu true --bf16 false --dtype float32"
)
# Appended where a block is marked: the options are parsed and put together as for a run, and nothing is loaded.
DRY = shlex.split(
    "--dry_run true --use_cpu true --bf16 false --dtype float32 --load_in_8bit false --load_in_4bit false"
)
CLASSES = ("cactus", "cat", "crab", "dolphin", "eagle", "lemon", "owl", "tiger")  # of the pictograms' 54
SHIMS = ("ex2", "python", "python3", "pip", "accelerate", "torchrun", "vllm")
_CHECKED = re.compile(r"-m (build|pytest)|-m tests\.")  # not run: tests/test_packaging.py builds the wheel

_SHIM = """import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(os.environ["DOCS_SESSION"])
    stream = connection.makefile("rw")
    print(json.dumps([*sys.argv[1:]]), os.getcwd(), sep="\\t", file=stream, flush=True)
    answer = json.loads(stream.readline())
sys.stdout.write(answer["out"])
sys.stderr.write(answer["err"])
sys.exit(answer["status"])
"""


class Session:
    """One bash session in a folder like a checkout, and the executor of its commands.

    Args:
        folder: Empty folder for everything.
        models: Tiny models by the name of the hub repository that they stand in for; `smollm2` for the embedded policy.
    """

    def __init__(self, folder: Path, models: dict[str, Path]) -> None:
        self.work = folder / "checkout"
        self.work.mkdir(parents=True)
        for entry in ROOT.iterdir():
            if entry.name not in {".git", ".venv", "runs", "site", "dist", "build"} and not entry.name.endswith(
                "cache"
            ):
                (self.work / entry.name).symlink_to(entry)
        (folder / "shim.py").write_text(_SHIM, encoding="utf-8")
        make_venv(folder, self.work / ".venv")
        make_venv(folder, folder / "system", "python3")
        settings = {"folder": str(folder), "models": {name: str(path) for name, path in models.items()}}
        (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        # A socket's address is at most 107 bytes long.
        self._sockets = tempfile.TemporaryDirectory(prefix="docs")
        address = f"{self._sockets.name}/socket"
        usual = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
        environment = usual | {
            "DOCS_SESSION": address,
            "EX2_CACHE": str(folder / "cache"),
            "HF_HOME": str(folder / "hf"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }
        self._log = (folder / "executor.log").open("w", encoding="utf-8")
        self._executor = subprocess.Popen(
            [sys.executable, "-m", "tests.docs_session", str(folder / "settings.json")],
            cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=self._log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=self.work,
            env=environment | {"PATH": f"{folder / 'system' / 'bin'}:/usr/bin:/bin"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while not Path(address).exists():
            if self._executor.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((folder / "executor.log").read_text(encoding="utf-8"))
            time.sleep(0.05)

    def shell(self, block: str, *, dry: bool = False) -> tuple[int, str]:
        """Run the lines of a block, up to the first that fails; status and output."""
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        script = self.work.parent / "block.sh"
        script.write_text(block, encoding="utf-8")
        # `-e` must not end the session: the block's own subshell would lose its variables and folder, so a trap returns.
        lines = [
            f"export DOCS_DRY={int(dry)}",
            "trap 'status=$?; return $status 2>/dev/null' ERR",
            f"source {script} < /dev/null",
            'printf "\\n\\001%s\\n" "$?"',
        ]
        self._bash.stdin.write("\n".join(lines) + "\n")
        self._bash.stdin.flush()
        said = []
        for line in self._bash.stdout:
            if line.startswith("\001"):
                return int(line[1:]), "".join(said)
            said.append(line)
        return 1, "".join(said) + "bash has ended"

    def python(self, page: str, code: str) -> tuple[int, str]:
        """Run a block of Python code in the namespace of its page."""
        script = self.work.parent / "block.py"
        script.write_text(code, encoding="utf-8")
        return self.shell(f"python --block {page} {script}")

    def close(self) -> None:
        """End both processes."""
        for process in (self._bash, self._executor):
            process.kill()
            process.communicate()
        self._log.close()
        self._sockets.cleanup()


def make_venv(folder: Path, place: Path, *names: str) -> None:
    """What `python -m venv` and an installation leave: programs in `bin`, which are shims, and the script that activates."""
    (place / "bin").mkdir(parents=True, exist_ok=True)
    for name in names or SHIMS:
        program = place / "bin" / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -SE {folder / "shim.py"} "$DOCS_DRY" {name} "$@"\n')
        program.chmod(0o755)
    (place / "bin" / "activate").write_text(f'export PATH="{place / "bin"}:$PATH"\n')
    for stamp in (".run", ".dev"):  # what the Makefile looks at
        (place / stamp).touch()


# ---------------------------------------------------------------- the executor


def main() -> None:
    # Nothing is ever written there: it ends when the tests do, even if they are killed.
    threading.Thread(target=lambda: os._exit(len(sys.stdin.read())), daemon=True).start()
    settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    folder = Path(settings["folder"])
    stand_ins(folder, {name: Path(path) for name, path in settings["models"].items()})
    execute = Executor(folder, settings["models"]["smollm2"])
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.environ["DOCS_SESSION"])
        server.listen()
        while True:
            connection, _ = server.accept()
            with connection, connection.makefile("rw") as stream:
                line, _, cwd = stream.readline().rstrip("\n").partition("\t")
                dry, program, *argv = json.loads(line)
                os.chdir(cwd)
                out, err, start = io.StringIO(), io.StringIO(), time.process_time()
                with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                    status = execute(program, argv, dry == "1")
                print(f"{time.process_time() - start:.1f} s", line, flush=True)
                print(json.dumps({"out": out.getvalue(), "err": err.getvalue(), "status": status}), file=stream)


def stand_ins(folder: Path, models: dict[str, Path]) -> None:
    """Tiny random models in the cache of the hub under the names of real ones, 8 of the 54 classes of pictograms, blank plots."""
    import datasets
    import torch
    from matplotlib.figure import Figure
    from PIL import Image

    from ex2.data import pictogram_scenes, pictograms
    from ex2.texts import probe

    torch.set_num_threads(1)

    def blank(figure: Figure, file: Any, format: str, **_: Any) -> None:  # drawing is half of the time of an analysis
        file.write(b'<svg xmlns="http://www.w3.org/2000/svg"/>') if format == "svg" else Image.new("L", (1, 1)).save(
            file, format
        )

    Figure.savefig = blank
    for name, path in models.items():
        repository = folder / "hf" / "hub" / f"models--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("0" * 40)
        shutil.copytree(path, repository / "snapshots" / ("0" * 40))
    (folder / "questions.txt").write_text(
        "What does a {} look like?\nHow can you recognize a {}?\nDescribe a {}.\nDraw a {}.\n", encoding="utf-8"
    )
    few = folder / "pictograms"
    for name in CLASSES:
        shutil.copytree(pictograms.PICTOGRAMS / "images" / name, few / "images" / name)
    for name in ("LICENSES.json", "attributes.csv"):
        shutil.copy(pictograms.PICTOGRAMS / name, few)
    for load in (pictograms.load_pictograms, pictogram_scenes.load_pictogram_scenes):
        load.__defaults__ = (few, "")
    cifar, load_any = _cifar100(few), datasets.load_dataset
    datasets.load_dataset = lambda name, *rest, **more: (
        cifar if name == "uoft-cs/cifar100" else load_any(name, *rest, **more)
    )
    names = {name.replace("_", " ") for name in CLASSES}
    (folder / "probe").mkdir()
    rows = (probe.SHIPPED / "pictograms.jsonl").read_text(encoding="utf-8").splitlines()
    kept = [row for row in rows if json.loads(row)["class_name"] in names]
    (folder / "probe" / "pictograms.jsonl").write_text("\n".join(kept) + "\n", encoding="utf-8")
    probe.SHIPPED = folder / "probe"


def _cifar100(pictograms: Path) -> Any:
    """The columns and splits of CIFAR-100 on the hub, with two classes of pictograms."""
    import datasets

    labels = datasets.ClassLabel(names=["cat", "crab"])
    features = datasets.Features({"img": datasets.Image(), "fine_label": labels, "coarse_label": labels})
    files = [sorted((pictograms / "images" / name).glob("*.webp"))[:6] for name in labels.names]
    splits = {}
    for split, part in (("train", slice(0, 4)), ("test", slice(4, 6))):
        rows = [(str(file), label) for label, own in enumerate(files) for file in own[part]]
        columns = {
            "img": [file for file, _ in rows],
            "fine_label": [label for _, label in rows],
            "coarse_label": [0] * len(rows),
        }
        splits[split] = datasets.Dataset.from_dict(columns, features=features)
    return datasets.DatasetDict(splits)


class Executor:
    """Runs the command lines of the shims in this process; status as a shell sees it."""

    def __init__(self, folder: Path, policy: str) -> None:
        self.folder, self.policy = folder, policy
        self.pages: dict[str, dict[str, Any]] = {}

    def __call__(self, program: str, argv: list[str], dry: bool) -> int:
        try:
            getattr(self, f"_{program}")(argv, dry)
        except SystemExit as end:
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
            return 1
        return 0

    def _shortened(self, argv: list[str], dry: bool) -> list[str]:
        given = {part.partition("=")[0] for part in argv}
        policy = [] if "--model_name_or_path" in given else ["--model_name_or_path", self.policy]
        planned = dry or "--dry_run" in given or "pairs" in argv
        questions = [] if planned else ["--questions", str(self.folder / "questions.txt")]
        return [*argv, *policy, *questions, *(DRY if dry else TRAINING)]

    def _ex2(self, argv: list[str], dry: bool) -> None:
        from ex2.cli import main

        if argv[:1] in (["train"], ["study"]) and "--help" not in argv:
            main(self._shortened(argv, dry))
        elif dry:
            _parse_only(lambda: main(argv), strict=True)
        else:
            main(argv)

    def _python(self, argv: list[str], dry: bool) -> None:
        """`python SCRIPT`, `-c CODE`, `-m MODULE`; training scripts get the options of a tiny run."""
        if argv[0] == "--block":
            page, script = argv[1:]
            with mock.patch.object(sys, "path", [os.getcwd(), *sys.path]):
                exec(compile(Path(script).read_text(encoding="utf-8"), page, "exec"), self.pages.setdefault(page, {}))
        elif argv[:2] == ["-m", "venv"]:
            make_venv(self.folder, Path(argv[2]).absolute())
        elif argv[:2] == ["-m", "pip"]:
            self._pip(argv[2:], dry)
        elif _CHECKED.match(" ".join(argv)):
            if argv[1] == "build":
                Path("dist").mkdir(exist_ok=True)
                Path("dist", "ex2-0.0.0-py3-none-any.whl").touch()
        elif argv[0] == "-c":
            exec(compile(argv[1], "-c", "exec"), {"__name__": "__main__"})
        else:
            script = ["-m", argv[1]] if argv[0] == "-m" else [argv[0]]
            rest = argv[len(script) :]
            trains = script[-1].startswith(("train/", "ex2.train."))
            if script[-1].startswith("ex2.train."):  # beside the package in a checkout, inside it in a wheel
                script = [f"train/{script[-1].removeprefix('ex2.train.')}.py"]
            if (
                trains and "--use_vllm" in rest
            ):  # which is not installed: tests/test_accelerate_configs.py looks at their options
                return
            rest = self._shortened(rest, dry) if trains else rest
            _script(script, rest) if trains or not dry else _parse_only(lambda: _script(script, rest))

    _python3 = _python

    def _accelerate(self, argv: list[str], dry: bool) -> None:
        """The launcher's own options are parsed by its own parser; the script then runs in one process, here."""
        from accelerate.commands.launch import launch_command_parser

        assert argv.pop(0) == "launch"
        given = launch_command_parser().parse_args(argv)
        if given.config_file is not None and not Path(given.config_file).is_file():
            raise SystemExit(f"no such file: {given.config_file}")
        self._python([*(["-m"] if given.module else []), given.training_script, *given.training_script_args], dry)

    def _torchrun(self, argv: list[str], dry: bool) -> None:
        from torch.distributed.run import get_args_parser

        given = get_args_parser().parse_args(argv)
        self._python([given.training_script, *given.training_script_args], dry)

    def _pip(self, argv: list[str], dry: bool) -> None:
        """Nothing is installed: the files that are named must be there, and the extras among EX2's own."""
        import tomllib

        extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
        assert argv[0] == "install"
        for option, value in zip(argv, argv[1:], strict=False):
            if option in ("-c", "-r") and not Path(value).is_file():
                raise SystemExit(f"no such file: {value}")
        for part in argv[1:]:
            named = re.search(r"\[([\w,]+)\]", part)
            if named and not set(named[1].split(",")) <= extras.keys():
                raise SystemExit(f"no such extra: {part}")
            if part.endswith(".whl") and not Path(part).is_file():
                raise SystemExit(f"no such wheel: {part}")

    def _vllm(self, argv: list[str], dry: bool) -> None:
        assert argv[0] == "serve", "tests/rl/test_vllm.py holds what EX2 prints of this command; it needs a GPU"


def _script(script: list[str], rest: list[str]) -> None:
    with mock.patch.object(sys, "argv", [script[-1], *rest]):
        if script[0] == "-m":
            runpy.run_module(script[1], run_name="__main__", alter_sys=True)
        else:
            with mock.patch.object(sys, "path", [str(Path(script[0]).resolve().parent), *sys.path]):
                runpy.run_path(script[0], run_name="__main__")


class _Parsed(BaseException):
    """The options of a command are understood."""


def _parse_only(run: Callable[[], None], *, strict: bool = False) -> None:
    """Let a command parse its options, and stop it there; `strict`: it passes unknown ones on to nobody."""
    known = argparse.ArgumentParser.parse_known_args

    def parse(self: Any, args: Any = None, namespace: Any = None, *, strict: bool = True) -> Any:
        _, unknown = known(self, args, namespace)
        if strict and unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        raise _Parsed

    parses = {"parse_args": parse, "parse_known_args": functools.partialmethod(parse, strict=strict)}
    with mock.patch.multiple(argparse.ArgumentParser, **parses), contextlib.suppress(_Parsed):
        run()
        raise AssertionError("it parses no options")


if __name__ == "__main__":
    main()
