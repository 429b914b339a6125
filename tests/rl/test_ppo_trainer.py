"""PPO end to end with a tiny language model: what it learns, what it leaves alone, when it stops, and exact resume."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaForCausalLM, TrainerCallback
from trl.kernels import ChunkedLogProbFunction

from ex2.base.errors import UserError
from ex2.rl import precision
from ex2.rl.guards import TrainingDiverged
from ex2.rl.ppo_trainer import PPO_STATE_FILE, VALUE_HEAD_FILE, PPOTrainer
from ex2.rl.rollout import Texts

from .conftest import Counted, makes_the_host_wait

MakeTrainer = Callable[..., PPOTrainer]
TextsOf = Callable[[list[tuple[list[int], list[int]]]], Texts]

A = 2  # token id of the word "a"


def weights(trainer: PPOTrainer, part: str = "") -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters() if part in name}


def logged(trainer: PPOTrainer, name: str) -> list[float]:
    return [row[name] for row in trainer.state.log_history if name in row]


def first_token_probabilities(trainer: PPOTrainer, prompt: str) -> Tensor:
    ids = torch.tensor([trainer.processing_class(prompt).input_ids])
    with torch.no_grad():
        return trainer.model(input_ids=ids).logits[0, -1].softmax(dim=0)


def starts_with_a(completions: list[str], **columns: Any) -> list[float]:
    return [float(text.split()[:1] == ["a"]) for text in completions]


def random_lora(model: LlamaForCausalLM) -> Any:
    """The model with an adapter that already does something."""
    torch.manual_seed(3)
    return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, init_lora_weights=False))


# ---------------------------------------------------------------- one short run, looked at from several sides


@pytest.fixture(scope="module")
def short_run(make_trainer: MakeTrainer) -> tuple[PPOTrainer, dict[str, Tensor]]:
    """A trainer after 6 updates (3 rollouts x 2 epochs), and its weights before."""
    trainer = make_trainer(max_steps=6, num_iterations=2)
    before = weights(trainer)
    trainer.train()
    return trainer, before


def test_first_kl_is_exactly_zero(short_run: tuple[PPOTrainer, dict[str, Tensor]]) -> None:
    trainer, _ = short_run
    kl, k3 = logged(trainer, "kl"), logged(trainer, "kl_k3")
    assert len(kl) == 3  # once a rollout
    assert (kl[0], k3[0]) == (0.0, 0.0)
    assert all(value > 0 for value in k3[1:])


def test_first_epoch_over_a_rollout_has_ratio_one(short_run: tuple[PPOTrainer, dict[str, Tensor]]) -> None:
    trainer, _ = short_run
    approx_kl, clipped = logged(trainer, "approx_kl"), logged(trainer, "clip_ratio/policy")
    assert len(approx_kl) == 6
    assert approx_kl[0::2] == pytest.approx([0, 0, 0], abs=1e-6)
    assert clipped[0::2] == [0, 0, 0]
    assert all(value > 0 for value in approx_kl[1::2])
    assert logged(trainer, "clip_ratio/value")[0::2] == [0, 0, 0]


def test_adapter_and_head_learn_and_the_base_does_not(short_run: tuple[PPOTrainer, dict[str, Tensor]]) -> None:
    trainer, before = short_run
    after = weights(trainer)
    trained = {name for name in after if "lora_" in name or "value_head" in name}
    assert len(trained) == 2 * 7 * 2 + 2  # A and B of 7 matrices in 2 layers; weight and bias of the head
    for name in after:
        assert torch.equal(after[name], before[name]) == (name not in trained), name


def test_value_head_starts_from_the_mean_score(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(reward_funcs=lambda completions, **columns: [3.0, 5.0] * 4, learning_rate=1e-9)
    trainer.train()
    assert trainer.value_head.start == 4.0
    assert logged(trainer, "value/mean") == [pytest.approx(4.0)]
    assert logged(trainer, "score") == [pytest.approx(4.0)]


def test_metrics_are_logged_under_their_names(short_run: tuple[PPOTrainer, dict[str, Tensor]]) -> None:
    trainer, _ = short_run
    row = trainer.state.log_history[0]
    names = {
        "kl", "kl_k3", "kl_coef", "score", "value/mean", "value/explained_variance", "policy_loss", "value_loss", "entropy",
        "clip_ratio/policy", "clip_ratio/value", "approx_kl", "rewards/early_letters/mean", "completions/mean_length",
    }  # fmt: skip
    assert names <= set(row)
    assert all(math.isfinite(row[name]) for name in names)
    assert row["kl_coef"] == 0.2


# ---------------------------------------------------------------- batches and padding


PAIRS = [([2, 3], [4, 5, 1]), ([6, 7, 8, 9, 2], [3]), ([5], [6, 6, 7, 8, 1]), ([2, 2, 2], [9, 9])]


@pytest.fixture(scope="module")
def scorer(make_trainer: MakeTrainer, words_model: Callable[[], LlamaForCausalLM]) -> PPOTrainer:
    """A trainer whose adapter and value head are not zero."""
    trainer = make_trainer(model=random_lora(words_model()), temperature=0.7)
    torch.nn.init.normal_(trainer.value_head.linear.weight)
    return trainer


@pytest.mark.parametrize("chunk", [None, 1, 3])
def test_padding_changes_no_score(scorer: PPOTrainer, chunk: int | None, texts_of: TextsOf) -> None:
    with torch.no_grad():
        together = scorer._score(scorer.model, texts_of(PAIRS), chunk)
        for row, pair in enumerate(PAIRS):
            alone = scorer._score(scorer.model, texts_of([pair]))
            length = len(pair[1])
            for name in ("logps", "entropy", "values"):
                short, long = getattr(alone, name)[0], getattr(together, name)[row, :length]
                torch.testing.assert_close(long, short, atol=1e-5, rtol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


def test_the_vocabulary_sees_no_padding(scorer: PPOTrainer, texts_of: TextsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    score = ChunkedLogProbFunction.forward

    def counted(context: Any, hidden: Tensor, *args: Any) -> Any:
        rows.append(len(hidden))
        return score(context, hidden, *args)

    monkeypatch.setattr(ChunkedLogProbFunction, "forward", counted)
    found = scorer._score(scorer.model, texts_of(PAIRS))
    assert rows == [sum(len(completion) for _, completion in PAIRS)]
    padding = texts_of(PAIRS).completion_mask == 0
    assert all((x[padding] == 0).all() for x in (found.logps, found.entropy, found.values))


def test_scores_are_those_of_the_plain_model(scorer: PPOTrainer, texts_of: TextsOf) -> None:
    prompt, completion = PAIRS[0]
    with torch.no_grad():
        scored = scorer._score(scorer.model, texts_of([PAIRS[0]]))
        logits = scorer.model(input_ids=torch.tensor([prompt + completion])).logits[0, 1:4] / 0.7
    expected = logits.log_softmax(dim=-1)
    torch.testing.assert_close(scored.logps[0], expected[torch.arange(3), completion], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(scored.entropy[0], -(expected.exp() * expected).sum(dim=-1), atol=1e-5, rtol=1e-5)


def test_accumulated_batches_of_one_equal_one_batch(make_trainer: MakeTrainer) -> None:
    # Plain gradient descent: Adam would blow rounding errors up where a gradient is nearly zero.
    common: dict[str, Any] = {"optim": "sgd", "learning_rate": 0.5, "num_iterations": 2, "max_steps": 4}
    whole = make_trainer(per_device_train_batch_size=8, gradient_accumulation_steps=1, **common)
    single = make_trainer(
        per_device_train_batch_size=1,
        gradient_accumulation_steps=8,
        scoring_batch_size=3,
        gradient_checkpointing=True,
        **common,
    )
    before = weights(whole)
    for trainer in (whole, single):
        torch.manual_seed(0)  # the same rollouts
        trainer.train()
    assert logged(whole, "completions/min_length") != logged(
        whole, "completions/max_length"
    )  # weights per token matter
    assert logged(whole, "score") == logged(single, "score")
    changed = 0
    for name, expected in weights(whole).items():
        torch.testing.assert_close(weights(single, name)[name], expected, atol=1e-6, rtol=1e-5)
        changed += not torch.equal(expected, before[name])
    assert changed == 30


@pytest.mark.parametrize(("batch", "accumulation", "micro_batches"), [(2, 1, 4), (2, 2, 4), (1, 4, 8)])
def test_updates_of_a_rollout_share_its_loss(
    make_trainer: MakeTrainer, batch: int, accumulation: int, micro_batches: int
) -> None:
    # Without learning, the mean over the updates of a rollout is the loss of one update with all of it.
    updates = micro_batches // accumulation
    common: dict[str, Any] = {"optim": "sgd", "learning_rate": 1e-12, "whiten_advantages": False}
    split = make_trainer(
        per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, steps_per_generation=micro_batches,
        max_steps=updates, **common,
    )  # fmt: skip
    whole = make_trainer(per_device_train_batch_size=8, max_steps=1, **common)
    for trainer in (split, whole):
        torch.manual_seed(0)
        trainer.train()
    losses = logged(split, "loss")
    assert len(losses) == updates
    (expected,) = logged(whole, "loss")
    assert abs(expected) > 1e-3
    assert sum(losses) / updates == pytest.approx(expected, abs=1e-5)


# ---------------------------------------------------------------- learning


def test_solves_a_task_with_a_known_optimum(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(
        starts_with_a, prompts=["a b", "c"] * 8, per_device_train_batch_size=16, num_iterations=2, max_completion_length=2,
        beta=0.0, max_steps=80,
    )  # fmt: skip
    before = [first_token_probabilities(trainer, prompt)[A].item() for prompt in ("a b", "c")]
    trainer.train()
    assert max(before) < 0.2
    for prompt in ("a b", "c"):
        assert first_token_probabilities(trainer, prompt)[A] > 0.9
    assert sum(logged(trainer, "score")[-10:]) / 10 > 0.95
    assert set(logged(trainer, "kl")) == {0.0}  # beta = 0: no reference is asked


def test_finds_the_optimum_of_reward_minus_kl(make_trainer: MakeTrainer) -> None:
    # The policy that maximises E[reward] - beta KL is reference x exp(reward / beta), normalised.
    trainer = make_trainer(
        starts_with_a, prompts=["c"] * 64, per_device_train_batch_size=64, num_iterations=2, max_completion_length=1,
        beta=0.4, whiten_advantages=False, cliprange_value=None, max_steps=100,
    )  # fmt: skip
    reference = first_token_probabilities(trainer, "c")
    boost = torch.ones(10)
    boost[A] = math.exp(1 / 0.4)
    optimum = reference * boost / (reference * boost).sum()
    trainer.train()
    policy = first_token_probabilities(trainer, "c")
    assert 0.2 < optimum[A] < 0.8
    torch.testing.assert_close(policy, optimum, atol=0.03, rtol=0)


def test_value_head_learns_the_return_of_each_prompt(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(
        lambda completions, answer, **columns: [float(a) for a in answer], prompts=list("abcdefgh"), num_iterations=2,
        value_learning_rate=3e-2, learning_rate=3e-3, vf_coef=1.0, cliprange_value=None, beta=0.01, max_steps=60,
    )  # fmt: skip
    trainer.train()
    explained = logged(trainer, "value/explained_variance")
    assert explained[0] == pytest.approx(0.0, abs=1e-3)  # it starts as a constant
    assert sum(explained[-5:]) / 5 > 0.75


def test_strong_kl_penalty_keeps_the_policy_near_the_reference(make_trainer: MakeTrainer) -> None:
    common: dict[str, Any] = {"num_iterations": 2, "max_steps": 60, "learning_rate": 2e-3}
    free, held = make_trainer(beta=0.001, **common), make_trainer(beta=5.0, **common)
    free.train()
    held.train()
    assert logged(free, "kl_k3")[-1] > 1.0
    assert max(logged(held, "kl_k3")) < 0.2


def test_adaptive_coefficient_follows_the_target(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(
        beta=0.1, kl_target=0.5, kl_horizon=10, num_iterations=2, learning_rate=2e-3, lr_scheduler_type="constant",
        max_steps=160,
    )  # fmt: skip
    trainer.train()
    kl, coefs = logged(trainer, "kl"), logged(trainer, "kl_coef")
    # Each coefficient follows from the KL measured with the one before: 8 samples of a horizon of 10.
    for now, then, measured in zip(coefs[1:], coefs, kl, strict=False):
        error = min(max(measured / 0.5 - 1, -0.2), 0.2)
        assert now == pytest.approx(then * (1 + error * 8 / 10))
    assert coefs[1] == pytest.approx(0.1 * (1 - 0.2 * 8 / 10))  # the first KL is 0
    assert max(coefs) > 0.2
    assert sum(kl[-30:]) / 30 == pytest.approx(0.5, abs=0.3)


def test_one_and_several_generations_a_prompt(make_trainer: MakeTrainer) -> None:
    asked: list[list[str]] = []

    def remember(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        asked.append(prompts)
        return [0.0] * len(prompts)

    make_trainer(remember, num_generations=1).train()
    make_trainer(remember, num_generations=4).train()
    assert [len(set(prompts)) for prompts in asked] == [8, 2]


def test_group_baseline_removes_what_is_due_to_the_prompt(make_trainer: MakeTrainer) -> None:
    def by_prompt(completions: list[str], answer: list[int], **columns: Any) -> list[float]:
        return [10.0 + a for a in answer]

    trainer = make_trainer(by_prompt, group_baseline=True, num_generations=2, beta=0.0, num_iterations=2, max_steps=4)
    before = weights(trainer)
    trainer.train()
    assert all(10 <= score <= 17 for score in logged(trainer, "score"))  # logged as the reward gave it
    assert logged(trainer, "value/mean") == [0.0, 0.0]
    assert all(torch.equal(p, before[name]) for name, p in weights(trainer).items())  # nothing left to learn


def test_group_baseline_keeps_what_is_due_to_the_completion(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(
        starts_with_a, prompts=["a b", "c"] * 4, per_device_train_batch_size=16, group_baseline=True, num_generations=4,
        num_iterations=2, max_completion_length=1, beta=0.0, max_steps=60,
    )  # fmt: skip
    trainer.train()
    assert first_token_probabilities(trainer, "c")[A] > 0.9


def test_value_learning_rate_gives_the_head_a_group_of_its_own(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(value_learning_rate=0.5, learning_rate=1e-3, weight_decay=0.1)
    optimizer = trainer.create_optimizer()
    head = {id(p) for p in trainer.value_head.parameters()}
    assert [group["lr"] for group in optimizer.param_groups if {id(p) for p in group["params"]} & head] == [0.5]
    assert {id(p) for p in optimizer.param_groups[-1]["params"]} == head
    everything = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(everything) == sorted(id(p) for p in trainer.model.parameters() if p.requires_grad)
    assert trainer.create_optimizer() is optimizer
    assert len(optimizer.param_groups) == len(trainer.create_optimizer().param_groups)

    plain = make_trainer(learning_rate=1e-3).create_optimizer()
    assert {group["lr"] for group in plain.param_groups} == {1e-3}


@pytest.mark.parametrize("detach", [False, True])
def test_detached_head_leaves_the_adapter_to_the_policy_loss(make_trainer: MakeTrainer, detach: bool) -> None:
    # A clip range of 0 and no advantage: only the value loss can move the adapter.
    trainer = make_trainer(
        lambda completions, **columns: [1.0, 2.0] * 4, detach_value_head=detach, num_iterations=2, max_steps=4, beta=0.0,
        vf_coef=1.0, cliprange_value=None,
    )  # fmt: skip
    original = trainer._generate_and_score_completions

    def without_advantages(inputs: Any) -> Any:
        batch = original(inputs)
        return batch | {"advantages": torch.zeros_like(batch["advantages"])}

    trainer._generate_and_score_completions = without_advantages
    before = weights(trainer, "lora_B")
    trainer.train()
    moved = [not torch.equal(p, before[name]) for name, p in weights(trainer, "lora_B").items()]
    assert any(moved) != detach
    assert trainer.value_head.linear.weight.any()


# ---------------------------------------------------------------- references


def test_existing_adapter_is_its_own_reference(
    make_trainer: MakeTrainer, words_model: Callable[[], LlamaForCausalLM]
) -> None:
    trainer = make_trainer(model=random_lora(words_model()), max_steps=3)
    assert set(trainer.model.peft_config) == {"default", "ref"}
    reference = weights(trainer, ".ref.")
    trainer.train()
    assert logged(trainer, "kl")[0] == 0.0
    assert logged(trainer, "kl_k3")[0] == 0.0
    assert logged(trainer, "kl_k3")[-1] > 0
    for name, p in weights(trainer, ".ref.").items():
        assert torch.equal(p, reference[name])
        assert not trainer.model.get_parameter(name).requires_grad
        assert not torch.equal(trainer.model.get_parameter(name.replace(".ref.", ".default.")), p)


def test_without_its_copy_the_base_model_is_the_reference(
    make_trainer: MakeTrainer, words_model: Callable[[], LlamaForCausalLM], texts_of: TextsOf
) -> None:
    trainer = make_trainer(model=random_lora(words_model()))
    trainer.model.delete_adapter("ref")
    batch = texts_of(PAIRS)
    with torch.no_grad():
        base = words_model()
        ids = torch.tensor([PAIRS[0][0] + PAIRS[0][1]])
        expected = base(input_ids=ids).logits[0, 1:4].log_softmax(-1)[torch.arange(3), PAIRS[0][1]]
        actual = trainer._reference_logps(batch, batch_size=2)[0, :3]
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    trainer.train()
    assert logged(trainer, "kl_k3")[0] > 0


def test_refuses_a_policy_without_adapter(
    make_trainer: MakeTrainer, words_model: Callable[[], LlamaForCausalLM]
) -> None:
    with pytest.raises(
        ValueError, match="PPOTrainer trains LoRA adapters: pass a `peft_config` or a model that has an"
    ):
        make_trainer(model=words_model(), beta=0.0)


# ---------------------------------------------------------------- evaluation


def test_evaluation_leaves_training_alone(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(
        eval_prompts=["a", "b c"], per_device_eval_batch_size=2, kl_target=0.1, kl_horizon=10, max_steps=2,
        eval_strategy="steps", eval_steps=1,
    )  # fmt: skip
    trainer.train()
    rows = [row for row in trainer.state.log_history if "eval_loss" in row]
    assert len(rows) == 2
    assert all(math.isfinite(row["eval_loss"]) for row in rows)
    assert {"eval_kl", "eval_score", "eval_value/mean", "eval_entropy", "eval_rewards/early_letters/mean"} <= set(
        rows[0]
    )
    # Two rollouts, hence two updates of the coefficient, the first one from a KL of 0: evaluation adds none.
    kl = logged(trainer, "kl")[1]
    error = min(max(kl / 0.1 - 1, -0.2), 0.2)
    assert trainer.kl_controller.coef == pytest.approx(0.2 * (1 - 0.2 * 8 / 10) * (1 + error * 8 / 10))
    before = (weights(trainer), trainer.kl_controller.coef)
    metrics = trainer.evaluate()
    assert math.isfinite(metrics["eval_loss"])
    assert trainer.kl_controller.coef == before[1]
    assert all(torch.equal(p, before[0][name]) for name, p in weights(trainer).items())


def test_evaluation_before_training_leaves_the_new_head_at_zero(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(eval_prompts=["a", "b c"], per_device_eval_batch_size=2)
    trainer.evaluate()
    assert trainer.value_head.start == 0.0


# ---------------------------------------------------------------- guards


def read_dump(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("bad", [math.nan, math.inf, None])
def test_reward_that_is_not_finite_stops_training(make_trainer: MakeTrainer, tmp_path: Path, bad: float | None) -> None:
    def breaks(completions: list[str], **columns: Any) -> list[float | None]:
        return [1.0] * 7 + [bad]

    trainer = make_trainer(breaks, output_dir=str(tmp_path))
    before = weights(trainer, "lora_")
    dump = tmp_path / "bad_step_0_rank0.jsonl"
    with pytest.raises(TrainingDiverged) as error:
        trainer.train()
    assert str(error.value) == (
        f"Training stops at step 0: a reward or an advantage is not finite. The samples of this step are in {dump}; "
        "earlier checkpoints are untouched. Lower learning_rate or raise beta."
    )
    rows = read_dump(dump)
    assert len(rows) == 8
    assert all(
        set(row) == {"prompt", "completion", "old_per_token_logps", "old_values", "advantages", "returns", "score"}
        for row in rows
    )
    assert all(row["prompt"] for row in rows)
    assert all(isinstance(value, float) for value in rows[0]["old_per_token_logps"])
    assert "nan" in str(rows[-1]["returns"]) or "inf" in str(rows[-1]["returns"])
    assert all(torch.equal(p, before[name]) for name, p in weights(trainer, "lora_").items())


def test_reward_that_does_not_apply_counts_as_nothing_beside_another(make_trainer: MakeTrainer) -> None:
    def sometimes(completions: list[str], **columns: Any) -> list[float | None]:
        return [2.0, None] * 4

    def always(completions: list[str], **columns: Any) -> list[float]:
        return [1.0] * 8

    trainer = make_trainer([sometimes, always], reward_weights=[0.5, 3.0])
    trainer.train()
    assert logged(trainer, "score") == [pytest.approx((0.5 * 2 + 3 + 3) / 2)]


def test_loss_that_is_not_finite_stops_training(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_trainer(output_dir=str(tmp_path), num_iterations=2, max_steps=4)
    original = trainer._score

    def poisoned(model: Any, texts: Texts, batch_size: int | None = None) -> Any:
        out = original(model, texts, batch_size)
        if torch.is_grad_enabled() and trainer.state.global_step == 1:
            out.values = out.values * math.nan
        return out

    trainer._score = poisoned
    with pytest.raises(
        TrainingDiverged, match=r"Training stops at step 1: the loss is not finite\. .*bad_step_1_rank0"
    ):
        trainer.train()
    assert len(read_dump(tmp_path / "bad_step_1_rank0.jsonl")) == 8


def test_gradient_that_is_not_finite_reaches_no_weight(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_trainer(output_dir=str(tmp_path), max_steps=3)
    reached: list[dict[str, Tensor]] = []

    def poison(gradient: Tensor) -> Tensor:
        reached.append(weights(trainer))
        return gradient * math.nan if trainer.state.global_step == 1 else gradient

    next(p for name, p in trainer.model.named_parameters() if "lora_B" in name).register_hook(poison)
    with pytest.raises(TrainingDiverged, match=r"at step 1: the gradient is not finite\. .*bad_step_1_rank0"):
        trainer.train()
    assert len(read_dump(tmp_path / "bad_step_1_rank0.jsonl")) == 8
    assert all(torch.equal(p, reached[-1][name]) for name, p in weights(trainer).items())


def test_kl_above_its_limit_ends_the_run(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_trainer(
        output_dir=str(tmp_path), beta=0.001, kl_stop=0.5, num_iterations=2, max_steps=200, learning_rate=3e-2
    )
    with pytest.raises(TrainingDiverged) as error:
        trainer.train()
    step = trainer.state.global_step
    assert 0 < step < 200
    dump = tmp_path / f"bad_step_{step}_rank0.jsonl"
    assert len(read_dump(dump)) == 8
    kl = re.search(r"is ([\d.]+) nats", str(error.value))
    assert kl is not None
    assert float(kl[1]) > 0.5
    assert str(error.value) == (
        f"Training stops at step {step}: the KL to the reference is {kl[1]} nats a completion, above kl_stop=0.5. The samples "
        f"of this step are in {dump}; earlier checkpoints are untouched. Raise kl_stop or beta, or lower learning_rate."
    )
    assert max(logged(trainer, "kl")) <= 0.5


# ---------------------------------------------------------------- checkpoints

RESUME: dict[str, Any] = {
    "per_device_train_batch_size": 4,  # 8 prompts: two rollouts an epoch, two updates a rollout
    "num_iterations": 2,
    "max_steps": 8,
    "save_strategy": "steps",
    "save_steps": 2,
    "kl_target": 0.1,
    "kl_horizon": 50,
    "value_learning_rate": 2e-2,
}


@pytest.fixture(scope="module")
def whole_run(make_trainer: MakeTrainer) -> PPOTrainer:
    """A run of 8 updates over two epochs, with a checkpoint after each rollout."""
    trainer = make_trainer(**RESUME)
    trainer.train()
    return trainer


def test_checkpoint_holds_head_and_controller(whole_run: PPOTrainer) -> None:
    folder = Path(whole_run.args.output_dir) / "checkpoint-8"
    head = load_file(folder / VALUE_HEAD_FILE)
    assert set(head) == {"linear.weight", "linear.bias"}
    assert torch.equal(head["linear.weight"], whole_run.value_head.linear.weight)
    state = json.loads((folder / PPO_STATE_FILE).read_text())
    assert state == {
        "kl_controller": {"coef": whole_run.kl_controller.coef, "target": 0.1, "horizon": 50},
        "value_start": whole_run.value_head.start,
    }
    assert whole_run.value_head.start != 0.0
    assert whole_run.kl_controller.coef != 0.2
    for name in ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"):
        assert (folder / name).is_file()


@pytest.mark.parametrize("step", [2, 4, 6])  # within the first epoch, between the epochs, within the second
def test_resumed_run_ends_with_the_very_same_weights(
    whole_run: PPOTrainer, make_trainer: MakeTrainer, step: int
) -> None:
    resumed = make_trainer(**RESUME)
    torch.manual_seed(step)  # whatever the state of the generator before
    resumed.train(resume_from_checkpoint=str(Path(whole_run.args.output_dir) / f"checkpoint-{step}"))
    assert resumed.state.global_step == 8
    expected = weights(whole_run)
    for name, p in weights(resumed).items():
        assert torch.equal(p, expected[name]), name
    assert resumed.kl_controller == whole_run.kl_controller
    timing = {"step_time", "epoch"}
    for row, other in zip(resumed.state.log_history[:-1], whole_run.state.log_history[:-1], strict=True):
        assert {k: v for k, v in row.items() if k not in timing} == {k: v for k, v in other.items() if k not in timing}


def test_resumed_run_keeps_its_reference(
    make_trainer: MakeTrainer, words_model: Callable[[], LlamaForCausalLM]
) -> None:
    options = RESUME | {"max_steps": 4}
    whole = make_trainer(model=random_lora(words_model()), **options)
    whole.train()
    resumed = make_trainer(model=random_lora(words_model()), **options)
    resumed.train(resume_from_checkpoint=str(Path(whole.args.output_dir) / "checkpoint-2"))
    expected = weights(whole)
    for name, p in weights(resumed).items():
        assert torch.equal(p, expected[name]), name
    assert logged(resumed, "kl") == logged(whole, "kl")


@pytest.mark.parametrize("name", [VALUE_HEAD_FILE, PPO_STATE_FILE])
def test_refuses_a_checkpoint_of_something_else(
    whole_run: PPOTrainer, make_trainer: MakeTrainer, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "checkpoint-2"
    folder.mkdir()
    for file in (Path(whole_run.args.output_dir) / "checkpoint-2").iterdir():
        if file.name != name:
            (folder / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match=rf"checkpoint-2 is not a PPO checkpoint: {name} is missing\.$"):
        make_trainer(**RESUME).train(resume_from_checkpoint=str(folder))


# ---------------------------------------------------------------- updates left out


def test_updates_end_once_the_policy_has_moved_too_far(make_trainer: MakeTrainer) -> None:
    options = {"num_iterations": 4, "max_steps": 8, "learning_rate": 0.02, "optim": "sgd"}
    free = make_trainer(**options)
    free.train()
    kls = logged(free, "approx_kl")
    assert kls[0] == kls[4] == 0.0  # the first update of a rollout is made by the policy that sampled it
    assert 0 < kls[1] < kls[2] < kls[3]
    bound = make_trainer(target_kl=(kls[1] + kls[2]) / 2, **options)
    bound.train()
    assert logged(bound, "updates_left_out")[:4] == [0, 0, 1, 1]
    assert logged(bound, "approx_kl")[:3] == pytest.approx(kls[:3])
    assert "updates_left_out" not in {name for row in free.state.log_history for name in row}
    assert logged(bound, "updates_left_out")[4] == 0  # a new rollout begins anew
    assert bound.state.global_step == 8


def test_an_update_that_is_left_out_moves_nothing(make_trainer: MakeTrainer) -> None:
    seen: list[dict[str, Tensor]] = []

    class Snapshots(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            seen.append(weights(trainer, ""))

    trainer = make_trainer(target_kl=0.0, num_iterations=3, max_steps=6, learning_rate=0.1, weight_decay=0.1)
    trainer.add_callback(Snapshots())
    trainer.train()
    assert logged(trainer, "updates_left_out") == [0, 1, 1, 0, 1, 1]
    moved = [any(not torch.equal(after[name], before[name]) for name in before) for before, after in pairwise(seen)]
    assert moved == [False, False, True, False, False]


def test_rewards_of_other_scales_do_not_drown_each_other(make_trainer: MakeTrainer) -> None:
    def large(completions: list[str], **columns: Any) -> list[float]:
        return [1000.0 * i for i in range(len(completions))]

    def small(completions: list[str], **columns: Any) -> list[float]:
        return [-float(i) for i in range(len(completions))]

    trainer = make_trainer([large, small], multi_objective_aggregation="normalize_then_sum")
    trainer.train()
    assert logged(trainer, "score") == [pytest.approx(0.0, abs=1e-5)]
    assert trainer._all_scores().abs().max() < 1e-3  # equal and opposite, once standardised
    assert logged(trainer, "rewards/large/mean")[0] > 1000  # logged as they are
    with pytest.raises(ValueError, match="multi_objective_aggregation=rank is unknown: choose sum_then_normalize"):
        make_trainer([large, small], multi_objective_aggregation="rank")


def test_an_update_waits_as_often_in_eight_micro_batches_as_in_one(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers that are logged or guarded are read, by all processes together, once an update."""
    waits = {}
    for micro_batches in (1, 8):
        trainer = make_trainer(
            per_device_train_batch_size=8 // micro_batches,
            gradient_accumulation_steps=micro_batches,
            steps_per_generation=micro_batches,
            max_steps=2,
        )
        reduce, calls = trainer.accelerator.reduce, []
        monkeypatch.setattr(
            trainer.accelerator,
            "reduce",
            lambda *args, reduce=reduce, calls=calls, **kw: calls.append(1) or reduce(*args, **kw),
        )
        trainer.train()
        waits[micro_batches] = len(calls)
    assert waits[1] == waits[8] > 0


def test_the_numbers_of_a_rollout_are_read_at_once(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one list: none is read by itself, nor the shape of anything."""
    trainer = make_trainer()
    log, waits = trainer._log_rollout, Counted(makes_the_host_wait)

    def counted(*args: Any) -> float:
        with waits:
            return log(*args)

    monkeypatch.setattr(trainer, "_log_rollout", counted)
    trainer.train()
    assert logged(trainer, "kl") == [0.0]
    assert waits.count == 0


def test_what_adapters_take_in_is_cast_by_autocast_alone(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PEFT's casts to float32 and back are fewer copies, and change no bit."""

    def train() -> tuple[dict[str, Tensor], int]:
        torch.manual_seed(0)
        trainer = make_trainer(bf16=True, max_steps=2, num_iterations=2, learning_rate=1e-2)
        with Counted(lambda func, args: func is torch.ops.aten._to_copy.default) as copies:
            trainer.train()
        assert all(
            module.cast_input_dtype_enabled for module in trainer.model.modules() if isinstance(module, LoraLayer)
        )
        return weights(trainer, "lora_"), copies.count

    found, fewer = train()
    monkeypatch.setattr(precision, "disable_input_dtype_casting", lambda *args, **kw: contextlib.nullcontext())
    expected, copies = train()
    assert fewer < copies
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert any(value.any() for name, value in found.items() if "lora_B" in name)  # it has learned
