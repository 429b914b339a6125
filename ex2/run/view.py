"""A run to look at while it runs: its state, its texts rollout by rollout, its learning curve, its options; as HTML.

Only files of the run's folder are read, and none is locked: the run goes on as if nobody looked.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ex2.analysis.report import ASSETS as REPORT_ASSETS
from ex2.analysis.report import MONITORS
from ex2.base.errors import UserError
from ex2.base.files import json_object, shaped_as_written
from ex2.base.pages import hash_of, templates
from ex2.base.shown import portable
from ex2.options.recorded import read_settings
from ex2.rewards.monitors import alarms
from ex2.run import folder as run_folder
from ex2.stats.plots import learning_curve_png
from ex2.texts.questions import named

ASSETS = Path(__file__).resolve().parent.parent / "assets" / "view"

_QUIET = 600.0  # seconds without news after which a run that has not ended is said to be quiet
_MONITOR = "monitors/"


class Samples:
    """The rows of samples.jsonl by rollout; a file that grows is read on from where it ended."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._end = 0
        self._places: dict[int, list[tuple[int, int]]] = {}  # step -> (offset, length) of its lines

    def steps(self) -> list[int]:
        """The updates before which a rollout was sampled, ascending."""
        self._read_on()
        return sorted(self._places)

    def at(self, step: int) -> list[dict[str, Any]]:
        """The texts that were sampled before this update."""
        with self._path.open("rb") as file:
            lines = []
            for offset, length in self._places[step]:
                file.seek(offset)
                lines.append(file.read(length))
        return [json_object(line, ("text", "scores"), "a row") for line in lines]

    def _read_on(self) -> None:
        size = self._path.stat().st_size if self._path.is_file() else 0
        if size < self._end:  # a resumed run drops what it samples again, and a new one all
            self._end, self._places = 0, {}
        if not size:
            return
        with self._path.open("rb") as file:
            file.seek(self._end)
            for line in file:
                if not line.endswith(b"\n"):  # it is being written
                    break
                step = json_object(line, ("step",), "a row")["step"]
                self._places.setdefault(step, []).append((self._end, len(line)))
                self._end += len(line)


class RunView:
    """What is shown of the run in a folder.

    Args:
        folder: Of a run or a study.

    Raises:
        UserError: It holds no run.
    """

    def __init__(self, folder: Path) -> None:
        if not run_folder.holds_run(folder):
            raise UserError(f"{folder} holds no run: name the --output_dir of a training or the --out of `ex2 study`.")
        self.folder = folder
        self._samples = Samples(folder / run_folder.SAMPLES)
        self._pages = templates(ASSETS)
        self._curve: tuple[int, str] = (-1, "")  # rows that it was drawn from, and the image

    def page(self) -> str:
        """The page around the state, with the script that fetches it again and again."""
        script = (ASSETS / "view.js").read_text(encoding="utf-8")
        styles = [(REPORT_ASSETS / "report.css"), (ASSETS / "view.css")]
        return self._pages.get_template("view.html.j2").render(
            name=self.folder.resolve().name,
            css=Markup("\n".join(path.read_text(encoding="utf-8") for path in styles)),
            script=Markup(script),
            script_hash=hash_of(script),
            state=Markup(self.state()),
        )

    def state(self, rollout: int | None = None) -> str:
        """What is known now, with the texts of a rollout, counted from 1; None, or one that is not there: the latest.

        Raises:
            UserError: A file of the run is damaged.
        """
        with shaped_as_written(self.folder):
            return self._state(rollout)

    def _state(self, rollout: int | None) -> str:
        settings = read_settings(self.folder / run_folder.CONFIG)
        metrics = run_folder.read_jsonl(self.folder / run_folder.METRICS)
        monitored = [row for row in metrics if "monitors/words" in row]
        steps = self._samples.steps()
        chosen = rollout if rollout is not None and 1 <= rollout <= len(steps) else len(steps)
        return self._pages.get_template("state.html.j2").render(
            standing=self._standing(len(steps), metrics),
            facts={
                "VLM": portable(str(settings.get("vlm"))),
                "Dataset": portable(str(settings.get("dataset"))),
                "Language model": portable(str(settings.get("model_name_or_path"))),
                "Texts sampled": max((row["sampled_texts"] for row in metrics), default=0),
            },
            has_report=(self.folder / run_folder.ANALYSIS_REPORT).is_file(),
            rollout=chosen,
            rollouts=len(steps),
            samples=_shown(self._samples.at(steps[chosen - 1])) if steps else [],
            monitors=_ends(monitored),
            meanings=MONITORS,
            alarms=list(alarms(monitored).values()),
            curve=self._drawn(monitored),
            settings={name: str(value) for name, value in settings.items() if value is not None},
        )

    def _standing(self, rollouts: int, metrics: Sequence[Mapping[str, Any]]) -> str:
        """How far the run is, in words."""
        if (self.folder / run_folder.CARD).is_file():
            return f"finished, {rollouts} rollouts"
        if not rollouts:
            return "sampling the untrained policy"
        if any("train_runtime" in row for row in metrics):
            return f"trained, {rollouts} rollouts; the report is being made"
        newest = max(
            (self.folder / name).stat().st_mtime
            for name in (run_folder.SAMPLES, run_folder.METRICS)
            if (self.folder / name).is_file()
        )
        quiet = time.time() - newest
        return f"rollout {rollouts}" + (f", no news for {quiet / 60:.0f} minutes" if quiet > _QUIET else "")

    def _drawn(self, monitored: Sequence[Mapping[str, Any]]) -> str:
        """The learning curve as a data URI; empty before there are two rollouts. Drawn again only where there is more."""
        if len(monitored) < 2:
            return ""
        if self._curve[0] != len(monitored):
            png = learning_curve_png(monitored)
            self._curve = (len(monitored), "data:image/png;base64," + base64.b64encode(png).decode())
        return self._curve[1]


def _shown(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of samples class by class, the name of a pair's other class beside its own."""
    shown = [
        {
            "of": " / ".join(str(row[name]) for name in ("class_name", "other_name") if name in row),
            "question": named(row.get("question", ""), row["class_name"], row.get("other_name")),
            "text": row["text"],
            "scores": dict(row["scores"]),
        }
        for row in rows
    ]
    return sorted(shown, key=lambda row: str(row["of"]).casefold())


def _ends(monitored: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """First and latest value of each monitor, the KL first."""
    if not monitored:
        return {}
    first, last = monitored[0], monitored[-1]
    names = ["kl", *(name for name in last if name.startswith(_MONITOR))]
    return {name.removeprefix(_MONITOR): (first[name], last[name]) for name in names if name in first and name in last}
