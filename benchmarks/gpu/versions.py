"""Versions of what matters, the device, and whether the project imports: python -m benchmarks.gpu.versions.

The exit status is 1 where a module of the project cannot be imported.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import time

DISTRIBUTIONS = (
    "torch",
    "torchvision",
    "triton",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "open_clip_torch",
    "tokenizers",
    "huggingface_hub",
    "safetensors",
    "bitsandbytes",
    "deepspeed",
    "timm",
    "numpy",
    "pandas",
    "pyarrow",
    "gguf",
    "pytest",
)
MODULES = (
    "ex2.run.training",
    "ex2.run.trainers",
    "ex2.rl.ppo_trainer",
    "ex2.vlm.hf",
    "ex2.vlm.openclip",
    "ex2.vlm.pictogram",
    "ex2.cli",
    "ex2.policy.sampler_vllm",
)
OPTIONAL = ("bitsandbytes",)


def version(distribution: str) -> str:
    """Version of what is installed, - for what is not."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "-"


def imports(module: str) -> bool:
    """Import a module and print how long it took, or why it failed."""
    start = time.perf_counter()
    try:
        importlib.import_module(module)
    except Exception as error:
        print(f"{'note: no' if module in OPTIONAL else 'FAIL'} import {module}: {error!r}")
        return False
    print(f"import {module}: {time.perf_counter() - start:.1f} s")
    return True


def device() -> None:
    """Print what torch sees."""
    import torch

    print(f"CUDA {torch.version.cuda}, available {torch.cuda.is_available()}")
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        size = f"{card.total_memory / 2**30:.1f} GiB, {card.multi_processor_count} multiprocessors"
        print(f"{card.name}: {size}, bf16 {torch.cuda.is_bf16_supported()}")


def main() -> None:
    """Print everything."""
    print(f"python {platform.python_version()}, {platform.platform()}")
    for distribution in DISTRIBUTIONS:
        print(f"{distribution:<18}{version(distribution)}")
    if not imports("torch"):
        raise SystemExit(1)
    device()
    missing = [module for module in (*MODULES, *OPTIONAL) if not imports(module)]
    raise SystemExit(bool(set(missing) - set(OPTIONAL)))


if __name__ == "__main__":
    main()
