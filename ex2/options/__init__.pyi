from .ex2_options import EX2Config
from .parse import parse_options
from .policy_options import PolicyConfig
from .run_options import RunOptions

__all__ = [
    "EX2Config",
    "PolicyConfig",
    "RunOptions",
    "parse_options",
]
