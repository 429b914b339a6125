"""The adaptive KL coefficient against numbers worked out by hand."""

from __future__ import annotations

import pytest

from ex2.rl.kl_control import KLController


@pytest.mark.parametrize(
    ("kl", "coef"),
    [
        (20.0, 0.2 * (1 + 0.2 * 100 / 1000)),  # 20/10 - 1 = 1, clipped to 0.2: 0.204
        (11.0, 0.2 * (1 + 0.1 * 100 / 1000)),  # 11/10 - 1 = 0.1: 0.202
        (10.0, 0.2),  # on target
        (9.5, 0.2 * (1 - 0.05 * 100 / 1000)),  # 0.199
        (0.0, 0.2 * (1 - 0.2 * 100 / 1000)),  # -1, clipped to -0.2: 0.196
        (-3.0, 0.2 * (1 - 0.2 * 100 / 1000)),  # the sample estimate can be negative
    ],
)
def test_update(kl: float, coef: float) -> None:
    controller = KLController(0.2, target=10.0, horizon=1000)
    controller.update(kl, num_samples=100)
    assert controller.coef == pytest.approx(coef, rel=1e-12)


def test_updates_accumulate() -> None:
    controller = KLController(1.0, target=1.0, horizon=10)
    controller.update(5.0, num_samples=5)  # x 1.1
    controller.update(5.0, num_samples=5)  # x 1.1
    controller.update(0.0, num_samples=10)  # x 0.8
    assert controller.coef == pytest.approx(1.1 * 1.1 * 0.8)


def test_stays_fixed_without_a_target() -> None:
    controller = KLController(0.2)
    controller.update(1e6, num_samples=10_000)
    assert controller.coef == 0.2


def test_state_brings_back_the_coefficient_and_leaves_the_options() -> None:
    before = KLController(0.2, target=10.0, horizon=1000)
    before.update(20.0, num_samples=100)
    state = before.state_dict()
    assert state == {"coef": pytest.approx(0.204), "target": 10.0, "horizon": 1000}

    after = KLController(0.5, target=6.0, horizon=500)
    after.load_state_dict(state)
    assert after == KLController(before.coef, target=6.0, horizon=500)
