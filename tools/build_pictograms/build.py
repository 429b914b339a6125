"""Steps of the build and their command line."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from tools.build_pictograms.common import SEED, Work

STEPS = (
    "fetch", "rasterise", "captions", "head", "finetune", "refit", "features", "describe", "align", "evaluate", "export",
    "heldout",
)  # fmt: skip
STEP_HELP = (
    "step to run; 'all' runs what is not done yet, in order; 'reuse' takes the image tower of the assets in place of "
    "'head', 'finetune' and 'refit'"
)
DEFAULT_WORK = Path("build/pictograms")
DEFAULT_OUT = Path("ex2/assets/pictograms")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.build_pictograms", description=__doc__)
    parser.add_argument("step", choices=("all", "reuse", *STEPS), help=STEP_HELP)
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK, help="work folder (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder of the assets (default: %(default)s)")
    parser.add_argument("--wordnet", type=Path, help="folder with WordNet 3.0 index.noun and data.noun (else Debian's)")
    parser.add_argument("--seed", type=int, default=SEED, help="seed of all random choices (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument("--force", action="store_true", help="run the step even if its result is there")
    return parser.parse_args(arguments)


def outputs(work: Work) -> dict[str, Path | None]:
    """Return the file that shows that a step is done (None: the step is always run)."""
    return {
        "fetch": None,
        "rasterise": work.index,
        "captions": work.captions,
        "head": work.head,
        "finetune": work.finetuned,
        "refit": work.final,
        "features": work.features,
        "describe": work.descriptions,
        "align": work.aligned,
        "evaluate": work.results,
        "export": None,
        "heldout": None,
    }


def runners(work: Work, options: argparse.Namespace) -> dict[str, Callable[[], None]]:
    """Return the function of every step, importing only what each needs when it runs."""

    def fetch() -> None:
        from tools.build_pictograms.fetch import fetch as run

        run(work, options.wordnet)

    def rasterise() -> None:
        from tools.build_pictograms.rasterise import rasterise as run

        run(work)

    def captions() -> None:
        from tools.build_pictograms.captions import build_captions

        build_captions(work, options.seed)

    def head() -> None:
        from tools.build_pictograms.train import train_initial_head

        train_initial_head(work, options.seed)

    def finetune() -> None:
        from tools.build_pictograms.train import finetune as run

        run(work, options.seed)

    def refit() -> None:
        from tools.build_pictograms.train import refit as run

        run(work, options.seed)

    def features() -> None:
        from tools.build_pictograms.features import build_features

        build_features(work, options.seed)

    def describe() -> None:
        from tools.build_pictograms.describe import build_descriptions

        build_descriptions(work, options.seed)

    def align() -> None:
        from tools.build_pictograms.align import align as run

        run(work, options.seed)

    def evaluate() -> None:
        from tools.build_pictograms.evaluate import evaluate as run

        run(work)

    def export() -> None:
        from tools.build_pictograms.export import export as run

        run(work, options.out)

    def heldout() -> None:
        from tools.build_pictograms.heldout import heldout as run

        run(work, options.out)

    functions = (
        fetch,
        rasterise,
        captions,
        head,
        finetune,
        refit,
        features,
        describe,
        align,
        evaluate,
        export,
        heldout,
    )
    return dict(zip(STEPS, functions, strict=True))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one step, or all steps whose result is missing."""
    options = parse(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch

    torch.set_num_threads(options.threads)
    work = Work(options.work)
    work.root.mkdir(parents=True, exist_ok=True)
    if options.step == "reuse":
        from tools.build_pictograms.reuse import reuse

        reuse(work, options.out)
        return 0
    functions = runners(work, options)
    for step in STEPS if options.step == "all" else (options.step,):
        done = outputs(work)[step]
        if done is not None and done.exists() and not options.force:
            print(f"{step}: {done} is there, skipped")
            continue
        print(f"{step}: started", flush=True)
        functions[step]()
    return 0
