"""PPO on TRL's maintained online trainer.

TRL's GRPOTrainer does rollouts (transformers or vLLM), reward calls, logging, evaluation, the PEFT reference (adapter off),
accelerate, DeepSpeed and FSDP, and checkpoints. This class replaces what makes it GRPO by what makes it PPO:

    rollout     one forward pass gives log-probs and values (the value head listens to the backbone)
    reward      score at the last token, minus KL to the reference at every token
    advantage   GAE per token instead of one group-relative number a completion
    loss        clipped surrogate + clipped value loss
    control     adaptive KL coefficient, KL stop, updates left out (`target_kl`), NaN guard
"""

from __future__ import annotations

import json
import logging
import math
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import is_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from trl import GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import use_adapter

from ex2.base.errors import UserError
from ex2.base.files import read_json
from ex2.rl import objectives as F
from ex2.rl.guards import Guards
from ex2.rl.kl_control import KLController
from ex2.rl.ppo_config import PPOConfig
from ex2.rl.precision import SampledAsScored, TrainedInFloat32
from ex2.rl.resume import ExactResume, loading
from ex2.rl.rollout import Rollout, Texts
from ex2.rl.sharding import load_whole_weights, whole_weights
from ex2.rl.shared_prefix import States, by_prompt, packed, packing_saves, padded, shared_lengths, takes_positions
from ex2.rl.value_head import attach_value_head
from ex2.rl.vllm_weights import FrozenBase

VALUE_HEAD_FILE = "value_head.safetensors"
PPO_STATE_FILE = "ppo_state.json"

logger = logging.getLogger(__name__)


@dataclass
class PolicyOutput:
    """What one forward pass of the policy says about B completions of T tokens; all (B, T), `values` None without head."""

    logps: Tensor
    entropy: Tensor
    values: Tensor


class PPOTrainer(Guards, SampledAsScored, TrainedInFloat32, FrozenBase, ExactResume, GRPOTrainer):
    """PPO with a value head, per-token KL in the reward and GAE, for a policy with LoRA adapters.

    Takes GRPOTrainer's arguments with a `PPOConfig`. Any callable that TRL accepts is a reward. The reference is the base
    model with the adapter off, or, where the policy comes with an adapter and TRL made a copy of it named `ref`, that copy.
    """

    _tag_names = ["trl", "ppo", "ex2"]
    _name = "PPO"
    _paper = {
        "title": "Proximal Policy Optimization Algorithms",
        "id": "1707.06347",
        # docstyle-ignore
        "citation": textwrap.dedent("""\
            @article{schulman2017proximal,
                title        = {{Proximal Policy Optimization Algorithms}},
                author       = {John Schulman and Filip Wolski and Prafulla Dhariwal and Alec Radford and Oleg Klimov},
                year         = 2017,
                eprint       = {arXiv:1707.06347},
            }"""),
    }

    args: PPOConfig
    model: Any  # a PeftModel
    _buffered_inputs: Any  # TRL's: the micro-batches of a rollout

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not is_peft_model(self.model):
            raise ValueError("PPOTrainer trains LoRA adapters: pass a `peft_config` or a model that has an adapter.")
        self.kl_controller = KLController(self.args.beta, self.args.kl_target, self.args.kl_horizon)
        self.beta = 0.0  # TRL's own KL term in the loss stays off: PPO puts the KL in the reward
        self.value_head = attach_value_head(self.model, self.args.detach_value_head)
        self._text_config = self.accelerator.unwrap_model(self.model).config.get_text_config()
        self._takes_positions = takes_positions(self.model.get_base_model())
        self._shares_prefix = (
            self.args.share_prefix
            and self.args.disable_dropout  # texts would share dropout as well
            and self._takes_positions
            and self._text_config._attn_implementation == "sdpa"  # others take no mask of tokens by tokens
            and not getattr(self._text_config, "alibi", False)  # distances are counted along the packed row
        )
        self._checked_prefix = False
        self._moved_too_far = False
        self._update_sums: dict[str, Tensor] = {}  # over the tokens of an update's micro-batches of this process
        self._update_tokens = torch.ones(())
        self._scored: tuple[PolicyOutput, Tensor] | None = None
        if self.use_vllm:
            # TRL measures how far vLLM is from the policy where it corrects for that; here in any case, what is corrected
            # for is up to `args`.
            self.vllm_importance_sampling_correction = True
            if self.vllm_importance_sampling_clip_max is None:
                self.vllm_importance_sampling_clip_max = math.inf

    # ---------------------------------------------------------------- forward passes

    def _score(self, model: torch.nn.Module, texts: Texts, batch_size: int | None = None) -> PolicyOutput:
        """Log-probs, entropy and values of the completions in `texts`, in chunks of `batch_size` (None: all at once)."""
        size = batch_size or len(texts)
        chunks = []
        for start in range(0, len(texts), size):
            part = texts.rows(start, start + size)
            chunks.append(self._pass(model, part, *self._layout(part)))
        return PolicyOutput(*(torch.cat(parts) for parts in zip(*chunks, strict=True)))

    def _pass(
        self, model: torch.nn.Module, texts: Texts, arguments: dict[str, Tensor], states: States
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One forward pass with the tokens laid out as `arguments`: log-probs, entropy, values, each (B, T)."""
        if texts.completion_ids.device.type == "cpu":
            return self._pass_without_padding(model, texts, arguments, states)
        with self.accelerator.autocast(), self.value_head.listening(states):
            out = model(**arguments, shift_labels=texts.labels, fused_lm_head=True)
        return out.log_probs, out.entropy, self.value_head.take_values()

    def _pass_without_padding(
        self, model: torch.nn.Module, texts: Texts, arguments: dict[str, Tensor], states: States
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same with 0 on padding, which TRL keeps from the vocabulary on GPUs only, where it takes a quarter of the time."""
        real = texts.completion_mask.bool()
        with self.accelerator.autocast(), self.value_head.listening(lambda hidden: states(hidden)[real].unsqueeze(0)):
            out = model(**arguments, shift_labels=texts.completion_ids[real].unsqueeze(0), fused_lm_head=True)
        log_probs, entropy, values = (
            torch.zeros(real.shape, dtype=found.dtype).masked_scatter(real, found)
            for found in (out.log_probs, out.entropy, self.value_head.take_values())
        )
        return log_probs, entropy, values

    def _layout(self, texts: Texts) -> tuple[dict[str, Tensor], States]:
        """The tokens of one forward pass, with what prompts share once where that is right and pays."""
        if self._shares_prefix and self._checked_prefix and self._within_window(texts):
            alike = shared_lengths(texts)
            if packing_saves(texts, alike, self._text_config.hidden_size):
                return packed(texts, alike)
        return padded(texts, with_positions=self._takes_positions)

    def _within_window(self, texts: Texts) -> bool:
        """Whether texts fit into a sliding window, if any: a mask of tokens by tokens replaces its own."""
        width = texts.prompt_ids.size(1) + texts.completion_ids.size(1)
        return bool(width < (getattr(self._text_config, "sliding_window", None) or math.inf))

    def _all_within_window(self, texts: Texts) -> bool:
        """The same on all processes, which must make the same passes where weights are sharded."""
        within = torch.tensor(float(self._within_window(texts)), device=self.accelerator.device)
        return bool(self.accelerator.reduce(within, reduction="sum") == self.accelerator.num_processes)

    def _check_shared_prefix(self, texts: Texts) -> None:
        """Share no prefix where that changes log-probs: the backbone's layers see more than tokens, mask and positions say.

        They may change as much as they do where the same rows go in two halves, which tells rounding from anything worse.
        """
        self._checked_prefix = True

        def logps(part: Texts, layout: tuple[dict[str, Tensor], States]) -> Tensor:
            return self._pass(self.model, part, *layout)[0]

        half = (len(texts) + 1) // 2
        apart = logps(texts, padded(texts))
        halves = [part for part in (texts.rows(0, half), texts.rows(half, len(texts))) if len(part)]
        noise = torch.cat([logps(part, padded(part)) for part in halves]) - apart
        off = logps(texts, packed(texts, shared_lengths(texts))) - apart
        changed, rounding = (F.masked_mean(x.abs(), texts.completion_mask).item() for x in (off, noise))
        low_precision = self.args.bf16 or self.args.fp16 or self.model.dtype != torch.float32
        self._shares_prefix = changed <= (0.05 if low_precision else 1e-3) + 4 * rounding
        if not self._shares_prefix:
            logger.warning(
                "Log-probs change by %.2g nats where prompts share the computation of their common prefix; it is done for each "
                "text instead.",
                changed,
            )

    def _get_per_token_logps_and_entropies(
        self,
        model: torch.nn.Module,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor | None, None, None]:
        """TRL asks for the rollout's log-probs here, which PPO computes with the values: at once to compare them with vLLM's."""
        if not self.use_vllm:
            return None, None, None
        n = logits_to_keep
        texts = Texts(input_ids[:, :-n], attention_mask[:, :-n], input_ids[:, -n:], attention_mask[:, -n:])
        self._scored = self._score_rollout(texts, "train" if self.model.training else "eval")
        return self._scored[0].logps, None, None

    def _reference_logps(self, texts: Texts, batch_size: int) -> Tensor:
        policy = self.accelerator.unwrap_model(self.model)
        with use_adapter(policy, adapter_name="ref" if "ref" in policy.peft_config else None):
            return self._score(self.model, texts, batch_size).logps

    # ---------------------------------------------------------------- rollout

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """A micro-batch; those of one update hold its texts prompt by prompt, so that there is more to share."""
        assert self.args.steps_per_generation is not None, "TRL sets it"
        fresh = (
            self._buffered_inputs is None or self._step % (self.args.steps_per_generation * self.num_iterations) == 0
        )
        inputs = super()._prepare_inputs(generation_batch)
        if not (self.model.training and self._shares_prefix):
            return inputs
        if fresh:
            self._buffered_inputs = prompt_by_prompt(self._buffered_inputs, self.args.gradient_accumulation_steps)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Tensor | Any]:
        """Sample completions, score them, and add what PPO learns from: the columns of a `Rollout`."""
        mode = "train" if self.model.training else "eval"
        batch = super()._generate_and_score_completions(inputs)
        texts = Texts.of(batch)
        old, ref_logps = self._scored or self._score_rollout(texts, mode)
        self._scored = None
        scores = self._learned_scores(mode)
        if mode == "train" and self._head_is_new():
            # Start from the mean score instead of 0, else the first advantages mostly measure how early a token is.
            self.value_head.start = scores.mean().item()
            old = replace(old, values=old.values + self.value_head.start)
        rollout = self._rollout(texts, self._of_this_process(scores, len(texts)), old, ref_logps)
        batch.update(rollout.columns())
        kl = self._log_rollout(mode, rollout, ref_logps)
        if mode == "train":
            self._control(rollout, kl, batch)
        return batch

    def _score_rollout(self, texts: Texts, mode: str) -> tuple[PolicyOutput, Tensor]:
        """What the policy that sampled the texts says of them, and the log-probs (B, T) of the reference."""
        batch_size = self.args.per_device_train_batch_size if mode == "train" else self.args.per_device_eval_batch_size
        batch_size = self.args.scoring_batch_size or batch_size
        checkpointing = self.args.gradient_checkpointing_kwargs
        assert not isinstance(checkpointing, str), "transformers turns the option's JSON text into a dict"
        with torch.no_grad(), disable_gradient_checkpointing(self.model, checkpointing):
            if self._shares_prefix and not self._checked_prefix and self._all_within_window(texts):
                self._check_shared_prefix(texts.rows(0, batch_size))
            old = self._score(self.model, texts, batch_size)
            return old, old.logps if self.args.beta == 0.0 else self._reference_logps(texts, batch_size)

    def _total(self, rewards_per_func: Tensor) -> Tensor:
        if self.args.multi_objective_aggregation == "sum_then_normalize":
            return super()._total(rewards_per_func)
        group_size = self.num_generations if self.model.training else self.num_generations_eval
        assert group_size is not None, "TRL and PPOConfig set it"
        return F.standardised_sum(rewards_per_func, self.reward_weights.to(rewards_per_func.device), group_size)

    def _learned_scores(self, mode: str) -> Tensor:
        """Scores of the completions of all processes, relative to those of the same prompt with `group_baseline`."""
        scores = self._all_scores()
        if not self.args.group_baseline:
            return scores
        group_size = self.num_generations if mode == "train" else self.num_generations_eval
        assert group_size is not None, "TRL and PPOConfig set it"
        return scores - F.leave_one_out(scores, group_size)

    def _rollout(self, texts: Texts, scores: Tensor, old: PolicyOutput, ref_logps: Tensor) -> Rollout:
        """KL and score as rewards of tokens, and the advantages and returns that they come to."""
        mask = texts.completion_mask
        rewards = F.shaped_rewards(scores, F.kl_k1(old.logps, ref_logps), mask, self.kl_controller.coef)
        advantages, returns = F.gae(rewards, old.values, mask, self.args.gamma, self.args.lam)
        if self.args.whiten_advantages:
            sums = self.accelerator.reduce(F.masked_sums(advantages, mask), reduction="sum")
            advantages = F.whiten_from_sums(advantages, mask, sums, floor=self.args.whitening_floor)
        return Rollout(
            texts=texts,
            score=self._of_this_process(self._all_scores(), len(texts)),
            old_per_token_logps=old.logps,
            old_values=old.values,
            advantages=advantages,
            returns=returns * mask,
        )

    def _log_rollout(self, mode: str, rollout: Rollout, ref_logps: Tensor) -> float:
        """Log what a rollout says of policy and value head; returns the KL to the reference in nats a completion."""
        mask, logps, values = rollout.texts.completion_mask, rollout.old_per_token_logps, rollout.old_values
        kls = [(kl(logps, ref_logps) * mask).sum(dim=1) for kl in (F.kl_k1, F.kl_k3)]
        means = self._global_means([*((kl, torch.ones_like(kl)) for kl in kls), (values, mask)])
        sums = torch.stack([F.masked_sums(x, mask) for x in (rollout.returns - values, rollout.returns)])
        explained = F.explained_variance_from_sums(self.accelerator.reduce(sums, reduction="sum"))
        rest = torch.stack([self._all_scores().mean().float(), explained.float()])
        # Read at once: each time, a device and all processes wait.
        kl, kl_k3, value, score, explained_variance = torch.cat([means, rest]).tolist()
        numbers = {
            "kl": kl,
            "kl_k3": kl_k3,
            "kl_coef": self.kl_controller.coef,
            "score": score,
            "value/mean": value,
            "value/explained_variance": explained_variance,
        }
        for name, number in numbers.items():
            self._metrics[mode][name].append(number)
        return kl

    def _control(self, rollout: Rollout, kl: float, batch: dict[str, Any]) -> None:
        """End the run where numbers are not finite or the KL is too high; else adapt the KL coefficient.

        Raises:
            TrainingDiverged: On all processes.
        """
        # Whitening makes every advantage of a rollout NaN where one reward is.
        finite = torch.isfinite(rollout.score).all() & torch.isfinite(rollout.advantages).all()
        self._guard(finite, "a reward or an advantage is not finite", batch)
        if self.args.kl_stop is not None:
            self._guard(
                torch.tensor(kl <= self.args.kl_stop, device=finite.device),
                f"the KL to the reference is {kl:.1f} nats a completion, above kl_stop={self.args.kl_stop}",
                batch,
                cure="Raise kl_stop or beta, or lower learning_rate.",
            )
        self.kl_controller.update(kl, num_samples=self._all_scores().numel())

    def _head_is_new(self) -> bool:
        return self.state.global_step == 0 and self._step == 0

    # ---------------------------------------------------------------- updates

    def training_step(
        self, model: torch.nn.Module, inputs: Any, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """One micro-batch; nothing where the rollout's updates have ended (`target_kl`)."""
        assert self.args.steps_per_generation is not None, "TRL sets it"
        if self._step % (self.args.num_iterations * self.args.steps_per_generation) == 0:
            self._moved_too_far = False  # a new rollout
        if self._moved_too_far:
            self._step += 1
            loss = torch.zeros((), device=self.accelerator.device)
        else:
            loss = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            self._end_update(model)
        return loss

    def _end_update(self, model: torch.nn.Module) -> None:
        """Log an update's numbers, and leave it and the rollout's others out where the policy has moved too far before it."""
        if self._update_sums:
            sums = self.accelerator.reduce(torch.stack(list(self._update_sums.values())), reduction="sum")
            means = dict(zip(self._update_sums, (sums / self._update_tokens).tolist(), strict=True))
            self._update_sums = {}
            for name, value in means.items():
                self._metrics["train"][name].append(value)
            if self.args.target_kl is not None and means["approx_kl"] > self.args.target_kl:
                self._moved_too_far = True
                model.zero_grad(set_to_none=True)  # optimizers pass over weights without gradient
        if self.args.target_kl is not None:
            self._metrics["train"]["updates_left_out"].append(float(self._moved_too_far))

    def _compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any]) -> Tensor:
        """PPO loss of one micro-batch, as a share of the mean over all tokens of the update."""
        mode = "train" if self.model.training else "eval"
        rollout = Rollout.of(inputs)
        mask, old_logps = rollout.texts.completion_mask, rollout.old_per_token_logps
        policy = self._score(model, rollout.texts)
        policy_loss, policy_clipped = F.clipped_policy_loss(
            policy.logps, old_logps, rollout.advantages, self.args.epsilon
        )
        if self.use_vllm and self.args.vllm_importance_sampling_correction:
            policy_loss = policy_loss * inputs["importance_sampling_ratio"]
        value_loss, value_clipped = F.clipped_value_loss(
            policy.values, rollout.old_values, rollout.returns, self.args.cliprange_value
        )
        # `num_items_in_batch` counts the tokens of the rollout over all processes; scale it to one process and one update.
        tokens = inputs["num_items_in_batch"].clamp(min=1) / self.accelerator.num_processes
        if mode == "train":
            tokens = tokens * self.current_gradient_accumulation_steps / self.args.steps_per_generation
        loss = ((policy_loss + self.args.vf_coef * value_loss) * mask).sum() / tokens

        with torch.no_grad():
            terms = {
                "policy_loss": policy_loss,
                "value_loss": value_loss,
                "entropy": policy.entropy,
                "clip_ratio/policy": policy_clipped,
                "clip_ratio/value": value_clipped,
                "approx_kl": F.kl_k3(old_logps, policy.logps),
            }
            if mode == "train":
                # Logged at the end of the update: reading a number makes a device, and all processes, wait.
                for name, value in terms.items():
                    total = (value.float() * mask).sum()
                    self._update_sums[name] = self._update_sums.get(name, torch.zeros_like(total)) + total
                self._update_tokens = tokens * self.accelerator.num_processes
            else:
                means = self._global_means([(term, mask) for term in terms.values()]).tolist()
                for name, mean in zip(terms, means, strict=True):
                    self._metrics[mode][name].append(mean)
        return loss

    # ---------------------------------------------------------------- numbers over all processes

    def _global_means(self, masked: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Means (N,) of N tensors, each over the positions of its mask on all processes."""
        sums = torch.stack([torch.stack([(x.float() * mask).sum(), mask.sum().float()]) for x, mask in masked])
        totals, counts = self.accelerator.reduce(sums, reduction="sum").unbind(dim=1)
        return totals / counts.clamp(min=1)

    # ---------------------------------------------------------------- optimizer and checkpoints

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """TRL's optimizer, with the value head in a group of its own where it has its own learning rate."""
        fresh = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if fresh and self.args.value_learning_rate is not None:
            head = {id(p) for p in self.value_head.parameters()}
            head_parameters = []
            for group in optimizer.param_groups:
                head_parameters += [p for p in group["params"] if id(p) in head]
                group["params"] = [p for p in group["params"] if id(p) not in head]
            optimizer.add_param_group(
                {"params": head_parameters, "lr": self.args.value_learning_rate, "weight_decay": 0.0}
            )
        return optimizer

    def _add_to_checkpoint(self, folder: Path) -> None:
        weights = whole_weights(self.value_head)
        if self.args.should_save:
            save_file(weights, folder / VALUE_HEAD_FILE)
            state = {"kl_controller": self.kl_controller.state_dict(), "value_start": self.value_head.start}
            (folder / PPO_STATE_FILE).write_text(json.dumps(state), encoding="utf-8")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        folder = Path(resume_from_checkpoint)
        for name in (VALUE_HEAD_FILE, PPO_STATE_FILE):
            if not (folder / name).is_file():
                raise UserError(f"resume_from_checkpoint={folder} is not a PPO checkpoint: {name} is missing.")
        with loading(resume_from_checkpoint):
            load_whole_weights(self.value_head, load_file(folder / VALUE_HEAD_FILE))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            state = read_json(Path(checkpoint) / PPO_STATE_FILE)
            with loading(checkpoint):
                self.kl_controller.load_state_dict(state["kl_controller"])
                self.value_head.start = float(state["value_start"])


def prompt_by_prompt(batches: list[dict[str, Any]], per_update: int) -> list[dict[str, Any]]:
    """Micro-batches with the rows of each `per_update` neighbours dealt out anew, prompt by prompt.

    An update sums over its micro-batches, so which of them a row is in does not change it.
    """
    dealt = []
    for start in range(0, len(batches), per_update):
        update = batches[start : start + per_update]
        rows = {k: v for k, v in update[0].items() if isinstance(v, Tensor) and v.ndim}
        joined = {name: torch.cat([batch[name] for batch in update]) for name in rows}
        order = by_prompt(Texts.of(joined)).chunk(len(update))
        dealt += [
            batch | {name: x[part] for name, x in joined.items()} for batch, part in zip(update, order, strict=True)
        ]
    return dealt
