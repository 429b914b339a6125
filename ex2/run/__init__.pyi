from .dry_run import describe
from .folder import base_descriptions
from .trainers import build_trainer
from .training import run

__all__ = [
    "base_descriptions",
    "build_trainer",
    "describe",
    "run",
]
