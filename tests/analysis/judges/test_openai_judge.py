"""The judge behind an OpenAI-compatible server, against a server here that misbehaves; specs of judges."""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ex2.analysis.judges import JUDGE_FORMS, load_judge
from ex2.analysis.judges import openai as module
from ex2.analysis.judges.openai import OpenAIJudge
from ex2.base.errors import UserError
from ex2.texts.categories import CATEGORIES, TAGS, Passage

TIGER = Passage("tiger", ("It has orange fur", "and lives in Siberia."))
OWL = Passage("owl", ("It hunts at night",))


@dataclass
class Reply:
    """What the server does with one request: `content` is what the model writes, None an answer that fits."""

    status: int = 200
    content: str | None = None
    body: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    sleep: float = 0.0


def entries(clauses: list[str]) -> list[dict[str, Any]]:
    """The server's opinion: habitat where something lives, else visual."""
    kinds = {True: ("habitat", ["place"]), False: ("visual", ["part", "colour"])}
    return [
        {"clause": i, "category": kinds["lives" in clause][0], "probability": 0.7, "tags": kinds["lives" in clause][1]}
        for i, clause in enumerate(clauses, start=1)
    ]


def completion(content: str) -> str:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}]})


def failure(message: str, **more: object) -> str:
    return json.dumps({"error": {"message": message, "type": "some_error", "code": None, **more}})


class Server(ThreadingHTTPServer):
    """Plays the scripted replies in order, then answers as asked; notes what it was asked and how much at one time."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: deque[Reply] = deque()
        self.otherwise = Reply()
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.times: list[float] = []
        self.most = self.now = 0
        self.lock = threading.Lock()
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def questions(self) -> list[str]:
        return [request["messages"][1]["content"] for request in self.asked]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append(request)
            self.server.keys.append(self.headers["Authorization"])
            self.server.times.append(time.monotonic())
            self.server.now += 1
            self.server.most = max(self.server.most, self.server.now)
            reply = self.server.script.popleft() if self.server.script else self.server.otherwise
        self.server.over.wait(reply.sleep)
        with self.server.lock:
            self.server.now -= 1
        clauses = [line.partition(". ")[2] for line in request["messages"][1]["content"].splitlines()[1:]]
        content = reply.content if reply.content is not None else json.dumps({"clauses": entries(clauses)})
        body = (reply.body if reply.body is not None else completion(content)).encode()
        try:
            self.send_response(reply.status)
            for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
        except ConnectionError:
            pass  # the client gave up waiting

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join(10)


@pytest.fixture
def judge_of(server: Server, tmp_path: Path) -> Callable[..., OpenAIJudge]:
    def build(**options: Any) -> OpenAIJudge:
        settings = {"base_url": server.url, "cache": tmp_path / "judges", "backoff": 0.001, "timeout": 10.0, **options}
        return OpenAIJudge("tiny", **settings)

    return build


JudgeOf = Callable[..., OpenAIJudge]


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# ---------------------------------------------------------------- asking


def test_one_request_a_passage_and_the_stated_probability(server: Server, judge_of: JudgeOf) -> None:
    judged = judge_of().judge([TIGER, OWL], progress=False)
    assert [[judgement.best for judgement in of] for of in judged] == [["visual", "habitat"], ["visual"]]
    assert judged[0][1].probabilities == pytest.approx((0.06, 0.7, 0.06, 0.06, 0.06, 0.06))
    assert judged[0][0].tags == ("colour", "part")  # in the order of ALL_TAGS
    assert sorted(server.questions) == [
        "Class: owl\n1. It hunts at night", "Class: tiger\n1. It has orange fur\n2. and lives in Siberia.",
    ]  # fmt: skip
    request = server.asked[0]
    assert (request["model"], request["temperature"]) == ("tiny", 0.0)
    assert request["messages"][0] == {"role": "system", "content": module.PROMPT}
    assert request["response_format"]["json_schema"]["strict"] is True
    entry = request["response_format"]["json_schema"]["schema"]["properties"]["clauses"]["items"]["properties"]
    assert entry["category"]["enum"] == list(CATEGORIES)


def test_the_prompt_knows_every_category_and_tag() -> None:
    for category, tags in TAGS.items():
        assert f"\n{category} - " in module.PROMPT
        assert f"\n{category}: {', '.join(tags)}\n" in module.PROMPT


def test_results_keep_the_order_of_the_passages(server: Server, judge_of: JudgeOf) -> None:
    server.script.extend([Reply(sleep=0.2), Reply(sleep=0.1)])  # the first answers come last
    passages = [Passage(f"class {i}", ("it lives" if i % 3 else "it shines",)) for i in range(9)]
    judged = judge_of().judge(passages, progress=False)
    assert [of[0].best for of in judged] == ["habitat" if i % 3 else "visual" for i in range(9)]


@pytest.mark.parametrize("concurrency", [1, 3])
def test_no_more_requests_at_one_time_than_allowed(server: Server, judge_of: JudgeOf, concurrency: int) -> None:
    server.otherwise = Reply(sleep=0.05)
    judge_of(concurrency=concurrency).judge([Passage(str(i), ("x",)) for i in range(9)], progress=False)
    assert (server.most, len(server.asked)) == (concurrency, 9)


@pytest.mark.usefixtures("every_line")
def test_the_estimate_comes_before_the_first_request(
    server: Server, judge_of: JudgeOf, capsys: pytest.CaptureFixture[str]
) -> None:
    judge_of().judge([TIGER])
    judge_of().judge([TIGER, OWL, OWL])
    said = capsys.readouterr().err
    assert f"openai:tiny at {server.url}: requests to make: 1, answers in the cache: 0; tokens to send: about " in said
    assert "requests to make: 1, answers in the cache: 1; tokens to send: about " in said
    assert "judging" in said  # the progress bar
    judge_of().judge([TIGER], progress=False)
    judge_of().judge([Passage("new", ("x",))], progress=False)
    assert capsys.readouterr().err == ""


# ---------------------------------------------------------------- trouble that passes


PASSING = {
    "too many requests": [Reply(429, body=failure("slow down"))],
    "server errors": [Reply(500, body="oops"), Reply(503, body=failure("overloaded"))],
    "broken JSON": [Reply(content='{"clauses": [{"clause": 1, "cat')],
    "no JSON": [Reply(content="Let me think about tigers.")],
    "an empty answer": [Reply(content="")],
    "other JSON": [Reply(content='{"answer": 42}'), Reply(content='{"clauses": 42}'), Reply(content="[1]")],
    "too few clauses": [Reply(content=json.dumps({"clauses": entries(["x"])}))],
    "too many clauses": [Reply(content=json.dumps({"clauses": entries(["x", "y", "z"])}))],
    "clauses out of order": [Reply(content=json.dumps({"clauses": entries(["x", "y"])[::-1]}))],
    "unknown category": [
        Reply(content=json.dumps({"clauses": [e | {"category": "odd"} for e in entries(["x", "y"])]}))
    ],
    "impossible probability": [
        Reply(content=json.dumps({"clauses": [e | {"probability": p} for e in entries(["x", "y"])]}))
        for p in (1.5, "0.5", None)
    ],
    "tags that are no list": [
        Reply(content=json.dumps({"clauses": [e | {"tags": None} for e in entries(["x", "y"])]}))
    ],
    "no chat completion": [Reply(body="<html>"), Reply(body='{"choices": []}'), Reply(body='{"choices": [7]}')],
    "a page": [Reply(body="<html>", headers={"Content-Type": "text/html"})],
}


@pytest.mark.parametrize("trouble", PASSING)
def test_trouble_that_passes_is_waited_for(server: Server, judge_of: JudgeOf, trouble: str) -> None:
    server.script.extend(PASSING[trouble])
    (judged,) = judge_of().judge([TIGER], progress=False)
    assert [judgement.best for judgement in judged] == ["visual", "habitat"]
    assert len(server.asked) == len(PASSING[trouble]) + 1


def test_a_server_that_is_silent_is_asked_again(server: Server, judge_of: JudgeOf) -> None:
    server.script.append(Reply(sleep=30))
    start = time.monotonic()
    judge_of(timeout=0.2).judge([OWL], progress=False)
    assert len(server.asked) == 2
    assert time.monotonic() - start < 5


def test_retry_after_is_honoured(server: Server, judge_of: JudgeOf) -> None:
    server.script.append(Reply(429, body=failure("slow down"), headers={"Retry-After": "1"}))
    judge_of().judge([OWL], progress=False)
    assert server.times[1] - server.times[0] >= 1.0


def test_retry_after_holds_seconds_or_a_date() -> None:
    assert module._retry_after("2.5") == 2.5
    assert module._retry_after(formatdate(time.time() + 60, usegmt=True)) == pytest.approx(60, abs=2)
    for past_or_senseless in (None, "-1", "nan", "soon", formatdate(time.time() - 60, usegmt=True)):
        assert module._retry_after(past_or_senseless) == 0.0


def test_waits_grow_and_differ(server: Server, judge_of: JudgeOf, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    wait = threading.Event.wait

    def noted(self: threading.Event, timeout: float | None = None) -> bool:
        if timeout is not None and 0.04 < timeout < 2:  # those of the back-off
            waits.append(timeout)
            return wait(self, 0.001)
        return wait(self, timeout)

    monkeypatch.setattr(threading.Event, "wait", noted)
    server.script.extend([Reply(500)] * 4)
    judge_of(backoff=0.1).judge([OWL], progress=False)
    assert len(waits) == 4
    for i, seconds in enumerate(waits):
        assert 0.5 <= seconds / (0.1 * 2**i) <= 1.5
    assert len({seconds / 2**i for i, seconds in enumerate(waits)}) == 4


def test_json_in_a_fence_and_unknown_tags_are_taken(server: Server, judge_of: JudgeOf) -> None:
    entry = {"clause": 1, "category": "visual", "probability": 1, "tags": ["beauty", "shape"]}
    server.script.append(Reply(content=f"Here it is:\n```json\n{json.dumps({'clauses': [entry]})}\n```"))
    ((judgement,),) = judge_of().judge([OWL], progress=False)
    assert judgement.probabilities == (1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    assert judgement.tags == ("shape",)


def test_models_that_refuse_a_temperature_use_their_own(server: Server, judge_of: JudgeOf) -> None:
    refused = Reply(400, body=failure("only the default (1)", param="temperature"), sleep=0.1)
    server.script.extend([refused, refused])  # two threads find out at the same time
    judge = judge_of(concurrency=2)
    judge.judge([TIGER, OWL], progress=False)
    judge.judge([Passage("new", ("x",))], progress=False)
    assert ["temperature" in request for request in server.asked] == [True, True, False, False, False]


# ---------------------------------------------------------------- trouble that stays


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(500, body="kaput"), "500: kaput"),
        (Reply(429, body=failure("slow down")), "429: slow down"),
        (Reply(content='{"clauses": 1'), "not the JSON that was asked for in '{\"clauses\": 1'"),
        (Reply(content=json.dumps({"clauses": entries(["x", "y"])})), r"judgements of the clauses \[1, 2\] in place of 1 to 1"),
        (Reply(content=json.dumps({"clauses": [entries(["x"])[0] | {"category": "odd"}]})),
         "clause 1: category 'odd' is none of visual, habitat, kind, non_visual, spurious, name_echo in "),
        (Reply(body='{"choices": [{"message": {"content": null, "refusal": "I cannot"}}]}'), r"an empty answer \(I cannot\)"),
        (Reply(body="<html>" + "x" * 300), r"no chat completion but '<html>x{194}\.\.\.'"),
        (Reply(sleep=30), "no answer within 0.2 s"),
    ],
)  # fmt: skip
def test_trouble_that_stays_is_one_clear_error(server: Server, judge_of: JudgeOf, reply: Reply, words: str) -> None:
    server.otherwise = reply
    with pytest.raises(
        UserError,
        match=rf"judge openai:tiny: {server.url} gave no usable answer in 3 attempts, at last: {words}.*cached\.$",
    ):
        judge_of(timeout=0.2, max_attempts=3).judge([OWL], progress=False)
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, r"refuses the key \(401: no, because\): set OPENAI_API_KEY to one that may use the model"),
        (403, r"refuses the key \(403: no, because\)"),
        (404, r"has no such model or path \(404: no, because\): check the model's name and OPENAI_BASE_URL"),
        (400, r"does not take the request \(400: no, because\): if it lacks structured output"),
    ],
)
def test_refusals_end_it_at_once(server: Server, judge_of: JudgeOf, status: int, words: str) -> None:
    server.otherwise = Reply(status, body=failure("no,\n because"))
    with pytest.raises(UserError, match=f"judge openai:tiny: {server.url} {words}"):
        judge_of(concurrency=2, backoff=30.0).judge([Passage(str(i), ("x",)) for i in range(50)], progress=False)
    assert len(server.asked) <= 4  # those under way when the first refusal came


def test_one_refusal_ends_the_waiting_of_the_others(server: Server, judge_of: JudgeOf) -> None:
    server.script.extend([Reply(429, body=failure("slow down")), Reply(401, body=failure("expired"), sleep=0.2)])
    start = time.monotonic()
    with pytest.raises(UserError, match="401: expired"):
        judge_of(concurrency=2, backoff=30.0).judge([TIGER, OWL], progress=False)
    assert time.monotonic() - start < 5


def test_a_server_that_asks_for_a_long_wait_ends_it(server: Server, judge_of: JudgeOf) -> None:
    server.otherwise = Reply(429, body=failure("quota used up"), headers={"Retry-After": "3600"})
    with pytest.raises(UserError, match=r"asks to wait for 3,600 s \(429: quota used up\): run the same again later"):
        judge_of().judge([OWL], progress=False)
    assert len(server.asked) == 1


def test_no_server_is_said_within_seconds(judge_of: JudgeOf) -> None:
    url = f"http://127.0.0.1:{closed_port()}/v1"
    start = time.monotonic()
    with pytest.raises(
        UserError,
        match=rf"judge openai:tiny: {url} cannot be reached \(.*refused\): check OPENAI_BASE_URL and the conn",
    ):
        judge_of(base_url=url, backoff=1.0).judge([TIGER, OWL], progress=False)
    assert time.monotonic() - start < 5


def test_a_host_that_drops_connections_is_given_two_attempts(
    judge_of: JudgeOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[float] = []

    def dropped(address: object, timeout: float, **_: object) -> None:
        attempts.append(timeout)
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", dropped)
    with pytest.raises(UserError, match=r"cannot be reached \(no answer within 5 s\): check OPENAI_BASE_URL"):
        judge_of().judge([OWL], progress=False)
    assert attempts == [5.0, 5.0]


def test_a_server_that_goes_away_is_waited_for_longer(server: Server, judge_of: JudgeOf) -> None:
    judge = judge_of(max_attempts=3)
    judge.judge([OWL], progress=False)
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match=r"gave no usable answer in 3 attempts, at last: .*refused; run the same again"):
        judge.judge([TIGER], progress=False)


# ---------------------------------------------------------------- cache


def test_nothing_is_asked_twice(server: Server, judge_of: JudgeOf) -> None:
    first = judge_of().judge([TIGER, OWL, TIGER], progress=False)
    assert len(server.asked) == 2
    assert first[0] == first[2]
    assert judge_of().judge([TIGER, OWL, TIGER], progress=False) == first
    assert len(server.asked) == 2
    judge_of().judge([OWL, Passage("cat", OWL.clauses), Passage("owl", ("other",))], progress=False)
    assert len(server.asked) == 4


def test_other_models_servers_and_prompts_have_caches_of_their_own(
    server: Server, judge_of: JudgeOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {judge_of().file, judge_of(base_url="http://other/v1").file}
    files.add(OpenAIJudge("huge", base_url=server.url, cache=judge_of().file.parent).file)
    assert judge_of(base_url=f"{server.url}/").file in files
    monkeypatch.setattr(module, "_VERSION", "another prompt")
    files.add(judge_of().file)
    assert len(files) == 4
    assert all(file.name.startswith("judge-") and file.suffix == ".jsonl" for file in files)


@pytest.mark.parametrize("cut", [1, 2, 40])
def test_the_last_line_of_a_killed_process_is_passed_over(server: Server, judge_of: JudgeOf, cut: int) -> None:
    judge = judge_of(concurrency=1)
    whole = judge.judge([TIGER, OWL], progress=False)
    judge.file.write_bytes(judge.file.read_bytes()[:-cut])
    assert judge_of().judge([TIGER, OWL], progress=False) == whole
    asked = len(server.asked)
    assert asked == (2 if cut == 1 else 3)  # without its line break alone, the line is whole
    assert judge_of().judge([TIGER, OWL], progress=False) == whole
    assert len(server.asked) == asked


def test_lines_that_do_not_fit_are_asked_again(server: Server, judge_of: JudgeOf) -> None:
    judge = judge_of()
    judge.judge([OWL], progress=False)
    record = json.loads(judge.file.read_text())
    judge.file.write_text('7\n{"key": "k"}\n' + json.dumps(record | {"answer": []}) + "\n")
    judge_of().judge([OWL], progress=False)
    assert len(server.asked) == 2


def test_an_error_keeps_the_answers_that_came(server: Server, judge_of: JudgeOf) -> None:
    server.script.extend([Reply(), Reply(), Reply(401, body=failure("expired"))])
    passages = [Passage(str(i), ("x",)) for i in range(4)]
    with pytest.raises(UserError, match="401: expired"):
        judge_of(concurrency=1).judge(passages, progress=False)
    assert len(judge_of().judge(passages, progress=False)) == 4
    assert len(server.asked) == 3 + 2


def test_an_interruption_keeps_the_answers_that_came(
    server: Server, judge_of: JudgeOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    server.otherwise = Reply(sleep=0.05)
    passages = [Passage(str(i), ("x",)) for i in range(20)]
    with monkeypatch.context() as patch:
        patch.setattr("tqdm.tqdm.update", interrupt)
        with pytest.raises(KeyboardInterrupt):
            judge_of(concurrency=2).judge(passages, progress=False)
    answered = len(server.asked)
    assert answered <= 5
    judge_of().judge(passages, progress=False)
    assert len(server.asked) == 20


def test_a_cache_that_cannot_be_written_is_said_before_asking(
    server: Server, judge_of: JudgeOf, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be cached in .*judge-.*: name another cache folder"):
        judge_of(cache=tmp_path / "file" / "judges").judge([OWL], progress=False)
    assert server.asked == []


def test_a_full_disk_is_one_line(server: Server, judge_of: JudgeOf) -> None:
    judge = judge_of()
    judge.file.parent.mkdir(parents=True)
    judge.file.symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"cannot be cached in .*\(No space left on device\)"):
        judge.judge([OWL], progress=False)


# ---------------------------------------------------------------- settings


def test_keys(server: Server, judge_of: JudgeOf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^judge openai:tiny needs a key: set OPENAI_API_KEY\.$"):
        OpenAIJudge("tiny")
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    OpenAIJudge("tiny", cache=tmp_path / "a").judge([OWL], progress=False)
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    OpenAIJudge("tiny", cache=tmp_path / "b").judge([OWL], progress=False)
    OpenAIJudge("tiny", cache=tmp_path / "c", api_key="given").judge([OWL], progress=False)
    assert server.keys == ["Bearer none", "Bearer secret", "Bearer given"]
    assert all("secret" not in file.read_text() for file in tmp_path.rglob("*.jsonl"))


def test_settings_that_cannot_be_right(judge_of: JudgeOf, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="concurrency=0 is out of range: it must be at least 1"):
        judge_of(concurrency=0)
    with pytest.raises(UserError, match="max_attempts=0 is out of range"):
        judge_of(max_attempts=0)
    with pytest.raises(UserError, match="base_url=localhost:8000 is no URL: write it as in http://localhost:8000/v1"):
        judge_of(base_url="localhost:8000")
    monkeypatch.setenv("OPENAI_BASE_URL", "ftp://x")
    with pytest.raises(UserError, match="OPENAI_BASE_URL=ftp://x is no URL"):
        judge_of(base_url=None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"judge openai:tiny needs the package openai: run `pip install 'ex2\[judges\]'`"
    ):
        judge_of()


# ---------------------------------------------------------------- specs


def test_specs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    judge = load_judge("openai:org/model:free", cache_dir=str(tmp_path))
    assert isinstance(judge, OpenAIJudge)
    assert judge.name == "openai:org/model:free"
    assert judge.file.parent == tmp_path / "judges"
    stand_in: Any = ModuleType("local")
    stand_in.LocalJudge = type(
        "LocalJudge", (), {"load": staticmethod(lambda device, exact: f"local on {device}, {exact}")}
    )
    monkeypatch.setitem(sys.modules, "ex2.analysis.judges.local", stand_in)
    assert load_judge("local", device="meta") == "local on meta, True"


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("opnai:gpt-4o", "did you mean `openai:gpt-4o`"),
        ("openai", "did you mean `openai:MODEL`"),
        ("hf:", "did you mean `hf:ID_OR_DIR`"),
        ("local:small", "did you mean `local:mpnet`"),
        ("gpt-4o-mini", "did you mean `openai:gpt-4o-mini` or `hf:gpt-4o-mini`"),
        ("anthropic:x", "Use one of"),
        ("", "Use one of"),
    ],
)
def test_other_specs_are_refused_with_the_nearest_form(spec: str, hint: str) -> None:
    with pytest.raises(UserError, match=f"^judge '{spec}' is not known: {hint}") as caught:
        load_judge(spec)
    for form, _ in JUDGE_FORMS:
        assert f"`{form}`" in str(caught.value)


def test_back_ends_are_imported_when_they_are_needed() -> None:
    code = "import sys, ex2.analysis.judges, ex2.analysis.judges.openai; print({'torch', 'openai'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"
