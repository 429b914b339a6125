"""What can be said against a policy before its weights are loaded: from options, tokenizer, configuration and adapter file."""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ex2.base.embedded_llm import public_name
from ex2.base.errors import UserError, first_line
from ex2.base.weights import check_weights
from ex2.policy.adapters import (
    ADAPTER_WEIGHTS,
    adapter_config,
    check_adapter_weights,
    check_head,
    check_lora_targets,
    linear_layers,
    lora_config,
)
from ex2.policy.llm import (
    NO_CODE,
    check_context,
    context_of,
    fit_padding,
    load_error,
    load_tokenizer,
    quantization_config,
    resolve_model,
)
from ex2.policy.prompts import prompt_tokens
from ex2.policy.turns import ready_to_chat
from ex2.texts.questions import build_prompt, load_questions

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl import ModelConfig

    from ex2.options.run_options import RunOptions

# Initialisations that move a part of the base weights into the adapter: without it, the base is another model.
_CHANGING_BASE = ("pissa", "olora", "corda", "loftq")


@dataclass(frozen=True)
class PolicyFiles:
    """A policy that has passed the checks.

    Attributes:
        path: Folder or hub id of the base model.
        tokenizer: Its tokenizer.
        chat: Whether prompts use the chat template.
    """

    path: str
    tokenizer: PreTrainedTokenizerBase
    chat: bool


def inspect_policy(options: RunOptions) -> PolicyFiles:
    """Find the policy's files and check that they fit each other and the options; no weights of the base model are read.

    Where the run starts from an adapter, `options` take over its LoRA settings, so that the run's record is true.

    Raises:
        UserError: Whatever cannot work.
    """
    policy, start = options.policy, options.ex2.adapter_name_or_path
    quantization_config(policy)
    path = resolve_model(policy.model_name_or_path, options.ex2.cache_dir, policy.model_revision)
    allowed = options.ex2.allow_pickle_formats
    if Path(path).is_dir():
        check_weights(Path(path), f"model_name_or_path={policy.model_name_or_path}", allowed)
    tokenizer = load_tokenizer(path, policy.model_revision)
    chat = check_prompt_format(options, tokenizer)
    model = _without_weights(policy, path)
    where = f"model_name_or_path={policy.model_name_or_path or path}"
    fit_padding(tokenizer, model.config, where)
    check_context(_prompt_length(options, tokenizer, chat), options.max_new_tokens, context_of(model.config), where)
    if start is None:
        check_lora_targets(policy, model)
        name = f"lora_target_modules={policy.lora_target_modules}"
        check_head(_adapted(model, lora_config(policy), name), name)
    else:
        config = adapter_config(start)
        check_adapter_kind(start, config)
        check_adapter_weights(start, f"adapter_name_or_path={start}", allowed)
        adopt_adapter(policy, start, config)
        _check_adapter_fits(start, config, model, policy.model_name_or_path)
    return PolicyFiles(path, tokenizer, chat)


def _prompt_length(options: RunOptions, tokenizer: PreTrainedTokenizerBase, chat: bool) -> int:
    """Tokens of the longest prompt at least, as no class is known yet."""
    questions = load_questions(options.ex2.questions)
    prompts = [build_prompt(question, "", chat=chat, system_prompt=options.ex2.system_prompt) for question in questions]
    return max(len(prompt_tokens(prompt, tokenizer, options.chat_template_kwargs)) for prompt in prompts)


def check_prompt_format(options: RunOptions, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether prompts use the chat template.

    Raises:
        UserError: There is none and it is needed, or it is of no use (`ready_to_chat`).
    """
    where, system_prompt = f"model_name_or_path={options.policy.model_name_or_path}", options.ex2.system_prompt
    chat = ready_to_chat(tokenizer, options.ex2.prompt_format, options.chat_template_kwargs, where, system_prompt)
    if system_prompt and not chat:
        raise UserError(
            f"system_prompt={system_prompt!r} has no place in plain prompts: leave it out (--system_prompt ''), or use a "
            "model with a chat template."
        )
    return chat


def check_adapter_kind(adapter: str, config: Any) -> None:
    """Refuse an adapter to start from that is more than low-rank updates of a policy's layers.

    Raises:
        UserError: It is no LoRA adapter for causal language models, or it trains or changes weights of the base model as well.
    """
    where = f"adapter_name_or_path={adapter}"
    if config.peft_type != "LORA":
        raise UserError(
            f"{where} is of the kind {getattr(config.peft_type, 'value', config.peft_type)}: EX2 trains LoRA adapters."
        )
    if config.task_type not in (None, "CAUSAL_LM"):
        raise UserError(f"{where} was made for the task {config.task_type}, not for a causal language model.")
    more = [
        name
        for name in ("modules_to_save", "target_parameters", "trainable_token_indices", "layer_replication")
        if getattr(config, name)
    ]
    more += ["bias"] * (config.bias != "none")
    more += ["init_lora_weights"] * str(config.init_lora_weights).startswith(_CHANGING_BASE)
    if more:
        raise UserError(
            f"{where} has {more[0]}={getattr(config, more[0])}: with it, the base model is no longer what is left when the "
            "adapter is off. Start from a plain LoRA adapter, or merge this one and train from the result."
        )


def adopt_adapter(policy: ModelConfig, adapter: str, config: LoraConfig) -> None:
    """Set the LoRA options to what the adapter has.

    Raises:
        UserError: One of them was set to something else.
    """
    own = {
        "lora_r": config.r,
        "lora_alpha": config.lora_alpha,
        "use_rslora": config.use_rslora,
        "use_dora": config.use_dora,
    }
    defaults = {f.name: f.default for f in fields(policy)}
    for name, value in own.items():
        given = getattr(policy, name)
        if given not in (value, defaults[name]):
            raise UserError(
                f"{name}={given}, but adapter_name_or_path={adapter} was made with {value}: leave {name} out, or start afresh."
            )
        setattr(policy, name, value)
    targets: Any = config.target_modules
    policy.lora_target_modules = sorted(targets) if isinstance(targets, set) else targets
    policy.lora_dropout = config.lora_dropout


def _without_weights(policy: ModelConfig, path: str) -> PreTrainedModel:
    """The base model as its configuration describes it, on torch's `meta` device."""
    from transformers import AutoConfig

    name = policy.model_name_or_path or path
    try:
        config = AutoConfig.from_pretrained(path, revision=policy.model_revision, **NO_CODE)
        model = empty_model(config)
    except (OSError, ValueError) as error:
        raise load_error("model_name_or_path", name, error) from error
    quantised = getattr(config, "quantization_config", None)
    if quantised is not None and (policy.load_in_8bit or policy.load_in_4bit):
        raise UserError(f"model_name_or_path={name} is quantised already: leave load_in_8bit and load_in_4bit out.")
    return model


def empty_model(config: Any) -> PreTrainedModel:
    """A causal language model without storage, of the shape that `config` says."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.modeling_utils import set_zero3_state

    # Else DeepSpeed ZeRO-3, where it is on, would share out the weights of this model too.
    with torch.device("meta"), set_zero3_state():
        return AutoModelForCausalLM.from_config(config, **NO_CODE)


def _adapted(model: PreTrainedModel, config: LoraConfig, where: str, hint: str = "") -> PeftModel:
    """`model`, which is on the `meta` device, with a LoRA adapter; UserError, beginning with `where`, where PEFT refuses."""
    import torch
    from peft import get_peft_model

    layers = linear_layers(model)
    try:
        with torch.device("meta"):
            return get_peft_model(model, config)
    except (ValueError, TypeError, KeyError, ImportError, RuntimeError) as error:
        text = first_line(error)
        cure = " Leave it out (--lora_dropout 0)." if "lora_dropout" in text else ""  # experts are adapted without
        if "incompatible" in text.lower():  # with a model such as Mamba, whose kernels read some weights themselves
            others = [layer for layer in layers if f"'{layer}'" not in text]
            cure = f" Name others: --lora_target_modules {' '.join(others)}."
        raise UserError(f"{where}: {text}{cure}{hint}") from error


def _check_adapter_fits(adapter: str, config: LoraConfig, model: PreTrainedModel, base: str | None) -> None:
    """Compare names and shapes of the adapter's weights with what the base model gives it; PEFT would only warn."""
    from accelerate import PartialState
    from peft import get_peft_model_state_dict, load_peft_weights
    from safetensors import SafetensorError

    made_for = config.base_model_name_or_path
    where = f"adapter_name_or_path={adapter} does not fit model_name_or_path={public_name(base)}"
    hint = f" It was made for {made_for}." if made_for else ""
    config = copy.deepcopy(config)
    config.base_model_name_or_path = None  # PEFT warns where it writes another name there
    adapted = _adapted(model, config, where, hint)
    check_head(adapted, f"adapter_name_or_path={adapter}")
    needed = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    if Path(adapter).is_dir() and not any((Path(adapter) / name).is_file() for name in ADAPTER_WEIGHTS):
        raise UserError(f"{adapter} holds no adapter: {ADAPTER_WEIGHTS[0]} is missing.")
    try:
        found = load_peft_weights(adapter, device="cpu")
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"adapter_name_or_path={adapter}: its weights could not be read ({error}).") from error
    for name in sorted(needed.keys() | found.keys()):
        shapes = [tuple(weights[name].shape) if name in weights else None for weights in (needed, found)]
        if shapes[0] != shapes[1]:
            expected, there = ("missing" if shape is None else f"of shape {shape}" for shape in shapes)
            raise UserError(f"{where}: {name} is {there} in the adapter and {expected} in the model.{hint}")
    if made_for not in (None, base, public_name(base)) and PartialState().is_main_process:
        print(
            f"warning: adapter_name_or_path={adapter} was made for {made_for}, and is used with {public_name(base)}.",
            file=sys.stderr,
        )
