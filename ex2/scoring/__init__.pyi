from .bank import ImageBank, build_bank
from .scorer import TextScorer

__all__ = [
    "ImageBank",
    "TextScorer",
    "build_bank",
]
