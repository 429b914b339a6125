"""`ex2 view`: a page of a run, on this machine only, while the run goes on."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from markupsafe import escape

from ex2.base.shown import printable
from ex2.cli import main
from ex2.commands.view import server
from ex2.run.view import RunView, Samples
from ex2.texts.questions import named
from tests.browser import SIZES, fits, opened

Get = Callable[..., tuple[int, str]]
EVIL = "<img src=x onerror=alert(1)> \u202e orange"


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> Path:
    """A copy of a finished run, of two rollouts, the first of whose texts is hostile."""
    folder = tmp_path / "run"
    shutil.copytree(trained_run, folder)
    first, *others = (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    lines = [json.dumps(json.loads(first) | {"text": EVIL}), *others]
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def serving(run: Path) -> Iterator[ThreadingHTTPServer]:
    with server(run, 0) as served:
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served
        served.shutdown()
        thread.join()


@pytest.fixture
def get(serving: ThreadingHTTPServer) -> Get:
    def ask(path: str, host: str | None = None, method: str = "GET") -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", serving.server_port, timeout=30)
        connection.request(method, path, headers={} if host is None else {"Host": host})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    return ask


def test_the_page_says_what_is_known_of_the_run(get: Get, run: Path) -> None:
    status, page = get("/")
    assert status == 200
    rows = [json.loads(line) for line in (run / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    for part in ("finished, 2 rollouts", "pictogram", "2 of 2", "<dt>lora_r</dt>", "data:image/png;base64,"):
        assert part in page
    assert all(str(escape(printable(row["text"]))) in page for row in rows if row["step"] == 2)
    assert named(rows[-1]["question"], rows[-1]["class_name"]) in page  # as it was asked
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    words = [row["monitors/words"] for row in metrics if "monitors/words" in row]
    assert f"<td>{words[0]:.4g}</td><td>{words[1]:.4g}</td>" in page


def test_rollouts_are_chosen_by_number_and_hostile_texts_are_escaped(get: Get) -> None:
    status, first = get("/state?rollout=1")
    assert status == 200
    assert "1 of 2" in first
    assert "&lt;img src=x onerror=alert(1)&gt; [U+202E] orange" in first
    assert "<img src=x" not in first
    latest = get("/state")[1]
    assert "2 of 2" in latest
    for other in ("0", "3", "-1", "x", "1e9", "9" * 400):
        assert get(f"/state?rollout={other}")[1] == latest


def test_only_this_machine_is_answered_and_only_what_belongs_to_the_run(
    get: Get, serving: ThreadingHTTPServer, run: Path
) -> None:
    assert serving.server_address[0] == "127.0.0.1"
    assert get("/", host="evil.example")[0] == 403
    assert get("/", host=f"localhost:{serving.server_port}")[0] == 200
    assert get("/", method="POST")[0] == 501
    (run / "analysis" / "tables").mkdir(parents=True)
    (run / "analysis" / "tables" / "shares.csv").write_text("a,b\n")
    (run / "analysis" / "tables" / "secret.csv").symlink_to("/etc/hostname")
    (run / "analysis" / "report.html").write_text("<h1>Report</h1>")
    assert get("/analysis/report.html") == (200, "<h1>Report</h1>")
    assert get("/analysis/tables/shares.csv") == (200, "a,b\n")
    assert 'href="/analysis/report.html"' in get("/state")[1]
    for path in (
        "/config.yaml", "/analysis/tables/secret.csv", "/analysis/tables/../report.html", "/analysis/tables/nothing.csv",
        "/../run/config.yaml", "/analysis/tables/..%2f..%2fconfig.yaml", "//etc/passwd", "/state/", "/adapter/README.md",
    ):  # fmt: skip
        assert get(path)[0] == 404, path


def test_the_page_lets_no_script_run_but_its_own(get: Get) -> None:
    page = get("/")[1]
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert re.fullmatch(
        r"default-src 'none'; connect-src 'self'; script-src 'sha256-[\w+/=]{44}'; style-src 'unsafe-inline'; img-src data:",
        policy[1],
    )
    assert page.count("<script") == 1


def test_a_run_is_followed_while_it_writes(run: Path) -> None:
    path = run / "samples.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:8]) + lines[8][:20], encoding="utf-8")  # a line is being written
    samples = Samples(path)
    assert samples.steps() == [0]
    assert [row["text"] for row in samples.at(0)] == [json.loads(line)["text"] for line in lines[:8]]
    path.write_text("".join(lines), encoding="utf-8")
    assert samples.steps() == [0, 2]
    assert len(samples.at(2)) == 8
    path.write_text("".join(lines[:8]), encoding="utf-8")  # a resumed run samples the second rollout again
    assert samples.steps() == [0]


def test_how_far_a_run_is(run: Path) -> None:
    view = RunView(run)
    (run / "README.md").unlink()
    assert "trained, 2 rollouts; the report is being made" in view.state()
    metrics = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text(metrics[0])
    state = view.state()
    assert "<dd>rollout 2</dd>" in state
    assert "data:image/png" not in state  # one rollout makes no curve
    for name in ("samples.jsonl", "metrics.jsonl"):
        (run / name).unlink()
    assert "sampling the untrained policy" in view.state()


def test_what_cannot_be_shown_is_one_line(tmp_path: Path, serving: ThreadingHTTPServer, run: Path, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["view", str(tmp_path)])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path} holds no run: name the --output_dir of a training or the --out of `ex2 study`.\n"
    )
    with pytest.raises(SystemExit):
        main(["view", str(run), "--port", str(serving.server_port)])
    assert "cannot be used (Address already in use): name another one, or 0." in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["view", str(run), "--port", "70000"])
    assert "--port 70000" in capsys.readouterr().err


def test_a_damaged_file_of_the_run_is_said_on_the_page(get: Get, run: Path) -> None:
    (run / "config.yaml").write_text("# Resolved options of this PPO run\na: [")
    status, answer = get("/state")
    assert status == 500
    assert "config.yaml" in answer


@pytest.mark.parametrize(("width", "scheme"), SIZES)
def test_the_page_follows_the_run_in_a_browser(
    serving: ThreadingHTTPServer, run: Path, width: int, scheme: str
) -> None:
    lines = (run / "samples.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (run / "samples.jsonl").write_text("".join(lines[:8]), encoding="utf-8")
    with opened(f"http://127.0.0.1:{serving.server_port}/", width, scheme) as page:
        assert fits(page)
        assert page.locator("output[for=rollout]").inner_text() == "1 of 1"
        assert "<img src=x onerror=alert(1)> [U+202E] orange" in page.locator("tbody").first.inner_text()
        (run / "samples.jsonl").write_text("".join(lines), encoding="utf-8")
        page.evaluate("show()")
        page.get_by_text("2 of 2", exact=True).wait_for()
        page.locator("summary").click()
        page.fill("#rollout", "1")  # stays there, and what is unfolded stays so, while the page renews itself
        page.get_by_text("1 of 2", exact=True).wait_for()
        page.evaluate("show()")
        assert page.locator("output[for=rollout]").inner_text() == "1 of 2"
        assert page.locator("details").evaluate("one => one.open")
        assert "Up to date" in page.locator("#news").inner_text()


@pytest.mark.parametrize("spoil", [{"class_name": None, "text": 7, "scores": "x"}, {"step": []}])
def test_rows_that_no_run_writes_are_one_line(spoil: dict[str, object], run: Path, get: Get) -> None:
    *rows, last = (run / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    (run / "samples.jsonl").write_text(
        "\n".join([*rows, json.dumps(json.loads(last) | spoil)]) + "\n", encoding="utf-8"
    )
    status, page = get("/")
    assert status == 500
    assert f"{run} is damaged (" in page
