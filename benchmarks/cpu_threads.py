"""What OpenMP settings and bfloat16 cost or gain on a CPU: forward, forward and backward, and sampling with the embedded policy.

    python benchmarks/cpu_threads.py [--busy 2]

Each setting runs in a process of its own, since OpenMP reads it once; `--busy N` keeps N other processes computing meanwhile.
Printed: seconds, and the ratio of forward and backward to the first row. EX2 uses `GOMP_SPINCOUNT=30000` (ex2/launch.py).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable

SETTINGS: dict[str, dict[str, str]] = {
    "1 thread": {"OMP_NUM_THREADS": "1"},
    "2 threads, spin 30000": {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "30000"},
    "2 threads, default spin": {"OMP_NUM_THREADS": "2"},
    "2 threads, sleep": {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"},
    "2 threads, spin 30000, float32": {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "30000", "EX2_BENCHMARK_FLOAT32": "1"},
}


def measure() -> None:
    """Print three timings of 8 texts of 50 tokens, and of sampling 12 tokens for 32 prompts of 26."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from ex2.policy.llm import resolve_model

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(resolve_model("smollm2"))
    policy = get_peft_model(base, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    ids, prompts = torch.randint(100, 40_000, (8, 50)), torch.randint(100, 40_000, (32, 26))

    def forward(gradients: bool) -> None:
        with torch.set_grad_enabled(gradients):
            hidden = base.model(input_ids=ids, use_cache=False).last_hidden_state[:, -25:-1]
            loss = base.lm_head(hidden).float().log_softmax(-1)[..., 5].mean()
        if gradients:
            loss.backward()

    def sample() -> None:
        length = {"max_new_tokens": 12, "min_new_tokens": 12}
        policy.generate(
            input_ids=prompts, attention_mask=torch.ones_like(prompts), do_sample=True, pad_token_id=2, **length
        )

    def seconds(work: Callable[[], None], times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            work()
        return (time.perf_counter() - start) / times

    with torch.autocast("cpu", torch.bfloat16, enabled="EX2_BENCHMARK_FLOAT32" not in os.environ):
        forward(True)
        print(seconds(lambda: forward(False), 3), seconds(lambda: forward(True), 3), seconds(sample, 1))


def spin() -> None:
    while True:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", type=int, default=0, help="Other processes that compute at the same time.")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure()
        return
    neighbours = [multiprocessing.Process(target=spin, daemon=True) for _ in range(args.busy)]
    for process in neighbours:
        process.start()
    print(f"{'setting':<32}{'forward':>9}{'fwd+bwd':>9}{'sampling':>10}{'fwd+bwd, ratio':>16}")
    first = 0.0
    for name, setting in SETTINGS.items():
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
        result = subprocess.run(
            [sys.executable, __file__, "--measure"], env=clean | setting, capture_output=True, text=True, check=True
        )
        forward, both, sampling = map(float, result.stdout.split()[-3:])
        first = first or both
        print(f"{name:<32}{forward:>8.2f}s{both:>8.2f}s{sampling:>9.2f}s{both / first:>16.2f}", flush=True)


if __name__ == "__main__":
    main()
