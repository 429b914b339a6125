"""Step ``heldout``: add to the assets the families that no training has seen, and what is known of every image.

``heldout.json`` names the drawing of each class in each family; it was made by hand, with a look at every drawing. The
model is not touched: this step only draws, describes and measures.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from ex2.data import LabelledImages
from ex2.data.pictogram_scenes import load_pictogram_scenes
from ex2.data.pictograms import load_pictograms
from ex2.vlm import load_vlm
from tools.build_pictograms.card import notice, with_held_out
from tools.build_pictograms.colours import OPAQUE, main_colours, shade_shares
from tools.build_pictograms.common import (
    EVAL_PROMPT,
    HELD_OUT_FAMILIES,
    IMAGE_SIZE,
    OPENCLIPART_DEB,
    Family,
    Work,
    folder_name,
)
from tools.build_pictograms.export import check_excluded, licence_entry
from tools.build_pictograms.rasterise import draw, icon_body, read_json, svg_of

DRAWINGS = Path(__file__).with_name("heldout.json")
PUBLIC_DOMAIN = 'cc:license rdf:resource="http://web.resource.org/cc/PublicDomain"'
DETAIL = 4  # clip art is drawn this many times larger, since its drawing may fill a part of the page only
MEDIUM, LARGE = 0.25, 0.45  # shares of drawn pixels from which a drawing counts as medium and as large


def draw_clip_art(path: Path) -> np.ndarray:
    """Rasterise a drawing of the Open Clip Art Library, cut to what is drawn; raise unless it is in the public domain."""
    import resvg_py

    if PUBLIC_DOMAIN not in path.read_text(encoding="utf-8", errors="replace"):
        raise ValueError(f"{path} does not say that it is in the public domain")
    data = bytes(resvg_py.svg_to_bytes(svg_path=str(path), width=DETAIL * IMAGE_SIZE, dpi=96))
    page = Image.open(io.BytesIO(data)).convert("RGBA")
    drawing = page.crop(page.getchannel("A").getbbox())
    side = max(drawing.size)
    square = Image.new("RGBA", (side, side))
    square.paste(drawing, ((side - drawing.width) // 2, (side - drawing.height) // 2))
    return np.asarray(square.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS))


def draw_family(work: Work, family: Family, names: dict[str, str]) -> dict[str, np.ndarray]:
    """Return the (96, 96, 4) drawings of a family by class; ``names`` are those of its files or icons."""
    if family.package == OPENCLIPART_DEB:
        return {label: draw_clip_art(work.openclipart / f"{name}.svg") for label, name in names.items()}
    icons = read_json(work.node_modules / family.package / "icons.json")
    size = icons.get("width", 16), icons.get("height", 16)
    bodies = {label: icon_body(icons, name) for label, name in names.items()}
    missing = [names[label] for label, body in bodies.items() if body is None]
    if missing:
        raise ValueError(f"{family.package} has no icon {missing[0]!r}")
    return {label: draw(svg_of(body, *size)) for label, body in bodies.items() if body is not None}


def write_images(work: Work, out: Path) -> None:
    """Write the drawings of all held-out families as lossless WebP."""
    names = read_json(DRAWINGS)
    for family in HELD_OUT_FAMILIES:
        for label, pixels in draw_family(work, family, names[family.name]).items():
            path = out / "images" / folder_name(label) / f"{family.name}.webp"
            Image.fromarray(pixels).save(path, lossless=True, quality=100, method=6)


def size_of(pixels: np.ndarray) -> str:
    """Return how much of the picture is drawn in an RGBA drawing: small, medium or large."""
    share = (pixels[..., 3] > OPAQUE).mean()
    return "small" if share < MEDIUM else "medium" if share < LARGE else "large"


def write_attributes(out: Path) -> None:
    """Write ``attributes.csv``: main colours (largest first) and size of every image, computed from its pixels."""
    with (out / "attributes.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image", "palette", "size"])
        for path in sorted((out / "images").glob("*/*.webp")):
            pixels = np.asarray(Image.open(path).convert("RGBA"))
            palette = main_colours(pixels, shares_of=shade_shares)
            writer.writerow([f"{path.parent.name}/{path.name}", ", ".join(palette), size_of(pixels)])


def write_licences(work: Work, out: Path) -> None:
    """Add the held-out families to ``LICENSES.json`` and write the notice."""
    path = out / "LICENSES.json"
    records = read_json(path)
    for family in HELD_OUT_FAMILIES:
        info = work.node_modules / family.package / "info.json"
        records[family.name] = licence_entry(family, read_json(info).get("version") if info.is_file() else None)
    path.write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / "NOTICE.md").write_text(notice(), encoding="utf-8")


def hits(images: LabelledImages) -> dict[int, bool]:
    """Return, for every held-out image, whether the embedded VLM finds its name among those of all classes."""
    vlm = load_vlm("pictogram")
    names = vlm.encode_texts([EVAL_PROMPT.format(name) for name in images.class_names])
    rows = [row for row, split in enumerate(images.splits or ()) if split == "heldout"]
    found = (vlm.encode_images([images.load(row) for row in rows]) @ names.T).argmax(dim=1).tolist()
    return {row: label == images.labels[row] for row, label in zip(rows, found, strict=True)}


def accuracy_rows(images: LabelledImages, attributes: tuple[str, ...]) -> list[list[str]]:
    """Return (attribute, value, images, top-1 in per cent) for every value of some attributes, and for all images."""
    right = hits(images)
    groups: dict[tuple[str, str], list[bool]] = {}
    for attribute in attributes:
        for row in sorted(right, key=images.attributes[attribute].__getitem__):
            groups.setdefault((attribute, images.attributes[attribute][row]), []).append(right[row])
    groups["all", ""] = list(right.values())
    return [[*key, str(len(group)), f"{100 * np.mean(group):.1f}"] for key, group in groups.items()]


def write_card(out: Path) -> None:
    """Measure the model on the held-out images and put that into the model card."""
    drawings, scenes = load_pictograms(out), load_pictogram_scenes(out)
    families = [[value or attribute, *rest] for attribute, value, *rest in accuracy_rows(drawings, ("family",))]
    roles = {"reward": "reward (train families)", "validation": "validation", "heldout": "held-out"}
    counts = Counter(drawings.splits)
    path = out / "MODEL_CARD.md"
    text = with_held_out(
        path.read_text(encoding="utf-8"),
        {role: counts[split] for split, role in roles.items()},
        families,
        accuracy_rows(scenes, ("background", "size", "count", "family")),
    )
    path.write_text(text, encoding="utf-8")


def heldout(work: Work, out: Path) -> None:
    """Add images, licences and attributes to the assets, and the accuracies to the model card."""
    write_images(work, out)
    write_licences(work, out)
    check_excluded(out)
    write_attributes(out)
    write_card(out)
