"""EX2's own options of a training run, with validation. Importing this module imports no torch.

A run has three groups of options in one flat YAML file: these, TRL's ModelConfig (policy and LoRA), and the trainer's
(PPOConfig, GRPOConfig or RLOOConfig). `ex2.options.parse` parses and checks all three.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ex2.base.errors import UserError
from ex2.base.ranges import RANGES, check_ranges
from ex2.data.names import with_class_names
from ex2.texts.readings import Reading


def _option(default: Any, text: str, **metadata: Any) -> Any:
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": text, **metadata})
    return field(default=default, metadata={"help": text, **metadata})


@dataclass
class EX2Config:
    """What is scored, how it is rewarded, what is asked, and how the result is evaluated."""

    # VLM and images
    vlm: str = _option("pictogram", "VLM: pictogram, hf:ID_OR_DIR, open_clip:MODEL/PRETRAINED; see `ex2 list vlms`.")
    vlm_dtype: str = _option("float32", "Precision of the VLM's weights.", choices=["float32", "bfloat16", "float16"])
    dataset: str = _option("pictograms", "Labelled images: pictograms or folder:DIR; see `ex2 list datasets`.")
    class_names: str | None = _option(
        None,
        "File of class names for a folder:, csv: or hf: dataset: one a line in the order of the classes, or lines with a class's "
        "folder or label and its name. It becomes a part of `dataset`.",
    )
    images_per_class: int = _option(256, "Images of a class that are used at most, on each side of the split.")
    heldout_fraction: float = _option(0.5, "Share of images kept for evaluation, where the dataset has no split.")
    split_seed: int = _option(0, "Seed of the reward / held-out split.")
    # Rewards
    reward_funcs: list[str] = _option(
        ["cosine"], "Rewards by name, or package.module:function; see `ex2 list rewards`."
    )
    reading: list[str] = _option(
        ["as_written"],
        "What the VLM reads of a description: as_written; nameless: without the name of its class; framed: what it adds to the "
        "name, NAME: description. minus NAME. Several are mixed.",
    )
    reading_weights: list[float] | None = _option(None, "Share of each reading; null: equal shares.")
    reward_scale: float = _option(100.0, "Multiplier of similarity rewards, the same for every VLM.")
    reward_normalization: str = _option(
        "scale",
        "scale: similarity x reward_scale; zscore: standardised with the untrained policy's scores of each class, so that "
        "the KL strength means the same for every VLM.",
        choices=["scale", "zscore"],
    )
    # Prompts
    questions: str = _option(
        "short",
        "Question set (see `ex2 list questions`) or a text file with one question a line; behind ` -> ` the words that the "
        "answer is to begin with.",
    )
    pairs: int | None = _option(
        None,
        "Train on the N pairs of classes that the VLM confuses most, with questions=pairs, for example; null: on all classes "
        "by themselves.",
    )
    prompt_format: str = _option(
        "auto", "chat: chat template; plain: question and two newlines; auto: chat where the tokenizer has a template.",
        choices=["auto", "chat", "plain"],
    )  # fmt: skip
    system_prompt: str | None = _option(None, "System message of chat prompts; null: the template's own.")
    # Policy
    adapter_name_or_path: str | None = _option(None, "Start from this LoRA adapter instead of a fresh one.")
    reference: str = _option(
        "base", "KL reference: base (adapter off) or start (a frozen copy of adapter_name_or_path).",
        choices=["base", "start"],
    )  # fmt: skip
    # Evaluation before and after
    before_after: bool = _option(
        True, "Sample the untrained and the trained policy and write the before / after report."
    )
    eval_samples: int = _option(4, "Descriptions a class sampled from the aligned policy for the report.")
    best_of_n: int | None = _option(
        None, "N of the best-of-N control; null: as many text encodings a class as training spends (at least 2)."
    )
    eval_batch_size: int = _option(64, "Batch size of sampling for the report.")
    # Run
    cache_dir: str | None = _option(None, "Folder of banks and converted models; null: $EX2_CACHE or ~/.cache/ex2.")
    allow_pickle_formats: bool = _option(
        False,
        "Read weights in .bin, .pt and .pth files too, formats that can hold code, with torch's restricted unpickler.",
    )
    sample_tables: int = _option(
        10, "wandb and trackio get a table of the texts with their reward terms once in so many rollouts; 0: none."
    )
    overwrite: bool = _option(False, "Delete the run that output_dir holds and start anew.")
    dry_run: bool = _option(False, "Print the resolved options, batch arithmetic and memory estimate; load no weights.")

    def __post_init__(self) -> None:
        check_ranges(self, RANGES)
        # In the spec: then the run's record says how its classes are called, and commands that take it from there know it.
        self.dataset, self.class_names = with_class_names(self.dataset, self.class_names), None
        self.chosen_reading()
        if self.pairs is None and "pair_margin" in self.reward_funcs:
            raise UserError(
                "reward_funcs=pair_margin compares the two classes of a pair: set pairs (the number of most confused pairs to "
                "train on) and questions=pairs."
            )
        if self.heldout_fraction in (0, 1):
            raise UserError(f"heldout_fraction={self.heldout_fraction} is out of range: it must lie between 0 and 1.")
        if self.reward_scale <= 0:
            raise UserError(f"reward_scale={self.reward_scale} is out of range: it must be positive.")
        if self.reference == "start" and self.adapter_name_or_path is None:
            raise UserError("reference=start needs adapter_name_or_path: a fresh adapter equals the base model.")
        check_choices(vars(self))

    def chosen_reading(self) -> Reading:
        """What the VLM reads of descriptions.

        Raises:
            UserError: An unknown reading, or weights that do not fit.
        """
        return Reading.of(self.reading, self.reading_weights)


def check_choices(values: Mapping[str, Any]) -> None:
    """Raise UserError where an option of EX2's own that takes one of some words has another."""
    for option in fields(EX2Config):
        choices = option.metadata.get("choices")
        if choices and values.get(option.name, option.default) not in choices:
            raise UserError(f"{option.name}={values[option.name]} is unknown: choose one of {', '.join(choices)}.")
