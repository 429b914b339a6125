"""Controllers of the KL coefficient: how strongly the policy is held to its reference."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass
class KLController:
    """KL coefficient that follows a target (Ziegler et al. 2019, section 2.2), or stays fixed where `target` is None.

    Attributes:
        coef: Current coefficient, in reward units per nat.
        target: Wanted KL divergence in nats per completion; None keeps `coef` as it is.
        horizon: Samples over which the coefficient changes by about a fifth of itself at most.
    """

    coef: float
    target: float | None = None
    horizon: int = 10_000

    def update(self, kl: float, num_samples: int) -> None:
        """Move the coefficient after `num_samples` completions with a mean KL of `kl` nats each."""
        if self.target is None:
            return
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.coef *= 1 + error * num_samples / self.horizon

    def state_dict(self) -> dict[str, float | int | None]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, float | int | None]) -> None:
        """Take over the coefficient; target and horizon stay as configured, so that they can be changed on resume."""
        coef = state["coef"]
        assert coef is not None
        self.coef = float(coef)
