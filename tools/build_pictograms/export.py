"""Step ``export``: write the shipped files, reload them through open_clip and compare with the trained tower."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tools.build_pictograms.card import model_card, notice
from tools.build_pictograms.common import (
    EVAL_PROMPT,
    EXCLUDED_FAMILIES,
    FAMILIES,
    PROBES,
    Family,
    Work,
    families_of,
    folder_name,
)
from tools.build_pictograms.dataset import Dataset
from tools.build_pictograms.evaluate import Evaluator
from tools.build_pictograms.model import Tower, encode_images, model_config, new_adapter, new_tower
from tools.build_pictograms.rasterise import read_json
from tools.build_pictograms.text import TOKENIZER_FILES, TextTower, minilm_folder

WEIGHTS = Path("vlm/image/visual.safetensors")
ADAPTER = Path("vlm/text/adapter.safetensors")
MIN_COSINE = 0.9995
MAX_ACCURACY_CHANGE = 1.0


def licence_entry(family: Family, design_version: str | None) -> dict[str, Any]:
    """Return the licence record of a family."""
    return {
        "author": family.author,
        "spdx": family.spdx,
        "url": family.licence_url,
        "source": family.source_url,
        "version": family.version,
        "design_version": design_version,
        "package": f"{family.package}@{family.version}",
        "vlm_split": family.split,
        "changes": "rasterised or scaled to 96 x 96 px RGBA",
    }


def write_licences(work: Work, out: Path) -> None:
    """Write ``LICENSES.json``, one record a family."""
    records = {}
    for family in FAMILIES:
        info = work.node_modules / family.package / "info.json"
        records[family.name] = licence_entry(family, read_json(info).get("version") if info.is_file() else None)
    (out / "LICENSES.json").write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


def write_images(dataset: Dataset, out: Path) -> int:
    """Write the images of the embedded classes as lossless WebP; return their number."""
    embedded = set(dataset.embedded)
    count = 0
    for row, label in enumerate(dataset.labels.tolist()):
        if label not in embedded:
            continue
        folder = out / "images" / folder_name(dataset.names[label])
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(np.ascontiguousarray(dataset.images[row].permute(1, 2, 0).numpy()))
        image.save(folder / f"{dataset.families[row]}.webp", lossless=True, quality=100, method=6)
        count += 1
    return count


def write_model(state: dict[str, Any], out: Path) -> None:
    """Write the open_clip configuration, the tokenizer files, image tower and text adapter in half precision."""
    from safetensors.torch import save_file

    source = minilm_folder()
    for path in (WEIGHTS, ADAPTER):
        (out / path).parent.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        shutil.copyfile(source / name, out / "vlm" / name)
    for path, weights in ((WEIGHTS, state["visual"]), (ADAPTER, state["adapter"])):
        tensors = {
            key: (value.half() if value.is_floating_point() else value).contiguous() for key, value in weights.items()
        }
        save_file(tensors, out / path)
        (out / path).chmod(0o644)
    config = json.dumps(model_config(state["log_scale"]), indent=1)
    (out / "vlm" / "open_clip_config.json").write_text(config + "\n", encoding="utf-8")


def load_exported(out: Path) -> tuple[Tower, Any, Any]:
    """Load the exported folder as its users do: open_clip, text tower from the package, adapter behind it, no network."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import open_clip
    from safetensors.torch import load_file

    config = read_json(out / "vlm" / "open_clip_config.json")
    text = {
        **config["model_cfg"]["text_cfg"],
        "hf_model_name": str(minilm_folder()),
        "hf_tokenizer_name": str(minilm_folder()),
        "hf_model_pretrained": True,
    }
    name = f"local-dir:{(out / 'vlm').resolve()}"
    model, _, preprocess = open_clip.create_model_and_transforms(
        name, pretrained_image_path=str(out / WEIGHTS), text_cfg=text
    )
    model.text.proj = new_adapter({key: value.float() for key, value in load_file(out / ADAPTER).items()})
    return model.eval(), preprocess, open_clip.get_tokenizer(name)


def on_white(path: Path) -> Image.Image:
    """Open an image and lay it on white."""
    image = Image.open(path).convert("RGBA")
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(image, (0, 0), image)
    return canvas


def same_weights(model: Tower, state: dict[str, Any]) -> float:
    """Return the largest difference between the loaded weights and the trained ones rounded to half precision."""
    differences = [0.0]
    for module, trained in ((model.visual, state["visual"]), (model.text.proj, state["adapter"])):
        loaded = module.state_dict()
        if set(loaded) != set(trained):
            raise ValueError("the loaded model has other tensors than the trained one")
        differences += [
            (loaded[key].float() - value.half().float()).abs().max().item()
            for key, value in trained.items()
            if value.is_floating_point()
        ]
    return max(differences)


@torch.no_grad()
def verify(state: dict[str, Any], dataset: Dataset, evaluator: Evaluator, out: Path) -> dict[str, Any]:
    """Compare the exported folder with the trained tower on the test images of the embedded classes."""
    model, preprocess, tokenizer = load_exported(out)
    names = tuple(family.name for family in families_of("test"))
    rows = dataset.rows(names, dataset.embedded)
    trained = encode_images(new_tower(state["visual"]), dataset.images[rows])
    paths = [
        out / "images" / folder_name(dataset.names[int(dataset.labels[row])]) / f"{dataset.families[row]}.webp"
        for row in rows.tolist()
    ]
    inputs = torch.stack([preprocess(on_white(path)) for path in paths])
    exported = torch.cat([model.encode_image(part, normalize=True) for part in inputs.split(128)])
    texts = [EVAL_PROMPT.format(probe.name) for probe in PROBES] + [probe.visual for probe in PROBES]
    adapted = new_adapter(state["adapter"])(TextTower().embed(texts))
    text_cosine = (model.encode_text(tokenizer(texts), normalize=True) * adapted).sum(1)
    return {
        "largest weight difference": same_weights(model, state),
        "smallest image cosine": round((trained * exported).sum(1).min().item(), 6),
        "smallest text cosine": round(text_cosine.min().item(), 6),
        "logit scale": round(model.logit_scale.exp().item(), 3),
        "test images": len(rows),
        "trained": evaluator.classification(trained, rows)["embedded"],
        "exported": evaluator.classification(exported, rows)["embedded"],
    }


def check(report: dict[str, Any]) -> None:
    """Raise if the exported model differs from the trained one by more than half-precision rounding."""
    change = abs(report["trained"]["top1"] - report["exported"]["top1"])
    cosines = (report["smallest image cosine"], report["smallest text cosine"])
    if report["largest weight difference"] > 0 or min(cosines) < MIN_COSINE or change > MAX_ACCURACY_CHANGE:
        raise ValueError(f"the exported model differs from the trained one: {report}")


def check_excluded(out: Path) -> None:
    """Raise if a share-alike family is in the exported files."""
    records = set(read_json(out / "LICENSES.json"))
    files = {path.stem for path in out.glob("images/*/*.webp")}
    found = (records | files) & set(EXCLUDED_FAMILIES)
    if found or not files <= records:
        raise ValueError(f"share-alike families {found} or images without licence {files - records}")


def replace_folder(source: Path, target: Path) -> None:
    """Put the parts of a finished export in place of the older ones."""
    target.mkdir(parents=True, exist_ok=True)
    for part in source.iterdir():
        older = target / part.name
        if older.is_dir():
            shutil.rmtree(older)
        shutil.move(part, older)


def export(work: Work, out: Path) -> None:
    """Export into a temporary folder, verify it, and only then replace the assets."""
    state = torch.load(work.aligned)
    dataset = Dataset.load(work)
    results = read_json(work.results)
    with tempfile.TemporaryDirectory(dir=work.root) as name:
        folder = Path(name) / "assets"
        folder.mkdir()
        write_model(state, folder)
        count = write_images(dataset, folder)
        write_licences(work, folder)
        check_excluded(folder)
        report = verify(state, dataset, Evaluator(work, new_adapter(state["adapter"])), folder)
        check(report)
        (work.root / "export.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
        sizes = {path.stem: (folder / path).stat().st_size for path in (WEIGHTS, ADAPTER)}
        card = model_card(results, read_json(work.log), report, sizes)
        (folder / "MODEL_CARD.md").write_text(card, encoding="utf-8")
        (folder / "NOTICE.md").write_text(notice(), encoding="utf-8")
        replace_folder(folder, out)
    print(json.dumps(report, indent=1))
    print(f"{count} images and the model written to {out}")
