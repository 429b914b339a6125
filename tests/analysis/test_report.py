"""The report of an analysis: what it says, that its numbers are the tables', that it is safe, readable and whole."""

from __future__ import annotations

import base64
import errno
import hashlib
import io
import itertools
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ex2.analysis import report, study_plots
from ex2.analysis.findings import SHOWN
from ex2.analysis.pipeline import analyse
from ex2.analysis.report import ASSETS, render, write_report
from ex2.analysis.study import Study
from ex2.data import LabelledImages, load_images
from ex2.data.labelled import fingerprint_of
from ex2.scoring.scorer import TextScorer
from ex2.texts.categories import CATEGORIES, Judgement, Passage
from ex2.texts.descriptions import Description
from ex2.texts.probe import SPOKEN, shipped_probe
from tests.browser import SIZES, fits, opened

QUESTIONS = ("Describe a {}.", "What does a {} look like?")
CLASSES = ("tiger", "owl", "banana", "whale", "ear of corn")
EVIL = "It has <script>alert('x')</script> \"><img src=http://evil.example/x.png onerror=alert(1)> orange fur & costs $5 or $6."
VOID = {"meta", "br", "wbr", "img", "link", "hr", "input"}


class WordJudge:
    """Judges by single words, so that a test knows what it gets."""

    name = "words"

    def judge(self, passages: Sequence[Passage], *, progress: bool = True) -> list[tuple[Judgement, ...]]:
        return [tuple(self._clause(clause) for clause in passage.clauses) for passage in passages]

    def _clause(self, clause: str) -> Judgement:
        for word, place, tags in (
            ("orange", 0, ("colour",)), ("wings", 0, ("part", "shape")), ("lives", 1, ("place",)), ("eats", 3, ("diet",)),
            ("beautiful", 4, ("praise",)),
        ):  # fmt: skip
            if word in clause:
                return Judgement(tuple(0.75 if i == place else 0.05 for i in range(6)), tags)
        return Judgement((1 / 6,) * 6)


def descriptions(names: Sequence[str], texts: Sequence[str]) -> list[Description]:
    """Each class answers each question with the next of `texts`, cyclically."""
    following = itertools.cycle(texts)
    return [
        Description("pictograms", names.index(name), name, question, next(following).format(name), "test", 0, {})
        for name in CLASSES
        for question in QUESTIONS
    ]


@pytest.fixture(scope="module")
def scorer(pictogram_vlm, pictogram_bank) -> TextScorer:
    return TextScorer(pictogram_vlm, pictogram_bank)


@pytest.fixture(scope="module")
def study(scorer: TextScorer) -> Study:
    """A small but real analysis: five classes, two questions, base and aligned texts, metrics."""
    names = scorer.bank.class_names
    aligned = descriptions(
        names, ["A {0} has orange fur. It has wings.", "A {0} has wings and it eats fish.", "A beautiful {0}."]
    )
    aligned.append(Description("pictograms", names.index("owl"), "owl", QUESTIONS[0], EVIL, "test", 0, {}))
    base = descriptions(
        names, ["A {0} lives in woods.", "A {0} eats fish. It is old.", "A beautiful {0}.", "What of the {0}?"]
    )
    metrics = [
        {"step": step, "sampled_texts": 8 * (step + 1) // 2, "kl": 0.1 * step, "reward": 1.0 * step} | (
            {
                "monitors/reward_cosine": 0.2 + 0.01 * step, "monitors/heldout_cosine": 0.1 + 0.01 * step,
                "monitors/hub_score": 0.05 * step, "monitors/duplicate_rate": 0.03 * step, "monitors/boilerplate_rate": 0.0,
                "monitors/truncated_share": 0.0, "monitors/words": 12.0 - step,
            }
            if step % 2
            else {}
        )
        for step in range(1, 8)
    ]  # fmt: skip
    meta = {
        "vlm": "pictogram",
        "dataset": "pictograms",
        "seed": 0,
        "note": EVIL,
        "options": {"lr": 1e-4, "rewards": ["cosine"]},
    }
    probe = [sentence for sentence in shipped_probe("pictograms", names) if sentence.class_name in CLASSES]
    return analyse(aligned, scorer, WordJudge(), base=base, probe=probe, metrics=metrics, meta=meta, progress=False)


@pytest.fixture(scope="module")
def plots(study: Study) -> dict[str, study_plots.Plot]:
    return study_plots.draw(study.tables)


@pytest.fixture(scope="module")
def html(study: Study, plots: dict[str, study_plots.Plot]) -> str:
    return render(study, plots, None)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page.of(html)


def changed(study: Study, summary: dict[str, Any] | None = None, **tables: pd.DataFrame | None) -> Study:
    """The study with other tables (None: without it) and other entries of the summary."""
    kept = {name: table for name, table in {**study.tables, **tables}.items() if table is not None}
    return Study(kept, {**study.summary, **(summary or {})})


def rendered(study: Study) -> Page:
    return Page.of(render(study, study_plots.draw(study.tables), None))


# ---------------------------------------------------------------- reading the page


@dataclass
class Page(HTMLParser):
    """What a page holds: tags with attributes, ids, text by section, and its tables by caption."""

    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    sections: dict[str, str] = field(default_factory=dict)
    tables: dict[str, list[list[str]]] = field(default_factory=dict)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._open: list[str] = []
        self._section = ""
        self._rows: list[list[str]] = []
        self._caption = ""

    @classmethod
    def of(cls, html: str) -> Page:
        page = cls()
        page.feed(html)
        page.close()
        assert page._open == [], "every tag is closed"
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.tags.append((tag, attributes))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "section":
            self._section = attributes["id"]
        if tag == "table":
            self._rows, self._caption = [], ""
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._rows[-1].append("")
        if tag in ("small", "br"):
            self.handle_data(" ")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes another tag"
        if tag == "table":
            self.tables[self._caption.strip() or "tables"] = self._rows

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in ("style", "title"):
            return
        self.text += data
        self.sections[self._section] = self.sections.get(self._section, "") + data
        if "caption" in self._open:
            self._caption += data
        elif "table" in self._open and self._rows and self._rows[-1]:
            self._rows[-1][-1] += data

    def rows(self, caption: str) -> list[list[str]]:
        """Rows of the table whose caption starts so, white space collapsed."""
        found = [rows for name, rows in self.tables.items() if name.startswith(caption)]
        assert len(found) == 1, f"{caption}: {list(self.tables)}"
        return [[" ".join(cell.split()) for cell in row] for row in found[0]]

    def attributes(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.tags if name in attributes]


def numbers(cell: str) -> list[float]:
    """The numbers of a cell as they stand there; a dash is NaN."""
    plain = cell.replace("−", "-").replace("\N{NO-BREAK SPACE}", " ").replace(",", " ")
    return [float("nan") if word == "–" else float(word) for word in re.findall(r"[-+]?\d+\.?\d*|–", plain)]


def assert_shows(cell: str, row: Any, prefix: str = "", scale: float = 1, digits: int = 4) -> None:
    """The cell holds mean, low and high of the row, rounded; one dash or the mean alone where there is no more."""
    wanted = [scale * row[prefix + key] for key in ("mean", "low", "high")]
    wanted = wanted if not np.isnan(wanted[1]) else wanted[:1]
    assert numbers(cell) == pytest.approx(wanted, abs=0.501 * 10**-digits, nan_ok=True), cell


# ---------------------------------------------------------------- what it says


def test_sections_stand_in_order(page: Page) -> None:
    ids = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert ids == [
        "verdict", "said", "adds", "probe", "attributes", "questions", "classes", "controls", "learning", "examples", "texts",
        "facts", "tables",
    ]  # fmt: skip
    assert [f"#{name}" for name in ids] == page.attributes("href")[: len(ids)]


def test_top_names_vlm_dataset_judge_and_counts(page: Page, study: Study) -> None:
    top = " ".join(page.sections[""].split())
    for part in ("pictogram", "pictograms", "words", "5 of 54", "11 aligned, 10 base"):
        assert part in top
    assert f"{100 * study.summary['unsure']:.1f}" in top


def test_verdict_and_every_warning_come_first(page: Page, study: Study) -> None:
    section = page.sections["verdict"].replace("\N{NO-BREAK SPACE}", " ")
    assert study.summary["warnings"], "this study has warnings"
    for sentence in (*study.summary["verdict"], study.summary["probe"]["sentence"], *study.summary["warnings"]):
        assert sentence in section


def test_without_warnings_the_page_says_so(study: Study, plots: dict[str, study_plots.Plot]) -> None:
    page = Page.of(render(changed(study, {"warnings": []}), plots, None))
    assert "No warnings" in page.sections["verdict"]


@pytest.mark.parametrize(
    ("dataset", "sentence"),
    [
        ("planted:non_visual", "non-visual is what should be found preferred"),
        ("planted:random", "no category should be found preferred"),
        ("planted:swapped", "no category should be found preferred"),
        ("folder:birds", None),
    ],
)
def test_planted_sets_are_called_controls(
    study: Study, plots: dict[str, study_plots.Plot], dataset: str, sentence: str | None
) -> None:
    section = Page.of(render(changed(study, {"meta": {"dataset": dataset}}), plots, None)).sections["verdict"]
    assert ("control without images" in section) == (sentence is not None)
    assert sentence is None or sentence in " ".join(section.split())


def test_every_number_shown_is_the_tables(page: Page, study: Study) -> None:
    tables = study.tables
    spoken = [study_plots.spoken(name) for name in SHOWN]

    for row, shown in zip(
        tables["preference"].to_dict("records"), page.rows("How the verdict follows")[1:], strict=True
    ):
        assert shown[0] == study_plots.spoken(row["category"])
        assert_shows(shown[1], row, "change_", 100, 1)
        for place, quantity in ((3, "added_"), (5, "contribution_"), (7, "general_")):
            assert_shows(shown[place], row, quantity)
        assert shown[9] == row["finding"].replace("_", " ")

    shares = tables["shares"].set_index(["level", "category", "system"])
    lines = iter(page.rows("Category shares")[1:])
    for level in ("descriptions", "clauses"):
        counts = [shares.loc[(level, "visual", system), "n"] for system in ("base", "aligned")]
        assert numbers(next(lines)[0]) == counts
        for category in SHOWN:
            name, *cells = next(lines)
            assert name == study_plots.spoken(category)
            for cell, system in zip(cells, ("base", "aligned"), strict=True):
                assert_shows(cell, shares.loc[(level, category, system)], "", 100, 1)

    change = tables["share_change"].set_index(["level", "category"])
    shown_change = page.rows("Aligned minus base")[1:]
    assert [row[0] for row in shown_change] == spoken
    for category, row in zip(SHOWN, shown_change, strict=True):
        for place, level in ((1, "descriptions"), (3, "clauses")):
            assert_shows(row[place], change.loc[(level, category)], "", 100, 1)
            assert numbers(row[place + 1]) == pytest.approx(
                [change.loc[(level, category), "p_holm"]], abs=5.01e-4, nan_ok=True
            )

    tests = tables["contributions"].set_index(["test", "category"])
    lines = iter(page.rows("Contribution tests")[1:])
    seen = set()
    for line in lines:
        test = max((name for name in report.TESTS if line[0].startswith(name)), key=len)
        seen.add(test)
        for category in CATEGORIES:
            _, interval, p, p_holm, classes, n = next(lines)
            row = tests.loc[(test, category)]
            assert_shows(interval, row)
            assert numbers(p) + numbers(p_holm) == pytest.approx([row["p"], row["p_holm"]], abs=5.01e-4, nan_ok=True)
            assert [int(classes), int(n)] == [row["classes"], row["n"]]
    assert seen == set(tables["contributions"]["test"])

    for row, shown in zip(tables["zero_shot"].to_dict("records"), page.rows("Classifying")[1:], strict=True):
        assert_shows(shown[1], row, "", 100, 1)
        if row["texts"] != "template":
            assert_shows(shown[3], row, "gain_", 100, 1)
            assert row["gain_mean"] == pytest.approx(row["mean"] - row["template_mean"])
        assert numbers(shown[2]) == pytest.approx([100 * row["template_mean"]], abs=0.051)
        assert [int(cell) for cell in shown[4:]] == [row["classes"], row["n"]]

    for row, shown in zip(tables["probe"].to_dict("records"), page.rows("Written sentences by kind")[1:], strict=True):
        assert shown[:2] == [SPOKEN[row["kind"]], study_plots.spoken(row["category"])]
        for place, reading in ((2, "nameless"), (5, "framed")):
            assert numbers(shown[place]) == pytest.approx([row[f"{reading}_mean"]], abs=5.01e-5)
            assert_shows(shown[place + 1], row, f"{reading}_centred_")
        assert_shows(shown[8], row, "top1_", 100, 1)
        assert int(shown[9]) == row["n"]

    attributes = tables["attributes"].set_index(["tag", "system"])
    shown_tags = page.rows("Share of clauses with a tag")[1:]
    assert {row[0] for row in shown_tags} == {"colour", "part", "shape", "place", "diet", "praise"}
    adds_by_tag = tables["attribute_contributions"].set_index("tag")
    for tag, base, aligned, adds, category in shown_tags:
        assert_shows(adds, adds_by_tag.loc[tag])
        assert category == study_plots.spoken(attributes.loc[(tag, "base"), "category"])
        for cell, system in ((base, "base"), (aligned, "aligned")):
            assert_shows(cell, attributes.loc[(tag, system)], "", 100, 1)

    for table, caption in (
        ("controls", "texts as written"),
        ("controls_nameless", "texts without the name of the class"),
    ):
        controls = tables[table].set_index(["system", "images"])
        names = [name for name in report.SYSTEM_LABELS if (name, "heldout") in controls.index]
        for name, shown in zip(names, page.rows(f"Mean cosine with images of the class, {caption}")[1:], strict=True):
            assert shown[0] == report.SYSTEM_LABELS[name]
            for place, images in ((1, "heldout"), (3, "reward")):
                assert_shows(shown[place], controls.loc[(name, images)])
                assert_shows(shown[place + 1], controls.loc[(name, images)], "aligned_minus_")
            assert numbers(shown[5]) == pytest.approx([100 * controls.loc[(name, "heldout"), "distinct"]], abs=0.0501)
            assert int(shown[6]) == controls.loc[(name, "heldout"), "n"]

    curve = tables["learning_curve"]
    for name, first, last in page.rows("Monitors")[1:]:
        values = curve["monitors/" + name.split()[0]].dropna()
        assert numbers(first) + numbers(last) == pytest.approx([values.iloc[0], values.iloc[-1]], abs=5.01e-5)


@pytest.mark.parametrize(
    ("table", "key", "word"),
    [("shares_by_question", "question", "question"), ("shares_by_class", "class_name", "class")],
)
def test_shares_by_question_and_class_are_the_tables(page: Page, study: Study, table: str, key: str, word: str) -> None:
    source = study.tables[table]
    shown = {row[0]: row[1:] for row in page.rows(f"Share of descriptions by {word}")[1:]}
    assert set(shown) == set(source[key])
    for name, cells in shown.items():
        own = source[source[key] == name].set_index(["system", "category"])
        for category, cell in zip(SHOWN, cells, strict=False):
            wanted = [100 * own["share"].get((system, category), 0.0) for system in ("base", "aligned")]
            assert numbers(cell) == pytest.approx(wanted, abs=0.0501)
        assert numbers(cells[-1]) == [own.loc[system, "count"].sum() for system in ("base", "aligned")]


def test_controls_that_are_not_beaten_are_named(page: Page, study: Study) -> None:
    controls = study.tables["controls"].query("images == 'heldout'")
    section = page.sections["controls"]
    for row in controls.to_dict("records"):
        if row["system"] != "aligned":
            listed = f"{report.SPOKEN_NAMES[row['system']]}: " in section
            assert listed == (row["aligned_minus_low"] <= 0)


def test_examples_are_drawn_without_a_look_at_scores(
    study: Study, plots: dict[str, study_plots.Plot], page: Page
) -> None:
    texts = study.tables["descriptions"]
    examples = page.sections["examples"]
    assert [name for name in sorted(CLASSES) if re.search(rf"\b{name}\b", examples)] == sorted(CLASSES)
    other = changed(study, descriptions=texts.assign(cosine=texts["cosine"].to_numpy()[::-1]))
    without = re.compile(r"Cosine with held-out images [−\d.]+")
    assert without.sub("", Page.of(render(other, plots, None)).sections["examples"]) == without.sub("", examples)


def test_examples_show_texts_with_their_clauses_and_categories(page: Page, study: Study) -> None:
    examples = " ".join(page.sections["examples"].split())
    clauses = study.tables["clauses"]
    first = study.tables["descriptions"].query("system == 'aligned' and class_name == 'tiger'").iloc[0]
    own = clauses[clauses["description"] == first.name]
    assert len(own) == 2
    assert first["text"] in examples
    for row in own.to_dict("records"):
        assert f"{row['clause']} {row['category']} 75 %" in examples.replace("\N{NO-BREAK SPACE}", " ")


def test_every_table_is_listed_with_its_files(study: Study, page: Page, tmp_path: Path) -> None:
    study.write(tmp_path)
    links = [href for href in page.attributes("href") if href.startswith("tables/")]
    assert len(links) == 2 * len(study.tables)
    assert all((tmp_path / link).is_file() for link in links)
    shown = {row[0]: [int(row[2]), int(row[3])] for row in page.rows("tables")[1:]}
    assert shown == {name: list(table.shape) for name, table in study.tables.items()}
    assert set(study.tables) | {"corrected"} == set(report.TABLES), (
        "each table has its sentence; that one comes with labels"
    )


def test_facts_are_flat_and_whole(page: Page, study: Study) -> None:
    facts = page.sections["facts"]
    for part in ("options.lr", "0.0001", "options.rewards", "cosine", study.summary["intervals"]["method"]):
        assert part in facts


# ---------------------------------------------------------------- safe, self-contained, accessible


def test_generated_texts_are_escaped(html: str, page: Page) -> None:
    assert html.count("<script") == 1
    assert {name for _, attributes in page.tags for name in attributes if name.startswith("on")} == set()
    assert EVIL in page.sections["facts"]
    assert {tag for tag, _ in page.tags}.isdisjoint({"iframe", "object", "embed", "link", "base"})


def test_evil_text_is_escaped_where_it_is_an_example(study: Study, plots: dict[str, study_plots.Plot]) -> None:
    owl = study.tables["descriptions"]["class_name"] == "owl"
    evil = changed(
        study,
        descriptions=study.tables["descriptions"].assign(text=study.tables["descriptions"]["text"].where(~owl, EVIL)),
    )
    html = render(evil, plots, None)
    assert html.count("<script") == 1
    assert EVIL in Page.of(html).sections["examples"]


def test_nothing_comes_from_outside(html: str, page: Page) -> None:
    for name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
        assert all(value.startswith(("#", "data:", "tables/")) for value in page.attributes(name))
    assert all(target.startswith("#") for target in re.findall(r"url\(\s*[\"']?([^)]*)\)", html))
    assert "@import" not in html
    policy = next(
        attributes["content"] for tag, attributes in page.tags if "Content-Security-Policy" in attributes.values()
    )
    # One script may run, and it is the page's own, byte for byte.
    (script,) = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:"


def test_paths_of_this_machine_stay_in_summary_json(study: Study, plots: dict[str, study_plots.Plot]) -> None:
    meta = {"dataset": "folder:/home/me/birds", "vlm": "open_clip:ViT-B-32//srv/w.pt", "policy": "/home/me/runs/a"}
    html = render(changed(study, {"meta": meta}), plots, None)
    assert "/home/" not in html
    assert "/srv/" not in html
    assert "What open_clip:ViT-B-32/w.pt prefers in descriptions of folder:birds" in " ".join(
        Page.of(html).sections[""].split()
    )


def test_all_texts_stand_by_class_and_two_examples_under_the_verdict(page: Page, study: Study) -> None:
    texts = study.tables["descriptions"]
    section = page.sections["texts"]
    assert all(section.count(text) >= 1 for text in texts["text"])
    order = [section.index(f"{name} ") for name in sorted(set(texts["class_name"]))]
    assert order == sorted(order)
    items = [attributes for tag, attributes in page.tags if tag == "li" and "data-system" in attributes]
    assert [item["data-system"] for item in items].count("aligned") == (texts["system"] == "aligned").sum()
    assert len(items) == len(texts)
    verdict = page.sections["verdict"]
    assert verdict.count("Before training") == verdict.count("After") == report.FIRST_EXAMPLES


@pytest.mark.parametrize(("width", "scheme"), SIZES)
def test_texts_are_found_in_a_browser(html: str, study: Study, tmp_path: Path, width: int, scheme: str) -> None:
    (tmp_path / "report.html").write_text(html, encoding="utf-8")
    texts = study.tables["descriptions"]
    with opened((tmp_path / "report.html").as_uri(), width, scheme) as page:
        assert fits(page)
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 26)")
        if width == SIZES[0][0]:  # tables beside plots are not cut off at a desk; those with a column a category scroll
            tables = '.pair .scroll:not([aria-label^="Table: shares by"])'
            assert page.locator(tables).count() > 3
            cut = f"[...document.querySelectorAll('{tables}')].filter(e => e.scrollWidth > e.clientWidth).length"
            assert page.evaluate(cut) == 0
        items = page.locator("#texts li")
        assert items.count() == len(texts)
        page.fill("#finder input", "orange FUR")
        found = texts["text"].str.contains("orange") & texts["text"].str.contains("fur")
        assert page.locator("#texts li:visible").count() == found.sum() > 0
        page.select_option("#finder select[name=system]", "base")
        assert page.locator("#texts li:visible").count() == (found & (texts["system"] == "base")).sum()
        page.click("#finder button")
        page.locator("#finder output:empty").wait_for(state="attached")
        assert page.locator("#texts details.class:visible").count() == texts["class_name"].nunique()
        assert page.locator("#texts li:visible").count() == 0  # folded again


def test_ids_are_unique_and_references_have_targets(html: str, page: Page) -> None:
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    references = [href[1:] for href in page.attributes("href") if href.startswith("#")]
    references += re.findall(r"url\(#([^)]*)\)", html)
    references += [name for value in page.attributes("aria-labelledby") for name in value.split()]
    assert set(references) <= set(ids)


def test_page_is_accessible(page: Page) -> None:
    tags = page.tags
    assert ("html", {"lang": "en-GB"}) in tags
    headings = [int(tag[1]) for tag, _ in tags if re.fullmatch(r"h[1-6]", tag)]
    assert headings.count(1) == 1
    assert headings[0] == 1
    assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(headings))
    assert all(attributes["alt"] for tag, attributes in tags if tag == "img")
    assert all(attributes["scope"] for tag, attributes in tags if tag == "th")
    drawn = [attributes for _, attributes in tags if attributes.get("role") == "img"]
    assert len(drawn) == sum(tag == "svg" for tag, _ in tags) == 7
    assert all(len(attributes["aria-label"]) > 40 for attributes in drawn)
    scrolled = [attributes for _, attributes in tags if attributes.get("class") == "scroll"]
    assert len(scrolled) == sum(tag == "table" for tag, _ in tags)
    assert all(attributes["tabindex"] == "0" and attributes["aria-label"] for attributes in scrolled)


def luminance(colour: str) -> float:
    values = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_colours_have_contrast_in_light_and_dark() -> None:
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
        for block in re.findall(
            r":root \{(.*?)\}", (ASSETS / "report.css").read_text(encoding="utf-8"), flags=re.DOTALL
        )
    )
    assert light.keys() == dark.keys()
    for colours in (light, dark):
        for text, ground in itertools.product(("ink", "muted", "accent"), ("paper", "panel")):
            assert contrast(colours[text], colours[ground]) >= 4.5
        assert contrast(colours["ink"], colours["warn"]) >= 4.5
        assert all(contrast(colour, colours["paper"]) >= 3 for colour in study_plots.COLOURS.values())
    drawn = {name: colour for colour, name in report.PAGE_COLOURS.items()}
    assert all(drawn[f"var(--{name})"] == light[name] for name in ("ink", "muted", "line", "paper"))


# ---------------------------------------------------------------- plots


def test_plots_are_valid_png_and_svg(plots: dict[str, study_plots.Plot]) -> None:
    assert list(plots) == [
        "shares",
        "contributions",
        "attributes",
        "by_question",
        "by_class",
        "controls",
        "learning_curve",
    ]
    for plot in plots.values():
        with Image.open(io.BytesIO(plot.png)) as image:
            image.load()
            assert image.format == "PNG"
            assert image.width == 1000
        root = ET.fromstring(plot.svg)
        assert root.get("width") == "360pt", "one point is one pixel of a phone"
        sizes = [float(size) for size in re.findall(rb"font-size: ([\d.]+)px", plot.svg)]
        assert sizes
        assert min(sizes) >= 10
        assert all(href.startswith(b"#") for href in re.findall(rb'href="([^"]*)"', plot.svg))


def test_a_category_has_one_colour_in_every_plot(plots: dict[str, study_plots.Plot]) -> None:
    assert set(study_plots.COLOURS) == set(SHOWN)
    for name in ("shares", "by_question", "by_class"):
        found = set(re.findall(r"#[0-9a-f]{6}", plots[name].svg.decode()))
        assert {colour.lower() for colour in study_plots.COLOURS.values()} <= found
    for name in ("controls", "learning_curve"):
        found = set(re.findall(r"#[0-9a-f]{6}", plots[name].svg.decode()))
        assert found <= {study_plots.INK, study_plots.MUTED, study_plots.LINE, study_plots.PAPER}


def test_plots_in_the_page_follow_its_colours(html: str) -> None:
    drawn = "".join(re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL))
    assert "var(--ink)" in drawn
    for colour in (study_plots.INK, study_plots.MUTED, study_plots.LINE, study_plots.PAPER, "#000000"):
        assert colour not in drawn
    assert "font-family" not in drawn


def test_texts_in_plots_may_look_like_anything(study: Study) -> None:
    evil = '<script> id="x" url(#p) href="#q" #ffffff $x^2$ &amp; \x00\x1b ' + study_plots.INK
    by_class, by_question = (study.tables[name] for name in ("shares_by_class", "shares_by_question"))
    names = {"tiger": evil, "owl": "虎 🐯", "banana": "b" * 300}
    questions = {QUESTIONS[0]: evil + " long" * 60, QUESTIONS[1]: ""}
    gone = (by_class["class_name"] == "whale") & (by_class["system"] == "base")
    contributions = study.tables["contributions"].copy()
    contributions.loc[contributions["category"] == "habitat", ["mean", "low", "high", "p", "p_holm"]] = np.nan
    odd = changed(
        study,
        shares_by_class=by_class.assign(class_name=by_class["class_name"].replace(names))[~gone],
        shares_by_question=by_question.assign(question=by_question["question"].replace(questions)),
        contributions=contributions,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots = study_plots.draw(odd.tables)
    texts = {name: "\n".join(ET.fromstring(plot.svg).itertext()) for name, plot in plots.items()}
    assert '<script> id="x" u…' in texts["by_class"]
    assert "虎 🐯" in texts["by_class"]
    assert "no texts" in texts["by_class"]
    assert "(no question)" in texts["by_question"]
    assert "nothing to compare" in texts["contributions"]
    # In the page the plot says the same: nothing in its texts was taken for an id, a link or a colour.
    section = Page.of(render(odd, plots, None)).sections["questions"]
    assert section.count('<script> id="x" url(#p) href="#q" #ffffff') == 2, "in the plot and in the table"


def test_short_cuts_at_words_and_counts_wide_letters_twice() -> None:
    short = study_plots._short
    assert short("one two three", 20, 2) == ["one two three"]
    assert short("one two three", 8, 2) == ["one two", "three"]
    assert short("one two three four", 8, 2) == ["one two", "three f…"]
    assert short("x" * 30, 10, 2) == ["x" * 10, "x" * 9 + "…"]
    assert short("虎" * 9, 10) == ["虎" * 4 + "…"]
    assert short(" \n ", 10) == [""]


def many(count: int) -> pd.DataFrame:
    """Shares of `count` classes: mostly visual, and the more habitat the higher the number."""
    rows = []
    for i, system in itertools.product(range(count), ("aligned", "base")):
        habitat = i / count
        for category, share in (("visual", 1 - habitat), ("habitat", habitat)):
            if share:
                rows.append(
                    {
                        "system": system,
                        "class_id": i,
                        "class_name": f"class {i}",
                        "category": category,
                        "count": 1,
                        "share": share,
                    }
                )
    return pd.DataFrame(rows)


def test_of_many_classes_the_most_extreme_are_shown_and_it_is_said(
    study: Study, plots: dict[str, study_plots.Plot]
) -> None:
    page = Page.of(render(changed(study, shares_by_class=many(1000)), plots, None))
    section = " ".join(page.sections["classes"].split())
    assert "Shown are the 30 of 1000 classes whose category shares are furthest from the mean" in section
    shown = [int(row[0].removeprefix("class ")) for row in page.rows("Share of descriptions by class")[1:]]
    assert set(shown) in ({*range(15), *range(985, 1000)}, {*range(14), *range(984, 1000)})
    assert shown == sorted(shown), "like beside like: from visual to habitat"


def test_few_classes_are_all_shown_and_nothing_is_said(page: Page) -> None:
    assert "Shown are" not in page.sections["classes"]


# ---------------------------------------------------------------- what is missing


def test_without_base_metrics_tags_and_facts(study: Study) -> None:
    """Tables as a study without them has them: only the aligned system, no change, no monitors."""

    def aligned(name: str) -> pd.DataFrame:
        return study.tables[name].query("system == 'aligned'").reset_index(drop=True)

    preference = study.tables["preference"].assign(
        **{f"change_{key}": np.nan for key in ("mean", "low", "high", "p_holm")}, finding="unknown", preferred=False
    )
    bare = changed(
        study,
        {"meta": {}, "monitors": {}, "base_descriptions": 0, "examples": []},
        descriptions=aligned("descriptions"),
        clauses=aligned("clauses").assign(tags=""),
        shares=aligned("shares"),
        share_change=study.tables["share_change"].iloc[:0],
        attributes=aligned("attributes").assign(mean=0.0, low=0.0, high=0.0, n=0),
        shares_by_question=aligned("shares_by_question").assign(question=""),
        shares_by_class=aligned("shares_by_class"),
        controls=study.tables["controls"].query("system != 'base'"),
        preference=preference,
        learning_curve=None,
    )
    page = rendered(bare)
    assert "not recorded" in page.sections[""]
    assert "no\xa0base" in page.sections[""]
    assert "no texts of the untrained policy" in page.sections["said"]
    assert "No clause has an attribute tag" in page.sections["attributes"]
    assert "(no question)" in page.sections["questions"]
    assert "No metrics of a training run" in page.sections["learning"]
    assert "Nothing was recorded" in page.sections["facts"]
    assert "nan" not in page.text.lower().split()
    assert page.rows("How the verdict follows")[1][1:3] == ["–", "–"]


def test_without_intervals_and_contrasts(study: Study) -> None:
    """As where only one class has texts of a kind: means without intervals, and no contrast at all."""
    nothing = {"low": np.nan, "high": np.nan}
    contributions = study.tables["contributions"].assign(**nothing, p=np.nan, p_holm=np.nan)
    contributions.loc[contributions["test"] == "contrast", "mean"] = np.nan
    lone = changed(
        study,
        contributions=contributions,
        shares=study.tables["shares"].assign(**nothing),
        attributes=study.tables["attributes"].assign(**nothing),
        share_change=study.tables["share_change"].iloc[:0],
        learning_curve=pd.DataFrame({"step": [1, 2], "loss": [0.5, 0.4]}),
    )
    page = rendered(lone)
    assert "contributions cannot be compared" in page.sections["adds"]
    assert "change of shares cannot be tested" in page.sections["said"]
    assert "hold nothing to draw" in page.sections["learning"]
    assert all(row[1].count("[") == 0 for row in page.rows("Category shares") if len(row) > 1)


def test_a_class_without_base_texts_shows_a_dash(study: Study, plots: dict[str, study_plots.Plot]) -> None:
    by_class = study.tables["shares_by_class"]
    gone = by_class[~((by_class["class_name"] == "owl") & (by_class["system"] == "base"))]
    page = Page.of(render(changed(study, shares_by_class=gone), plots, None))
    row = next(row for row in page.rows("Share of descriptions by class") if row[0] == "owl")
    assert all(cell.startswith("– → ") for cell in row[1:-1])
    assert row[-1].startswith("0 → ")


# ---------------------------------------------------------------- files


def test_report_is_the_same_after_a_round_trip_through_files(study: Study, tmp_path: Path, html: str) -> None:
    study.write(tmp_path)
    path = write_report(Study.read(tmp_path), tmp_path)
    assert path == tmp_path / "report.html"
    assert path.read_text(encoding="utf-8") == html
    written = {file.name for file in (tmp_path / "plots").iterdir()}
    names = re.findall(r"plots/(\w+)\.png", html)
    assert written == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}


def test_a_full_disk_leaves_the_old_report(
    study: Study, plots: dict[str, study_plots.Plot], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(study_plots, "draw", lambda tables: plots)
    old = tmp_path / "report.html"
    old.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ex2.base.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(study, tmp_path)
    assert old.read_text() == "old"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [old]


def test_the_page_comes_last(study: Study, plots: dict[str, study_plots.Plot], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(study_plots, "draw", lambda tables: plots)
    order: list[str] = []
    monkeypatch.setattr(report, "write_atomically", lambda path, data: order.append(Path(path).name))
    write_report(study, tmp_path)
    assert order[-1] == "report.html"
    assert order.count("report.html") == 1

    def broken(*arguments: object) -> str:
        raise RuntimeError("no page")

    order.clear()
    monkeypatch.setattr(report, "render", broken)
    with pytest.raises(RuntimeError):
        write_report(study, tmp_path)
    assert order == []


# ---------------------------------------------------------------- images


def labelled(names: Sequence[str], sizes: Sequence[tuple[int, int]], broken: Sequence[int] = ()) -> LabelledImages:
    """One class after the other, an image of each size for every class; opening those in `broken` fails."""

    def load(i: int) -> Image.Image:
        if i in broken:
            raise OSError("cut off")
        return Image.new("RGB", sizes[i % len(sizes)], (10 * i % 255, 100, 50))

    count = len(names) * len(sizes)
    return LabelledImages(
        "test",
        tuple(names),
        tuple(i // len(sizes) for i in range(count)),
        tuple(map(str, range(count))),
        None,
        fingerprint_of([1]),
        load,
    )


def thumbnails(page: Page) -> list[Image.Image]:
    found = []
    for source in page.attributes("src"):
        kind, _, data = source.partition(",")
        assert kind == "data:image/webp;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            image.load()
            found.append(image)
    return found


def test_examples_show_images_of_their_class(study: Study, plots: dict[str, study_plots.Plot]) -> None:
    # Class ids are another's: images are found by the name of the class.
    images = labelled(("whale", "owl", "tiger"), [(400, 200), (50, 50), (96, 300), (97, 97)])
    page = Page.of(render(study, plots, images))
    shown = thumbnails(page)
    assert len(shown) == 3 * 3
    assert all(max(image.size) <= 96 for image in shown)
    assert {alt.split(",")[0] for alt in page.attributes("alt")} == {"whale", "owl", "tiger"}
    sizes = [(int(a["width"]), int(a["height"])) for tag, a in page.tags if tag == "img"]
    assert sizes == [image.size for image in shown]


def test_images_that_cannot_be_read_are_passed_over(study: Study, plots: dict[str, study_plots.Plot]) -> None:
    images = labelled(("tiger", "owl"), [(30, 30)] * 4, broken=(0, 1, 4, 5, 6, 7))
    page = Page.of(render(study, plots, images))
    assert page.attributes("alt") == ["tiger, image 1 of 2", "tiger, image 2 of 2"]


def test_planted_sets_have_no_images(
    study: Study, plots: dict[str, study_plots.Plot], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(study_plots, "draw", lambda tables: plots)
    planted = Page.of(write_report(study, tmp_path, load_images("planted:visual")).read_text(encoding="utf-8"))
    assert thumbnails(planted) == []
    real = Page.of(write_report(study, tmp_path, load_images("pictograms")).read_text(encoding="utf-8"))
    assert len(thumbnails(real)) == 3 * len(CLASSES) + report.FIRST_EXAMPLES


# ---------------------------------------------------------------- how numbers are written


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (report.share(0.1234), "12.3\N{NO-BREAK SPACE}%"),
        (report.share(0.856, 0), "86\N{NO-BREAK SPACE}%"),
        (report.share(float("nan")), "–"),
        (report.points(-0.0312, True), "−3.1"),
        (report.points(-1e-9, True), "+0.0"),
        (report.points(0.5), "50.0"),
        (report.number(0.01234, True), "+0.0123"),
        (report.number(-0.01234), "−0.0123"),
        (report.number(None), "–"),
        (report.p_value(0.00099), "<\N{NO-BREAK SPACE}0.001"),
        (report.p_value(0.0495), "0.050"),
        (report.p_value(float("nan")), "–"),
    ],
)
def test_numbers_as_they_are_shown(shown: str, wanted: str) -> None:
    assert shown == wanted
