"""TRL's online trainers as EX2 uses them: with its rewards, a log of every sample, and the monitors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from datasets import Dataset
from torch import Tensor
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from trl import GRPOTrainer, RLOOTrainer

from ex2.base.embedded_llm import public_name
from ex2.base.files import write_atomically
from ex2.options.run_options import RunOptions
from ex2.policy.adapters import embeddings_adapted, lora_config
from ex2.policy.prompts import rendered
from ex2.policy.sampler import TextGenerator
from ex2.rewards import RewardStats, build_rewards
from ex2.rewards.monitors import monitor, variety
from ex2.rl.guards import GuardedRollouts
from ex2.rl.interruptions import written_by_all
from ex2.rl.ppo_trainer import PPOTrainer
from ex2.rl.precision import SampledAsScored, TrainedInFloat32
from ex2.rl.resume import ExactResume
from ex2.rl.trl_names import Mixin
from ex2.rl.vllm_weights import FrozenBase
from ex2.run import folder as run_folder
from ex2.run.card import adapter_card
from ex2.run.sample_tables import SampleTables
from ex2.scoring import TextScorer
from ex2.texts.questions import completion_text, opened
from ex2.texts.readings import AS_WRITTEN, Reading

_SAMPLE_COLUMNS = ("class_id", "class_name", "other_id", "other_name", "question")


class OpenedAnswers(Mixin):
    """Mixin for TRL's online trainers: prompts that end with the opening of the answer, which is scored with its opening.

    TRL would close the assistant's turn behind it, and score what comes after alone.
    """

    def _tokenize_prompts(self, prompts: list[Any]) -> Any:
        if isinstance(prompts[0], str) or all(prompt[-1]["role"] != "assistant" for prompt in prompts):
            return super()._tokenize_prompts(prompts)
        texts = [rendered(self._tokenizer, prompt, **self.chat_template_kwargs) for prompt in prompts]
        return self._tokenizer(texts, add_special_tokens=False)["input_ids"], None, {}

    def _calculate_rewards(
        self, inputs: list[dict[str, Any]], prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Tensor:
        openings = [row.get("opening", "") for row in inputs]
        completions = [_opened(opening, said) for opening, said in zip(openings, completions, strict=True)]
        return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)


def _opened(opening: str, completion: Any) -> Any:
    if isinstance(completion, str):
        return opened(opening, completion)
    return [*completion[:-1], completion[-1] | {"content": opened(opening, completion[-1]["content"])}]


class SampleLog(Mixin):
    """Mixin for TRL's online trainers: writes every sample with every reward term, and logs the monitors."""

    scorer: TextScorer
    samples_path: Path
    tables = SampleTables((), every=0)
    reading: Reading = AS_WRITTEN

    def _calculate_rewards(
        self, inputs: list[dict[str, Any]], prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Tensor:
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        texts = [completion_text(completion) for completion in completions]
        class_ids = [row["class_id"] for row in inputs]
        other_ids = [row["other_id"] for row in inputs] if "other_id" in inputs[0] else None
        first = self.accelerator.process_index * len(texts)
        own = rewards[first : first + len(texts)].tolist()
        heldout = self.scorer.cosine(texts, class_ids, split="heldout").tolist()
        rows = [
            {
                "step": self.state.global_step,
                **{name: row[name] for name in _SAMPLE_COLUMNS if name in row},
                "text": text,
                "scores": {**dict(zip(self.reward_func_names, terms, strict=True)), "heldout_cosine": cosine},
            }
            for row, text, terms, cosine in zip(inputs, texts, own, heldout, strict=True)
        ]
        rows = gather_object(rows)
        monitors = monitor(self.scorer, texts, class_ids, other_ids, self.reading) | variety(
            [row["text"] for row in rows]
        )
        for name, value in monitors.items():
            self._log_metric(name, value)
        if self.model.training:
            with written_by_all(self.samples_path.name, self.samples_path.parent):
                if self.accelerator.is_main_process:
                    with self.samples_path.open("a", encoding="utf-8") as file:
                        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            if self.accelerator.is_main_process:
                self.tables.log(self.state.global_step, rows)
        return rewards

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """TRL writes its own card at each checkpoint; the run's card is written once, by EX2, with results in it."""


class EX2PPOTrainer(OpenedAnswers, SampleLog, PPOTrainer):
    """PPO with EX2's sample log and monitors."""


class EX2GRPOTrainer(
    OpenedAnswers, SampleLog, GuardedRollouts, SampledAsScored, TrainedInFloat32, FrozenBase, ExactResume, GRPOTrainer
):
    """TRL's GRPO with EX2's sample log and monitors."""


class EX2RLOOTrainer(
    OpenedAnswers, SampleLog, GuardedRollouts, SampledAsScored, TrainedInFloat32, FrozenBase, ExactResume, RLOOTrainer
):
    """TRL's RLOO with EX2's sample log and monitors."""


EX2Trainer = EX2PPOTrainer | EX2GRPOTrainer | EX2RLOOTrainer
TRAINERS: dict[str, Callable[..., EX2Trainer]] = {"ppo": EX2PPOTrainer, "grpo": EX2GRPOTrainer, "rloo": EX2RLOOTrainer}


def build_trainer(
    options: RunOptions,
    generator: TextGenerator,
    prompts: Dataset,
    scorer: TextScorer,
    stats: Mapping[str, RewardStats] | None,
) -> EX2Trainer:
    """The TRL trainer of the chosen algorithm with EX2's rewards and sample log."""
    rewards: list[Callable[..., list[float]]] = build_rewards(
        options.ex2.reward_funcs,
        scorer,
        scale=options.ex2.reward_scale,
        stats=stats,
        reading=options.ex2.chosen_reading(),
    )
    if options.trainer.ddp_find_unused_parameters is None:
        options.trainer.ddp_find_unused_parameters = False  # every LoRA weight and the value head is used in each pass
    fresh = options.ex2.adapter_name_or_path is None
    trainer = TRAINERS[options.algorithm](
        model=generator.model,
        reward_funcs=rewards,
        args=options.trainer,
        train_dataset=prompts,
        processing_class=generator.tokenizer,
        peft_config=lora_config(options.policy) if fresh else None,
    )
    if options.ex2.reference == "base" and "ref" in trainer.model.peft_config:
        trainer.model.delete_adapter("ref")  # TRL keeps a copy of the starting adapter; the base model was asked for
    if trainer.is_fsdp_enabled:
        # transformers cannot see that the model will be sharded, and would let a process stop sampling before the others.
        trainer.model.get_base_model()._is_fsdp_managed_module = True
    # Without this, every saved adapter would name a folder of this machine as its base.
    trainer.model.peft_config["default"].base_model_name_or_path = public_name(options.policy.model_name_or_path)
    if not embeddings_adapted(trainer.model):
        # Else PEFT would ask the hub at every save whether the vocabulary was resized, which EX2 never does.
        trainer.model.save_pretrained = partial(trainer.model.save_pretrained, save_embedding_layers=False)
    # PEFT writes a card with every adapter: a form to be filled in, with a folder of this machine as the base.
    card = adapter_card(options).encode()
    trainer.model.create_or_update_model_card = lambda folder: write_atomically(Path(folder) / run_folder.CARD, card)
    trainer.scorer = scorer
    trainer.reading = options.ex2.chosen_reading()
    trainer.samples_path = options.output_dir / run_folder.SAMPLES
    trainer.tables = SampleTables(options.report_to, options.ex2.sample_tables * options.updates_per_rollout)
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    return trainer
