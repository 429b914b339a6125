"""`ex2 study`: from images to an answer in one command; each step is a command of its own, and what is done is not repeated."""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ex2.base.errors import UserError, one_line
from ex2.base.folders import unfinished
from ex2.base.locks import alone_at
from ex2.base.progress import announce
from ex2.base.shipped import shipped
from ex2.base.shown import gap, listed, say, shell_line
from ex2.commands.analyze import say_examples
from ex2.commands.train import training_line
from ex2.options.recorded import read_settings
from ex2.options.run_options import ALGORITHMS

if TYPE_CHECKING:
    from ex2.options.run_options import RunOptions

Start = Callable[[str, list[str]], None]
Command = Callable[[Sequence[str]], None]

_STEPS = 4
_SHOWN = ("base", "aligned")  # systems whose accuracy is printed; their folders have the table of all


def add(commands: Any, start: Start, command: Command) -> None:
    """Describe the command to the parser.

    Args:
        commands: Where commands are added.
        start: The training entry point, which lies above this room.
        command: Runs another `ex2` command, likewise.
    """
    parser = commands.add_parser(
        "study",
        help="from images to an answer: train, generate, analyse and classify in one folder",
        usage="ex2 study [NAME_OR_FILE] [--vlm V] [--dataset D] [--out DIR] [--judge J] [--any_option value ...]",
        description="Train an LLM on what a vision-language model likes to read about your images, let it describe their\n"
        "classes, and report what the VLM prefers: text by text, by category, and in zero-shot classification.\n"
        "NAME_OR_FILE is a training config (`ex2 list configs`), quickstart if none is named; further options are training\n"
        "options and win over it. All files go to one folder. Run the same command again after an interruption: what is done\n"
        "is kept, what was interrupted goes on.",
        epilog="Examples:\n"
        "  ex2 study                                                          # the embedded models and images\n"
        "  ex2 study --vlm hf:google/siglip2-base-patch16-224 --dataset folder:photos --out runs/photos\n"
        "  ex2 study pictograms --seed 1 --out runs/seed1\n"
        "  ex2 study quickstart --dry_run true                                # what it would take; loads no weights\n"
        '  ex2 study modern/smollm3_3b --dataset hf:cifar100 --launcher "accelerate launch --num_processes 4" --out runs/cifar',
    )
    parser.add_argument(
        "--out", metavar="DIR", help="folder of the study, the same as --output_dir; default: the config's"
    )
    parser.add_argument("--algorithm", choices=ALGORITHMS, help="default: the one that the config is for, else ppo")
    parser.add_argument(
        "--launcher",
        metavar="COMMAND",
        help='starts the training in several processes, such as "accelerate launch --config_file FILE"; default: this process',
    )
    parser.add_argument("--samples", type=int, default=1, metavar="N", help="answers to each question; default: 1")
    parser.add_argument("--judge", default="local", metavar="SPEC", help="see `ex2 list judges`; default: local")
    parser.set_defaults(command=lambda arguments: run(arguments, start, command), further=[])


def run(arguments: argparse.Namespace, start: Start, command: Command) -> None:
    """Do what is not done yet, and say what was found."""
    line = _with_config(arguments.further)
    launcher = _launcher(arguments.launcher)
    if arguments.out is not None:
        if _names(line, "output_dir"):
            raise UserError("--out and --output_dir are the same: leave one out.")
        line += ["--output_dir", arguments.out]
    if not _names(line, "dry_run"):
        _announce(1, f"training ({arguments.algorithm.upper()})")  # first, as libraries take seconds
    from ex2.options.parse import parse_options

    options = parse_options(arguments.algorithm, line)
    if options.ex2.dry_run:
        start(arguments.algorithm, line)
        return
    if options.ex2.pairs is not None:
        raise UserError("pairs: a study is about single classes; for pairs see docs/classify.md.")
    if options.output_dir.exists() and not options.output_dir.is_dir():
        raise UserError(f"--out {options.output_dir} is a file: name a folder.")
    with alone_at(options.output_dir, "--out"):  # from the first step to the last, each of which locks its own part
        _study(arguments, launcher, line, options, start, command)


def _study(
    arguments: argparse.Namespace,
    launcher: list[str],
    line: list[str],
    options: RunOptions,
    start: Start,
    command: Command,
) -> None:
    """The steps, in the folder that this process holds."""
    from ex2.run.folder import ALIGNED_TEXTS, ANALYSIS_REPORT, accuracy_table, take_back

    folder = options.output_dir
    take_back(folder)  # else a run that was being put aside would be seen by the training alone
    aligned, base = folder / ALIGNED_TEXTS, folder / "base.jsonl"
    if _is_trained(options):
        say("done before")
    else:
        for path in (aligned, base):
            path.unlink(missing_ok=True)  # by the policy of before
        _train(arguments.algorithm, launcher, [*line, *_going_on(options)], start)

    _announce(2, "descriptions by the aligned policy, and by the untrained one")
    admitted = _admitted(options)
    samples = ["--samples", str(arguments.samples), *admitted]
    _quietly(command, ["generate", str(folder), *samples, "--out", str(aligned)])
    if not _take_kept_texts(folder, aligned, base):
        _quietly(command, ["generate", str(folder), "--base", *samples, "--out", str(base)])

    _announce(3, "analysis: what is said, and what it adds")
    analysis = (folder / ANALYSIS_REPORT).parent
    if not _is_fresh(analysis / "summary.json", aligned, base) or _judge(analysis) != arguments.judge:
        _quietly(command, ["analyze", str(aligned), "--base", str(base), "--run", str(folder), "--judge", arguments.judge,
                           *admitted, "--out", str(analysis)])  # fmt: skip
    tables = {}
    if not options.ex2.dataset.startswith("planted:"):  # which has no images
        _announce(4, "zero-shot classification of held-out images")
        tables = {names: accuracy_table(folder, names) for names in ("without", "with")}
    for names, table in tables.items():
        if not _is_fresh(table, aligned, base):
            _quietly(command, ["classify", *_image_options(options), "--descriptions", str(base), str(aligned),
                               "--names", names, "--out", str(table.parent)])  # fmt: skip
    _say_answer(folder, tables)


def _with_config(further: list[str]) -> list[str]:
    """The training options, with the quickstart's below them where no config is named."""
    named = any(part.split("=")[0] == "--config" for part in further)
    return training_line(further if named or (further and not further[0].startswith("-")) else ["quickstart", *further])


def _names(line: Sequence[str], option: str) -> bool:
    """Whether a command line has an option, written with underscores or hyphens."""
    return any(part.split("=")[0].replace("-", "_") == f"__{option}" for part in line)


def _announce(number: int, what: str) -> None:
    gap()
    announce(f"[{number}/{_STEPS}] {what}")


def _quietly(do: Callable[..., None], *arguments: Any) -> None:
    """Call without what it prints, which its files hold and the answer says; progress and errors go to standard error."""
    with redirect_stdout(StringIO()):
        do(*arguments)


def _launcher(command: str | None) -> list[str]:
    """The words of `--launcher`; none where this process trains.

    Raises:
        UserError: There is no such program.
    """
    if command is None:
        return []
    try:
        words = shlex.split(command)
    except ValueError as error:  # a quotation mark without its fellow
        raise UserError(f"--launcher {command}: {one_line(error)}.") from None
    if not words:
        raise UserError('--launcher is empty: give a command such as "accelerate launch".')
    if shutil.which(words[0]) is None:
        raise UserError(f'--launcher {command}: there is no program {words[0]}; give one such as "accelerate launch".')
    return words


def _train(algorithm: str, launcher: list[str], line: list[str], start: Start) -> None:
    """Train in this process, or under a launcher; errors are said by whoever trains."""
    if not launcher:
        _quietly(start, algorithm, line)
        return
    script = shipped("train") / f"{algorithm}_ex2.py"
    # Without what it prints, as `_quietly` has it: progress and errors go to standard error.
    status = subprocess.run([*launcher, str(script), *line], stdout=subprocess.DEVNULL, check=False).returncode
    if status:
        raise UserError(f"--launcher {shlex.join(launcher)}: the training ended with status {status}.")


def _is_trained(options: RunOptions) -> bool:
    """Whether the folder holds this run, finished.

    Raises:
        UserError: It holds another one.
    """
    from ex2.run.folder import CARD, CONFIG, check_same, holds_run

    folder = options.output_dir
    if options.ex2.overwrite or not holds_run(folder):
        return False
    before = read_settings(folder / CONFIG)
    check_same(options, before, "Name another folder (--out), or replace it (--overwrite true)")
    as_long = all(before.get(name) == options.as_dict()[name] for name in ("max_steps", "num_train_epochs"))
    return as_long and (folder / CARD).is_file()  # the card is the last thing that a run writes


def _going_on(options: RunOptions) -> list[str]:
    """How training takes up what the folder holds."""
    from ex2.rl.checkpoints import checkpoints
    from ex2.run.folder import holds_run

    if options.ex2.overwrite or options.resuming or not holds_run(options.output_dir):
        return []
    return ["--resume_from_checkpoint", "true"] if checkpoints(options.output_dir) else ["--overwrite", "true"]


def _take_kept_texts(folder: Path, aligned: Path, base: Path) -> bool:
    """Write the untrained policy's texts that the run keeps, of each class as many as the aligned policy wrote.

    Returns:
        Whether the run keeps enough of them.
    """
    from ex2.run.folder import base_descriptions
    from ex2.texts.descriptions import read_descriptions, write_descriptions

    said = read_descriptions(aligned)
    names = {record.class_id: record.class_name for record in said}
    wanted, taken = Counter(record.class_id for record in said), Counter[int]()
    kept = []
    for record in base_descriptions(folder, said[0].dataset, names):
        if taken[record.class_id] < wanted[record.class_id]:
            taken[record.class_id] += 1
            kept.append(record)
    if taken != wanted:
        return False
    if not base.is_file() or read_descriptions(base) != kept:  # else what was made of it stays
        write_descriptions(base, kept)
    return True


def _is_fresh(made: Path, *sources: Path) -> bool:
    """Whether a command has finished writing the folder of `made`, after `sources`."""
    return (
        made.is_file()
        and unfinished(made.parent) is None
        and made.stat().st_mtime >= max(source.stat().st_mtime for source in sources)
    )


def _judge(analysis: Path) -> str:
    """The judge of an analysis, as it was asked for."""
    from ex2.analysis.study import Study

    return str(Study.read(analysis).summary["judge"]).partition("@")[0]


def _admitted(options: RunOptions) -> list[str]:
    """What the user has named and allowed for the whole study, as options of its commands."""
    return ["--fetch", "true", "--allow_pickle_formats", str(options.ex2.allow_pickle_formats).lower()]


def _image_options(options: RunOptions) -> list[str]:
    """The VLM and the images of a run, split as in training, as options of other commands."""
    names = (
        "vlm", "dataset", "vlm_dtype", "heldout_fraction", "split_seed", "images_per_class", "cache_dir",
        "allow_pickle_formats",
    )  # fmt: skip
    values = {name: getattr(options.ex2, name) for name in names}
    return [part for name, value in values.items() if value is not None for part in (f"--{name}", str(value))]


def _say_answer(folder: Path, tables: Mapping[str, Path]) -> None:
    """Print what the study found, from its files: what the VLM prefers, examples, accuracies, and where to read on."""
    from ex2.analysis.study import Study
    from ex2.run.folder import ALIGNED_TEXTS, ANALYSIS_REPORT
    from ex2.zero_shot.systems import format_table

    report = folder / ANALYSIS_REPORT
    study = Study.read(report.parent)
    found = study.summary
    gap()
    for sentence in [
        *found["verdict"],
        *found["counterfactuals"],
        *filter(None, [found.get("probe", {}).get("sentence")]),
    ]:
        say(sentence)
    gap()
    say_examples(study)
    results = {names: json.loads(table.read_text(encoding="utf-8")) for names, table in tables.items()}
    if results:
        gap()
        say("Zero-shot classification with descriptions without the class name, in percent:")
        say(format_table([row for row in results["without"]["systems"] if row["system"] in _SHOWN]))
        if said := results["with"]["meta"].get("conclusion", {}).get("aligned"):
            say(f"The same with the class name: {said}")
    gap()
    count = len(found["warnings"])
    warned = f", with {count} warning{'s' * (count > 1)}" if count else ""
    more = [folder / "before_after.md", *(table.with_name("report.html") for table in tables.values())]
    look = shell_line("ex2", "view", folder)
    export = shell_line("ex2", "export", folder, "--descriptions", folder / ALIGNED_TEXTS, "--out", "bundle")
    say(f"Report{warned}: {report}; more: {listed([str(path) for path in more])}. Next: `{look}` for all samples, `{export}` for "
        "other libraries.")  # fmt: skip
