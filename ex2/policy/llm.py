"""The policy: a causal language model, quantised or not, with its tokenizer, and the embedded default."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ex2.base.cache import cache_folder
from ex2.base.embedded_llm import EMBEDDED, embedded_gguf
from ex2.base.errors import UserError, first_line
from ex2.base.files import from_home, sweep, temporary_beside
from ex2.base.hub import looks_like_path, require_repository
from ex2.base.loading import check_loaded, quiet_loading, unreadable
from ex2.base.weights import check_weights, pickle_refused, says_no_safetensors, transformers_options
from ex2.policy.adapters import load_adapter
from ex2.policy.turns import check_prompts_stay_open, fix_date

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl import ModelConfig

NO_CODE: dict[str, Any] = {"trust_remote_code": False}
"""Code that comes with a model is never run. Where this is left open, transformers asks, and takes a `y` from standard input."""


def resolve_model(
    name: str | None, cache_dir: str | None = None, revision: str = "main", option: str = "model_name_or_path"
) -> str:
    """What `from_pretrained` takes for the model `name`: a folder or a hub id; None and `smollm2` are the embedded LLM.

    Args:
        name: Folder, hub id, `smollm2` or None.
        cache_dir: Where the embedded LLM is converted to.
        revision: Branch, tag or commit of a hub model.
        option: What the user calls the model, for messages.

    Raises:
        UserError: A path that does not exist, a hub out of reach, or the embedded package is not installed.
    """
    if name is None or name == EMBEDDED:
        return str(_convert_embedded(cache_folder(cache_dir)))
    if (folder := model_folder(name, option)) is not None:
        return str(folder)
    if require_repository(name, f"{option}={name}", "use a local folder", "config.json"):
        return _cached_snapshot(name, revision, option)
    return name


def model_folder(name: str, option: str = "model_name_or_path") -> Path | None:
    """The folder that `name` means, or None where it can only be a hub id.

    Raises:
        UserError: It looks like a path but is no folder, or the folder holds no model.
    """
    path = from_home(name)
    if looks_like_path(name) and not path.is_dir():
        raise UserError(f"{option}={name} is not a folder.")
    if path.is_dir() and not (path / "config.json").is_file():
        raise UserError(f"{option}={name} holds no model: config.json is missing.")
    return path if path.is_dir() else None


def _cached_snapshot(name: str, revision: str, option: str) -> str:
    """Folder of a hub model in the local cache: loading from it waits for no network."""
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(name, revision=revision, local_files_only=True)
    except OSError as error:
        raise load_error(option, name, error) from error


def _convert_embedded(cache: Path) -> Path:
    """Convert the package's GGUF file to safetensors once, atomically, and return the folder."""
    source = embedded_gguf()
    target = cache / "models" / f"smollm2-135m-instruct-{source.stat().st_size:x}"
    if (target / "config.json").is_file():
        return target

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    target.parent.mkdir(parents=True, exist_ok=True)
    sweep(target.parent)
    work = temporary_beside(target)
    try:
        # transformers paints a bar that no setting of its own turns off.
        with redirect_stderr(StringIO()), _gguf_read_once():
            read = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        # transformers reads a GGUF file but refuses to train or save what came from it: move the weights to a plain model.
        read.config.quantization_config = None
        del read.config.quantization_config
        with torch.device("meta"):  # draws no weights
            plain = AutoModelForCausalLM.from_config(read.config, dtype=torch.float32)
        plain.load_state_dict(read.state_dict(), assign=True)
        plain.save_pretrained(work)
        tokenizer.save_pretrained(work)
        # Several processes may convert at once; the first to finish wins, and all see whole folders only.
        try:
            os.rename(work, target)
        except OSError:
            if not (target / "config.json").is_file():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


@contextmanager
def _gguf_read_once() -> Iterator[None]:
    """Let transformers parse a GGUF file once, not for configuration, weights and tokenizer each: it takes seconds.

    Names of its tensors are likewise looked up once, not for each module of the model.
    """
    import gguf

    own = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    for name, function in own.items():
        setattr(gguf, name, functools.cache(function))
    try:
        yield
    finally:
        for name, function in own.items():
            setattr(gguf, name, function)


def load_tokenizer(path: str, revision: str = "main") -> PreTrainedTokenizerBase:
    """Tokenizer of a policy, padding on the left, with a padding token."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            path, revision=revision, padding_side="left", truncation_side="left", **NO_CODE
        )
    except Exception as error:  # as each kind of model and of damage has it
        raise load_error("model_name_or_path", path, error) from error
    if not isinstance(tokenizer.model_max_length, (int, float)):
        raise UserError(
            f"model_name_or_path={path}: model_max_length={tokenizer.model_max_length!r} in tokenizer_config.json is no number."
        )
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError(
                f"model_name_or_path={path}: its tokenizer has neither a padding nor an end token: set eos_token in "
                "tokenizer_config.json."
            )
        tokenizer.pad_token = tokenizer.eos_token
    if isinstance(tokenizer.chat_template, dict):  # of several templates, such as one for tools
        tokenizer.chat_template = tokenizer.chat_template.get("default")
    fix_date(tokenizer)
    check_prompts_stay_open(tokenizer, path)
    return tokenizer


def fit_padding(tokenizer: PreTrainedTokenizerBase, config: Any, where: str) -> None:
    """Pad with the end token where the model has no embedding of the padding token.

    Raises:
        UserError: It has none of the end token either, or of common words: the tokenizer is another model's.
    """
    rows = getattr(config.get_text_config(), "vocab_size", None)
    if rows is None:
        return
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id >= rows:
        if tokenizer.eos_token_id is None or tokenizer.eos_token_id >= rows:
            raise UserError(
                f"{where}: its tokenizer pads with token {tokenizer.pad_token_id}, but the model has {rows} embeddings: set "
                "pad_token in tokenizer_config.json to one that it has."
            )
        tokenizer.pad_token = tokenizer.eos_token
    if (last := max(tokenizer("Describe a cat.")["input_ids"], default=0)) >= rows:
        raise UserError(
            f"{where}: its tokenizer writes token {last}, but the model has {rows} embeddings: give the model its own tokenizer."
        )


def context_of(config: Any) -> int | None:
    """Positions of a language model, None where it does not say."""
    text = config.get_text_config()
    said = [getattr(text, name, None) for name in ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx")]
    return next((int(positions) for positions in said if positions), None)


def check_context(tokens: int, answer: int, positions: int | None, where: str) -> None:
    """Raise UserError where a prompt of so many tokens and its answer are longer than the model's context."""
    if positions is not None and tokens + answer > positions:
        raise UserError(
            f"{where} reads {positions} tokens, but prompts have {tokens} and answers up to {answer} (max_completion_length, "
            "--max_new_tokens): ask for shorter ones."
        )


def load_policy(
    model_config: ModelConfig,
    path: str,
    adapter: str | None = None,
    *,
    device: str | torch.device = "cpu",
    bf16: bool = False,
    allow_pickle_formats: bool = False,
) -> PreTrainedModel:
    """The base model in the configured precision on `device`, with `adapter` on it (trainable) where one is given.

    `bf16` and `allow_pickle_formats` as for `load_base`.

    Raises:
        UserError: Quantisation without bitsandbytes or a GPU, an adapter folder without an adapter, or no way to the hub.
    """
    model = load_base(
        path,
        revision=model_config.model_revision,
        dtype=model_config.dtype,
        device=device,
        bf16=bf16,
        allow_pickle_formats=allow_pickle_formats,
        attn_implementation=model_config.attn_implementation,
        quantization_config=quantization_config(model_config),
    )
    if adapter is None:
        return model
    return load_adapter(model, adapter, trainable=True, allow_pickle_formats=allow_pickle_formats)


def load_base(
    path: str,
    *,
    revision: str = "main",
    dtype: str | None = "float32",
    device: str | torch.device = "cpu",
    bf16: bool = False,
    allow_pickle_formats: bool = False,
    **options: Any,
) -> PreTrainedModel:
    """The base model in `path` (folder or hub id) without adapter; `options` go to transformers.

    `bf16` says that it will run under autocast to bfloat16: on a CPU linear layers then hold their weights so.

    Weights go to `device` one after the other: many processes on a machine need not hold a copy each in its memory first, and
    quantised weights cannot be moved afterwards.

    Args:
        path: Folder or hub id.
        revision: Branch, tag or commit of a hub model.
        dtype: Type of the weights; None and `auto`: as they are saved.
        device: Where they go.
        bf16: See above.
        allow_pickle_formats: Read `.bin` files too, with torch's restricted unpickler.
        options: Further options of `from_pretrained`.

    Raises:
        UserError: It cannot be loaded, or has weights in a format that can hold code.
    """
    import torch
    from transformers import AutoModelForCausalLM

    where = f"model_name_or_path={path}"
    if Path(path).is_dir():
        check_weights(Path(path), where, allow_pickle_formats)
    if dtype not in (None, "auto", "bfloat16", "float16", "float32"):
        raise UserError(f"{where}: dtype={dtype} is unknown: choose auto, bfloat16, float16 or float32.")
    torch_dtype = dtype if dtype in (None, "auto") else getattr(torch, dtype)
    # PEFT takes a map to the CPU for weights that do not fit on the GPU.
    place = {} if torch.device(device).type == "cpu" else {"device_map": {"": device}}
    try:
        formats = transformers_options(allow_pickle_formats)
        with quiet_loading():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                path,
                revision=revision,
                dtype=torch_dtype,
                output_loading_info=True,
                **NO_CODE,
                **formats,
                **place,
                **options,
            )
    except ImportError as error:
        option = f"attn_implementation={options.get('attn_implementation')}"
        raise UserError(f"{option} needs a package that is not installed: {first_line(error)}") from error
    except Exception as error:  # as each kind of model and of damage has it
        if says_no_safetensors(error):
            raise pickle_refused(where, "what the hub has of its weights") from None
        raise load_error("model_name_or_path", path, error) from error
    model, loading = loaded
    # Of a backbone without its head, or a classifier, transformers draws what is missing at random.
    check_loaded(model, loading, where, "give a whole causal language model")
    if bf16 and torch.device(device).type == "cpu":
        linear_in_bfloat16(model)
    return model


def linear_in_bfloat16(model: PreTrainedModel) -> None:
    """Hold the weights of linear layers, the LM head among them, in bfloat16; embeddings and norms stay as they are.

    It is for a base, whose weights are not trained. Under autocast the numbers are the same. It would cast frozen weights anew
    at every call, since its cache holds trained ones only, and for a token of a few texts that takes as long as multiplying.
    """
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            # A parameter of its own: an LM head may share its weight with the embeddings.
            module.weight = torch.nn.Parameter(module.weight.detach().to(torch.bfloat16), requires_grad=False)


def quantization_config(model_config: ModelConfig) -> Any:
    """bitsandbytes configuration for load_in_8bit / load_in_4bit, None for neither."""
    if not (model_config.load_in_8bit or model_config.load_in_4bit):
        return None
    import torch
    from trl import get_quantization_config

    option = "load_in_8bit" if model_config.load_in_8bit else "load_in_4bit"
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(f"{option}=true needs bitsandbytes: run `pip install 'ex2[quantization]'`.")
    if not torch.cuda.is_available():
        raise UserError(
            f"{option}=true needs a CUDA GPU, and none is visible; leave it out to train in {model_config.dtype}."
        )
    return get_quantization_config(model_config)


def load_error(option: str, name: str, error: Exception) -> UserError:
    """One clear line for a model that could not be read from its folder or the hub."""
    return UserError(
        f"{option}={name} could not be loaded: check that it is a causal language model with its tokenizer, or give "
        f"another folder or hub id. ({unreadable(error, name)})"
    )
