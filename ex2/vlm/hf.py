"""Back end for dual encoders of transformers: CLIP, ALIGN, SigLIP, SigLIP 2 and others of their interface."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ex2.base.errors import UserError, first_line
from ex2.base.files import from_home
from ex2.base.hub import looks_like_path, require_repository
from ex2.base.loading import check_loaded, quiet_loading, unreadable
from ex2.base.weights import (
    PICKLES,
    SAFE,
    check_weights,
    pickle_refused,
    says_no_safetensors,
    transformers_options,
)
from ex2.vlm.dual_encoder import DualEncoder
from ex2.vlm.fingerprint import describe_tokenizer, stable_config

# ALIGN was trained on 64 tokens although its BERT has positions for 512 (AlignProcessor: max_length 64).
_ALIGN_TOKENS = 64

_NO_LIMIT = 512  # tokens, where neither model nor tokenizer say: tokenizers then have a limit of 1e30

# Files of which a local folder must hold one of each kind; the first is named when all are absent.
_REQUIRED_FILES = (
    ("config.json",),
    (
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
    ),
    ("preprocessor_config.json", "processor_config.json"),
    ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model"),
)

# Where the model classes keep what only images need.
_IMAGE_MODULES = ("vision_model", "image_model", "visual_projection", "image_projection")


@dataclass(frozen=True)
class TextRule:
    """How a family's texts become tokens.

    Attributes:
        padding: ``longest`` text of the batch, or ``max_length``.
        max_tokens: Texts are cut to this many tokens.
        lower: Lower-case the text first.
    """

    padding: str
    max_tokens: int
    lower: bool


def text_rule(config: Any, tokenizer: Any) -> TextRule:
    """The rule a model was trained with, from its configuration.

    CLIP hides padding by its causal mask and ALIGN by an attention mask, so that the cheapest padding gives the same
    embedding. SigLIP has neither: it reads the padding, was trained on ``max_length``, and loses most of its accuracy
    without it (mteb #1424). It also was trained on lower-cased text, which the tokenizer of SigLIP 1 sees to itself,
    but not every tokenizer saved with SigLIP 2 (transformers #43101).
    """
    positions = _positions(config.text_config, tokenizer.model_max_length)
    if config.model_type in ("siglip", "siglip2"):
        return TextRule("max_length", positions, lower=True)
    if config.model_type == "align":
        return TextRule("longest", min(_ALIGN_TOKENS, positions), lower=False)
    return TextRule("longest", int(min(positions, tokenizer.model_max_length)), lower=False)


def _positions(text_config: Any, limit: int) -> int:
    """Tokens that a text tower has positions for."""
    said = getattr(text_config, "max_position_embeddings", None)
    if said is None:
        return int(min(limit, _NO_LIMIT))
    # These count positions from behind the padding token's id on.
    if re.search("roberta|camembert|altclip|xmod", str(getattr(text_config, "model_type", ""))):
        return said - text_config.pad_token_id - 1
    return said


def load_hf(spec: str, device: torch.device, dtype: torch.dtype, allow_pickle_formats: bool = False) -> TransformersVLM:
    """Load ``hf:ID_OR_DIR``: a hub repository or a folder written by ``save_pretrained``.

    Raises:
        UserError: No such folder or repository, a file of it is absent or damaged, weights are missing from it or pickles,
            or it is no dual encoder.
    """
    from transformers import AutoModel, AutoProcessor

    location = spec.removeprefix("hf:")
    options: dict[str, Any] = {"trust_remote_code": False}
    if _is_folder(location):
        location = str(_checked_folder(location, spec))
        check_weights(Path(location), f"vlm {spec!r}", allow_pickle_formats)
    else:
        cure = "use a local folder, `hf:/path`"
        options["local_files_only"] = require_repository(location, f"vlm {spec!r}", cure, "config.json")
    try:
        # float32 first: the logit scale would lose digits in half precision.
        formats = transformers_options(allow_pickle_formats)
        with quiet_loading():
            model, loading = AutoModel.from_pretrained(
                location,
                dtype=torch.float32,
                output_loading_info=True,
                **formats,
                **options,
            )
        processor = AutoProcessor.from_pretrained(location, **options)
    except ImportError as error:
        raise UserError(f"vlm {spec!r} needs a Python package that is not installed: {first_line(error)}") from error
    except Exception as error:  # as each kind of model and of damage has it
        if says_no_safetensors(error):
            raise pickle_refused(f"vlm {spec!r}", "what the hub has of its weights") from None
        raise UserError(f"vlm {spec!r} could not be loaded: {unreadable(error, location)}") from error
    if not (hasattr(model, "get_text_features") and hasattr(model, "get_image_features")):
        raise UserError(
            f"vlm {spec!r} is a {type(model).__name__}, not a dual encoder: use a model such as CLIP, ALIGN or SigLIP"
        )
    check_loaded(model, loading, f"vlm {spec!r}", "use a complete checkpoint of the whole dual encoder")
    if not (hasattr(processor, "tokenizer") and hasattr(processor, "image_processor")):
        raise UserError(f"vlm {spec!r}: no tokenizer and image processor in one: add `preprocessor_config.json`")
    _check_tokenizer(processor.tokenizer, model.config.text_config, spec)
    return TransformersVLM(spec, model, processor, device=device, dtype=dtype)


def _check_tokenizer(tokenizer: Any, text_config: Any, spec: str) -> None:
    """Refuse a tokenizer without a length, or with more tokens than the model has embeddings: it is another model's."""
    limit, added = tokenizer.model_max_length, tokenizer.num_special_tokens_to_add()
    if not isinstance(limit, (int, float)) or limit <= added or limit != int(limit):
        raise UserError(
            f"vlm {spec!r}: model_max_length={limit!r} in tokenizer_config.json is no number of tokens above the {added} that it "
            "adds to each text"
        )
    rows, last = getattr(text_config, "vocab_size", None), max(tokenizer.get_vocab().values(), default=0)
    if rows is not None and last >= rows:
        raise UserError(
            f"vlm {spec!r}: its tokenizer has tokens up to number {last}, the model {rows} embeddings: give the model its own "
            "tokenizer"
        )


class TransformersVLM(DualEncoder):
    """A transformers model with ``get_text_features`` and ``get_image_features``, and its processor.

    Args:
        name: The spec it was loaded from.
        model: The model in float32.
        processor: Its processor, with ``tokenizer`` and ``image_processor``.
        device: Where to encode.
        dtype: Floating-point type of weights and computation.
    """

    def __init__(self, name: str, model: Any, processor: Any, *, device: torch.device, dtype: torch.dtype) -> None:
        self._tokenizer = processor.tokenizer
        self._image_processor = processor.image_processor
        self._rule = text_rule(model.config, self._tokenizer)
        scale = 1 / model.temperature if hasattr(model, "temperature") else model.logit_scale.exp()
        bias = getattr(model, "logit_bias", None)
        super().__init__(
            name,
            model,
            device=device,
            dtype=dtype,
            max_text_tokens=self._rule.max_tokens,
            logit_scale=scale.item(),
            logit_bias=0.0 if bias is None else bias.item(),
        )

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text with special tokens and without cutting; above ``max_text_tokens`` means it is cut."""
        if not len(texts):
            return []
        # verbose: the warning about texts longer than the model reads is what the caller counts for.
        encoded = self._tokenizer(self._prepared(texts), padding=False, truncation=False, verbose=False)
        return [len(ids) for ids in encoded["input_ids"]]

    def _prepared(self, texts: Sequence[str]) -> list[str]:
        return [text.lower() if self._rule.lower else text for text in texts]

    def _text_features(self, texts: list[str]) -> torch.Tensor:
        encoded = self._tokenizer(
            self._prepared(texts),
            padding=self._rule.padding,
            truncation=True,
            max_length=self._rule.max_tokens,
            return_tensors="pt",
        )
        return _pooled(self._model.get_text_features(**encoded.to(self.device)))

    def _image_features(self, images: list[Image.Image]) -> torch.Tensor:
        encoded = self._image_processor(images=images, return_tensors="pt").to(self.device)
        # SigLIP 2 NaFlex has an integer mask and shapes beside the pixels: only the pixels take the model's dtype.
        inputs = {key: value.to(self._dtype) if value.is_floating_point() else value for key, value in encoded.items()}
        return _pooled(self._model.get_image_features(**inputs))

    def _describe(self) -> dict[str, Any]:
        return {
            "architecture": type(self._model).__name__,
            "config": stable_config(self._model.config.to_dict()),
            "preprocessing": type(self._image_processor).__name__,
            "preprocessing_config": stable_config(self._image_processor.to_dict()),
            "text": asdict(self._rule),
            "tokenizer": describe_tokenizer(self._tokenizer),
        }

    def _drop_image_tower(self) -> None:
        for name in _IMAGE_MODULES:
            if hasattr(self._model, name):
                delattr(self._model, name)


def _pooled(output: Any) -> torch.Tensor:
    """The embeddings: transformers 5 returns an object, older versions the tensor itself."""
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def _is_folder(location: str) -> bool:
    """Is this a path, there or not, rather than a hub repository (which is ``NAME`` or ``OWNER/NAME``)?"""
    return looks_like_path(location) or Path(location).is_dir()


def _checked_folder(location: str, spec: str) -> Path:
    folder = from_home(location)
    if not folder.is_dir():
        raise UserError(f"vlm {spec!r}: there is no folder {str(folder)!r}: check the path")
    for alternatives in _REQUIRED_FILES:
        if not any((folder / filename).is_file() for filename in alternatives):
            raise UserError(f"vlm {spec!r}: {str(folder)!r} has no `{alternatives[0]}`: {_cure(folder, alternatives)}")
    return folder


def _cure(folder: Path, alternatives: Sequence[str]) -> str:
    """What to do about a folder without any of the files `alternatives`, by what else it holds."""
    if "config.json" in alternatives and (folder / "open_clip_config.json").is_file():
        return f"it holds a model of open_clip: use `open_clip:local-dir:{folder}`"
    if "model.safetensors" in alternatives:
        if (folder / "adapter_config.json").is_file():
            return "it holds an adapter alone: merge it into its model, and save that"
        if others := sorted(path.name for path in folder.iterdir() if path.suffix in (SAFE, *PICKLES)):
            return f"it holds `{others[0]}`, which has to be called so"
    return "save model and processor there with `save_pretrained`"
