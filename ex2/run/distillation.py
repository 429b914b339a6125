"""Best-of-N distillation: before the first rollout, the adapter learns the best texts that the untrained policy has given anyway.

Every run samples and scores texts of the base LLM, for its report and for zscore. The best of each class, by the run's own
rewards, are what a first round of training can learn from without a new sample (rejection sampling fine-tuning: Yuan et al.,
arXiv:2308.01825). They are the base LLM's own sentences, so the policy starts from better ones that still read like it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import datasets
import torch
from datasets import Dataset
from tqdm import tqdm
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig, SFTTrainer

from ex2.base.errors import UserError
from ex2.options.run_options import RunOptions
from ex2.policy.asks import Ask
from ex2.policy.llm import lora_config
from ex2.policy.sampler import TextGenerator
from ex2.rewards.quality import whole_sentence
from ex2.scoring.best_of_n import best_of
from ex2.texts.questions import build_prompt


def best_answers(samples: Sequence[tuple[Ask, str]], scores: Sequence[float], keep: int) -> list[tuple[Ask, str]]:
    """The `keep` samples about each class or pair with the highest scores, of those that end a sentence.

    A text that was cut at the token limit would teach the policy to stop anywhere.
    """
    texts = [text for _, text in samples]
    whole = [i for i, ends in enumerate(whole_sentence(texts, texts)) if ends]
    best = best_of([samples[i][0].subject for i in whole], [scores[i] for i in whole], keep)
    return [samples[whole[i]] for i in best]


def total_scores(
    rewards: Sequence[Callable[..., list[float]]], weights: Sequence[float] | None, samples: Sequence[tuple[Ask, str]]
) -> list[float]:
    """Weighted sum of the run's rewards for each sample, (N,); a reward that does not apply (None) counts nothing."""
    texts = [text for _, text in samples]
    columns: dict[str, Any] = {
        "class_id": [ask.class_id for ask, _ in samples],
        "class_name": [ask.class_name for ask, _ in samples],
        "question": [ask.question for ask, _ in samples],
    }
    if samples and samples[0][0].other_id is not None:
        columns["other_id"] = [ask.other_id for ask, _ in samples]
        columns["other_name"] = [ask.other_name for ask, _ in samples]
    prompts = columns["question"]
    total = torch.zeros(len(samples))
    for reward, weight in zip(rewards, weights or [1.0] * len(rewards), strict=True):
        values = [float("nan") if value is None else value for value in reward(prompts, texts, **columns)]
        total += weight * torch.tensor(values).nan_to_num(0.0)
    return total.tolist()


def distill(options: RunOptions, generator: TextGenerator, answers: Sequence[tuple[Ask, str]]) -> None:
    """Give the generator's model a fresh adapter that has learnt `answers`, with TRL's SFTTrainer.

    Raises:
        UserError: There are no answers.
    """
    if not answers:
        raise UserError(
            f"distill_best={options.ex2.distill_best}: no text of the untrained policy ends a sentence within "
            f"{options.max_new_tokens} tokens: raise max_completion_length, or leave distill_best out."
        )
    trainer, chosen = options.trainer, options.ex2
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=trainer.per_device_train_batch_size,
            gradient_accumulation_steps=1,
            num_train_epochs=chosen.distill_epochs,
            learning_rate=chosen.distill_learning_rate,
            lr_scheduler_type="linear",
            max_grad_norm=trainer.max_grad_norm,
            max_length=None,
            gradient_checkpointing=trainer.gradient_checkpointing,
            bf16=trainer.bf16,
            fp16=trainer.fp16,
            use_cpu=trainer.use_cpu,
            seed=trainer.seed,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        with _without_bars():
            learner = SFTTrainer(
                model=generator.model,
                args=config,
                train_dataset=_lessons(generator, answers),
                processing_class=generator.tokenizer,
                peft_config=lora_config(options.policy),
            )
        learner.remove_callback(PrinterCallback)
        learner.add_callback(_Progress())
        learner.train()
        generator.model = learner.accelerator.unwrap_model(learner.model)
        learner.accelerator.free_memory()


class _Progress(TrainerCallback):
    """A bar over the updates."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        shown = state.is_world_process_zero
        self.bar = tqdm(total=state.max_steps, desc="distilling the best texts", unit="update", disable=not shown)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.update()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.close()


@contextmanager
def _without_bars() -> Iterator[None]:
    """No progress bars of datasets, which are there and gone."""
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _lessons(generator: TextGenerator, answers: Sequence[tuple[Ask, str]]) -> Dataset:
    """Prompts and completions as TRL's SFTTrainer takes them."""
    rows = []
    for ask, text in answers:
        prompt = build_prompt(
            ask.question,
            ask.class_name,
            chat=generator.chat,
            system_prompt=generator.system_prompt,
            other_name=ask.other_name,
        )
        completion = [{"role": "assistant", "content": text}] if generator.chat else text
        row: dict[str, Any] = {"prompt": prompt, "completion": completion}
        if generator.chat_template_kwargs:
            row["chat_template_kwargs"] = generator.chat_template_kwargs
        rows.append(row)
    return Dataset.from_list(rows)
