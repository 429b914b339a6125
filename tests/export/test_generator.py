"""The generator of a bundle, as another program uses it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import ex2
from ex2.base.errors import UserError
from ex2.export import Bundle, write_bundle
from ex2.export.generator import DescriptionGenerator
from ex2.export.merge import merge_adapter
from ex2.texts.descriptions import Description
from ex2.texts.pairs import read_pairs, write_pairs
from ex2.texts.questions import PAIR_QUESTIONS


@pytest.fixture(scope="module")
def generator(folder: Path) -> DescriptionGenerator:
    return DescriptionGenerator.from_pretrained(folder)


def test_it_is_an_attribute_of_the_package() -> None:
    assert ex2.DescriptionGenerator is DescriptionGenerator
    with pytest.raises(AttributeError, match="No ex2 attribute Nothing"):
        _ = ex2.Nothing


def test_describe(generator: DescriptionGenerator) -> None:
    records = generator.describe(["puffin", "hammer"], n=3, seed=5)
    assert all(isinstance(record, Description) for record in records)
    assert [record.class_name for record in records] == ["puffin"] * 3 + ["hammer"] * 3
    assert [record.class_id for record in records] == [0, 0, 0, 1, 1, 1]
    assert {record.question for record in records} == set(generator.questions)
    assert {(record.model, record.seed) for record in records} == {("run", 5)}
    assert records[0].extra == {"policy_fingerprint": "0123456789abcdef"}
    assert records == generator.describe(["puffin", "hammer"], n=3, seed=5)
    other = generator.describe(["puffin", "hammer"], n=3, seed=6)
    assert [record.text for record in records] != [record.text for record in other]


def test_contrast(generator: DescriptionGenerator, tmp_path: Path) -> None:
    pairs = generator.contrast([("puffin", "penguin"), ("hammer", "puffin")], seed=1)
    assert pairs.class_names == ("puffin", "penguin", "hammer")
    assert set(pairs.pairs) == {(0, 1), (0, 2)}
    assert [text.attribute for text in pairs.pairs[0, 1]] == list(PAIR_QUESTIONS)
    write_pairs(tmp_path / "pairs.json", pairs)
    assert read_pairs(tmp_path / "pairs.json", pairs.class_names) == pairs


def test_sentences_of_a_pair_are_about_their_own_class(
    generator: DescriptionGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def echo(asks: list, **_: object) -> list[list[str]]:
        return [[f"{ask.class_name} not {ask.other_name}: {ask.question}" for ask in asks]]

    monkeypatch.setattr(generator.generator, "sample", echo)
    question = "How is a {} unlike a {other}?"
    pairs = generator.contrast([("puffin", "owl"), ("owl", "bat")], questions={"looks": question})
    assert pairs.pairs[0, 1][0].texts == (f"puffin not owl: {question}", f"owl not puffin: {question}")
    assert pairs.pairs[1, 2][0].texts == (f"owl not bat: {question}", f"bat not owl: {question}")


def test_blank_texts_are_sampled_again_and_then_left_out(
    generator: DescriptionGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = []

    def sample(asks: list, *, seed: int, **_: object) -> list[list[str]]:
        seeds.append(seed)
        return [["" if ask.class_name == "mute" or len(seeds) == 1 else f"it is {ask.class_name}" for ask in asks]]

    monkeypatch.setattr(generator.generator, "sample", sample)
    assert [record.text for record in generator.describe(["owl", "mute"], n=2)] == ["it is owl"] * 2
    assert len(set(seeds)) == 4
    assert generator.contrast([("owl", "mute")]).pairs == {}


def test_no_more_is_sampled_than_is_missing(generator: DescriptionGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(generator.generator, "sample", lambda asks, **_: asked.append(len(asks)) or [["x"] * len(asks)])
    generator.describe(["owl"], n=2)
    assert asked == [2]


def test_mistakes_are_named(generator: DescriptionGenerator) -> None:
    for call, message in (
        (lambda: generator.describe("owl"), "'owl' is one string: give a list of names"),
        (lambda: generator.describe([]), "class_names is empty"),
        (lambda: generator.describe(["owl", " "]), "holds ' ': every class needs a name"),
        (lambda: generator.describe(["owl"], n=0), "n=0 is out of range"),
        (lambda: generator.describe(["owl"], seed=-1), "seed=-1 is out of range"),
        (lambda: generator.describe(["owl"], batch_size=0), "batch_size=0 is out of range"),
        (lambda: generator.contrast([("owl", "owl")]), r"\('owl', 'owl'\) is one class: a pair needs two"),
        (lambda: generator.contrast([("owl", "bat"), ("bat", "owl")]), r"\('bat', 'owl'\) is there more than once"),
        (lambda: generator.contrast([("owl", "bat")], questions={"x": "What is a {}?"}), "needs .*{other}"),
    ):
        with pytest.raises(UserError, match=message):
            call()


def test_a_generator_of_contrasts_does_not_describe(generator: DescriptionGenerator) -> None:
    questions = ("Unlike a {other}, a {} has what?", PAIR_QUESTIONS["size"])
    trained = DescriptionGenerator(generator.generator, questions, name="pairs", fingerprint="0")
    with pytest.raises(UserError, match="is about two classes"):
        trained.describe(["owl"])
    attributes = [text.attribute for text in trained.contrast([("owl", "bat")]).pairs[0, 1]]
    assert attributes == [questions[0], "size"]


def test_merged_model_and_adapter_write_the_same_texts(
    bundle: Bundle, generator: DescriptionGenerator, tiny_chat_llm: Path, tiny_adapter: Path, tmp_path: Path
) -> None:
    merge_adapter(str(tiny_chat_llm), tiny_adapter, tmp_path / "merged", ["Describe a puffin."])
    weights = {f"merged/{path.name}": path for path in (tmp_path / "merged").iterdir()}
    write_bundle(replace(bundle, weights={**bundle.weights, **weights}), tmp_path / "bundle")
    config = json.loads((tmp_path / "bundle/adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_chat_llm)
    merged = DescriptionGenerator.from_pretrained(tmp_path / "bundle")
    assert not hasattr(merged.generator.model, "peft_config")
    assert merged.describe(["puffin"], n=4) == generator.describe(["puffin"], n=4)
    chosen = DescriptionGenerator.from_pretrained(str(tmp_path / "bundle"), base_model=str(tiny_chat_llm))
    assert hasattr(chosen.generator.model, "peft_config")


def test_a_changed_bundle_is_not_used(bundle: Bundle, tmp_path: Path) -> None:
    write_bundle(bundle, tmp_path / "bundle")
    (tmp_path / "bundle" / "questions.json").write_text('["Insult a {}."]')
    with pytest.raises(UserError, match=r"questions.json has changed since it was exported"):
        DescriptionGenerator.from_pretrained(tmp_path / "bundle")


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent is no folder: name a bundle that `ex2 export` wrote"):
        DescriptionGenerator.from_pretrained(tmp_path / "absent")
    with pytest.raises(
        UserError, match="bundle nobody/birds: .* could not be fetched from the hub: use a local folder"
    ):
        DescriptionGenerator.from_pretrained("nobody/birds")


def test_from_the_hub(folder: Path, generator: DescriptionGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(repo_id: str, revision: str, local_files_only: bool) -> str:
        asked.append((repo_id, revision, local_files_only))
        return str(folder)

    monkeypatch.setattr("ex2.export.generator.require_repository", lambda *_: False)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    there = DescriptionGenerator.from_pretrained("me/birds", revision="v1")
    assert asked == [("me/birds", "v1", False)]
    assert there.describe(["owl"]) == generator.describe(["owl"])


def test_needs_neither_trl_nor_a_vlm(folder: Path) -> None:
    code = f"""
import sys
from ex2 import DescriptionGenerator
generator = DescriptionGenerator.from_pretrained({str(folder)!r})
assert len(generator.describe(["owl"], n=2)) == 2
assert generator.contrast([("owl", "bat")]).pairs
print([name for name in ("trl", "open_clip", "datasets", "pandas") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"
