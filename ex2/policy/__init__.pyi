from .asks import Ask, about, spread_asks
from .generation import generate
from .sampler import TextGenerator
from .source import PolicySource, find_policy, load_generator

__all__ = [
    "Ask",
    "PolicySource",
    "TextGenerator",
    "about",
    "find_policy",
    "generate",
    "load_generator",
    "spread_asks",
]
