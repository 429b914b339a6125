"""What a rollout costs: passes, tokens and, by arithmetic, seconds on three GPUs. Nothing here is measured but `HOST_SECONDS`.

A pass over few tokens takes as long as the host needs to launch its kernels, one over many as long as the GPU needs to multiply;
sampling reads all weights once a token. So few large passes are faster than many small ones, with the same result.
"""

from __future__ import annotations

from dataclasses import dataclass

HOST_SECONDS = 1.36e-3
"""What launching one layer's kernels takes the host, LoRA included: 43.4 ms for 32 layers (benchmarks/RESULTS.md)."""

EFFICIENCY = 0.4
"""Share of a GPU's peak that large multiplications of a language model usually reach."""


@dataclass(frozen=True)
class GPU:
    """A GPU by its data sheet: memory in GiB, bandwidth in bytes a second, dense bfloat16 operations a second."""

    name: str
    memory: int
    bandwidth: float
    operations: float


GPUS = (
    GPU("RTX 4090", 24, 1.01e12, 165e12),
    GPU("L40S", 48, 0.864e12, 362e12),
    GPU("H100", 80, 3.35e12, 989e12),
)


@dataclass(frozen=True)
class Work:
    """Passes of one process for one rollout of `texts` completions.

    Attributes:
        texts: Completions, sampled at once.
        length: Tokens of a completion.
        prompt: Tokens of a prompt.
        scoring_passes, scoring_texts: Forward passes without gradient, by policy and reference, and texts in each.
        training_passes, training_texts: Forward and backward passes over all epochs, and texts in each.
        recomputes: Whether activations are computed a second time (gradient checkpointing).
    """

    texts: int
    length: int
    prompt: int
    scoring_passes: int
    scoring_texts: int
    training_passes: int
    training_texts: int
    recomputes: bool

    @property
    def scored_tokens(self) -> int:
        return self.scoring_passes * self.scoring_texts * (self.prompt + self.length)

    @property
    def trained_tokens(self) -> int:
        return self.training_passes * self.training_texts * (self.prompt + self.length)


def rollout_work(
    *,
    texts: int,
    length: int,
    prompt: int,
    scoring_texts: int,
    training_texts: int,
    epochs: int,
    with_reference: bool,
    recomputes: bool,
) -> Work:
    """The passes that the options ask for; see `Work`."""
    scoring_texts = min(scoring_texts, texts)
    return Work(
        texts=texts,
        length=length,
        prompt=prompt,
        scoring_passes=(1 + with_reference) * -(-texts // scoring_texts),
        scoring_texts=scoring_texts,
        training_passes=epochs * -(-texts // training_texts),
        training_texts=training_texts,
        recomputes=recomputes,
    )


def seconds(work: Work, gpu: GPU, *, parameters: int, layers: int, weight_bytes: float) -> float:
    """Seconds of a rollout and its updates, by arithmetic: each pass takes what limits it, host, memory or multiplication.

    A backward pass counts as two forward passes, as three where activations are recomputed.
    """

    def forward(tokens: int) -> float:
        multiplying = 2 * parameters * tokens / (EFFICIENCY * gpu.operations)
        return max(layers * HOST_SECONDS, weight_bytes / gpu.bandwidth, multiplying)

    width = work.prompt + work.length
    sampling = forward(work.texts * work.prompt) + (work.length - 1) * forward(work.texts)
    scoring = work.scoring_passes * forward(work.scoring_texts * width)
    training = work.training_passes * (3 + work.recomputes) * forward(work.training_texts * width)
    return sampling + scoring + training
