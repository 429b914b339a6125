"""Classify a folder of images with a bundle that `ex2 export` wrote. Needs open_clip and safetensors, not EX2.

    python examples/classify_with_bundle.py BUNDLE IMAGES --model ViT-B-32 --pretrained openai
    python examples/classify_with_bundle.py BUNDLE IMAGES --model local-dir:DIR --texts

The model must be the one that manifest.json names under "classifier". With --texts the weights are computed from
descriptions.json instead, so any model will do. In a folder of one sub-folder a class, accuracy is printed too.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn.functional import normalize

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def weight_from_texts(texts_by_class: dict[str, list[str]], model: Any, tokenizer: Any) -> torch.Tensor:
    """Zero-shot weights (D, C): for each class the normalised mean of its texts' unit embeddings."""
    columns = [normalize(model.encode_text(tokenizer(texts)), dim=-1).mean(dim=0) for texts in texts_by_class.values()]
    return normalize(torch.stack(columns, dim=1), dim=0)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--model", required=True, help="open_clip model, or local-dir:DIR")
    parser.add_argument("--pretrained", help="its pretrained tag or file")
    parser.add_argument("--texts", action="store_true", help="compute the weights from descriptions.json")
    arguments = parser.parse_args()

    model, preprocess = open_clip.create_model_from_pretrained(arguments.model, pretrained=arguments.pretrained)
    model.eval()
    names = [entry["class_name"] for entry in json.loads((arguments.bundle / "classes.json").read_text("utf-8"))]
    if arguments.texts:
        texts_by_class = json.loads((arguments.bundle / "descriptions.json").read_text("utf-8"))
        weight = weight_from_texts(texts_by_class, model, open_clip.get_tokenizer(arguments.model))
    else:
        weight = load_file(arguments.bundle / "classifier.safetensors")["weight"]

    correct = []
    for path in sorted(path for path in arguments.images.rglob("*") if path.suffix.lower() in SUFFIXES):
        image = preprocess(Image.open(path).convert("RGB")).unsqueeze(0)
        guess = names[int((normalize(model.encode_image(image), dim=-1) @ weight).argmax())]
        print(path, guess, sep="\t")
        label = path.parent.name.replace("_", " ")
        if label in names:
            correct.append(label == guess)
    if correct:
        print(f"accuracy: {sum(correct)} of {len(correct)}")


if __name__ == "__main__":
    main()
