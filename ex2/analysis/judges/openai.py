"""A judge behind any OpenAI-compatible server: one request a passage, repeated where that helps, never paid for twice.

Requests run side by side in a few threads. Each answer is checked against what was asked and appended to a file as soon
as it is there, so whatever ends a run - an error, Ctrl-C, a kill - costs no answer that has come.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import random
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ex2.base.cache import cache_folder
from ex2.base.errors import UserError
from ex2.base.progress import progress_bar
from ex2.texts.categories import ALL_TAGS, CATEGORIES, TAGS, Judgement, Passage, check_category

if TYPE_CHECKING:
    import openai

_TAG_LINES = "\n".join(f"{category}: {', '.join(tags)}" for category, tags in TAGS.items())

PROMPT = f"""You are given the name of a class of things and the numbered clauses of a text about it. Say for each clause
what kind of information it gives about the class; whether that is true does not matter. The categories:

visual - what can be seen on the thing itself in any photo of it: colours, shape, parts and how many, build, markings,
posture, size or a comparison of size, what it is made of.
habitat - where it lives, grows, nests or is found, rooms and shops included; the climate it needs; the country or maker
it comes from.
kind - only what kind of thing it is, wide or narrow ("a tiger is an animal", "a marine mammal", "a kind of wading bird",
"a regional jet").
non_visual - any other fact that is specific to the class: what it does, eats, sounds, tastes or smells like, is used
for, costs or weighs; how fast or old it gets; its name, history, meaning, temperament.
spurious - nothing specific to the class: praise and phrases that fit any other class as well ("fascinating, with unique
features"); talk about a photo rather than about the thing ("a photo of a robin", "isolated on white"); refusals, offers
of help, talk about the question; cut-off or senseless words.
name_echo - only the name again ("a crab is a crab", "a bird" of the class bird), once or over and over.

A caption that names a feature of the thing is visual ("close-up of a robin's orange breast"). Judge each clause by
itself; of several categories in one clause, take the one that most of it is about.

The tags, any number of them for a clause:
{_TAG_LINES}

Answer with JSON only, one entry for each clause, in order; probability is how sure you are of the category, 0 to 1:
{{"clauses": [{{"clause": 1, "category": "visual", "probability": 0.9, "tags": ["colour", "part"]}}]}}"""
"""What a server is told before it sees a passage: docs/judge.md in short."""

_ENTRY = {
    "clause": {"type": "integer"},
    "category": {"type": "string", "enum": list(CATEGORIES)},
    "probability": {"type": "number"},
    "tags": {"type": "array", "items": {"type": "string", "enum": list(ALL_TAGS)}},
}


def _strict(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Schema of an object with exactly these properties, as strict mode wants it."""
    return {
        "type": "object", "properties": dict(properties), "required": list(properties), "additionalProperties": False
    }  # fmt: skip


RESPONSE_FORMAT = {
    "type": "json_schema",
    "json_schema": {
        "name": "judgements",
        "strict": True,
        # No bounds on numbers and lengths: not every server's strict mode has them, and answers are checked here anyway.
        "schema": _strict({"clauses": {"type": "array", "items": _strict(_ENTRY)}}),
    },
}
"""Structured output that is asked for; servers that ignore it are told the same by the prompt."""

_VERSION = hashlib.sha256((PROMPT + json.dumps(RESPONSE_FORMAT)).encode()).hexdigest()
"""Changes with the prompt, so that old answers are never taken for answers to a new one."""

_DEFAULT_URL = "https://api.openai.com/v1"
_CONNECT_SECONDS = 5.0
_CONNECT_ATTEMPTS = 2  # before the server has answered anything: then it is not there, rather than busy
_LONGEST_BACKOFF = 30.0
_LONGEST_WAIT = 120.0  # asked for by the server; beyond it the user decides
_CHARACTERS_PER_TOKEN, _TOKENS_PER_ANSWER = 4, 30  # rough, for the estimate
_LATER = "run the same again later, answers so far are cached"
# Of its own: seeds of the caller's random numbers stay good.
_JITTER = random.Random()


class _Failure(Exception):
    """A request that may go better next time.

    Attributes:
        wait: Seconds that the server asks to wait.
        connected: Whether a connection came about.
    """

    def __init__(self, reason: str, *, wait: float = 0.0, connected: bool = True) -> None:
        super().__init__(reason)
        self.wait = wait
        self.connected = connected


class OpenAIJudge:
    """Asks a model behind an OpenAI-compatible server.

    Attributes:
        name: Its spec, ``openai:MODEL``.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        cache: Path | None = None,
        concurrency: int = 8,
        timeout: float = 60.0,
        max_attempts: int = 5,
        backoff: float = 1.0,
    ) -> None:
        """Check the settings; no request is made.

        Args:
            model: The model's name, as the server knows it.
            base_url: The server, up to and with ``/v1``; None: $OPENAI_BASE_URL, else OpenAI's.
            api_key: None: $OPENAI_API_KEY. A server of one's own may do without.
            cache: Folder of cached answers; None: ``judges`` in EX2's cache folder.
            concurrency: Requests at one time.
            timeout: Seconds that a server may be silent during a request.
            max_attempts: Requests for one passage.
            backoff: Seconds before the second attempt, on average; doubled for each further one.

        Raises:
            UserError: No key, no package, or a setting that cannot be right.
        """
        self.name = f"openai:{model}"
        self._model = model
        given_url = base_url or os.environ.get("OPENAI_BASE_URL")
        self._url = (given_url or _DEFAULT_URL).rstrip("/")
        if not self._url.startswith(("http://", "https://")):
            option = "base_url" if base_url else "OPENAI_BASE_URL"
            raise UserError(f"{option}={given_url} is no URL: write it as in http://localhost:8000/v1.")
        key = (api_key or os.environ.get("OPENAI_API_KEY", "")).strip()
        if not key and not given_url:
            raise UserError(f"judge {self.name} needs a key: set OPENAI_API_KEY.")
        self._key = key or "none"  # a server of one's own asks for none, but the client does
        if importlib.util.find_spec("openai") is None:
            raise UserError(f"judge {self.name} needs the package openai: run `pip install 'ex2[judges]'`.")
        for setting, value in (("concurrency", concurrency), ("max_attempts", max_attempts)):
            if value < 1:
                raise UserError(f"{setting}={value} is out of range: it must be at least 1.")
        self._concurrency = concurrency
        self._timeout = timeout
        self._max_attempts = max_attempts
        self._backoff = backoff
        which = hashlib.sha256(json.dumps([self._url, model, _VERSION]).encode()).hexdigest()[:16]
        self._cache = _Cache((cache_folder() / "judges" if cache is None else cache) / f"judge-{which}.jsonl")
        self._sampling: dict[str, float] = {"temperature": 0.0}
        self._reached = False  # whether the server has answered anything at all

    @property
    def file(self) -> Path:
        """Where its answers are cached: JSON lines, one passage a line."""
        return self._cache.file

    def judge(self, passages: Sequence[Passage], *, progress: bool = True) -> list[tuple[Judgement, ...]]:
        """Judgements of all passages; those in the cache, and repeated ones, cost no request.

        Raises:
            UserError: The server is out of reach, refuses, or gives no usable answer; what it did answer is cached.
        """
        keys = [self._key_of(passage) for passage in passages]
        answers = self._cache.read()
        missing = {key: passage for key, passage in zip(keys, passages, strict=True) if key not in answers}
        if missing:
            if progress:
                print(self._estimate(missing, len(set(keys)) - len(missing)), file=sys.stderr)
            answers |= self._ask_all(missing, progress)
        return [answers[key] for key in keys]

    def _key_of(self, passage: Passage) -> str:
        asked = json.dumps([self._model, _VERSION, passage.class_name, passage.clauses])
        return hashlib.sha256(asked.encode()).hexdigest()

    def _estimate(self, missing: Mapping[str, Passage], cached: int) -> str:
        sent = sum(len(PROMPT) + len(_question(passage)) for passage in missing.values()) // _CHARACTERS_PER_TOKEN
        received = sum(len(passage.clauses) for passage in missing.values()) * _TOKENS_PER_ANSWER
        return (
            f"{self.name} at {self._url}: requests to make: {len(missing):,}, answers in the cache: {cached:,}; "
            f"tokens to send: about {sent:,}, to receive: about {received:,}."
        )

    # ------------------------------------------------------------ asking

    def _ask_all(self, missing: Mapping[str, Passage], progress: bool) -> dict[str, tuple[Judgement, ...]]:
        """Ask for each passage; the first error that is final ends it all."""
        import openai

        self._cache.prepare()
        answers: dict[str, tuple[Judgement, ...]] = {}
        stop = threading.Event()
        client = openai.OpenAI(
            base_url=self._url,
            api_key=self._key,
            timeout=openai.Timeout(self._timeout, connect=min(_CONNECT_SECONDS, self._timeout)),
            max_retries=0,  # ours know about broken answers, and their waiting ends when the run does
        )
        with (
            client,
            progress_bar(len(missing), "judging", "text", disable=not progress) as bar,
            ThreadPoolExecutor(self._concurrency) as pool,
        ):

            def ask(key: str, passage: Passage) -> None:
                try:
                    entries = self._ask(client, passage, stop)
                    if entries is not None:
                        answers[key] = _judgements(entries, len(passage.clauses))
                        asked = {"key": key, "class_name": passage.class_name, "clauses": passage.clauses}
                        self._cache.append(asked | {"answer": entries})
                except BaseException:
                    stop.set()
                    raise

            try:
                for future in as_completed([pool.submit(ask, *item) for item in missing.items()]):
                    future.result()
                    bar.update()
            finally:
                # After an error or Ctrl-C: no new request and no waiting; answers under way still get into the cache.
                stop.set()
        return answers

    def _ask(self, client: openai.OpenAI, passage: Passage, stop: threading.Event) -> list[dict[str, Any]] | None:
        """A valid answer about one passage, after as many attempts as it takes; None where it was told to stop."""
        for attempt in range(1, self._max_attempts + 1):
            if stop.is_set():
                return None
            try:
                return self._request(client, passage)
            except _Failure as failure:
                patience = min(_CONNECT_ATTEMPTS, self._max_attempts)
                if not failure.connected and not self._reached and attempt >= patience:
                    raise self._error(
                        f"cannot be reached ({failure}): check OPENAI_BASE_URL and the connection"
                    ) from None
                if failure.wait > _LONGEST_WAIT:
                    raise self._error(f"asks to wait for {failure.wait:,.0f} s ({failure}): {_LATER}") from None
                if attempt == self._max_attempts:
                    count = "1 attempt" if attempt == 1 else f"{attempt} attempts"
                    raise self._error(f"gave no usable answer in {count}, at last: {failure}; {_LATER}") from None
                delay = min(self._backoff * 2 ** (attempt - 1), _LONGEST_BACKOFF) * _JITTER.uniform(0.5, 1.5)
                stop.wait(failure.wait + delay)
        return None

    def _request(self, client: openai.OpenAI, passage: Passage) -> list[dict[str, Any]]:
        """One attempt at one passage.

        Raises:
            _Failure: It may go better next time.
            UserError: It will not.
        """
        import openai

        messages = [{"role": "system", "content": PROMPT}, {"role": "user", "content": _question(passage)}]
        sampling = self._sampling  # another thread may find that the model refuses it
        options: Any = {"messages": messages, "response_format": RESPONSE_FORMAT, **sampling}
        try:
            response = client.chat.completions.with_raw_response.create(model=self._model, **options)
        except openai.APIStatusError as error:
            self._reached = True
            raise self._status_error(error, sampling) from error
        except openai.APITimeoutError as error:
            # By name: httpx in openai 2, httpx2 in openai 3.
            connected = type(error.__cause__).__name__ != "ConnectTimeout"
            seconds = self._timeout if connected else min(_CONNECT_SECONDS, self._timeout)
            raise _Failure(f"no answer within {seconds:g} s", connected=connected) from error
        except openai.APIConnectionError as error:
            reason = _shortened(str(error.__cause__ or error))
            raise _Failure(reason, connected=type(error.__cause__).__name__ != "ConnectError") from error
        self._reached = True
        content = _content(response.http_response.text)
        try:
            # Servers without structured output like to wrap JSON in a fence or a sentence.
            entries = json.loads(content[content.find("{") : content.rfind("}") + 1])["clauses"]
            _judgements(entries, len(passage.clauses))
        except (ValueError, KeyError, TypeError) as error:
            what = error if isinstance(error, _Mismatch) else "not the JSON that was asked for"
            raise _Failure(f"{what} in {_shortened(content)!r}") from error
        return entries

    def _status_error(self, error: openai.APIStatusError, sampling: Mapping[str, float]) -> _Failure | UserError:
        status = error.status_code
        said = f"{status}: {_said(error)}"
        if status in (401, 403):
            return self._error(f"refuses the key ({said}): set OPENAI_API_KEY to one that may use the model")
        if status == 404:
            return self._error(
                f"has no such model or path ({said}): check the model's name and OPENAI_BASE_URL, which mostly ends in /v1"
            )
        if status == 400 and error.param == "temperature" and sampling:
            self._sampling = {}  # some reasoning models refuse any temperature but their own
            return _Failure(said)
        if status in (408, 409, 429) or status >= 500:
            return _Failure(said, wait=_retry_after(error.response.headers.get("retry-after")))
        return self._error(
            f"does not take the request ({said}): if it lacks structured output (json_schema), use another"
        )

    def _error(self, what: str) -> UserError:
        return UserError(f"judge {self.name}: {self._url} {what}.")


class _Mismatch(ValueError):
    """An answer that does not fit the clauses."""


def _question(passage: Passage) -> str:
    clauses = [f"{number}. {' '.join(clause.split())}" for number, clause in enumerate(passage.clauses, start=1)]
    return "\n".join([f"Class: {passage.class_name}", *clauses])


def _content(body: str) -> str:
    """What the model wrote, out of the body of a chat completion."""
    try:
        choice = json.loads(body)["choices"][0]
        content = choice["message"].get("content")
        why = choice["message"].get("refusal") or choice.get("finish_reason")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise _Failure(f"no chat completion but {_shortened(body)!r}") from error
    if not isinstance(content, str) or not content.strip():
        raise _Failure(f"an empty answer ({_shortened(str(why))})")
    return content


def _judgements(entries: Any, count: int) -> tuple[Judgement, ...]:
    """The entries of an answer as judgements.

    Raises:
        _Mismatch: They are not one valid entry for each of `count` clauses, in order.
    """
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise _Mismatch("no list of judgements")
    numbers = [entry.get("clause") for entry in entries]
    if numbers != list(range(1, count + 1)):
        raise _Mismatch(f"judgements of the clauses {numbers} in place of 1 to {count}")
    return tuple(_judgement(entry) for entry in entries)


def _judgement(entry: Mapping[str, Any]) -> Judgement:
    where = f"clause {entry['clause']}"
    try:
        category = check_category(entry.get("category"), where)
    except UserError as error:
        raise _Mismatch(str(error)) from error
    probability, tags = entry.get("probability"), entry.get("tags")
    if not isinstance(probability, int | float) or not 0 <= probability <= 1:
        raise _Mismatch(f"{where}: probability {probability!r} is none")
    if not isinstance(tags, list):
        raise _Mismatch(f"{where}: tags {tags!r} are no list")
    rest = (1 - probability) / (len(CATEGORIES) - 1)
    probabilities: Any = tuple(float(probability) if name == category else rest for name in CATEGORIES)
    return Judgement(probabilities, tuple(tag for tag in ALL_TAGS if tag in tags))


def _said(error: openai.APIStatusError) -> str:
    """What the server gives as the reason, without the envelope."""
    body = error.body
    message = body.get("message") if isinstance(body, dict) else None
    return _shortened(str(message or error.response.text or error.response.reason_phrase))


def _shortened(text: str, longest: int = 200) -> str:
    """`text` on one line, cut where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[:longest]}..."


def _retry_after(value: str | None) -> float:
    """Seconds that a Retry-After header asks for: it holds a number or a date."""
    if value is None:
        return 0.0
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0


# ---------------------------------------------------------------- cache


class _Cache:
    """Answers in a file of JSON lines, one passage a line."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lock = threading.Lock()

    def read(self) -> dict[str, tuple[Judgement, ...]]:
        """Answers by key; lines that a killed process left broken are passed over."""
        if not self.file.is_file():
            return {}
        answers = {}
        for line in self.file.read_bytes().split(b"\n"):
            try:
                record = json.loads(line)
                answers[record["key"]] = _judgements(record["answer"], len(record["clauses"]))
            except (ValueError, KeyError, TypeError):
                continue
        return answers

    def prepare(self) -> None:
        """Make sure that answers can be appended, each on a line of its own.

        Raises:
            UserError: The file cannot be written.
        """
        with self._open() as out:
            if out.tell() and not self.file.read_bytes().endswith(b"\n"):
                out.write(b"\n")

    def append(self, record: Mapping[str, Any]) -> None:
        """Append one line; any thread may, and what is written outlives this process.

        Raises:
            UserError: The file cannot be written.
        """
        with self._lock, self._open() as out:
            out.write(json.dumps(record).encode() + b"\n")

    @contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("ab") as out:
                yield out
        except OSError as error:
            raise UserError(
                f"The judge's answers cannot be cached in {self.file} ({error.strerror}): name another cache folder."
            ) from error
