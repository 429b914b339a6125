"""The page on which a bundle's generator describes classes, and the folder that is a Space."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from urllib.request import Request, urlopen

import pytest
import torch
import yaml
from PIL import Image

from ex2.base.errors import UserError
from ex2.export import Bundle, read_bundle, write_bundle
from ex2.export import demo as page
from ex2.export.demo import Demo, open_demo, write_space


@pytest.fixture(scope="module")
def demo(folder: Path) -> Demo:
    """Without a VLM: the bundle's has another fingerprint than the one on this machine."""
    return open_demo(folder)


class Lengths:
    """A VLM to which an image is nearer the longer a text is."""

    name = "lengths"

    def encode_texts(self, texts: list[str]) -> torch.Tensor:
        return torch.tensor([[len(text) / 100, 1.0] for text in texts])

    def encode_images(self, images: list[Image.Image]) -> torch.Tensor:
        return torch.tensor([[1.0, 0.0]] * len(images))


def test_a_row_a_text_and_the_names_of_the_bundle_once(demo: Demo) -> None:
    assert demo.class_names == ("crane", 'the "big/small" \\ one', "пингвин")
    assert demo.columns == ["class", "description"]
    rows = demo.describe(["crane", "teapot"], 2, seed=3)
    assert [row[0] for row in rows] == ["crane"] * 2 + ["teapot"] * 2
    assert rows == demo.describe(["crane", "teapot"], 2, seed=3) != demo.describe(["crane", "teapot"], 2, seed=4)


def test_an_image_brings_the_nearest_text_first(demo: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    scored = replace(demo, vlm=Lengths())  # type: ignore[arg-type]
    records = [SimpleNamespace(class_name="crane", text=text) for text in ("bill", "a long bill", "\x1b[2Jx")]
    monkeypatch.setattr(demo.generator, "describe", lambda *_, **__: records)
    image = Image.new("RGB", (4, 4))
    assert scored.describe(["crane"], 3, 0, image) == [
        ["crane", "a long bill", 0.11],
        ["crane", "[U+001B][2Jx", 0.05],
        ["crane", "bill", 0.04],
    ]
    assert scored.describe(["crane"], 3, 0)[0] == ["crane", "bill", ""]
    assert scored.columns == ["class", "description", "cosine"]


def test_the_vlm_is_the_one_of_the_bundle_or_none(
    demo: Demo, folder: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    vlm = SimpleNamespace(name="pictogram", fingerprint="f" * 64)  # as the bundle says
    monkeypatch.setattr("ex2.vlm.load_vlm", lambda spec, **_: loaded.append(spec) or vlm)
    assert demo.vlm is None
    assert open_demo(folder).vlm is vlm
    assert open_demo(folder, vlm="none").vlm is None
    assert loaded == ["pictogram"]
    elsewhere = replace(bundle, facts=bundle.facts | {"vlm": {"name": "hf:stranger/clip", "fingerprint": "f" * 64}})
    write_bundle(elsewhere, tmp_path / "elsewhere")
    assert open_demo(tmp_path / "elsewhere").vlm is None
    assert loaded == ["pictogram"]
    assert open_demo(tmp_path / "elsewhere", fetch=True).vlm is vlm


@pytest.mark.parametrize(
    ("names", "count", "message"),
    [([], 1, "class_names is empty"), (["a"], 17, "At most 20 classes and 16"), (["a"] * 21, 1, "At most 20 classes")],
)
def test_what_the_page_does_not_take(demo: Demo, names: list[str], count: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        demo.describe(names, count, 0)


def test_a_space_has_page_bundle_code_and_what_it_needs(folder: Path, bundle: Bundle, tmp_path: Path) -> None:
    space = tmp_path / "space"
    write_space(folder, space, "6.31.0")
    head = yaml.safe_load((space / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert head["sdk"] == "gradio"
    assert head["sdk_version"] == "6.31.0"
    assert head["app_file"] == "app.py"
    assert read_bundle(space / "bundle").class_names == bundle.class_names
    needed = (space / "requirements.txt").read_text().splitlines()
    assert any(line.startswith("torch<") for line in needed)
    assert not [line for line in needed if line.startswith(("pytest", "gradio", "ex2"))]
    assert not list(space.rglob("__pycache__"))
    # The page is started with the code that lies beside it.
    compile((space / "app.py").read_text(encoding="utf-8"), "app.py", "exec")
    script = "import ex2; print(ex2.__file__)"
    found = subprocess.run([sys.executable, "-c", script], cwd=space, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()) == space / "ex2" / "__init__.py"
    with pytest.raises(UserError, match=r"--space .* is not empty: name a new folder"):
        write_space(folder, space, "6.31.0")
    with pytest.raises(UserError, match=r"--space .* lies in the bundle: name a folder elsewhere"):
        write_space(folder, folder / "space", "6.31.0")


def test_a_space_is_written_as_a_whole_or_not_at_all(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> str:
        raise OSError("No space left on device")

    monkeypatch.setattr(page, "_space_card", full)
    with pytest.raises(UserError, match=r"^--space .* could not be written, and is as it was before: No space left"):
        write_space(folder, tmp_path / "space", "6.31.0")
    assert not list(tmp_path.iterdir())


def test_without_gradio_one_line_says_what_to_install(
    folder: Path, refused: Callable[[list[str]], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert refused(["demo", str(folder)]) == "error: ex2 demo needs gradio: run `pip install 'ex2[demo]'`."


def test_a_port_that_is_taken_is_named(
    folder: Path, refused: Callable[[list[str]], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", SimpleNamespace())  # type: ignore[arg-type]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = refused(["demo", str(folder), "--port", str(port)])
    assert said == f"error: --port {port} cannot be used (Address already in use): name another one, or 0."


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    """Where `ex2 demo` serves the page, in a process of its own: gradio leaves sockets behind."""
    line = ["demo", str(folder), "--port", "0"]
    with subprocess.Popen(
        [sys.executable, "-c", "from ex2.cli import main; main()", *line],
        cwd=Path(__file__).resolve().parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert f" describes classes with {folder}, without a VLM" in said
        yield said.split()[0]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0


@pytest.mark.skipif(find_spec("gradio") is None, reason="gradio is not installed: pip install 'ex2[demo]'")
def test_the_page_answers_here_and_describes_what_is_asked(address: str, demo: Demo) -> None:
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/?", address)

    def ask(path: str, data: list[object] | None = None) -> str:
        body = None if data is None else json.dumps({"data": data}).encode()
        headers = {"Content-Type": "application/json"}
        with urlopen(Request(f"{address.rstrip('/')}{path}", body, headers), timeout=60) as answer:
            return str(answer.read().decode())

    page = ask("/")
    assert "crane" in page
    assert "googleapis" not in page

    def describe(*data: object) -> str:
        event = json.loads(ask("/gradio_api/call/describe", list(data)))["event_id"]
        return ask(f"/gradio_api/call/describe/{event}")

    kind, data = describe(["crane", "teapot"], 2, 3).split("\ndata: ")
    assert kind == "event: complete"
    (table,) = json.loads(data)
    assert table["data"] == demo.describe(["crane", "teapot"], 2, 3)
    assert describe([], 2, 3).startswith("event: error")
