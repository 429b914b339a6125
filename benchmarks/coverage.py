"""How often EX2's 95 % intervals hold the truth, how often it finds what is not there, and what it can see: by simulation.

    python benchmarks/coverage.py [--trials 2000] [--classes 8 10 20 30 54 200] [--runs 1 2 3 5 8]

Part 1, one run: the mean of one number a class, for numbers as they occur: normal, skewed, shares of what is rarely said,
changes of such shares. Beside EX2's interval: Student's t, the expanded percentile bootstrap that EX2 had, the studentised
bootstrap, and BCa by scipy. "Refused" is the share of samples in which all classes are alike, so that there is no interval.

Part 2, several runs: six shares of two sides that are the same, or of which the first differs by 0.2. Classes differ by 0.25,
runs by 0 to 0.12 in the first share, single cells by 0.15. Coverage of one side's mean; how often any of the six differs where
none does (Holm); the power for 0.2 of one test by itself, and of the six together.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator

import numpy as np
from scipy import stats

from ex2.stats.crossed import between, over_runs, with_common_spread
from ex2.stats.intervals import expanded_tail, holm, mean_interval, mean_p

LEVEL = 0.95
Draw = Callable[[np.random.Generator, int], np.ndarray]


def share(mean: float, texts: int = 8) -> Draw:
    """Shares of `texts` texts a class, of a chance that differs by class as chances do."""
    return lambda rng, count: rng.binomial(texts, rng.beta(3 * mean, 3 - 3 * mean, size=count)) / texts


def change(mean: float) -> Draw:
    """Changes of such a share between two policies that say it equally often on average, but each about other classes."""
    return lambda rng, count: share(mean)(rng, count) - share(mean)(rng, count)


SAMPLES: dict[str, tuple[Draw, float]] = {
    "normal": (lambda rng, count: rng.normal(size=count), 0.0),
    "exponential": (lambda rng, count: rng.exponential(size=count), 1.0),
    "lognormal": (lambda rng, count: rng.lognormal(sigma=0.75, size=count), float(np.exp(0.75**2 / 2))),
    "share of 3 %": (share(0.03), 0.03),
    "share of 10 %": (share(0.1), 0.1),
    "share of 30 %": (share(0.3), 0.3),
    "change of 3 %": (change(0.03), 0.0),
    "change of 10 %": (change(0.1), 0.0),
}


def bootstraps(sample: np.ndarray, rng: np.random.Generator, resamples: int = 999) -> dict[str, tuple[float, float]]:
    """Expanded percentile, studentised and BCa intervals of a sample's mean."""
    count, mean = len(sample), sample.mean()
    draws = sample[rng.integers(0, count, (resamples, count))]
    means, errors = draws.mean(axis=1), draws.std(axis=1) / np.sqrt(count)
    tail = expanded_tail(count, LEVEL)
    with np.errstate(divide="ignore", invalid="ignore"):
        studentised = np.where(errors > 0, (means - mean) / errors, np.sign(means - mean) * np.inf)
    studentised[np.isnan(studentised)] = 0
    low, high = np.quantile(studentised, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="inverted_cdf")
    error = sample.std() / np.sqrt(count)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of degenerate resamples
        bca = stats.bootstrap((sample,), np.mean, confidence_level=LEVEL, n_resamples=resamples, method="BCa", rng=rng)
    return {
        "percentile": tuple(np.quantile(means, [tail, 1 - tail])),
        "studentised": (mean - high * error, mean - low * error),
        "BCa": tuple(bca.confidence_interval),
    }


def one_run(classes: int, trials: int, boots: int) -> Iterator[str]:
    """A line a kind of numbers: refused, then coverage of each interval, then what EX2's test rejects at 5 %."""
    rng = np.random.default_rng(classes)
    for name, (draw, truth) in SAMPLES.items():
        held: dict[str, list[bool]] = {}
        rejected, refused = [], 0
        for trial in range(trials):
            sample = draw(rng, classes)
            interval = mean_interval(sample)
            if not interval.known:
                refused += 1
                continue
            half = stats.t.ppf((1 + LEVEL) / 2, classes - 1) * sample.std(ddof=1) / np.sqrt(classes)
            ends = {"EX2": (interval.low, interval.high), "Student": (sample.mean() - half, sample.mean() + half)}
            if trial < boots:
                ends |= bootstraps(sample, rng)
            for method, (low, high) in ends.items():
                held.setdefault(method, []).append(low <= truth <= high)
            rejected.append(mean_p(sample - truth) < 1 - LEVEL)
        cells = [f"{np.mean(held[method]):11.3f}" for method in ("EX2", "Student", "percentile", "studentised", "BCa")]
        yield f"{classes:>7}  {name:<14}{refused / trials:8.2f}{''.join(cells)}{np.mean(rejected):11.3f}"


def several_runs(classes: int, runs: int, spread: float, trials: int) -> str:
    """Coverage, false differences and power for 0.2, of six shares over `runs` runs a side that vary by `spread`."""
    rng = np.random.default_rng(1000 * classes + runs)
    means = np.array([0.3, 0.25, 0.2, 0.1, 0.1, 0.05])
    moved = means + np.array([0.2, -0.2, 0, 0, 0, 0])
    phi = spread**2 / (means[0] * (1 - means[0]))
    tilt = 0.25**2 / (means[0] * (1 - means[0]))

    def side(center: np.ndarray, by_class: np.ndarray) -> np.ndarray:
        """(runs, classes, shares) around `center`: runs are Dirichlet, and texts of a class too."""
        own = center if phi == 0 else rng.dirichlet(np.maximum(center, 1e-3) * (1 / phi - 1), size=runs)[:, None, :]
        return (
            own
            + by_class
            + rng.multivariate_normal(np.zeros(6), 0.15**2 / 0.21 * _multinomial(center), size=(runs, classes))
        )

    held, false, seen, first = [], [], [], []
    for _ in range(trials):
        by_class = rng.multivariate_normal(np.zeros(6), tilt * _multinomial(means), size=classes)
        ours = side(means, by_class)
        if runs == 1:
            interval = mean_interval(ours[0, :, 0])
            held.append(interval.low <= means[0] <= interval.high)
            continue
        own = over_runs(ours[:, :, 0])
        held.append(abs(own.mean - means[0]) <= own.half_width(LEVEL))
        same, other = side(means, by_class), side(moved, by_class)
        for theirs, found in ((same, false), (other, seen)):
            differences = {str(k): between(theirs[:, :, k], ours[:, :, k]) for k in range(6)}
            together = with_common_spread(differences, {str(k): float(means[k]) for k in range(6)})
            p_values = holm([difference.p() for difference in together.values()])
            found.append((p_values < 0.05).any() if theirs is same else p_values[0] < 0.05)
            if theirs is other:
                first.append(differences["0"].p() < 0.05)
    rest = (
        f"{np.mean(false):12.3f}{np.mean(first):12.3f}{np.mean(seen):12.3f}"
        if runs > 1
        else f"{'refused':>12}{'-':>12}{'-':>12}"
    )
    return f"{classes:>7}{runs:>6}{spread:>8.2f}{np.mean(held):11.3f}{rest}"


def _multinomial(p: np.ndarray) -> np.ndarray:
    p = np.clip(p, 1e-3, 1)
    return np.diag(p) - np.outer(p, p)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--trials", type=int, default=2000, help="samples of a line of part 1; a tenth in part 2; default: 2000"
    )
    parser.add_argument("--boots", type=int, default=300, help="of these, with bootstraps beside; default: 300")
    parser.add_argument("--classes", type=int, nargs="+", default=[8, 10, 20, 30, 54, 200])
    parser.add_argument("--runs", type=int, nargs="+", default=[1, 2, 3, 5, 8])
    parser.add_argument("--parts", type=int, nargs="+", default=[1, 2], choices=(1, 2))
    args = parser.parse_args()
    start = time.perf_counter()
    if 1 in args.parts:
        print("classes  numbers        refused        EX2    Student percentile studentised      BCa   EX2 p<.05")
    for classes in args.classes if 1 in args.parts else []:
        for line in one_run(classes, args.trials, args.boots):
            print(line, flush=True)
    if 2 in args.parts:
        print("\nclasses  runs  spread   coverage  false (6)  power (1)   power (6)")
    for classes in args.classes if 2 in args.parts else []:
        for runs in args.runs:
            for spread in (0.0, 0.03, 0.06, 0.12):
                if runs > 1 or spread == 0:
                    print(several_runs(classes, runs, spread, max(args.trials // 10, 1)), flush=True)
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
