"""Hugging Face datasets in local folders: saved ones, Parquet files and image folders; streams of them."""

from __future__ import annotations

import io
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet
import pytest
from PIL import Image

from ex2.base.errors import UserError
from ex2.data import LabelledImages, load_images
from ex2.data.huggingface import _first_rows
from ex2.data.labelled import BrokenImage

CLASSES = ["red_fox", "ant"]
GREYS = {"train": [10, 20, 30, 40], "test": [50, 60, 70, 80]}


def png(grey: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (3, 3), (grey, grey, grey)).save(file, "PNG")
    return file.getvalue()


def part(greys: list[int], labels: list[Any], **columns: Any) -> datasets.Dataset:
    """Images of one grey each; labels are class ids."""
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)}
    rows = {"image": [{"bytes": png(grey), "path": None} for grey in greys], "label": labels}
    named = {name: (datasets.Value("string"), values) for name, values in columns.items()}
    features |= {name: feature for name, (feature, _) in named.items()}
    rows |= {name: values for name, (_, values) in named.items()}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
    datasets.disable_progress_bars()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """What `save_to_disk` writes; the test split has a row without a label."""
    both = datasets.DatasetDict(
        train=part(GREYS["train"], [0, 1, 0, 1]), test=part(GREYS["test"], [1, -1, 0, 1]), extra=part([90], [0])
    )
    both.save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    folder = tmp_path / "parquet"
    folder.mkdir()
    for name, labels in (("train", [0, 0, 0, 1]), ("validation", [1, 1, 0, 0])):
        part(GREYS["train"], labels).to_parquet(folder / f"{name}-00000-of-00001.parquet")
    return folder


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    for split, greys in GREYS.items():
        for i, grey in enumerate(greys):
            path = tmp_path / "images" / split / ("ant" if i % 2 else "bee_eater") / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(grey))
    return tmp_path / "images"


def load(spec: str) -> LabelledImages:
    images = load_images(spec)
    assert isinstance(images, LabelledImages)
    return images


def greys(images: LabelledImages) -> list[int]:
    return [images.load(i).getpixel((0, 0))[0] for i in range(len(images))]  # type: ignore[index]


def refusal(spec: str) -> str:
    with pytest.raises(UserError) as caught:
        load_images(spec)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_saved_dataset(saved: Path) -> None:
    images = load(f"hf:{saved}")
    assert images.name == f"hf:{saved}"
    assert images.class_names == ("red fox", "ant")
    assert images.image_ids == ("train/0", "train/1", "train/2", "train/3", "test/0", "test/2", "test/3")
    assert images.labels == (0, 1, 0, 1, 1, 0, 1)
    assert images.splits == ("reward",) * 4 + ("heldout",) * 3
    assert greys(images) == [10, 20, 30, 40, 50, 70, 80]  # the row without a label is left out
    again = pickle.loads(pickle.dumps(load(f"hf:{saved}")))
    assert again.fingerprint == images.fingerprint
    with ThreadPoolExecutor(4) as pool:
        assert [image.getpixel((0, 0))[0] for image in pool.map(again.load, [6, 0, 3] * 20)] == [80, 10, 40] * 20


def test_one_split_alone_is_divided_by_seed(saved: Path) -> None:
    images = load(f"hf:{saved}?split=test")
    assert images.splits is None
    assert images.image_ids == ("test/0", "test/2", "test/3")
    assert refusal(f"hf:{saved}?split=val") == (
        f"dataset 'hf:{saved}?split=val': there is no split 'val'; the dataset has train, test, extra."
    )


def test_parquet_with_validation_and_no_test_split_holds_out_validation(parquet: Path) -> None:
    images = load(f"hf:{parquet}")
    assert images.splits == ("reward",) * 4 + ("heldout",) * 4
    assert images.image_ids[4] == "validation/0"
    assert greys(images) == GREYS["train"] * 2


def test_image_folder_and_a_mended_image(image_folder: Path) -> None:
    images = load(f"hf:{image_folder}")
    assert images.class_names == ("ant", "bee eater")
    assert sorted(greys(images)) == sorted(GREYS["train"] + GREYS["test"])
    assert images.splits == ("reward",) * 4 + ("heldout",) * 4
    (image_folder / "train" / "ant" / "1.png").write_bytes(b"broken, and of another length")
    broken = load(f"hf:{image_folder}")
    assert broken.fingerprint != images.fingerprint
    with pytest.raises(OSError, match="cannot identify image file"):
        greys(broken)


def test_columns_by_type_or_by_name(tmp_path: Path) -> None:
    data = part([1, 2], [0, 1], species=["b_b", "a"], empty=["", ""])
    pictures = part([3, 4], [0, 0]).select_columns("image")
    both = datasets.concatenate_datasets([data, pictures.rename_column("image", "photo")], axis=1)
    both.save_to_disk(tmp_path / "two")
    spec = f"hf:{tmp_path / 'two'}"
    assert greys(load(spec)) == [1, 2]  # of two columns of images, the one called `image`
    assert greys(load(f"{spec}?image=photo")) == [3, 4]
    assert load(f"{spec}?image=photo").fingerprint != load(spec).fingerprint
    assert load(f"{spec}?label=species").class_names == ("a", "b b")
    assert load(f"{spec}?label=species").labels == (1, 0)

    both.rename_columns({"image": "left", "photo": "right", "label": "kind"}).save_to_disk(tmp_path / "named")
    named = f"hf:{tmp_path / 'named'}"
    columns = "the dataset has left, kind, species, empty, right."
    assert refusal(named).endswith(f": several columns of type image; name one with ?image=; {columns}")
    assert load(f"{named}?image=right").labels == (0, 1)
    assert refusal(f"{named}?image=middle").endswith(f": no column 'middle'; name one with ?image=; {columns}")
    assert refusal(f"{named}?image=left&label=left").endswith(
        f": column 'left' has no names of classes, but values of type PIL.Image.Image; name a column of strings with "
        f"?label=; {columns}"
    )
    assert refusal(f"{named}?image=kind").endswith(": column 'kind' holds no images; name another with ?image=.")
    assert refusal(f"{named}?image=left&label=empty").endswith(": no row has a label in 'empty'.")
    part([1], [0]).remove_columns("label").save_to_disk(tmp_path / "bare")
    assert "no column of type label; name one with ?label=; the dataset has image." in refusal(f"hf:{tmp_path}/bare")


def test_splits_without_a_usual_name_must_be_chosen(tmp_path: Path) -> None:
    datasets.DatasetDict(a=part([1, 2], [0, 1]), b=part([3], [0])).save_to_disk(tmp_path / "odd")
    assert "the splits a, b have no usual name; choose one with ?split=." in refusal(f"hf:{tmp_path}/odd")
    assert greys(load(f"hf:{tmp_path}/odd?split=a")) == [1, 2]


def test_broken_and_absent_images_are_found_when_they_are_opened(tmp_path: Path) -> None:
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=CLASSES))
    rows = {"image": [{"bytes": b"broken", "path": None}, None], "label": [0, 1]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "set")
    images = load(f"hf:{tmp_path}/set")
    with pytest.raises(OSError, match="cannot identify image file"):
        images.load(0)
    with pytest.raises(OSError, match="the row has no image"):
        images.load(1)


def test_stream_keeps_the_first_images_of_each_class(parquet: Path) -> None:
    images = load(f"hf:{parquet}?stream=1")
    assert images.class_names == ("red fox", "ant")
    assert images.labels == (0, 1, 1, 0)
    assert images.splits == ("reward", "reward", "heldout", "heldout")
    assert greys(images) == [10, 40, 10, 30]


def test_a_stream_is_read_once(parquet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    streams, load_dataset = [], datasets.load_dataset

    def spy(*args: Any, **options: Any) -> Any:
        streams.append(options.get("split"))
        return load_dataset(*args, **options)

    monkeypatch.setattr(datasets, "load_dataset", spy)
    first = load(f"hf:{parquet}?stream=1")
    assert streams == [None, "train", "validation"]  # the list of splits, and the rows of each
    again = load(f"hf:{parquet}?stream=1")
    assert streams[3:] == [None]
    assert again.fingerprint == first.fingerprint


def test_stream_is_left_once_every_class_is_full(image_folder: Path) -> None:
    (image_folder / "train" / "bee_eater" / "2.png").unlink()
    (image_folder / "train" / "bee_eater" / "9.png").symlink_to("/nowhere")  # would fail if it were read
    rows = list(_first_rows(str(image_folder), None, "train", 1, "image", "label", ""))
    assert [row["label"] for row in rows] == [0, 1]
    assert rows[1]["image"]["bytes"] == png(10)


def test_stream_passes_over_a_split_without_labels(tmp_path: Path) -> None:
    for name, labels in (("train", [0, 1]), ("validation", [0, 1]), ("test", [-1, -1])):
        part([1, 2], labels).to_parquet(tmp_path / f"{name}-0.parquet")
    images = load(f"hf:{tmp_path}?stream=5")
    assert images.splits == ("reward", "reward", "heldout", "heldout")
    assert "there are no rows" in refusal(f"hf:{tmp_path}?stream=5&split=test")


def test_stream_notices_other_files(image_folder: Path) -> None:
    spec = f"hf:{image_folder}?stream=1&split=test"
    assert greys(load(spec)) == [60, 50]
    (image_folder / "test" / "ant" / "0.png").write_bytes(png(55))
    assert greys(load(spec)) == [55, 50]


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("", "no dataset named after the colon; expected hf:ID or hf:DIR."),
        ("?split=test", "no dataset named after the colon"),
        (
            "me/set?splt=test",
            "unknown option 'splt'; options are split, image, label, config, stream. Did you mean split?",
        ),
        ("me/set?split=", "split= is no split."),
        ("me/set?stream=0", "stream=0 is no positive number."),
        ("me/set?stream=all", "stream=all is no positive number."),
        ("./none", "none is no folder; expected what `save_to_disk` writes, Parquet files, or DIR/SPLIT/CLASS/IMAGE."),
    ],
)
def test_bad_specs_are_refused(rest: str, message: str) -> None:
    refused = refusal(f"hf:{rest}")
    assert refused.startswith(f"dataset 'hf:{rest}': ")
    assert message in refused


def test_folder_that_is_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text("{")
    assert "cannot be loaded (" in refusal(f"hf:{tmp_path}")


def save_parquet(folder: Path, label: Any, values: list[Any], images: list[Any] | None = None) -> str:
    """A Parquet file with images and a column of labels of any kind; its spec."""
    folder.mkdir(exist_ok=True)
    rows = {"image": images or [{"bytes": png(10), "path": None}] * len(values), "label": values}
    features = datasets.Features({"image": datasets.Image(), "label": label})
    table = datasets.Dataset.from_dict(rows, features=features).data.table
    pyarrow.parquet.write_table(table, folder / "train.parquet")  # `to_parquet` would read the images
    return f"hf:{folder}"


@pytest.mark.parametrize(
    ("label", "values", "classes"),
    [
        (datasets.Value("string"), ["bee", "ant"], ("ant", "bee")),
        (datasets.Value("string"), ["bee", " ", "ant"], ("ant", "bee")),
        (datasets.List(datasets.Value("string")), [["bee"], ["ant"]], ("ant", "bee")),
        (datasets.List(datasets.ClassLabel(names=["bee", "ant"])), [[1], []], ("bee", "ant")),
    ],
)
def test_columns_of_labels(tmp_path: Path, label: Any, values: list[Any], classes: tuple[str, ...]) -> None:
    assert load(save_parquet(tmp_path, label, values)).class_names == classes


@pytest.mark.parametrize(
    ("label", "values", "message"),
    [
        (datasets.List(datasets.Value("string")), [["bee"], ["ant", "bee"]], "column 'label' has 2 labels in row 1"),
        (
            {"name": datasets.Value("string")},
            [{"name": "bee"}],
            "has no names of classes, but objects of name; name a column of strings with ?label=",
        ),
        (datasets.Value("float32"), [1.5], "has no names of classes, but values of type float32"),
        (datasets.Value("int64"), [0, 1], "2 of 2 classes have no names but numbers, ids and the like (0, 1)"),
        (
            datasets.Value("string"),
            ["red_fox", "red fox"],
            "'red fox' and 'red_fox' in column 'label' both give the class name 'red fox'",
        ),
        (datasets.Value("string"), ["train", "test"], "its classes would be test, train, which are splits"),
    ],
)
def test_columns_that_name_no_classes(tmp_path: Path, label: Any, values: list[Any], message: str) -> None:
    assert message in refusal(save_parquet(tmp_path, label, values))


def test_numbers_as_labels_take_names_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("fox\nowl\n")
    spec = save_parquet(tmp_path / "data", datasets.Value("int64"), [1, 0])
    images = load(f"{spec}?class_names={tmp_path / 'names.txt'}")
    assert (images.class_names, images.labels) == (("fox", "owl"), (1, 0))


def test_paths_in_a_table_are_relative_to_its_folder(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.png").write_bytes(png(70))
    paths = [{"bytes": None, "path": path} for path in ("images/1.png", "images\\1.png", "")]
    images = load(save_parquet(tmp_path, datasets.Value("string"), ["ant"] * 3, paths))
    assert [images.load(i).getpixel((0, 0)) for i in range(2)] == [(70, 70, 70)] * 2
    with pytest.raises(BrokenImage, match="the row has no image"):
        images.load(2)
