from .base import VLM
from .specs import check_spec, list_vlms, load_vlm

__all__ = [
    "VLM",
    "check_spec",
    "list_vlms",
    "load_vlm",
]
