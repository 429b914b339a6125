from .bundle import Bundle, read_bundle, write_bundle
from .generator import DescriptionGenerator
from .merge import merge_adapter

__all__ = [
    "Bundle",
    "DescriptionGenerator",
    "merge_adapter",
    "read_bundle",
    "write_bundle",
]
