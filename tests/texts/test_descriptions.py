from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ex2.base.errors import UserError
from ex2.texts.descriptions import (
    Description,
    append_descriptions,
    read_descriptions,
    write_atomically,
    write_descriptions,
)

NAMES = ("Gull", "Puffin", "Truck")


def make(class_id: int = 1, /, **changes) -> Description:
    fields = {
        "dataset": "birds",
        "class_id": class_id,
        "class_name": NAMES[class_id],
        "question": "Describe a puffin.",
        "text": "A small bird with an orange beak.",
        "model": "runs/a",
        "seed": 0,
        "scores": {"cosine": 0.25},
    }
    return Description(**{**fields, **changes})


def write_lines(path: Path, *lines: str | dict, end: str = "\n") -> Path:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_bytes((text + end).encode("utf-8"))
    return path


def as_dict(record: Description, **changes) -> dict:
    return {**json.loads(record.to_json()), **changes}


def test_round_trip_keeps_every_field_and_unknown_keys(tmp_path):
    records = [make(0), make(2, category="visual", extra={"judge": {"name": "x", "votes": [1, 2]}, "extra": None})]
    path = tmp_path / "new" / "descriptions.jsonl"
    write_descriptions(path, records)
    assert read_descriptions(path, NAMES) == records
    assert [path] == list(path.parent.iterdir())
    assert json.loads(path.read_text("utf-8").splitlines()[1])["judge"]["votes"] == [1, 2]


any_text = st.text(min_size=1).filter(str.strip)


@settings(
    max_examples=80,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    text=any_text,
    name=any_text,
    question=st.text(),
    scores=st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False)),
    extra=st.dictionaries(st.text().map("x-".__add__), st.none() | st.text() | st.integers() | st.booleans()),
)
def test_any_text_survives(tmp_path, text, name, question, scores, extra):
    record = make(0, class_name=name, text=text, question=question, scores=scores, extra=extra)
    path = tmp_path / "property.jsonl"
    write_descriptions(path, [record])
    append_descriptions(path, [record])
    assert read_descriptions(path, [name]) == [record, record]


def test_quotes_newlines_and_line_separators_stay_on_one_line(tmp_path):
    record = make(text='"Naïve"\r\n\u2028 鳥\x85\\n \U0001f426')
    path = tmp_path / "d.jsonl"
    write_descriptions(path, [record])
    assert path.read_bytes().count(b"\n") == 1
    assert "鳥".encode() in path.read_bytes()
    assert read_descriptions(path) == [record]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": ""}, "text is empty"),
        ({"text": " \n\t"}, "text is empty"),
        ({"text": None}, "text must be a string, found None"),
        ({"class_name": " "}, "class_name is empty"),
        ({"class_id": "1"}, "class_id must be a whole number, found '1'"),
        ({"class_id": True}, "class_id must be a whole number, found True"),
        ({"class_id": -1}, "class_id must be 0 or more, found -1"),
        ({"seed": 0.5}, "seed must be a whole number, found 0.5"),
        ({"category": 3}, "category must be a string or null, found 3"),
        ({"scores": [1]}, r"scores must be an object of name: number, found \[1\]"),
        ({"scores": {"cosine": "high"}}, "score 'cosine' must be a finite number, found 'high'"),
        ({"scores": {"cosine": True}}, "score 'cosine' must be a finite number, found True"),
    ],
)
def test_wrong_fields_are_refused_when_made_and_when_read(tmp_path, changes, message):
    with pytest.raises(UserError, match=f"^{message}$"):
        Description(**{**as_dict(make()), **changes})
    path = write_lines(tmp_path / "d.jsonl", as_dict(make()), "", as_dict(make(), **changes))
    with pytest.raises(UserError, match=f"d.jsonl:3: {message}$"):
        read_descriptions(path)


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_refused(score):
    with pytest.raises(UserError, match="score 'cosine' must be a finite number, found (nan|inf)"):
        make(scores={"cosine": score})


def test_extra_must_not_repeat_fields():
    with pytest.raises(UserError, match="extra must not repeat the record's own keys: seed, text"):
        make(extra={"text": "b", "seed": 1})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"dataset": "birds",', r"d.jsonl:2: broken JSON \(.*\); every line must be one whole JSON object"),
        ('{"scores": NaN}', r"d.jsonl:2: broken JSON \(NaN is no JSON number\)"),
        ("[1, 2]", "d.jsonl:2: expected a JSON object, found list"),
        (
            '{"dataset": "birds", "text": "a"}',
            "d.jsonl:2: missing class_id, class_name, question, model, seed, scores;",
        ),
    ],
)
def test_broken_lines_name_file_and_line(tmp_path, line, message):
    path = write_lines(tmp_path / "d.jsonl", as_dict(make()), line)
    with pytest.raises(UserError, match=message):
        read_descriptions(path)
    with pytest.raises(UserError, match=message):  # a line with a line end is whole, hence wrong rather than unfinished
        read_descriptions(path, allow_partial_last_line=True)


def test_other_encodings_are_refused(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_bytes(b'{"text": "na\xefve"}\n')
    with pytest.raises(UserError, match=r"d.jsonl:1: not UTF-8 text \(.* at byte 12\); save the file as UTF-8"):
        read_descriptions(path)


def test_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + make().to_json().encode() + b"\r\n\r\n" + make(0).to_json().encode() + b"\r\n")
    assert read_descriptions(path, NAMES) == [make(), make(0)]


@pytest.mark.parametrize(
    ("class_id", "name", "message"),
    [
        (1, "Pufin", r"expected class name 'Puffin', found 'Pufin'; the nearest class name is 'Puffin' \(class 1\);"),
        (1, "puffin", r"found 'puffin'; the nearest class name is 'Puffin' \(class 1\)"),
        (
            1,
            "Truck",
            "expected class name 'Puffin', found 'Truck'; 'Truck' is class 2 of the dataset: is the class order",
        ),
        (3, "Gul", r"class_id 3 \('Gul'\) is out of range: the dataset has 3 classes, 0 to 2; the nearest .* 'Gull'"),
        (0, "zzzz", "expected class name 'Gull', found 'zzzz'; use the dataset that the descriptions were made for"),
    ],
)
def test_unknown_classes_name_expected_found_and_nearest(tmp_path, class_id, name, message):
    record = make(0, class_id=class_id, class_name=name)
    path = write_lines(tmp_path / "d.jsonl", as_dict(make()), as_dict(record))
    with pytest.raises(UserError, match=f"d.jsonl:2: .*{message}"):
        read_descriptions(path, NAMES)
    assert read_descriptions(path)[1] == record
    with pytest.raises(UserError, match="d.jsonl:1: .*the dataset has 0 classes; use"):
        read_descriptions(path, [])


def test_absent_and_empty_files(tmp_path):
    with pytest.raises(UserError, match="absent.jsonl: no such file"):
        read_descriptions(tmp_path / "absent.jsonl")
    with pytest.raises(UserError, match="no such file"):
        read_descriptions(tmp_path)
    path = write_lines(tmp_path / "empty.jsonl", "", " ")
    with pytest.raises(UserError, match="empty.jsonl:1: the file holds no descriptions"):
        read_descriptions(path)
    assert read_descriptions(path, allow_partial_last_line=True) == []


def test_every_cut_of_the_last_line_is_left_out_only_on_request_and_mended_by_append(tmp_path):
    first, second, third = make(), make(0, text="Grey wings, 鳥"), make(2)
    whole = (first.to_json() + "\n" + second.to_json() + "\n").encode()
    start = len(first.to_json()) + 1
    path = tmp_path / "d.jsonl"
    for size in range(start, len(whole) + 1):
        path.write_bytes(whole[:size])
        kept = [first, second] if size >= len(whole) - 1 else [first]
        assert read_descriptions(path, NAMES, allow_partial_last_line=True) == kept
        if start < size < len(whole) - 1:
            with pytest.raises(UserError, match=r"d.jsonl:2: (broken JSON|not UTF-8)"):
                read_descriptions(path, NAMES)
        append_descriptions(path, [third])
        assert read_descriptions(path, NAMES) == [*kept, third]


def test_append_makes_the_file_and_its_folder(tmp_path):
    path = tmp_path / "run" / "samples.jsonl"
    append_descriptions(path, [make()])
    append_descriptions(path, [])
    append_descriptions(path, [make(0)])
    assert read_descriptions(path, NAMES) == [make(), make(0)]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "d.jsonl"
    write_descriptions(path, [make()])
    before = path.read_bytes()

    def records():
        yield make(0)
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_descriptions(path, records())
    with pytest.raises(ValueError, match="not JSON compliant"):
        append_descriptions(path, [make(extra={"x": float("nan")})])

    def no_replace(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", no_replace)
    with pytest.raises(OSError, match="disk full"):
        write_descriptions(path, [make(0)])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_files_get_ordinary_permissions(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    write_atomically(tmp_path / "atomic", b"abc")
    assert (tmp_path / "atomic").read_bytes() == b"abc"
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode
