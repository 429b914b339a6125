"""The folder of a run: what was asked for, what it ran on, what happened. Local files are the record."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from tqdm import tqdm
from transformers import TrainerCallback

from ex2.base.errors import UserError
from ex2.base.files import is_utf8, json_lines, json_object, sweep, to_json, write_atomically
from ex2.base.folders import is_empty
from ex2.base.locks import alone_in
from ex2.base.progress import progress_bar
from ex2.options.recorded import SIGNATURE, is_recorded, read_settings
from ex2.rewards.monitors import alarms
from ex2.rl.checkpoints import UNFINISHED, checkpoints, clean_up, discard
from ex2.rl.interruptions import written_by_all
from ex2.run.processes import on_main_process
from ex2.run.wandb_run import WANDB_ID
from ex2.texts.descriptions import Description

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from ex2.options.run_options import RunOptions

CONFIG, ENVIRONMENT, METRICS, SAMPLES, BASE_SAMPLES, CARD, ADAPTER = (
    "config.yaml", "environment.json", "metrics.jsonl", "samples.jsonl", "base_samples.jsonl", "README.md", "adapter",
)  # fmt: skip

ALIGNED_TEXTS, ANALYSIS_REPORT = "aligned.jsonl", Path("analysis", "report.html")
"""What a study adds: descriptions by the trained policy, and the report of what it says."""


def accuracy_table(folder: Path, names: str) -> Path:
    """Where a study keeps what its texts are worth in classification, ``with`` or ``without`` the class names in them."""
    return folder / f"accuracy_{names}" / "results.json"


_OWN_FILES = (
    CONFIG, ENVIRONMENT, METRICS, SAMPLES, BASE_SAMPLES, CARD, ADAPTER, "checkpoint-*", "completions", "before_after.*",
    "pair_accuracy.*", "learning_curve.png", "bad_step_*.jsonl", "training_args.bin", UNFINISHED, WANDB_ID,
)  # fmt: skip

# With an underscore, because transformers uploads no folder that begins with one.
REPLACED, _MOVING = "_replaced", "_replaced.moving"

_MONITORED = "monitors/words"  # only in the row of a rollout's first update
_SUMMARY = "train_runtime"  # only in the row that the Trainer logs when training ends
_PACKAGES = ("ex2", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "open_clip_torch", "tokenizers")


@contextmanager
def taken(options: RunOptions) -> Iterator[None]:
    """Keep `output_dir` for this run, once it has been seen to be free for it; all processes enter it.

    Raises:
        UserError: As `check_folder`; or another process works in the folder, or it cannot be made.
    """
    folder = options.output_dir
    with ExitStack() as stack:

        def take() -> None:
            stack.enter_context(alone_in(folder, "output_dir"))
            sweep(folder)
            take_back(folder)
            check_folder(options)

        on_main_process(take)
        yield


def check_folder(options: RunOptions) -> None:
    """See whether `output_dir` is free for this run; nothing is written or deleted yet.

    Raises:
        UserError: The folder holds another run and neither resuming nor overwriting was asked for, holds other files, has a name
            that is no UTF-8, or a run is to be resumed with other options.
    """
    folder = options.output_dir
    if not is_utf8(str(folder)):
        raise UserError(f"output_dir={folder}: tokenizers are saved under names in UTF-8 only: name another folder.")
    if options.resuming:
        if not holds_run(folder):
            raise UserError(f"resume_from_checkpoint is set, but output_dir={folder} holds no run.")
        check_same(options, read_settings(folder / CONFIG), "Go on with the options that it was begun with")
    elif holds_run(folder):
        if not options.ex2.overwrite:
            raise UserError(
                f"output_dir={folder} already holds a run. Choose another output_dir, go on with it "
                "(--resume_from_checkpoint true), or replace it (--overwrite true)."
            )
    elif folder.exists() and not folder.is_dir():
        raise UserError(f"output_dir={folder} is a file: name a folder.")
    elif folder.is_dir() and not is_empty(folder):
        raise UserError(f"output_dir={folder} is not empty and holds no run: choose another folder.")


def holds_run(folder: Path) -> bool:
    """Whether a folder holds a run, finished or not: its first file is a config.yaml that EX2 has signed."""
    return is_recorded(folder / CONFIG)


def check_same(options: RunOptions, before: dict[str, Any], cure: str) -> None:
    """Refuse to go on with a run whose rewards, prompts or policy would be others than before.

    Args:
        options: What is asked for.
        before: Options that the run was begun with.
        cure: What the user can do.

    Raises:
        UserError: Another run, with the options that differ.
    """
    now = options.as_dict()
    differences = [
        f"{name} was {before[name]}, is {now[name]}"
        for name in options.defining_options
        if name in before and before[name] != now[name]
    ]
    if differences:
        raise UserError(f"output_dir={options.output_dir} holds another run: {'; '.join(differences)}. {cure}.")


def put_aside(folder: Path) -> None:
    """Make a folder for a new run; an older run in it moves into `_replaced`, files of other origin stay.

    There it is until the new run has its first checkpoint (`forget_replaced`). A kill at any moment leaves the one or the other:
    `taken` moves back what had not moved altogether.
    """
    folder.mkdir(parents=True, exist_ok=True)
    replaced, moving = folder / REPLACED, folder / _MOVING
    # Not glob, which passes over links to nowhere.
    own = [path for path in folder.iterdir() if any(fnmatchcase(path.name, pattern) for pattern in _OWN_FILES)]
    if replaced.is_dir():  # the run in the folder never had a checkpoint
        for path in sorted(own, key=lambda path: path.name == CONFIG):
            _delete(path)
    elif own:
        moving.mkdir()
        for path in own:
            os.rename(path, moving / path.name)
        os.rename(moving, replaced)


def forget_replaced(folder: Path) -> None:
    """Delete the run that was put aside: the new one has something to go on from."""
    discard(folder / REPLACED)
    clean_up(folder, only_if_empty=True)


def take_back(folder: Path) -> None:
    """Undo a `put_aside` that was interrupted, or after which no new run was begun; finish one whose new run goes on."""
    replaced, moving = folder / REPLACED, folder / _MOVING
    begun = (folder / CONFIG).exists()
    if begun and replaced.is_dir() and (checkpoints(folder) or (folder / ADAPTER).is_dir()):
        forget_replaced(folder)
    for aside in (moving, replaced):
        if aside.is_dir() and (aside == moving or not begun):
            for path in sorted(aside.iterdir(), key=lambda path: path.name == CONFIG):
                os.rename(path, folder / path.name)
            aside.rmdir()


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def write_config(options: RunOptions) -> None:
    text = f"{SIGNATURE.decode()} {options.algorithm.upper()} run\n" + yaml.safe_dump(options.as_dict())
    write_atomically(options.output_dir / CONFIG, text.encode())


def environment(**facts: Any) -> dict[str, Any]:
    """Versions of Python, packages and hardware, and `facts` such as fingerprints and seeds."""
    import torch

    versions: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or ["cpu"],
        "threads": torch.get_num_threads(),
        **facts,
    }


def write_json(path: Path, content: Any) -> None:
    write_atomically(path, to_json(content))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON lines file; a last line that a killed process left half-written is dropped. Missing file: no rows."""
    if not path.is_file():
        return []
    lines = list(json_lines(path))
    rows = []
    for number, line in lines:
        try:
            rows.append(json_object(line, (), "a row"))
        except UserError as error:
            if number < lines[-1][0]:
                raise UserError(f"{path}:{number} is damaged: {error}") from None
    return rows


def keep_rows(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> None:
    """Leave only the wanted rows in a JSON lines file, and make it where there is none."""
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in read_jsonl(path) if wanted(row))
    write_atomically(path, "".join(lines).encode())


class RunLog(TrainerCallback):
    """Writes metrics.jsonl and shows one progress bar with the numbers that matter."""

    _SHOWN = {
        "cosine": "monitors/reward_cosine",
        "held-out": "monitors/heldout_cosine",
        "pair margin": "monitors/heldout_pair_margin",
        "kl": "kl",
        "words": "monitors/words",
    }

    def __init__(self, options: RunOptions) -> None:
        self.path = options.output_dir / METRICS
        self.updates_per_rollout = options.updates_per_rollout
        self.samples_per_rollout = options.samples_per_rollout
        self.started = time.perf_counter()
        self.summed_up = False
        self.bar: tqdm[Any] | None = None
        self.rollouts: list[dict[str, Any]] = []  # rows with monitors
        self.warned: set[str] = set()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.started = time.perf_counter()
        with written_by_all(f"{METRICS} or {SAMPLES}", self.path.parent):
            if state.is_world_process_zero:
                self._drop_rows_after(state.global_step, finished=state.global_step >= state.max_steps)
        if state.is_world_process_zero:
            done, planned = self._rollouts_at(state.global_step), self._rollouts_at(state.max_steps)
            self.bar = progress_bar(planned, "training", "rollout", initial=done)
            rows = read_jsonl(self.path)
            self.summed_up = any(_SUMMARY in row for row in rows)
            self.rollouts = [row for row in rows if _MONITORED in row]
            self.warned = set(alarms(self.rollouts))

    def _rollouts_at(self, step: int) -> int:
        """How many rollouts `step` updates take, the last one begun counted as a whole."""
        return -(-step // self.updates_per_rollout)

    def _drop_rows_after(self, step: int, *, finished: bool) -> None:
        """Leave out rows of steps that a resumed run runs again, and the summary of a run that goes on after its end."""
        # Metrics of step n are written after it, samples before it.
        keep_rows(self.path, lambda row: row["step"] <= step and (finished or _SUMMARY not in row))
        keep_rows(self.path.with_name(SAMPLES), lambda row: row["step"] < step)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            forget_replaced(self.path.parent)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step // self.updates_per_rollout - self.bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs is None:
            return
        row = {
            "step": state.global_step,
            "sampled_texts": self._rollouts_at(state.global_step) * self.samples_per_rollout,
            "seconds": round(time.perf_counter() - self.started, 2),
            **{name: value for name, value in logs.items() if isinstance(value, (int, float))},
        }
        with written_by_all(METRICS, self.path.parent):
            # A finished run that is resumed keeps its summary; one that was killed before it had any gets one.
            if state.is_world_process_zero and not (self.summed_up and _SUMMARY in row):
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
        if self.bar is not None and _MONITORED in row:
            self.rollouts.append(row)
            for monitor, message in alarms(self.rollouts).items():
                if monitor not in self.warned:
                    self.warned.add(monitor)
                    self.bar.write(f"warning: step {state.global_step}: {message}", file=sys.stderr)
        if self.bar is not None:
            shown = {label: f"{row[name]:.3g}" for label, name in self._SHOWN.items() if name in row}
            if shown:  # only the first update of a rollout has them
                self.bar.set_postfix(shown, refresh=False)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take away the progress bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def base_descriptions(folder: Path, dataset: str, class_names: Sequence[str] | Mapping[int, str]) -> list[Description]:
    """The untrained policy's texts about single classes that a run keeps, without blank ones; none where it kept none.

    Args:
        folder: Run folder.
        dataset: Name of the dataset that the run described.
        class_names: Its class names by class id; texts about others are left out.
    """
    if not (folder / BASE_SAMPLES).is_file():
        return []
    names = dict(enumerate(class_names)) if isinstance(class_names, Sequence) else class_names
    return [
        Description(
            dataset=dataset,
            class_id=row["class_id"],
            class_name=names[row["class_id"]],
            question=row["question"],
            text=row["text"],
            model="base",
            seed=0,
            scores={},
        )
        for row in read_jsonl(folder / BASE_SAMPLES)
        if row["text"].strip() and "other_id" not in row and row["class_id"] in names
    ]


def read_run(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Settings and metrics of a run.

    Raises:
        UserError: The folder holds no run.
    """
    if not (folder / CONFIG).is_file():
        raise UserError(f"--run {folder} holds no run: {CONFIG} is missing.")
    return read_settings(folder / CONFIG), read_jsonl(folder / METRICS)


def held_equal(settings: dict[str, Any], metrics: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a comparison of VLMs must hold equal: policy, rewards, sample budget, seed."""
    names = (
        "model_name_or_path", "reward_funcs", "reward_normalization", "reward_scale", "max_completion_length",
        "learning_rate", "beta", "seed",
    )  # fmt: skip
    facts = {name: settings[name] for name in names if name in settings}
    if "questions" in settings:
        facts["training_questions"] = settings["questions"]
    if metrics:
        facts["training_texts"] = max(row.get("sampled_texts", 0) for row in metrics)
    return facts
