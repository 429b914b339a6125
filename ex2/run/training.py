"""Puts a run together: VLM, bank, rewards, policy, trainer, run folder, before / after report.

The only module that knows all the parts. `train/*.py` call `main` with the name of their algorithm.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from trl.models import unwrap_model_for_generation

from ex2.base.cache import cache_folder
from ex2.base.embedded_llm import EMBEDDED
from ex2.base.errors import UserError
from ex2.base.files import write_atomically
from ex2.base.progress import progress_bar
from ex2.base.shown import say, shell_line
from ex2.data import load_images
from ex2.options.combinations import check_launch, what_processes_share
from ex2.options.run_options import RunOptions, num_processes
from ex2.options.vllm import fit_vllm_length, require_rollout_engine
from ex2.policy.asks import Ask, about, spread_asks
from ex2.policy.checks import PolicyFiles, inspect_policy
from ex2.policy.lengths import length_for_server, longest
from ex2.policy.llm import load_policy
from ex2.policy.prompts import rendered
from ex2.policy.sampler import TextGenerator
from ex2.rewards import RewardStats, check_rewards
from ex2.rewards.build import similarity_rewards
from ex2.rewards.normalization import reward_groups
from ex2.rewards.similarity import raw_rewards
from ex2.rl.checkpoints import UNFINISHED, damage, finish, newest_whole
from ex2.rl.interruptions import LeaveOnSigterm, going_on_told, written_by_all
from ex2.rl.resume import state_of
from ex2.rl.sharding import loading_whole, whole_weights
from ex2.run import folder as run_folder
from ex2.run.card import run_card
from ex2.run.rehearsal import rehearse
from ex2.run.report import write_report
from ex2.run.trainers import EX2Trainer, build_trainer
from ex2.run.wandb_run import check_wandb, start_wandb
from ex2.scoring import TextScorer
from ex2.scoring.bank import ImageBank, build_bank
from ex2.texts.pairs import both_ways
from ex2.texts.questions import build_prompts, check_questions, load_questions
from ex2.texts.readings import check_names
from ex2.vlm import load_vlm
from ex2.zero_shot.confusion import check_pair_count, confused_pairs

logger = logging.getLogger(__name__)


@dataclass
class Clock:
    """Seconds spent in each part of a run."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] = round(self.seconds.get(part, 0.0) + time.perf_counter() - start, 1)


def run(options: RunOptions) -> Path:
    """Train one policy and report what changed. Returns the run folder.

    Raises:
        UserError: Anything the user can mend, before training starts.
        RunStopped: Numbers that are not finite, a KL above its limit, a full disk or SIGTERM; earlier checkpoints are kept.
    """
    check_launch(options)
    check_rewards(options.ex2.reward_funcs, options.ex2.reward_normalization)
    questions = load_questions(options.ex2.questions)
    check_questions(questions, about_pairs=options.ex2.pairs is not None)
    with run_folder.taken(options):
        return _run(options, questions)


def _run(options: RunOptions, questions: Sequence[str]) -> Path:
    state = PartialState()
    if state.is_main_process and (shared := what_processes_share(options)) is not None:
        logger.warning(shared)
    files = inspect_policy(options)
    checkpoint = _checkpoint(options, state)
    check_wandb(options.report_to)
    require_rollout_engine(options, length_for_server(options, questions, files))
    rehearse(options)
    clock = Clock()

    with clock.time("vlm and images"):
        scorer = _scorer(options, state)
        pairs = _pairs(options, scorer)
    class_names = scorer.bank.class_names
    check_names(options.ex2.chosen_reading(), class_names)
    if options.ex2.before_after and len(class_names) < 2:
        raise UserError(
            f"dataset={options.ex2.dataset} has one class: the intervals of the before / after report are over classes. "
            "Add classes, or train without the report (--before_after false)."
        )
    with clock.time("policy"):
        generator = _policy(options, files)
        prompts = build_prompts(
            class_names, questions, chat=generator.chat, system_prompt=options.ex2.system_prompt, pairs=pairs
        )
        options.check_prompts(len(prompts))
        if options.trainer.use_vllm:
            fit_vllm_length(options, longest(prompts["prompt"], generator.tokenizer, options.chat_template_kwargs))
        if state.is_main_process:
            # Everything the user can mend has been checked: only now is anything moved or written.
            if checkpoint is None:
                run_folder.put_aside(options.output_dir)
            run_folder.write_config(options)
            first = prompts["prompt"][0]
            asked = (
                first
                if isinstance(first, str)
                else rendered(generator.tokenizer, first, **options.chat_template_kwargs)
            )
            environment = _environment(options, scorer, pairs, prompt=asked)
            run_folder.write_json(options.output_dir / run_folder.ENVIRONMENT, environment)

    base: list[tuple[Ask, str]] = []
    if options.ex2.before_after or options.ex2.reward_normalization == "zscore":
        with clock.time("sampling the untrained policy"):
            n = _best_of_n(options, len(class_names if pairs is None else pairs), len(prompts))
            if pairs is not None:
                n = max(n, options.ex2.eval_samples)  # as many sentences a vector as the aligned policy has
            asks = spread_asks(class_names, questions, n, pairs)
            base = _base_samples(options, generator, asks, class_names, state)
    stats = _reward_stats(options, scorer, base)

    trainer = build_trainer(options, generator, prompts, scorer, stats)
    encoded_before = scorer.texts_encoded
    mirror = start_wandb(options.report_to, options.output_dir, options.trainer.run_name)
    with clock.time("training"):
        _train(options, trainer, checkpoint)
    # A resumed run counted only its own part.
    trained_encodings = None if checkpoint else sum(gather_object([scorer.texts_encoded - encoded_before]))
    policy = trainer.accelerator.unwrap_model(trainer.model)
    adapter = whole_weights(policy)
    with written_by_all("The adapter", options.output_dir):
        if state.is_main_process:
            unfinished = options.output_dir / UNFINISHED / run_folder.ADAPTER
            policy.save_pretrained(unfinished, selected_adapters=["default"], state_dict=adapter)
            finish(unfinished, options.output_dir / run_folder.ADAPTER)
            run_folder.forget_replaced(options.output_dir)

    if options.ex2.before_after:
        with clock.time("sampling the aligned policy"):
            asks = spread_asks(class_names, questions, options.ex2.eval_samples, pairs)
            gather = options.trainer.ds3_gather_for_generation
            with unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator, gather) as generator.model:
                aligned = _sample(
                    options, generator, asks, state, seed=options.trainer.seed + 1_000_000, desc="aligned policy"
                )
        with written_by_all("The report", options.output_dir):
            if state.is_main_process:
                write_report(
                    options, scorer, base, aligned, training_encodings=trained_encodings, seconds=clock.seconds
                )
    with written_by_all(run_folder.CARD, options.output_dir):
        if state.is_main_process:
            write_atomically(options.output_dir / run_folder.CARD, run_card(options.output_dir).encode())
            say(_what_next(options))
    if mirror is not None:
        mirror.finish()  # last, because it waits until everything is uploaded
    return options.output_dir


def _what_next(options: RunOptions) -> str:
    """The last line of a run: where it is, and the command that takes it further."""
    folder = options.output_dir
    command, out = ("generate", "descriptions.jsonl") if options.ex2.pairs is None else ("describe-pairs", "pairs.json")
    go_on = shell_line("ex2", command, folder, "--out", folder / out)
    return f"Run: {folder}; what it is and how it went: {folder / run_folder.CARD}. Next: `{go_on}`."


def _train(options: RunOptions, trainer: EX2Trainer, checkpoint: Path | None) -> None:
    log, leave = run_folder.RunLog(options), LeaveOnSigterm(options.updates_per_rollout)
    trainer.add_callback(log)
    trainer.add_callback(leave)
    try:
        with leave.listening(), going_on_told(options.output_dir):
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    finally:
        log.close()


# ---------------------------------------------------------------- parts of a run


def _checkpoint(options: RunOptions, state: PartialState) -> Path | None:
    if not options.resuming:
        return None
    wanted = str(options.trainer.resume_from_checkpoint)
    path = newest_whole(options.output_dir) if wanted.lower() == "true" else Path(wanted)
    if not path.is_dir():
        raise UserError(f"resume_from_checkpoint={wanted} is not a folder.")
    if wanted.lower() != "true" and (problem := damage(path)) is not None:
        raise UserError(
            f"resume_from_checkpoint={wanted} is no whole checkpoint: {problem}. Give another one, or `true` for the newest "
            "whole one."
        )
    before = max(1, len(list(path.glob("rng_state_*.pth"))))
    if before != state.num_processes and state.is_main_process:
        logger.warning(
            f"resume_from_checkpoint: the run had {before} process(es) and has {state.num_processes} now: it goes on, but "
            "with other samples than it would have had."
        )
    step = path.name.rpartition("-")[2]
    if step.isdigit() and int(step) % options.updates_per_rollout:
        raise UserError(
            f"resume_from_checkpoint: {path} lies inside a rollout of {options.updates_per_rollout} updates, whose samples it "
            "does not hold. Resume from an earlier checkpoint, or train with max_steps a multiple of that number."
        )
    state_of(path)  # damage to it is said before anything is loaded
    return path


@loading_whole()
def _scorer(options: RunOptions, state: PartialState) -> TextScorer:
    images = load_images(options.ex2.dataset)
    vlm = load_vlm(
        options.ex2.vlm,
        device=state.device,
        dtype=options.ex2.vlm_dtype,
        allow_pickle_formats=options.ex2.allow_pickle_formats,
    )
    bank: ImageBank = build_bank(
        vlm,
        images,
        heldout_fraction=options.ex2.heldout_fraction,
        seed=options.ex2.split_seed,
        max_images_per_class=options.ex2.images_per_class,
        cache_dir=cache_folder(options.ex2.cache_dir) / "banks",
        progress=state.is_main_process,
    )
    vlm.release_image_tower()  # from here on only texts are encoded
    return TextScorer(vlm, bank)


def _pairs(options: RunOptions, scorer: TextScorer) -> list[tuple[int, int]] | None:
    """The most confused pairs, each in both orders; None for a run about single classes."""
    if options.ex2.pairs is None:
        return None
    check_pair_count(options.ex2.pairs, len(scorer.bank.class_names))
    return both_ways(pair.classes for pair in confused_pairs(scorer, options.ex2.pairs))


@loading_whole()
def _policy(options: RunOptions, files: PolicyFiles) -> TextGenerator:
    bf16 = bool(options.trainer.bf16)
    return TextGenerator(
        model=load_policy(
            options.policy,
            files.path,
            options.ex2.adapter_name_or_path,
            device=PartialState().device,
            bf16=bf16,
            allow_pickle_formats=options.ex2.allow_pickle_formats,
        ),
        tokenizer=files.tokenizer,
        chat=files.chat,
        system_prompt=options.ex2.system_prompt,
        chat_template_kwargs=options.chat_template_kwargs,
        max_new_tokens=options.max_new_tokens,
        temperature=options.trainer.temperature,
        bf16=bf16,
    )


def _best_of_n(options: RunOptions, subjects: int, prompts: int) -> int:
    """N of best-of-N a class or ordered pair: given, or such that it spends as many text encodings as training."""
    if options.ex2.best_of_n is not None:
        return options.ex2.best_of_n
    return max(2, round(options.planned_samples(prompts) / subjects))


def _base_samples(
    options: RunOptions,
    generator: TextGenerator,
    asks: Sequence[Ask],
    class_names: Sequence[str],
    state: PartialState,
) -> list[tuple[Ask, str]]:
    """Texts of the base LLM without any adapter, kept in the run folder so that a resumed run sees the same ones."""
    path = options.output_dir / run_folder.BASE_SAMPLES
    if options.resuming and path.is_file():
        # As they are, even where a longer run would ask for more: zscore rewards must stay what they were.
        rows = run_folder.read_jsonl(path)
        return [
            (about(class_names, row["question"], row["class_id"], row.get("other_id")), row["text"]) for row in rows
        ]
    adapter_off = generator.model.disable_adapter() if options.ex2.adapter_name_or_path else nullcontext()
    with adapter_off:
        samples = _sample(options, generator, asks, state, seed=options.trainer.seed + 500_000, desc="untrained policy")
    if state.is_main_process:
        rows = [
            {
                "class_id": ask.class_id,
                **({} if ask.other_id is None else {"other_id": ask.other_id}),
                "question": ask.question,
                "text": text,
            }
            for ask, text in samples
        ]
        write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    return samples


def _sample(
    options: RunOptions, generator: TextGenerator, asks: Sequence[Ask], state: PartialState, *, seed: int, desc: str
) -> list[tuple[Ask, str]]:
    """Sample one text an ask, each process a share of them; the result is the same list on every process."""
    rank, world = state.process_index, state.num_processes
    mine = list(range(rank, len(asks), world))
    # Weights that are shared out take all processes to every step: who has one text less to sample samples one for nothing.
    spare = asks[: -(-len(asks) // world) - len(mine)]
    texts: list[tuple[int, str]] = []
    batches = generator.sample(
        [*(asks[i] for i in mine), *spare], seed=seed + 10_000 * rank, batch_size=options.ex2.eval_batch_size
    )
    with progress_bar(len(mine), f"sampling the {desc}", "text", disable=not state.is_main_process) as bar:
        for batch in batches:
            texts += zip(mine[len(texts) :], batch, strict=False)
            bar.update(len(texts) - bar.n)
    everything = dict(gather_object(texts))
    return [(ask, everything[i]) for i, ask in enumerate(asks)]


def _reward_stats(
    options: RunOptions, scorer: TextScorer, base: list[tuple[Ask, str]]
) -> dict[str, RewardStats] | None:
    """How the untrained policy scores under each similarity reward; None where rewards are not standardised with that."""
    if options.ex2.reward_normalization != "zscore":
        return None
    texts, class_ids = [text for _, text in base], [ask.class_id for ask, _ in base]
    other_ids = [ask.other_id for ask, _ in base if ask.other_id is not None] or None
    classes = len(scorer.bank.class_names)
    groups = torch.tensor(reward_groups(class_ids, other_ids, classes))
    reading = options.ex2.chosen_reading()
    return {
        name: RewardStats.from_samples(
            raw_rewards(function, scorer, texts, class_ids, other_ids=other_ids, reading=reading),
            groups,
            classes if other_ids is None else classes**2,
        )
        for name, function in similarity_rewards(options.ex2.reward_funcs).items()
    }


def _environment(
    options: RunOptions, scorer: TextScorer, pairs: list[tuple[int, int]] | None, prompt: str
) -> dict[str, Any]:
    bank = scorer.bank
    names = bank.class_names
    return run_folder.environment(
        algorithm=options.algorithm,
        processes=num_processes(),
        seed=options.trainer.seed,
        vlm=bank.vlm_name,
        vlm_fingerprint=bank.vlm_fingerprint,
        dataset=bank.dataset,
        classes=len(names),
        **({} if pairs is None else {"pairs": [[names[i], names[j]] for i, j in pairs[::2]]}),
        skipped_images=list(bank.skipped),
        first_prompt=prompt,
        base_model=options.policy.model_name_or_path or EMBEDDED,
    )
