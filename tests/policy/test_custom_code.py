"""Code that comes with a model is never run, and nobody is asked whether it may be."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ex2.base.errors import UserError
from ex2.export import Bundle, DescriptionGenerator, write_bundle
from ex2.launch import main as train
from ex2.options.parse import parse_options
from ex2.run.dry_run import describe

Arguments = Callable[..., list[str]]


@pytest.fixture(params=["model", "tokenizer"])
def model(request: pytest.FixtureRequest, tiny_llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model with code that leaves a file where it runs; standard input says yes to everything."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_llm, folder)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise SystemError('it runs')\n")
    name, changes = {
        "model": (
            "config.json",
            {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}},
        ),
        "tokenizer": (
            "tokenizer_config.json",
            {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": [None, "evil.Tokenizer"]}},
        ),
    }[request.param]
    content = json.loads((folder / name).read_text()) | changes
    (folder / name).write_text(json.dumps(content))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 100))
    return folder


def test_no_command_runs_it(
    model: Path, arguments: Arguments, bundle: Bundle, tmp_path: Path, refused: Callable[[list[str]], str],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    line = refused(
        ["generate", str(model), "--dataset", "pictograms", "--vlm", "none", "--out", str(tmp_path / "x.jsonl")]
    )
    assert f"{model} could not be loaded" in line
    with pytest.raises(SystemExit) as stop:
        train("ppo", arguments(tmp_path / "run", model_name_or_path=model))
    assert stop.value.code == 2
    with pytest.raises(UserError, match="could not be loaded|could not be read"):
        describe(parse_options("ppo", arguments(tmp_path / "run", model_name_or_path=model)))
    write_bundle(bundle, tmp_path / "bundle")
    with pytest.raises(UserError, match="could not be loaded"):
        DescriptionGenerator.from_pretrained(tmp_path / "bundle", base_model=str(model))
    assert not (tmp_path / "ran").exists()
    assert "[y/N]" not in capsys.readouterr().out


def test_asking_for_it_is_refused(arguments: Arguments, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="^trust_remote_code=true is not supported: EX2 runs no code"):
        parse_options("ppo", arguments(tmp_path / "run", trust_remote_code=True))
