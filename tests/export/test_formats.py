"""The interchange formats, through readers written from the public formats' descriptions, not from EX2."""

from __future__ import annotations

import ast
import json
import runpy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image
from safetensors.torch import save_file

from ex2.base.rgb import to_rgb
from ex2.export import Bundle, read_bundle, write_bundle
from ex2.export.formats import build_classifier, class_keys
from ex2.vlm import load_vlm
from ex2.vlm.openclip import quiet_root_logger
from ex2.vlm.pictogram import ASSETS, text_tower_folder

if TYPE_CHECKING:
    from ex2.vlm import VLM

ROOT = Path(__file__).resolve().parents[2]


# ---------------------------------------------------------------- keys


def test_equal_names_get_keys_of_their_own() -> None:
    assert class_keys(["owl", "cat"]) == ["owl", "cat"]
    assert class_keys(["crane", "crane", "crane (2)", "crane"]) == ["crane", "crane (3)", "crane (2)", "crane (4)"]


@given(st.lists(st.sampled_from(["a", "a (2)", "a (3)", "a (2) (2)", "b"])))
def test_keys_are_distinct_and_first_classes_keep_their_names(names: list[str]) -> None:
    keys = class_keys(names)
    assert len(set(keys)) == len(keys) == len(names)
    for i, (name, key) in enumerate(zip(names, keys, strict=True)):
        assert key.startswith(name)
        assert (key == name) == (name not in names[:i])


# ---------------------------------------------------------------- JSON


def class_to_texts(path: Path) -> dict[str, list[str]]:
    """As classify_by_description, CuPL and WaffleCLIP read their files: `json.load`; class names and class order are its keys."""
    with path.open() as file:
        content = json.load(file)
    assert isinstance(content, dict)
    for name, texts in content.items():
        assert isinstance(name, str)
        assert isinstance(texts, list)
        assert texts
        assert all(isinstance(text, str) for text in texts)
    return content


def test_class_to_texts(folder: Path) -> None:
    texts = class_to_texts(folder / "descriptions.json")
    assert list(texts) == ["crane", 'the "big/small" \\ one', "пингвин", "crane (2)"]
    assert texts["crane"] == ["crane number 0, class 0", "crane number 1, class 0"]
    assert texts["crane (2)"] == ["crane number 0, class 3", "crane number 1, class 3"]
    classes = json.loads((folder / "classes.json").read_text("utf-8"))
    assert classes[3] == {"class_id": 3, "class_name": "crane", "class_key": "crane (2)"}


def test_clip_benchmark_looks_up_the_dataset_then_the_class(folder: Path) -> None:
    """CLIP_benchmark's file of prompts by class: `templates[dataset][classname]` is a list of texts."""
    templates = json.loads((folder / "descriptions_by_dataset.json").read_text("utf-8"))["birds"]
    assert templates == class_to_texts(folder / "descriptions.json")


def fudd_prompts(pairs_path: Path, names_path: Path, i: int, j: int) -> list[tuple[str, list[str]]]:
    """As FuDD reads its prompts: key `i_j` with i < j, numbers into the ordered list of class names."""
    names = json.loads(names_path.read_text("utf-8"))
    entry = json.loads(pairs_path.read_text("utf-8"))[f"{i}_{j}"]
    assert entry["classes"] == [i, j]
    assert 0 <= i < j < len(names)
    return [(pair["attr_type"], pair["prompt_pair"]) for pair in entry["prompt_pairs"]]


def test_fudd(folder: Path) -> None:
    found = fudd_prompts(folder / "pairs.json", folder / "pairs.classes.json", 0, 3)
    assert found == [("legs", ["It is a bird.", "It is a machine."])]
    assert json.loads((folder / "pairs.classes.json").read_text("utf-8"))[2] == "пингвин"


# ---------------------------------------------------------------- tables and tensors


def test_parquet_loads_with_datasets(folder: Path, bundle: Bundle, tmp_path: Path) -> None:
    from datasets import load_dataset

    scored = replace(bundle.records[1], scores={"cosine": 1.0, "heldout_cosine": 0.25}, extra={"sample": 3})
    write_bundle(replace(bundle, records=(scored, *bundle.records)), tmp_path / "scored")
    path = str(tmp_path / "scored" / "descriptions.parquet")
    rows = load_dataset("parquet", data_files=path, split="train", cache_dir=str(tmp_path / "cache"))
    assert len(rows) == 9
    assert rows[0]["text"] == scored.text
    assert rows[0]["score_heldout_cosine"] == 0.25
    assert rows[1]["score_heldout_cosine"] is None
    assert json.loads(rows[0]["extra"]) == {"sample": 3}
    assert rows["class_key"][1:5] == class_keys(bundle.class_names)
    assert rows[0]["category"] is None
    assert rows.features["category"].dtype == "string"


def test_classifier_names_its_columns(folder: Path, bundle: Bundle) -> None:
    from safetensors import safe_open

    with safe_open(folder / "classifier.safetensors", "pt") as file:
        weight = file.get_tensor("weight")
        names = json.loads(file.metadata()["class_names"])
    assert tuple(names) == bundle.class_names
    assert weight.shape == (5, 4)
    assert weight.dtype == torch.float32


def test_classifier_is_clip_benchmarks_of_the_same_texts(bundle: Bundle, folder: Path, pictogram_vlm: VLM) -> None:
    """Its recipe: encode a class's texts, make them unit vectors, take the mean, make that a unit vector; one column a class."""
    columns = []
    for texts in class_to_texts(folder / "descriptions.json").values():
        mean = torch.nn.functional.normalize(pictogram_vlm.encode_texts(texts), dim=-1).mean(dim=0)
        columns.append(mean / mean.norm())
    weight = build_classifier(bundle.class_names, bundle.records, pictogram_vlm)
    assert weight.dtype == np.float32
    assert np.allclose(weight, torch.stack(columns, dim=1).numpy(), atol=1e-6)
    assert np.allclose(np.linalg.norm(weight, axis=0), 1, atol=1e-6)


def test_a_text_that_stands_there_twice_counts_twice(bundle: Bundle, pictogram_vlm: VLM) -> None:
    one, two = (replace(bundle.records[0], text=text) for text in ("a white bird", "a machine"))
    weight = build_classifier(["crane"], [one, one, two], pictogram_vlm)
    a, b = pictogram_vlm.encode_texts(["a white bird", "a machine"]).numpy()
    assert np.allclose(weight[:, 0], (2 * a + b) / np.linalg.norm(2 * a + b), atol=1e-6)


# ---------------------------------------------------------------- the standalone consumer


@pytest.fixture(scope="module")
def plain_vlm() -> VLM:
    """The embedded VLM without its text adapter, for which open_clip's own folders have no place."""
    vlm: Any = load_vlm("pictogram")
    vlm._model.text.proj = torch.nn.Identity()
    return vlm


@pytest.fixture(scope="module")
def open_clip_folder(plain_vlm: VLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That model as one whole open_clip folder, as its users keep their models."""
    out = tmp_path_factory.mktemp("model")
    for path in ASSETS.glob("*.*"):
        shutil.copy(path, out)
    config = json.loads((ASSETS / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_model_name"] = str(text_tower_folder())
    (out / "open_clip_config.json").write_text(json.dumps(config))
    model: Any = plain_vlm
    state = {name: value.contiguous() for name, value in model._model.state_dict().items()}
    save_file(state, out / "open_clip_model.safetensors")
    return out


EXAMPLE = ROOT / "examples" / "classify_with_bundle.py"


def test_the_example_knows_nothing_of_ex2() -> None:
    """But for the embedded VLM, which is EX2's own."""
    tree = ast.parse(EXAMPLE.read_text())
    modules = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    modules |= {str(node.module) for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in modules} == {
        "PIL", "argparse", "collections", "json", "open_clip", "pathlib", "safetensors", "sys", "torch",
    }  # fmt: skip
    inner = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node not in tree.body]
    assert [node.module for node in inner] == ["ex2"]


@pytest.fixture(scope="module")
def four(bundle: Bundle, plain_vlm: VLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the four classes of `class_folder`."""
    names = ("cat", "eagle", "ear of corn", "whale")
    records = [replace(bundle.records[i], class_id=i, class_name=n, text=f"a {n}") for i, n in enumerate(names)]
    weight = build_classifier(names, records, plain_vlm)
    out = tmp_path_factory.mktemp("bundles") / "four"
    write_bundle(replace(bundle, class_names=names, records=tuple(records), pairs=None, classifier=weight), out)
    return out


@pytest.mark.parametrize("options", [[], ["--texts"]])
def test_the_example_classifies(
    four: Path,
    plain_vlm: VLM,
    open_clip_folder: Path,
    class_folder: Path,
    tmp_path: Path,
    options: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = read_bundle(four)
    expected = []
    for path in sorted(class_folder.rglob("*.webp")):
        image = to_rgb(Image.open(path))
        target = tmp_path / path.parent.name / f"{path.stem}.png"
        target.parent.mkdir(exist_ok=True)
        image.save(target)
        guess = (plain_vlm.encode_images([image]).numpy() @ bundle.classifier).argmax()
        expected.append(f"{target}\t{bundle.class_names[int(guess)]}")

    monkeypatch.setattr(
        "sys.argv", [str(EXAMPLE), str(four), str(tmp_path), "--model", f"local-dir:{open_clip_folder}", *options]
    )
    with quiet_root_logger():
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    *lines, accuracy = capsys.readouterr().out.splitlines()
    assert lines == expected
    correct = sum(Path(line).parent.name.replace("_", " ") == line.partition("\t")[2] for line in lines)
    assert accuracy == f"accuracy: {correct} of 24"
    assert correct > 12  # by chance 6


@pytest.mark.parametrize(
    ("without", "options", "message"),
    [
        (
            ["classifier.safetensors"],
            [],
            "holds no classifier.safetensors: compute the weights from its texts with --texts",
        ),
        (
            ["classifier.safetensors", "descriptions.json"],
            [],
            "holds no classifier.safetensors: it has no descriptions either, export it with some",
        ),
        (["descriptions.json"], ["--texts"], "holds no descriptions.json: export descriptions with it"),
        (["classes.json"], [], "holds no classes.json: `ex2 export` writes a folder with one"),
        ([], ["--images"], "holds no image that Pillow reads"),
        ([], ["bundle.zip"], "bundle.zip is no folder: unpack it"),
        ([], ["nowhere"], "nowhere does not exist"),
        ([], ["--model", "ViT-X"], "ViT-X"),
        (["weight"], [], "dimensions, the weights 3: use --texts"),
    ],
)
def test_the_example_says_in_a_line_what_it_lacks(
    four: Path,
    open_clip_folder: Path,
    class_folder: Path,
    tmp_path: Path,
    without: list[str],
    options: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = Path(shutil.copytree(four, tmp_path / "bundle"))
    if without == ["weight"]:
        save_file({"weight": torch.ones(3, 4)}, bundle / "classifier.safetensors")
    else:
        for name in without:
            (bundle / name).unlink()
    images = tmp_path / "pictures"
    images.mkdir()
    if options == ["--images"]:
        options = []
    else:
        (images / "damaged.png").write_bytes(b"\x89PNG")
        shutil.copy(next(class_folder.rglob("*.webp")), images)
    places = [bundle, images]
    if options == ["bundle.zip"]:
        places, options = [Path(shutil.make_archive(str(bundle), "zip", bundle)), images], []
    elif options == ["nowhere"]:
        places, options = [bundle, tmp_path / "nowhere"], []
    model = ["--model", f"local-dir:{open_clip_folder}"]
    monkeypatch.setattr("sys.argv", [str(EXAMPLE), *map(str, places), *model, *options])
    with quiet_root_logger(), pytest.raises(SystemExit) as stop:
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert stop.value.code == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert message in line


def test_the_example_reads_every_format_and_turns_photos_upright(
    four: Path,
    open_clip_folder: Path,
    class_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image = to_rgb(Image.open(next((class_folder / "whale").iterdir())))
    (tmp_path / "whale").mkdir()
    (tmp_path / "elsewhere").mkdir()
    image.save(tmp_path / "whale" / "1.bmp")
    image.save(tmp_path / "elsewhere" / "2.tif")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "whale" / "3.png", exif=exif)
    Image.new("I;16", (8, 8), 40_000).save(tmp_path / "whale" / "4.png")
    monkeypatch.setattr(
        "sys.argv", [str(EXAMPLE), str(four), str(tmp_path), "--model", f"local-dir:{open_clip_folder}"]
    )
    with quiet_root_logger():
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    printed = capsys.readouterr()
    *lines, accuracy = printed.out.splitlines()
    assert len({line.partition("\t")[2] for line in lines}) == 1 < len(lines) == 3
    assert accuracy.endswith(" of 2 (1 more lie in folders that are called like no class)")
    assert "4.png: its greys have more than 8 bits: save it with 8" in printed.err


def test_the_example_passes_over_a_damaged_image_and_names_it(
    four: Path,
    open_clip_folder: Path,
    class_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copy(next(class_folder.rglob("*.webp")), tmp_path)
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG")
    monkeypatch.setattr(
        "sys.argv", [str(EXAMPLE), str(four), str(tmp_path), "--model", f"local-dir:{open_clip_folder}"]
    )
    with quiet_root_logger():
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 1
    assert "damaged.png: cannot identify image file" in printed.err
    assert "The weights were made with pictogram." in printed.err  # as the fixture's facts say
