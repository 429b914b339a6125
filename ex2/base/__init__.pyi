from .cache import cache_folder
from .embedded_llm import EMBEDDED, EMBEDDED_ID
from .errors import RunStopped, UserError

__all__ = [
    "EMBEDDED",
    "EMBEDDED_ID",
    "RunStopped",
    "UserError",
    "cache_folder",
]
