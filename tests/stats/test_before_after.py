from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ex2.base.errors import UserError
from ex2.stats import before_after_page
from ex2.stats.before_after import (
    SYSTEM_ORDER,
    Summary,
    SystemScores,
    distinct_share,
    find_warnings,
    outcome,
    pick_examples,
    summarise,
)
from ex2.stats.before_after_page import format_table, to_markdown, write_report
from ex2.stats.intervals import Interval
from ex2.stats.plots import before_after_png

NAMES = tuple(f"{letter}{letter} bird" for letter in "jcahgbfdei")
CLASSES = len(NAMES)
SYSTEMS = ("class_name", "template", "base", "best_of_n", "aligned")


def system(name: str, reward: float, heldout: float, per_class: int = 2, /, **changes) -> SystemScores:
    """Scores that differ by class in nearly the same way for every system: differences are exact in the mean, and sure."""
    ids = np.repeat(np.arange(CLASSES), per_class)
    spread = 0.01 * ids + 1e-6 * SYSTEM_ORDER.index(name) * np.where(ids % 2, 1, -1)
    fields = {
        "class_ids": ids,
        "reward": reward + spread,
        "heldout": heldout + spread,
        "texts": [f"{name} text {row}" for row in range(len(ids))],
        "questions": [f"Question {row % per_class} about {NAMES[i]}?" for row, i in enumerate(ids)],
    }
    return SystemScores(name, **{**fields, **changes})


def good_systems(**changes: SystemScores) -> list[SystemScores]:
    systems = {
        "class_name": system("class_name", 0.20, 0.19, 1, questions=None),
        "template": system("template", 0.22, 0.21, 1, questions=None),
        "base": system("base", 0.15, 0.14),
        "best_of_n": system("best_of_n", 0.25, 0.23),
        "aligned": system("aligned", 0.30, 0.28),
    }
    return list({**systems, **changes}.values())


def report(**changes: SystemScores) -> Summary:
    return summarise(good_systems(**changes), NAMES)


def noisy(name: str, reward: float, heldout: float, heldout_noise: float) -> SystemScores:
    signs = np.where(np.repeat(np.arange(CLASSES), 2) % 2, 1.0, -1.0)
    made = system(name, reward, heldout)
    return system(name, reward, heldout, heldout=np.asarray(made.heldout) + heldout_noise * signs)


def test_summary_by_hand():
    systems = [
        SystemScores("base", [0, 0, 1], [0.1, 0.3, 0.6], [0.1, 0.1, 0.3], ["a", "A ", "b"]),
        SystemScores("aligned", [1, 0], [0.8, 0.3], [0.3, 0.2], ["c", "d"]),
    ]
    summary = summarise(systems, ["x", "y"]).as_dict()
    # Two classes: half of their difference times t's quantile with one degree of freedom, 12.706.
    assert summary["base"] == {
        "reward": pytest.approx({"mean": 0.4, "low": 0.4 - 0.2 * 12.7062, "high": 0.4 + 0.2 * 12.7062}, rel=1e-5),
        "heldout": pytest.approx({"mean": 0.2, "low": 0.2 - 0.1 * 12.7062, "high": 0.2 + 0.1 * 12.7062}, rel=1e-5),
        "distinct": pytest.approx(2 / 3),
        "n": 3,
        "classes": 2,
    }
    assert summary["aligned"]["distinct"] == 1.0
    assert summary["aligned_minus_base"] == {
        "reward": pytest.approx({"mean": 0.15, "low": 0.15 - 0.05 * 12.7062, "high": 0.15 + 0.05 * 12.7062}, rel=1e-4),
        "heldout": pytest.approx({"mean": 0.05, "low": 0.05 - 0.05 * 12.7062, "high": 0.05 + 0.05 * 12.7062}, rel=1e-4),
        "distinct": pytest.approx(1 / 3),
    }
    assert "template" not in summary
    assert "aligned_minus_template" not in summary


def test_json_shape():
    meta = {"vlm": "pictogram", "seconds": {"bank": np.float32(1.5), "train": float("nan")}, "path": Path("runs/a")}
    monitors = {"hub_score": {"first": np.float64(0.1), "last": float("inf")}, "length": {"first": 3, "last": 4}}
    shuffled = good_systems()[::-1]
    summary = summarise(shuffled, NAMES, meta={**meta, "ks": (1, np.arange(2))}, monitors=monitors).as_dict()
    others = ("base", "class_name", "template", "best_of_n")
    facts = ("intervals", "meta", "examples", "monitors", "warnings", "collapse")
    assert list(summary) == [*SYSTEMS, *(f"aligned_minus_{name}" for name in others), *facts]
    for name in SYSTEMS:
        assert set(summary[name]) == {"reward", "heldout", "distinct", "n", "classes"}
    for name in others:
        assert set(summary[f"aligned_minus_{name}"]) == {"reward", "heldout", "distinct"}
        for images in ("reward", "heldout"):
            assert list(summary[f"aligned_minus_{name}"][images]) == ["mean", "low", "high"]
    assert summary["meta"] == {
        "vlm": "pictogram",
        "seconds": {"bank": 1.5, "train": None},
        "path": "runs/a",
        "ks": [1, [0, 1]],
    }
    assert summary["monitors"] == {"hub_score": {"first": 0.1, "last": None}, "length": {"first": 3, "last": 4}}
    assert summary["intervals"]["level"] == 0.95
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    again = summarise(good_systems(), NAMES, meta={**meta, "ks": (1, np.arange(2))}, monitors=monitors)
    assert summary == again.as_dict()
    assert Summary.of(json.loads(json.dumps(summary))) == again


def test_distinct_folds_case_and_whitespace():
    assert distinct_share(["A  puffin\n", "a puffin", "STRASSE", "straße", "gull"]) == 3 / 5
    assert distinct_share([]) == 0.0


def test_no_warnings_when_all_is_well():
    summary = report()
    assert summary.warnings == []
    assert "## Warnings\n\nNone." in to_markdown(summary)


@pytest.mark.parametrize(
    ("name", "spoken"),
    [("class_name", "the bare class name"), ("template", "the template"), ("best_of_n", "best-of-n sampling")],
)
def test_warns_where_a_control_is_not_beaten_on_heldout_images(name, spoken):
    warnings = report(**{name: noisy(name, 0.25, 0.28, 0.01)}).warnings
    expected = f"On held-out images the aligned policy is not shown to beat {spoken} ("
    assert len(warnings) == 1
    assert warnings[0].startswith(expected)
    assert "[-" in warnings[0]
    (worse,) = report(**{name: system(name, 0.25, 0.29)}).warnings
    worse_than = expected.replace("not shown to beat", "worse than")
    assert worse == f"{worse_than}-0.0100 [-0.0100, -0.0100]): differences of the cosine, 95 % intervals."
    assert report(**{name: system(name, 0.9, 0.27)}).warnings == []


def test_controls_that_are_not_beaten_are_one_warning_a_kind():
    warnings = report(
        class_name=system("class_name", 0.25, 0.29),
        template=system("template", 0.25, 0.30),
        best_of_n=noisy("best_of_n", 0.25, 0.28, 0.01),
    ).warnings
    assert len(warnings) == 2
    assert warnings[0] == (
        "On held-out images the aligned policy is worse than the bare class name (-0.0100 [-0.0100, -0.0100]) and the template "
        "(-0.0200 [-0.0200, -0.0200]): differences of the cosine, 95 % intervals."
    )
    assert "is not shown to beat best-of-n sampling (" in warnings[1]


def test_warns_of_overfitting_to_the_reward_images():
    systems = [system("base", 0.15, 0.28), system("aligned", 0.30, 0.28)]
    (warning,) = summarise(systems, NAMES).warnings
    assert warning == (
        "The reward rose on the reward images (difference +0.1500, 95 % interval [+0.1500, +0.1500]), but not on "
        "held-out images (difference +0.0000, 95 % interval [+0.0000, +0.0000]): the policy has overfitted to the "
        "reward images."
    )


def test_warns_when_training_did_nothing():
    systems = [system("base", 0.30, 0.28), system("aligned", 0.30, 0.28)]
    first, second = summarise(systems, NAMES, level=0.9).warnings
    assert first.startswith(
        "Training is not shown to have raised the reward: difference between the aligned and the base policy"
    )
    assert "90 % interval [+0.0000, +0.0000]" in first
    assert second.startswith(
        "On held-out images the aligned policy is not shown to beat the base policy (+0.0000 [+0.0000, +0.0000]):"
    )


def test_classes_that_are_all_alike_leave_it_open():
    """Exactly equal differences have no interval; neither the words nor the JSON pretend that there is one."""
    systems = [SystemScores(name, [0, 1, 2], [0.1 + rise] * 3, [0.2 + rise] * 3, ["a", "b", "c"]) for name, rise in
               (("base", 0.0), ("aligned", 0.1))]  # fmt: skip
    summary = summarise(systems, ["x", "y", "z"])
    assert summary.as_dict()["aligned_minus_base"]["heldout"] == {"mean": pytest.approx(0.1), "low": None, "high": None}
    assert Summary.of(json.loads(json.dumps(summary.as_dict()))).as_dict() == summary.as_dict()
    first, second = summary.warnings
    assert "is not shown to have raised the reward" in first
    assert "the base policy (+0.1000 [cannot be told])" in second
    assert "+0.1000 [cannot be told]" in format_table(summary)
    assert "not clearly nearer to or further from" in outcome(summary)[0]
    before_after_png(summary.as_dict())


def test_outcome_says_what_the_differences_say():
    nearer, further, unclear = Interval(0.1, 0.05, 0.15), Interval(-0.1, -0.15, -0.05), Interval(0.1, -0.05, 0.25)
    summary = report()
    for reading in ("", "nameless"):
        for base, best, words in (
            (nearer, further, ("nearer to their class than the untrained", "further from their class than the best")),
            (unclear, nearer, ("not clearly nearer to or further from", "nearer to their class than the best")),
        ):
            advantages = {
                name: replace(summary.advantages[name], heldout=own)
                for name, own in (("base", base), ("best_of_n", best))
            }
            changed = replace(summary, advantages=advantages)
            if reading:
                changed = replace(summary, nameless=changed)
            sentence = outcome(changed)[-1]
            assert sentence.startswith("Without names, the policy's texts" if reading else "The policy's texts")
            assert all(part in sentence for part in words)
            assert f"cosine {base.shown('+.4f')}" in sentence
            assert f"cosine {best.shown('+.4f')}" in sentence


def test_a_collapse_comes_first_and_stands_in_every_form_of_the_report():
    assert not any(sentence.startswith("Collapse") for sentence in outcome(report()))
    signs = ["shrank to 2.0 words, 9.0 before training", "repeat each other: 3%"]
    summary = summarise(good_systems(), NAMES, collapse=signs)
    first = outcome(summary)[0]
    assert first == (
        "Collapse: the policy's texts shrank to 2.0 words, 9.0 before training; they repeat each other: 3%. That is a shortcut "
        "to the reward and no description: what is said does not show what the VLM prefers."
    )
    assert to_markdown(summary).startswith(
        f"# Before and after training\n\n- {first}\n- The policy's texts are nearer to"
    )
    assert Summary.of(json.loads(json.dumps(summary.as_dict()))).collapse == summary.collapse
    older = summary.as_dict()
    del older["collapse"]
    assert Summary.of(older).collapse == []  # reports that were written before


def test_warns_of_different_numbers_of_texts_and_classes():
    (warning,) = report(aligned=system("aligned", 0.30, 0.28, 3)).warnings
    assert warning.startswith("The base policy has 20 texts and the aligned policy 30: more texts repeat more")
    summary = report()
    systems = {**summary.systems, "template": replace(summary.systems["template"], classes=9)}
    (warning,) = find_warnings(replace(summary, systems=systems))
    assert warning.startswith("The systems cover different numbers of classes (template 9, aligned 10)")


def test_examples_are_decided_by_seed_and_spread_over_the_alphabet():
    base, aligned = system("base", 0.15, 0.14), system("aligned", 0.30, 0.28)
    examples = pick_examples(base, aligned, NAMES)
    assert examples == pick_examples(base, aligned, NAMES)
    chosen = [example["class_name"] for example in examples]
    for example_name, stretch in zip(chosen, ("ab", "cd", "ef", "gh", "ij"), strict=True):
        assert example_name[0] in stretch
    choices = {
        tuple(example["class_name"] for example in pick_examples(base, aligned, NAMES, seed=s)) for s in range(9)
    }
    assert len(choices) > 1
    better = system("aligned", 0.30, 0.28, heldout=np.random.default_rng(0).normal(size=2 * CLASSES))
    assert chosen == [example["class_name"] for example in pick_examples(base, better, NAMES)]


def test_an_example_is_the_first_sample_of_each_system():
    base, aligned = system("base", 0.15, 0.14), system("aligned", 0.30, 0.28)
    for example in pick_examples(base, aligned, NAMES, k=3):
        class_id = NAMES.index(example["class_name"])
        assert example == {
            "class_name": NAMES[class_id],
            "question": f"Question 0 about {NAMES[class_id]}?",
            "before": f"base text {2 * class_id}",
            "before_heldout": pytest.approx(0.14 + 0.01 * class_id, abs=1e-4),
            "after": f"aligned text {2 * class_id}",
            "after_heldout": pytest.approx(0.28 + 0.01 * class_id, abs=1e-4),
        }


def test_an_example_prefers_the_same_question():
    base = SystemScores("base", [0, 1], [0, 0], [0, 0], ["b0", "b1"], ["Q1", "Q2"])
    aligned = SystemScores("aligned", [0, 1, 0], [0, 0, 0], [0, 0, 0.5], ["a0", "a1", "a2"], ["Q2", "Q3", "Q1"])
    first, second = pick_examples(base, aligned, ["x", "y"])
    assert (first["question"], first["after"], first["after_heldout"]) == ("Q1", "a2", 0.5)
    assert (second["question"], second["after"]) == ("before: Q2 / after: Q3", "a1")
    plain = SystemScores("aligned", [0, 1], [0, 0], [0, 0], ["a0", "a1"])
    plain_base = SystemScores("base", [0, 1], [0, 0], [0, 0], ["b0", "b1"])
    assert [example["question"] for example in pick_examples(plain_base, plain, ["x", "y"])] == ["", ""]
    assert pick_examples(base, SystemScores("aligned", [2], [0], [0], ["t"]), ["x", "y", "z"]) == []


def test_table_is_aligned_and_narrow():
    table = format_table(report())
    lines = table.splitlines()
    assert max(map(len, lines)) <= 100
    rows = {line.split("  ")[0]: line for line in lines}
    assert rows["base"].split() == ["base", "0.1950", *rows["base"].split()[2:]]
    assert rows["base"].split()[-2:] == ["1.000", "20"]
    assert "+0.1500 [+0.1500, +0.1500]" in rows["aligned - base"]
    systems = [rows[name] for name in SYSTEMS]
    differences = [rows[f"aligned - {name}"] for name in SYSTEMS[:-1]]
    for row in [*systems, *differences]:
        assert [i for i, c in enumerate(row) if c == "]"] == [i for i, c in enumerate(systems[0]) if c == "]"]
    assert len({len(row) for row in systems}) == 1
    assert lines[0].split("  ")[0] == "system"
    assert "[95 % interval]" in lines[1]
    assert rows["aligned - base"].endswith("+0.000")
    assert rows["aligned - template"].endswith("]")  # 10 texts against 20: their distinct shares do not compare


def test_table_stays_narrow_with_many_texts():
    summary = report()
    many = replace(summary, systems={name: replace(s, n=1_234_567) for name, s in summary.systems.items()})
    assert max(map(len, format_table(many).splitlines())) <= 100


def test_markdown_shows_everything_and_escapes_texts():
    texts = ["first | <b>*line*</b>\n# second $x$ `y`", *("t" for _ in range(2 * CLASSES - 1))]
    summary = summarise(
        good_systems(aligned=system("aligned", 0.30, 0.28, texts=texts * 1)),
        NAMES,
        meta={"vlm": "hf:a/b", "texts": 12345, "seconds": {"bank": 1.25}, "offline": True, "ks": [1, 2], "gpu": None},
        monitors={"hub_score": {"first": 0.125, "last": 0.5}},
    )
    zero = system("aligned", 0, 0, heldout=np.zeros(2 * CLASSES), texts=texts)
    examples = pick_examples(good_systems()[2], zero, NAMES, k=CLASSES)
    summary = replace(summary, examples=examples)
    markdown = to_markdown(summary)
    assert "| base | 0.1950 [" in markdown
    assert "| aligned - base | +0.1500 [+0.1500, +0.1500] | +0.1400 [+0.1400, +0.1400] | -0.900 |" in markdown
    assert "### jj bird\n\nQuestion: Question 0 about jj bird?\n" in markdown
    assert r"| after | first \| \<b\>\*line\*\</b\> \# second \$x\$ \`y\` | 0.0000 |" in markdown
    assert "| hub\\_score | 0.125 | 0.5 |" in markdown
    for fact in (
        "vlm: hf:a/b",
        "texts: 12,345",
        "seconds: bank 1.25",
        "offline: yes",
        "ks: 1, 2",
        "gpu: not available",
    ):
        assert f"- {fact}\n" in markdown
    for line in markdown.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")
    assert "Question" not in to_markdown(replace(summary, examples=[{**summary.examples[0], "question": ""}]))


def test_write_report(tmp_path):
    summary = report()
    paths = write_report(summary, tmp_path / "run")
    assert [path.name for path in paths] == ["before_after.json", "before_after.md", "before_after.png"]
    assert sorted(paths) == sorted((tmp_path / "run").iterdir())
    assert json.loads(paths[0].read_text("utf-8")) == summary.as_dict()
    assert paths[1].read_text("utf-8") == to_markdown(summary)
    image = Image.open(io.BytesIO(paths[2].read_bytes()))
    assert image.width == 1800


def test_an_error_writes_nothing(tmp_path, monkeypatch):
    summary = report()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_report(replace(summary, meta={"loss": float("nan")}), tmp_path)

    def broken(summary):
        raise RuntimeError("no plot")

    monkeypatch.setattr(before_after_page, "before_after_png", broken)
    with pytest.raises(RuntimeError, match="no plot"):
        write_report(summary, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_wrong_systems_are_refused():
    with pytest.raises(
        ValueError, match="system 'trained' is none of class_name, template, random_words, base, best_of_n"
    ):
        SystemScores("trained", [0], [0.1], [0.1], ["one"])
    with pytest.raises(ValueError, match=r"system 'base': columns of different shapes: .*'texts': \(1,\)"):
        system("base", 0.1, 0.1, texts=["one"])
    with pytest.raises(ValueError, match=r"'questions': \(1,\)"):
        system("base", 0.1, 0.1, questions=["one"])
    with pytest.raises(ValueError, match=r"need aligned, and each system once; got \['base'\]"):
        summarise([system("base", 0.1, 0.1)], NAMES)
    with pytest.raises(ValueError, match="each system once"):
        summarise([*good_systems(), system("base", 0.1, 0.1)], NAMES)


def test_wrong_scores_name_the_system():
    scores = np.full(2 * CLASSES, 0.1)
    scores[3] = np.nan
    with pytest.raises(UserError, match=r"system base, heldout images: 1 of 20 values are not finite \(first: value 3"):
        report(base=system("base", 0.1, 0.1, heldout=scores))
    with pytest.raises(UserError, match="system base: class ids 0 to 9, but 4 class names"):
        summarise([system("base", 0.1, 0.1), system("aligned", 0.1, 0.1)], NAMES[:4])
    one = [SystemScores(name, [0, 0], [0.1, 0.2], [0.1, 0.2], ["a", "b"]) for name in ("base", "aligned")]
    with pytest.raises(UserError, match="system base, reward images: an interval needs at least two classes, found 1"):
        summarise(one, NAMES)


def test_both_readings_side_by_side():
    nameless = [system(name, *cosines) for name, cosines in {
        "class_name": (0.05, 0.05), "template": (0.06, 0.06), "base": (0.10, 0.10), "best_of_n": (0.20, 0.20),
        "aligned": (0.18, 0.18),
    }.items()]  # fmt: skip
    summary = summarise(good_systems(), NAMES, nameless=nameless)
    assert summary.nameless is not None
    assert summary.nameless.advantages["class_name"].heldout.mean == pytest.approx(0.13)
    (warning,) = summary.warnings
    assert warning.startswith(
        "Without the class name: On held-out images the aligned policy is worse than best-of-n sampling (-0.0200"
    )
    data = json.loads(json.dumps(summary.as_dict()))
    assert data["nameless"]["aligned_minus_base"]["heldout"]["mean"] == pytest.approx(0.08)
    assert Summary.of(data).nameless.systems == summary.nameless.systems
    written, read_without = format_table(summary).split("\n\n")
    assert written.splitlines()[0] == "Read as written"
    assert read_without.splitlines()[0] == "Read without the class name"
    assert "+0.0800 [+0.0800, +0.0800]" in read_without
    markdown = to_markdown(summary)
    for head in (
        "## Systems, as written",
        "## Systems, without the class name",
        "## Differences, paired by class, without",
    ):
        assert head in markdown
