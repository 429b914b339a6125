"""What a training run would do, without doing it: resolved options, batch arithmetic, estimates of memory and time.

No weights are loaded: parameters are counted on models without storage (torch's `meta` device), built from configurations.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from ex2.analysis.findings import TOGETHER
from ex2.base.embedded_llm import EMBEDDED, embedded_gguf
from ex2.base.errors import UserError, first_line
from ex2.base.files import from_home
from ex2.data import LabelledImages, PlantedImages, load_images
from ex2.options.ex2_options import EX2Config
from ex2.options.run_options import RunOptions, num_processes
from ex2.policy.adapters import adapter_config, check_head, lora_config
from ex2.policy.checks import adopt_adapter, check_adapter_kind, check_prompt_format, empty_model
from ex2.policy.llm import NO_CODE, load_tokenizer, model_folder
from ex2.policy.prompts import rendered
from ex2.rewards import check_rewards
from ex2.run.cost import GPUS, rollout_work, seconds
from ex2.run.folder import holds_run
from ex2.run.rehearsal import rehearse
from ex2.stats.intervals import detectable, visible_accuracy
from ex2.texts.questions import build_prompt, check_questions, load_questions
from ex2.vlm import check_spec
from ex2.zero_shot.confusion import check_pair_count

PROMPT_TOKENS = 64
"""Length of a prompt that the estimate assumes."""

# SmolLM2-135M-Instruct, as the header of its GGUF file describes it; reading that file takes longer than the rest.
_EMBEDDED_SHAPE: dict[str, Any] = {
    "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
}  # fmt: skip
_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}


@dataclass(frozen=True)
class PolicySize:
    """Numbers of a policy's parameters, and the shape that activations depend on.

    Attributes:
        parameters: All parameters of the base model.
        linear: Those in linear layers other than the LM head, which quantisation compresses.
        lora: Trainable parameters of the adapter.
        layers, hidden, kv_width: Depth, width, and width of the keys (or values) of one layer.
        dtype: Precision of the base weights.
    """

    parameters: int
    linear: int
    lora: int
    layers: int
    hidden: int
    kv_width: int
    dtype: str


def describe(options: RunOptions) -> str:
    """The run as text: options, batches, memory.

    Raises:
        UserError: What `ex2.run.training.run` would refuse too: unknown rewards, questions or datasets, too few prompts, prompts
            that the policy's tokenizer cannot make.
    """
    check_rewards(options.ex2.reward_funcs, options.ex2.reward_normalization)
    check_spec(options.ex2.vlm)
    pairs = options.ex2.pairs
    questions = load_questions(options.ex2.questions)
    check_questions(questions, about_pairs=pairs is not None)
    images = load_images(options.ex2.dataset)
    classes = len(images.class_names)
    if pairs is not None:
        check_pair_count(pairs, classes)
    subjects, noun = (classes, "classes") if pairs is None else (2 * pairs, "ordered pairs")
    options.check_prompts(subjects * len(questions))
    prompt = _check_policy(options, questions[0])
    rehearse(options)
    parts = [
        f"Dry run of {options.algorithm.upper()}: nothing is loaded, trained or written.",
        _options_text(options),
        _batches_text(options, subjects, noun, len(questions)),
        *([] if prompt is None else [f"# A prompt, as the policy reads it\n{prompt}"]),
    ]
    size: PolicySize | str
    try:
        size = policy_size(options)
    except _Unknown as reason:
        size = str(reason)
    memory, known = _memory_text(options, size)
    if pairs is None:
        parts.append(_power_text(options, images))
    parts += [memory, _cost_text(options, size, known, options.planned_samples(subjects * len(questions)))]
    if holds_run(options.output_dir) and not options.trainer.resume_from_checkpoint:
        parts.append(
            f"Note: output_dir={options.output_dir} already holds a run; starting would need overwrite or resume."
        )
    return "\n\n".join(parts)


def _check_policy(options: RunOptions, question: str) -> str | None:
    """The checks of `ex2.policy.checks`, as far as tokenizer and adapter lie in folders; the prompt of a question."""
    name, start = options.policy.model_name_or_path, options.ex2.adapter_name_or_path
    folder, prompt = None if name in (None, EMBEDDED) else model_folder(name), None
    if folder is not None and (folder / "tokenizer_config.json").is_file():
        tokenizer = load_tokenizer(str(folder))
        chat = check_prompt_format(options, tokenizer)
        asked = build_prompt(question, "cat", chat=chat, system_prompt=options.ex2.system_prompt, other_name="dog")
        prompt = asked if isinstance(asked, str) else rendered(tokenizer, asked, **options.chat_template_kwargs)
    if start is not None and Path(start).is_dir():
        config = adapter_config(start)
        check_adapter_kind(start, config)
        adopt_adapter(options.policy, start, config)
    return prompt


# ---------------------------------------------------------------- options


def _options_text(options: RunOptions) -> str:
    resolved = options.as_dict()
    own = [f.name for part in (options.ex2, options.policy) for f in fields(part) if f.name in resolved]
    # Against an instance and not the fields' defaults: some options are derived from others when one is made.
    usual = type(options.trainer)(output_dir="", bf16=False, report_to="none")
    changed = [f.name for f in fields(usual) if getattr(options.trainer, f.name) != getattr(usual, f.name)]
    always = {name: resolved[name] for name in own}
    others = {name: resolved[name] for name in sorted(set(changed) & set(resolved) - set(own))}
    text = yaml.safe_dump(always, sort_keys=False) + yaml.safe_dump(others)
    return f"# Options (of the trainer only those that differ from their defaults)\n{text}".rstrip()


# ---------------------------------------------------------------- batches


def _batches_text(options: RunOptions, subjects: int, noun: str, questions: int) -> str:
    trainer, processes = options.trainer, num_processes()
    prompts = subjects * questions
    samples = options.planned_samples(prompts)
    rollout = options.samples_per_rollout
    rows = [
        ("samples a rollout", rollout,
         f"per_device_train_batch_size {trainer.per_device_train_batch_size} x steps_per_generation "
         f"{trainer.steps_per_generation} x {processes} process{'es' * (processes > 1)}"),
        ("prompts a rollout", options.prompts_per_rollout, f"samples a rollout / num_generations {trainer.num_generations}"),
        ("updates a rollout", options.updates_per_rollout,
         f"num_iterations {trainer.num_iterations} x steps_per_generation {trainer.steps_per_generation} / "
         f"gradient_accumulation_steps {trainer.gradient_accumulation_steps}"),
        ("samples an update", rollout * trainer.num_iterations // options.updates_per_rollout,
         "per_device_train_batch_size x gradient_accumulation_steps x processes"),
        ("rollouts in the run", samples // rollout,
         f"max_steps {trainer.max_steps} / updates a rollout" if trainer.max_steps > 0
         else f"num_train_epochs {trainer.num_train_epochs} x questions / prompts a rollout"),
        ("samples in the run", samples, "rollouts x samples a rollout"),
        ("questions", prompts, f"{subjects} {noun} x {questions} templates"),
        ("passes over the questions", f"{samples / prompts:.2f}", "samples in the run / questions"),
    ]  # fmt: skip
    return "# Batches, over all processes\n" + "\n".join(
        f"{name:<27}{value!s:>8}  = {how}" for name, value, how in rows
    )


# ---------------------------------------------------------------- what can be seen

_CHANGE_SPREAD = 0.2
"""Standard deviation over classes of the change of a category's share, as the quickstart has it."""


def _power_text(options: RunOptions, images: LabelledImages | PlantedImages) -> str:
    """How large an effect must be to be seen in the results of the run."""
    classes = len(images.class_names)
    head = "# What the results can show"
    if classes < 2:
        return f"{head}\nNothing: intervals are about classes, and there is one."
    lines = [head]
    if isinstance(images, LabelledImages):
        lines.append(visible_accuracy(classes, _heldout_images(options, images)))
    change = detectable(_CHANGE_SPREAD / math.sqrt(classes), classes - 1, level=TOGETHER)
    lines += [
        f"A category's share of clauses has to change by {100 * change:.0f} points to be seen (changes differ by "
        f"{100 * _CHANGE_SPREAD:.0f} points between classes).",
        "One run says nothing about other runs: train three or more with other seeds and compare them (ex2 compare).",
    ]
    return "\n".join(lines)


def _heldout_images(options: RunOptions, images: LabelledImages) -> float:
    """Median number of held-out images of a class."""
    own = [label for i, label in enumerate(images.labels) if images.splits is None or images.splits[i] == "heldout"]
    share = options.ex2.heldout_fraction if images.splits is None else 1.0
    counts = Counter(own)
    return max(
        1.0, median(min(share * counts[i], options.ex2.images_per_class) for i in range(len(images.class_names)))
    )


# ---------------------------------------------------------------- memory


def _memory_text(options: RunOptions, size: PolicySize | str) -> tuple[str, float]:
    """The table of memory, and the sum of what is known of it; `size` says why where it is not known."""
    rows: list[tuple[str, float | None, str]] = []
    rows += [("policy", None, size)] if isinstance(size, str) else _policy_rows(options, size)
    rows.append(_vlm_row(options.ex2))
    known = [value for _, value, _ in rows if value is not None]
    rows.append(("sum" if len(known) == len(rows) else "sum of what is known", sum(known), ""))
    lines = [f"{name:<22}{_amount(value):>12}  {how}".rstrip() for name, value, how in rows]
    head = "# Memory of one process (an estimate; without the libraries, and before ZeRO or FSDP shards anything)"
    return "\n".join([head, *lines]), sum(known)


def _policy_rows(options: RunOptions, size: PolicySize) -> list[tuple[str, float | None, str]]:
    trainer, policy = options.trainer, options.policy
    weights, how = base_weight_bytes(size, load_in_8bit=policy.load_in_8bit, load_in_4bit=policy.load_in_4bit)
    copies = 2 if options.ex2.reference == "start" else 1
    width = 2.0 if trainer.bf16 or trainer.fp16 else _BYTES[size.dtype]
    length = PROMPT_TOKENS + options.max_new_tokens
    batch = trainer.per_device_train_batch_size
    generated = options.samples_per_rollout // num_processes()
    rows: list[tuple[str, float | None, str]] = [
        ("base weights", weights, f"{size.parameters:,} parameters, {how}"),
        ("LoRA weights", 4.0 * size.lora * copies,
         f"{size.lora:,} parameters x 4 bytes{' x 2 (frozen reference)' * (copies > 1)}"),
        ("LoRA gradients, Adam", 12.0 * size.lora, "parameters x (4 + 8) bytes"),
    ]  # fmt: skip
    if options.algorithm == "ppo":
        rows.append(("value head", 16.0 * (size.hidden + 1), f"{size.hidden + 1:,} parameters with gradient and Adam"))
    if trainer.gradient_checkpointing:  # the input of every layer, and everything inside the one being recomputed
        kept, numbers = size.layers + 17, f"({size.layers} layers + 17)"
    else:
        kept, numbers = 17 * size.layers, f"{size.layers} layers x 17"
    rows += [
        ("activations", batch * length * size.hidden * kept * width,
         f"{batch} texts x {length} tokens (prompts taken as {PROMPT_TOKENS}) x {size.hidden} wide x {numbers} x {width:g} bytes "
         "(arXiv:2205.05198)"),
        ("key-value cache", 2 * size.layers * size.kv_width * length * generated * width,
         f"sampling {generated} texts at once: 2 x {size.layers} layers x {size.kv_width} x {length} tokens x {width:g} bytes"),
    ]  # fmt: skip
    return rows


# ---------------------------------------------------------------- passes and seconds


def _cost_text(options: RunOptions, size: PolicySize | str, memory: float, samples: int) -> str:
    """What one process does for a rollout, and how long that takes by arithmetic where the policy's size is known."""
    trainer, processes = options.trainer, num_processes()
    batch = trainer.per_device_train_batch_size
    work = rollout_work(
        texts=options.samples_per_rollout // processes,
        length=options.max_new_tokens,
        prompt=PROMPT_TOKENS,
        scoring_texts=getattr(trainer, "scoring_batch_size", None) or batch,
        training_texts=batch,
        epochs=trainer.num_iterations,
        with_reference=trainer.beta > 0,
        recomputes=trainer.gradient_checkpointing,
    )
    by = "policy and reference" if trainer.beta > 0 else "policy"
    again = ", its activations twice" * work.recomputes
    lines = [
        f"# Work of one process for a rollout (prompts taken as {PROMPT_TOKENS} tokens; what they share is computed once)",
        f"sampling  {work.length:>6} steps of {work.texts} tokens: {work.texts * work.length:,} tokens",
        f"scoring   {work.scoring_passes:>6} passes of {work.scoring_texts} texts by {by}: at most {work.scored_tokens:,} tokens",
        f"training  {work.training_passes:>6} passes of {work.training_texts} texts, forward and backward{again}: at most "
        f"{work.trained_tokens:,} tokens",
    ]
    if isinstance(size, str):
        return "\n".join(lines)
    policy = options.policy
    weights, _ = base_weight_bytes(size, load_in_8bit=policy.load_in_8bit, load_in_4bit=policy.load_in_4bit)
    rollouts = samples // options.samples_per_rollout
    lines += [
        "",
        "# Time of a rollout and of the run on one GPU (arithmetic for transformers' `generate`, not measured)",
    ]
    for gpu in GPUS:
        took = seconds(work, gpu, parameters=size.parameters, layers=size.layers, weight_bytes=weights)
        room = gpu.memory * 2**30 - memory
        fits = f"{_amount(room)} left of {gpu.memory} GiB" if room > 0 else f"does not fit into {gpu.memory} GiB"
        lines.append(f"{gpu.name:<10}{took:>8.1f} s{_duration(took * rollouts):>11}   {fits}")
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    """A time in the unit in which it is no zero."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def base_weight_bytes(size: PolicySize, *, load_in_8bit: bool, load_in_4bit: bool) -> tuple[float, str]:
    """Bytes of the frozen base weights, and how they are stored."""
    width = _BYTES[size.dtype]
    if load_in_8bit:
        return size.linear + width * (size.parameters - size.linear), f"linear layers in 8 bits, others in {size.dtype}"
    if load_in_4bit:  # half a byte, and one float32 scale for each block of 64
        quantised = size.linear * (0.5 + 4 / 64)
        return quantised + width * (size.parameters - size.linear), f"linear layers in 4 bits, others in {size.dtype}"
    return width * size.parameters, size.dtype


class _Unknown(Exception):
    """A number that cannot be known before the run; the message says why."""


def policy_size(options: RunOptions) -> PolicySize:
    """Sizes of the policy, from its configuration alone.

    Raises:
        UserError: The policy is no folder with a model, its package is missing, or LoRA's targets do not fit it.
        _Unknown: Its configuration could not be fetched from the hub.
    """
    import torch
    from peft import get_peft_model

    config = _policy_config(options.policy.model_name_or_path, options.policy.model_revision)
    wanted = options.policy.dtype
    own = str(getattr(config, "dtype", None) or "float32").removeprefix("torch.")
    try:
        model = empty_model(config)
        total = sum(p.numel() for p in model.parameters())
        head = model.get_output_embeddings()
        linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head)
        with torch.device("meta"):
            adapted = get_peft_model(model, _adapter_config(options))
    except ValueError as error:
        name = options.policy.model_name_or_path or EMBEDDED
        raise UserError(f"model_name_or_path={name} does not fit: {first_line(error)}") from error
    check_head(adapted, f"lora_target_modules={options.policy.lora_target_modules}")
    text = config.get_text_config()
    heads = text.num_attention_heads
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    return PolicySize(
        parameters=total,
        linear=linear,
        lora=sum(p.numel() for p in adapted.parameters() if p.requires_grad),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        kv_width=kv_heads * (getattr(text, "head_dim", None) or text.hidden_size // heads),
        dtype=own if wanted in (None, "auto") else wanted,
    )


def _policy_config(name: str | None, revision: str) -> Any:
    from transformers import LlamaConfig

    if name is None or name == EMBEDDED:
        embedded_gguf()  # only to say so where it is missing
        return LlamaConfig(**_EMBEDDED_SHAPE)
    return _config(model_folder(name), name, f"model_name_or_path={name}", revision)


def _adapter_config(options: RunOptions) -> Any:
    start = options.ex2.adapter_name_or_path
    if start is None or not Path(start).is_dir():
        return lora_config(options.policy)  # of an adapter on the hub the size is a guess: that of a fresh one
    config = adapter_config(start)
    config.inference_mode = False
    config.base_model_name_or_path = None  # PEFT warns where it writes another name there
    return config


def _config(folder: Path | None, name: str, option: str, revision: str = "main") -> Any:
    """The transformers configuration in a folder or on the hub."""
    from transformers import AutoConfig

    from ex2.base.hub import require_repository

    offline = False
    if folder is None:
        try:
            offline = require_repository(name, option, "use a local folder", "config.json")
        except UserError as error:
            raise _Unknown(f"unknown: {error}") from error
    try:
        return AutoConfig.from_pretrained(str(folder or name), revision=revision, local_files_only=offline, **NO_CODE)
    except (OSError, ValueError) as error:
        raise UserError(f"{option}: its config.json could not be read: {first_line(error)}") from error


def _vlm_row(config: EX2Config) -> tuple[str, float | None, str]:
    """The text tower, which stays on the device; the image tower is freed once the images are encoded."""
    try:
        parameters = _text_tower_parameters(config.vlm)
    except _Unknown as reason:
        return "VLM text tower", None, str(reason)
    return "VLM text tower", _BYTES[config.vlm_dtype] * parameters, f"{parameters:,} parameters, {config.vlm_dtype}"


def _text_tower_parameters(spec: str) -> int:
    import torch
    from transformers import AutoModel

    kind, _, rest = spec.partition(":")
    if kind == "open_clip":
        from ex2.vlm.openclip import text_tower_parameters

        parameters = text_tower_parameters(spec)
        if parameters is None:
            raise _Unknown("unknown until loaded")
        return parameters
    folder: Path | None
    if kind == "hf":
        folder, name = (from_home(rest) if from_home(rest).is_dir() else None), rest
    else:
        from ex2.vlm.pictogram import text_tower_folder

        folder, name = text_tower_folder(), spec
    config = _config(folder, name, f"vlm={spec}")
    with torch.device("meta"):
        model = AutoModel.from_config(config, **NO_CODE)
    return sum(p.numel() for name, p in model.named_parameters() if "vision" not in name and "visual" not in name)


def _amount(value: float | None) -> str:
    if value is None:
        return "unknown"
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value / 2**10:.2f} KiB"
