"""What was loaded is what was saved: weights that are missing, of another shape, of further layers or no numbers are one line.

transformers draws what is missing at random and prints a table of hundreds of lines; torch advises to let the code in a file run.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ex2.base.errors import UserError, reason
from ex2.base.weights import SAFE

logger = logging.getLogger("ex2")


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep transformers' table of weights that do not fit off the console: what matters of it is one line (`misfit`)."""
    from transformers.utils.logging import get_verbosity, set_verbosity, set_verbosity_error

    before = get_verbosity()
    set_verbosity_error()
    try:
        yield
    finally:
        set_verbosity(before)


def unreadable(error: Exception, place: str | Path = "") -> str:
    """Why weights could not be loaded, without torch's advice to let a file's code run.

    Args:
        error: What torch, transformers or open_clip raised.
        place: The folder that was read, where it is one: a damaged JSON file in it is named.
    """
    text = str(error)
    if "TorchScript" in text:
        return (
            "it is a TorchScript archive, as OpenAI publishes its weights: save the `state_dict()` of what `torch.jit.load` "
            f"gives as {SAFE}, without input_resolution, context_length and vocab_size"
        )
    if "Weights only load failed" in text:
        kind = re.search(r"Unsupported (?:global: GLOBAL|class) (\S+)", text)
        held = f"holds more than weights ({kind[1].rstrip('.')})" if kind else "is no file of weights, or damaged"
        return f"it {held}: save the weights (`state_dict`) alone, as {SAFE}"
    if "Error(s) in loading state_dict" in text:
        missing, unexpected = (_quoted(text, kind) for kind in ("Missing", "Unexpected"))
        shapes = re.findall(r"size mismatch for (\S+): .*?torch\.Size\((.*?)\) from .*?torch\.Size\((.*?)\)", text)
        return misfit(missing, unexpected, shapes) or reason(error)
    if "ignore_mismatched_sizes" in text:  # transformers' cure, which draws those weights at random
        return "its weights have other shapes than its config.json says, one of the two is another model's"
    if re.search(r"conversion of the weights|normal_kernel\w+. not implemented", text):  # of quantised ones
        return "its quantised weights are incomplete, save or fetch them again"
    if isinstance(error, (StopIteration, KeyError, EOFError)) or re.search(
        "no attribute '(items|keys|startswith)'", text
    ):
        return "it is no file of weights by their names, or damaged"
    if isinstance(error, json.JSONDecodeError) and (damaged := _damaged_json(Path(place))):
        return f"{damaged} is damaged: {text}"
    return reason(error)


def _damaged_json(folder: Path) -> Path | None:
    """The first JSON file in a folder that is none."""
    for file in sorted(folder.glob("*.json")):
        try:
            json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            return file
    return None


def _quoted(text: str, kind: str) -> list[str]:
    listed = re.search(rf'{kind} key\(s\) in state_dict: ((?:"[^"]*"(?:, )?)+)', text)
    return re.findall('"([^"]*)"', listed[1]) if listed else []


def misfit(missing: Collection[str], unexpected: Collection[str], shapes: Iterable[tuple[str, Any, Any]]) -> str | None:
    """What is wrong with weights that a model cannot take, with a hint at the usual causes; None where nothing is.

    Args:
        missing: Names that the model has and the weights do not.
        unexpected: Names that the weights have and the model does not.
        shapes: Name, shape in the file and shape in the model of weights that differ in it.
    """
    told = [f"{_count(missing)} missing, {min(missing)!r} first"] if missing else []
    told += [f"{_count(unexpected)} unknown to the model, {min(unexpected)!r} first"] if unexpected else []
    for name, stored, own in sorted(shapes)[:1]:
        told.append(f"{name!r} has the shape {_shape(stored)} in the file and {_shape(own)} in the model")
    return (", ".join(told) + _usual_cause(missing, unexpected)) if told else None


def _count(names: Collection[str]) -> str:
    return "1 weight is" if len(names) == 1 else f"{len(names)} weights are"


def _shape(shape: Any) -> str:
    return "(" + ", ".join(re.findall(r"\d+", str(shape))) + ")"


def _usual_cause(missing: Collection[str], unexpected: Collection[str]) -> str:
    """How weights that lack what a model needs have it under other names."""
    if not (missing and unexpected):
        return ""
    inner, first = min(missing), min(missing).split(".")[0]
    prefix = next((name.removesuffix(inner) for name in unexpected if name.endswith("." + inner)), None)
    if prefix:
        return f": their names begin with {prefix!r}, save them without it"
    if len(unexpected) <= 10 and (
        keys := [key for key in unexpected if key in ("model", "model_state_dict", "ema", "weights")]
    ):
        return f": the weights lie under {keys[0]!r}, save that alone"
    if any(name.startswith(("text_model.", "vision_model.")) for name in unexpected) and first not in (
        "text_model",
        "vision_model",
    ):
        return ": these are names of transformers, use `hf:FOLDER` with its config.json"
    return ""


def check_loaded(model: Any, loading: Mapping[str, Any], where: str, wanted: str) -> None:
    """See that a model of transformers got all its weights, and all of them numbers.

    Args:
        model: A torch module.
        loading: What `from_pretrained` gives with `output_loading_info`.
        where: The user's option and its value, for messages.
        wanted: What to give instead, for messages.

    Raises:
        UserError: Weights are missing (transformers draws them at random), belong to layers that the configuration does not
            name, or are NaN or infinite.
    """
    missing, unexpected = loading["missing_keys"], loading["unexpected_keys"]
    if missing:
        raise UserError(f"{where}: {misfit(missing, unexpected, ())}: {wanted}.")
    if layer := _further_layer(model, unexpected):
        raise UserError(f"{where}: its weights hold {layer!r}, a layer more than its config.json says: {wanted}.")
    if unexpected:
        logger.warning("%s: %s; what is unknown is not used.", where, misfit((), unexpected, ()))
    check_finite(model, where)


def _further_layer(model: Any, unexpected: Iterable[str]) -> str | None:
    """The first weight of a layer that is none of the model's, though it has those before."""
    from torch.nn import ModuleList

    layers = {name: len(module) for name, module in model.named_modules() if isinstance(module, ModuleList)}
    for name in sorted(unexpected):
        for number in re.finditer(r"\.(\d+)\.", name):
            if (count := layers.get(name[: number.start()])) is not None and int(number[1]) >= count:
                return name
    return None


def check_finite(model: Any, where: str, unused: str | None = None) -> None:
    """Raise UserError where a weight of a torch module is NaN or infinite: whatever it touches would be.

    Args:
        model: A torch module.
        where: The user's option and its value, for the message.
        unused: Begin of the names of weights that nothing here computes with.
    """
    import torch

    for name, weight in model.named_parameters():
        if unused is not None and name.startswith(unused):
            continue
        for numbers in (weight.detach(), *_scales(weight)):
            if numbers.is_meta or not numbers.numel() or not numbers.is_floating_point() or numbers.element_size() < 2:
                continue  # elsewhere, sharded or quantised
            low, high = numbers.aminmax()
            if low.isfinite() and high.isfinite():
                continue
            half = weight.dtype in (torch.float16, torch.bfloat16)
            cure = "load it in float32, or save it again" if half else "it is damaged, save or fetch it again"
            raise UserError(f"{where}: the weight {name!r} is not finite: {cure}.")


def _scales(weight: Any) -> list[Any]:
    """The numbers by which bitsandbytes multiplies what it has quantised."""
    state = getattr(weight, "quant_state", None)
    scales = [getattr(weight, "SCB", None), getattr(state, "absmax", None)]
    return [scale for scale in (*scales, getattr(getattr(state, "state2", None), "absmax", None)) if scale is not None]
