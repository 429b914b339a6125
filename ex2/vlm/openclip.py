"""Back end for open_clip models: built-in ones, hub repositories and local folders."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import open_clip
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HTTPError
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.factory import _find_checkpoint_in_dir
from open_clip.hf_model import ClsLastHiddenStatePooler, ClsPooler, HFTextEncoder, MeanPooler
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import text_global_pool
from PIL import Image
from transformers import dynamic_module_utils

from ex2.base.errors import UserError, first_line
from ex2.base.files import from_home
from ex2.base.hub import looks_like_path, require_repository
from ex2.base.loading import unreadable
from ex2.base.weights import NUMBERS, PICKLES, SAFE, check_weights, pickle_refused
from ex2.vlm.dual_encoder import DualEncoder
from ex2.vlm.fingerprint import describe_tokenizer, stable_config
from ex2.vlm.weight_files import check_positions, options_for_file, split_query

logger = logging.getLogger("ex2")

_CONFIG_FILE = "open_clip_config.json"
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pth")
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model")
# Names under which the hub keeps weights of open_clip models.
_HUB_WEIGHTS = (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME)
# Names that say which of several files in a folder has the model's weights.
_PREFERRED = (*_HUB_WEIGHTS, "open_clip_pytorch_model.safetensors", "model.safetensors", "pytorch_model.bin")
_CURE = "use a local folder, `open_clip:local-dir:/path`"


def load_open_clip(
    spec: str, device: torch.device, dtype: torch.dtype, allow_pickle_formats: bool = False
) -> OpenClipVLM:
    """Load ``open_clip:MODEL/PRETRAINED``, ``open_clip:hf-hub:ID`` or ``open_clip:local-dir:DIR``.

    Raises:
        UserError: Unknown model or pretrained tag, a repository out of reach, a folder or a file of it that is absent
            or damaged, weights that do not fit or are pickles.
    """
    location = spec.removeprefix("open_clip:")
    options: dict[str, Any] = {}
    file: Path | None = None
    if location.startswith("hf-hub:"):
        repo_id = location.removeprefix("hf-hub:")
        require_repository(repo_id, f"vlm {spec!r}", _CURE, _CONFIG_FILE)
        source = location
        _check_hub_weights(repo_id, HF_WEIGHTS_NAME, spec, allow_pickle_formats)
    elif location.startswith("local-dir:"):
        folder = _checked_folder(location.removeprefix("local-dir:"), spec)
        with quiet_root_logger():
            file = Path(str(_find_checkpoint_in_dir(folder)))
        check_weights(file, f"vlm {spec!r}", allow_pickle_formats)
        _say_what_is_taken(folder, file, spec)
        source = f"local-dir:{folder}"
    else:
        location, said = split_query(location)
        if said and open_clip.is_pretrained_cfg(*_split_name(location, spec)):
            raise UserError(
                f"vlm {spec!r}: ?{next(iter(said))}= is for weights in a file, a tag says it itself: leave it out"
            )
        source, tag = _known_model(location, spec)
        options["pretrained"] = tag
        if open_clip.is_pretrained_cfg(source, tag):
            options["force_quick_gelu"] = _needs_quick_gelu(source, tag, spec)
            _check_tag_weights(source, tag, spec, allow_pickle_formats)
        else:
            file = Path(tag)
            check_weights(file, f"vlm {spec!r}", allow_pickle_formats)
            options |= options_for_file(source, file, said, spec)
    try:
        with quiet_root_logger(), _no_questions():
            # Strict by itself: raises rather than leave a weight at random.
            model, preprocess = open_clip.create_model_from_pretrained(source, **options)
            tokenizer = open_clip.get_tokenizer(source)
            config = open_clip.get_model_config(source)
    except Exception as error:  # as each kind of model and of damage has it
        raise UserError(f"vlm {spec!r} could not be loaded: {unreadable(error)}") from error
    if file is not None:
        check_positions(model, file, f"vlm {spec!r}")
    return OpenClipVLM(spec, model, preprocess, tokenizer, config, device=device, dtype=dtype)


def published_at(spec: str) -> tuple[str | None, str | None]:
    """Hub repository or address that open_clip fetches the weights of a built-in model's tag from; neither for a file.

    Raises:
        UserError: open_clip has no such model.
    """
    model, tag = _split_name(split_query(spec.removeprefix("open_clip:"))[0], spec)
    if not open_clip.is_pretrained_cfg(model, tag):
        return None, None
    published = open_clip.get_pretrained_cfg(model, tag)
    return (published.get("hf_hub") or "").rpartition("/")[0] or None, published.get("url")


def _check_tag_weights(model: str, tag: str, spec: str, allow_pickle_formats: bool) -> None:
    """Refuse a tag of which only a pickle is published."""
    published = open_clip.get_pretrained_cfg(model, tag)
    repo_id, _, filename = (published.get("hf_hub") or "").rpartition("/")
    if repo_id:
        _check_hub_weights(repo_id, filename or HF_WEIGHTS_NAME, spec, allow_pickle_formats)
    elif not allow_pickle_formats:
        raise pickle_refused(f"vlm {spec!r}", str(published.get("url")))


def _check_hub_weights(repo_id: str, filename: str, spec: str, allow_pickle_formats: bool) -> None:
    """Fetch the safetensors file that open_clip prefers to `filename`: where that fails, it would take the pickle."""
    safe = HF_SAFE_WEIGHTS_NAME if filename == HF_WEIGHTS_NAME else str(Path(filename).with_suffix(SAFE))
    if allow_pickle_formats or filename.endswith(SAFE):
        return
    try:
        hf_hub_download(repo_id, safe)
    except EntryNotFoundError:
        raise pickle_refused(f"vlm {spec!r}", f"{repo_id}/{filename}") from None
    except (OSError, HTTPError) as error:
        raise UserError(f"vlm {spec!r} could not be loaded: {first_line(error)}") from error


@contextmanager
def _no_questions() -> Iterator[None]:
    """Let nobody be asked whether code that comes with a text tower may run: open_clip leaves that open."""
    before = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
    try:
        yield
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = before


class OpenClipVLM(DualEncoder):
    """An open_clip model with its evaluation preprocessing and its own tokenizer.

    Args:
        name: The spec it was loaded from.
        model: The model in float32.
        preprocess: Evaluation transform of one RGB image to a ``(3, H, W)`` tensor.
        tokenizer: Texts to a tensor of ids, padded to the context length.
        config: The model configuration (``model_cfg``), for the fingerprint.
        device: Where to encode.
        dtype: Floating-point type of weights and computation.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        preprocess: Any,
        tokenizer: Any,
        config: dict[str, Any],
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._preprocess = preprocess
        self._preprocess_config = dict(model.visual.preprocess_cfg)
        self._tokenizer = tokenizer
        self._config = config
        super().__init__(
            name,
            model,
            device=device,
            dtype=dtype,
            max_text_tokens=tokenizer.context_length,
            logit_scale=model.logit_scale.exp().item(),
            logit_bias=0.0 if model.logit_bias is None else model.logit_bias.item(),
        )

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text with special tokens and without cutting; above ``max_text_tokens`` means it is cut."""
        if not len(texts):
            return []
        if isinstance(self._tokenizer, SimpleTokenizer):
            return [len(self._tokenizer.encode(text)) + 2 for text in texts]
        cleaned = [self._tokenizer.clean_fn(text) for text in texts]
        if self._tokenizer.tokenizer_mode == "clips":  # start, end and a class token, added by open_clip itself
            encoded = self._tokenizer.tokenizer(cleaned, add_special_tokens=False, verbose=False)
            return [len(ids) + 3 for ids in encoded["input_ids"]]
        encoded = self._tokenizer.tokenizer(cleaned, padding=False, truncation=False, verbose=False)
        return [len(ids) for ids in encoded["input_ids"]]

    def _text_features(self, texts: list[str]) -> torch.Tensor:
        return trimmed_text_features(self._model, self._tokenizer(texts).to(self.device))

    def _image_features(self, images: list[Image.Image]) -> torch.Tensor:
        pixels = torch.stack([self._preprocess(image) for image in images])
        return self._model.encode_image(pixels.to(device=self.device, dtype=self._dtype))

    def _describe(self) -> dict[str, Any]:
        text_model: Any = getattr(self._model, "text", None)
        return {
            # The module tree tells activation functions apart, which the weights cannot.
            "architecture": repr(self._model),
            "config": _without_paths(self._config),
            "text_config": stable_config(text_model.config.to_dict()) if _is_hf(text_model) else None,
            "preprocessing": self._preprocess_config,
            "tokenizer": _describe_tokenizer(self._tokenizer),
        }

    def _drop_image_tower(self) -> None:
        del self._model.visual
        if hasattr(self._model, "text_decoder"):  # CoCa's captioner reads images too
            del self._model.text_decoder


def trimmed_text_features(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Text embeddings ``(n, D)`` of ids ``(n, context length)``, without computing padding where that changes nothing.

    Padding can be left out where an attention mask hides it (text towers from transformers) and where the embedding is
    read at the end token under a causal mask (CLIP). SigLIP, CoCa and the like look at padding and get all of it.
    """
    tower = getattr(model, "text", model)
    if _is_hf(tower):
        if not isinstance(tower.pooler, MeanPooler | ClsPooler | ClsLastHiddenStatePooler):
            return model.encode_text(tokens)
        used = (tokens != tower.config.pad_token_id).any(dim=0).nonzero()
        return model.encode_text(tokens[:, : int(used.max()) + 1 if len(used) else 1])
    pool_type, eos_id = _pooling(tower)
    if tower.attn_mask is None or getattr(tower, "cls_emb", None) is not None or pool_type not in ("argmax", "eos"):
        return model.encode_text(tokens)
    ends = tokens.argmax(dim=-1) if pool_type == "argmax" else tokens.eq(eos_id).int().argmax(dim=-1)
    return _causal_text_features(tower, tokens[:, : int(ends.max()) + 1])


def _causal_text_features(tower: Any, tokens: torch.Tensor) -> torch.Tensor:
    """open_clip's own text transformer on fewer positions than its context length, which itself it refuses."""
    length = tokens.shape[1]
    dtype = tower.transformer.get_cast_dtype()
    hidden = tower.token_embedding(tokens).to(dtype) + tower.positional_embedding[:length].to(dtype)
    hidden = tower.ln_final(tower.transformer(hidden, attn_mask=tower.attn_mask[:length, :length]))
    pool_type, eos_id = _pooling(tower)
    pooled = text_global_pool(hidden, tokens, pool_type, eos_token_id=eos_id)
    projection = tower.text_projection
    if projection is None:
        return pooled
    return projection(pooled) if isinstance(projection, torch.nn.Linear) else pooled @ projection


def _pooling(tower: Any) -> tuple[str, int]:
    """Pool type and id of the end token; the class CLIP holds the text tower's parts itself, under other names."""
    if hasattr(tower, "text_pool_type"):
        return tower.text_pool_type, tower.text_eos_id
    return tower.pool_type, tower.eos_id


def _is_hf(tower: Any) -> bool:
    return isinstance(tower, HFTextEncoder)


def _describe_tokenizer(tokenizer: Any) -> dict[str, Any]:
    description: dict[str, Any] = {"class": type(tokenizer).__name__, "context_length": tokenizer.context_length}
    description["clean"] = tokenizer.clean_fn.__name__
    if isinstance(tokenizer, SimpleTokenizer):
        return description | {"vocabulary": tokenizer.encoder, "merges": [list(pair) for pair in tokenizer.bpe_ranks]}
    return description | {
        "mode": tokenizer.tokenizer_mode,
        "strip_sep_token": tokenizer.strip_sep_token,
        "rules": describe_tokenizer(tokenizer.tokenizer),
    }


def _without_paths(config: dict[str, Any]) -> dict[str, Any]:
    """The model configuration without names that may be paths: what they stand for is in weights and tokenizer."""
    text = {
        key: value for key, value in config["text_cfg"].items() if key not in ("hf_model_name", "hf_tokenizer_name")
    }
    return config | {"text_cfg": text}


def text_tower_parameters(spec: str) -> int | None:
    """Parameters of a built-in model's text tower, counted without storage; None where they cannot be known offline.

    Raises:
        UserError: open_clip has no such model.
    """
    location = spec.removeprefix("open_clip:")
    if location.startswith(("hf-hub:", "local-dir:")):
        return None
    name, _ = _split_name(split_query(location)[0], spec)
    try:
        with quiet_root_logger(), torch.device("meta"):
            model = open_clip.create_model(name, pretrained=None, load_weights=False, device="meta")
    except OSError:  # a text tower from transformers, whose configuration is on the hub
        return None
    return sum(p.numel() for part, p in model.named_parameters() if not part.startswith(("visual.", "text_decoder.")))


def _split_name(location: str, spec: str) -> tuple[str, str]:
    """Split ``MODEL/PRETRAINED`` into a model that exists and the rest; both may contain slashes."""
    models = open_clip.list_models()
    cuts = [index for index, character in enumerate(location) if character == "/"]
    for cut in [len(location), *reversed(cuts)]:  # ViT-B/32/openai: the longest name that is a model
        model = location[:cut].replace("/", "-")
        if model in models:
            return model, location[cut + 1 :]
    name = location.rsplit("/", 1)[0].replace("/", "-")
    raise UserError(f"vlm {spec!r}: open_clip has no model {name!r}{_nearest(name, models)}")


def _known_model(location: str, spec: str) -> tuple[str, str]:
    """Split ``MODEL/PRETRAINED`` into a model and a tag (or weight file) that exist."""
    model, tag = _split_name(location, spec)
    tags = open_clip.list_pretrained_tags_by_model(model)
    if looks_like_path(tag) or Path(tag).suffix in (SAFE, *PICKLES, *NUMBERS):
        file = from_home(tag)
        if file.is_dir():
            raise UserError(
                f"vlm {spec!r}: {str(file)!r} is a folder: name a file in it, or `open_clip:local-dir:{file}`"
            )
        if not file.is_file():
            raise UserError(f"vlm {spec!r}: there is no file {str(file)!r}: check the path")
        return model, str(file)
    if open_clip.is_pretrained_cfg(model, tag):
        repo_id = (open_clip.get_pretrained_cfg(model, tag).get("hf_hub") or "").rpartition("/")
        if repo_id[0]:
            files = (*([repo_id[2]] if repo_id[2] else []), *_HUB_WEIGHTS)
            require_repository(repo_id[0], f"vlm {spec!r}", _CURE, *files)
    elif not tags and not Path(tag).is_file():
        raise UserError(f"vlm {spec!r}: open_clip has no pretrained tags for {model!r}: give a weight file")
    elif not tag:
        examples = ", ".join(f"`open_clip:{model}/{name}`" for name in tags[:3])
        raise UserError(f"vlm {spec!r}: open_clip's {model!r} needs a pretrained tag: {examples}")
    elif not Path(tag).is_file():
        hint = _nearest(tag, tags) or f"; there are {', '.join(tags)}"
        raise UserError(f"vlm {spec!r}: {tag!r} is no pretrained tag of open_clip's {model!r}{hint}")
    return model, tag


def _needs_quick_gelu(model: str, tag: str, spec: str) -> bool:
    """Were a tag's weights trained with QuickGELU? open_clip only warns where the model's name says otherwise."""
    pretrained = open_clip.get_pretrained_cfg(model, tag)
    config = open_clip.get_model_config(model) or {}
    if pretrained and config.get("quick_gelu", False) and not pretrained.get("quick_gelu", False):
        plain = model.removesuffix("-quickgelu")
        raise UserError(f"vlm {spec!r}: the weights were trained without QuickGELU: use `open_clip:{plain}/{tag}`")
    return bool(pretrained.get("quick_gelu", False))


def _nearest(name: str, known: list[str]) -> str:
    matches = get_close_matches(name, known, n=3)
    return f"; nearest: {', '.join(matches)}" if matches else ""


def _checked_folder(location: str, spec: str) -> Path:
    folder = from_home(location)
    if not folder.is_dir():
        raise UserError(f"vlm {spec!r}: there is no folder {str(folder)!r}: check the path")
    config_file = folder / _CONFIG_FILE
    if not config_file.is_file():
        cure = f"it holds a model of transformers: use `hf:{folder}`" if (folder / "config.json").is_file() else ""
        raise UserError(
            f"vlm {spec!r}: {str(folder)!r} has no `{_CONFIG_FILE}`: {cure or 'save the model there with open_clip'}"
        )
    try:
        text_config = json.loads(config_file.read_text(encoding="utf-8"))["model_cfg"]["text_cfg"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"vlm {spec!r}: {str(config_file)!r} is no open_clip configuration: {error!r}") from error
    if not any(path.suffix in _WEIGHT_SUFFIXES for path in folder.iterdir()):
        raise UserError(f"vlm {spec!r}: {str(folder)!r} has no weights: add `{_HUB_WEIGHTS[0]}`")
    if text_config.get("hf_tokenizer_name") and not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise UserError(f"vlm {spec!r}: {str(folder)!r} has no `{_TOKENIZER_FILES[0]}`: save the tokenizer there")
    return folder


def _say_what_is_taken(folder: Path, file: Path, spec: str) -> None:
    """Warn of what open_clip decides about a folder by itself: the preprocessing, and which of several files has the weights."""
    if not json.loads((folder / _CONFIG_FILE).read_text(encoding="utf-8")).get("preprocess_cfg"):
        logger.warning(
            "vlm %s: %s says nothing of the preprocessing (`preprocess_cfg`: size, mean, std, interpolation, resize_mode): "
            "OpenAI's is taken.",
            spec, folder / _CONFIG_FILE,
        )  # fmt: skip
    others = sorted(p.name for p in folder.iterdir() if p.suffix in _WEIGHT_SUFFIXES and p != file)
    if file.name not in _PREFERRED and others:
        logger.warning(
            "vlm %s: of several files with weights, %s is taken, not %s.", spec, file.name, ", ".join(others)
        )


@contextmanager
def quiet_root_logger() -> Iterator[None]:
    """Keep open_clip's own account of loading off the console.

    It logs through the root logger, which then gets a handler that prints other libraries' messages a second time.
    """
    handlers, disabled = list(logging.root.handlers), logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(disabled)
        for handler in [handler for handler in logging.root.handlers if handler not in handlers]:
            logging.root.removeHandler(handler)
