"""Numbers that must lie within a range."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ex2.base.errors import UserError


def check_ranges(options: Any, ranges: Mapping[str, tuple[float, float | None]]) -> None:
    """Raise UserError where an option is a number outside of its range (low, high); `high` None: no limit.

    Args:
        options: Has an attribute for each name; one that is None has no value to check.
        ranges: Range of each name, ends included.
    """
    for name, (low, high) in ranges.items():
        value = getattr(options, name)
        if value is not None and not low <= value <= (math.inf if high is None else high):  # NaN is out of range, too
            limit = f"at least {low}" if high is None else f"between {low} and {high}"
            raise UserError(f"{name}={value} is out of range: it must be {limit}.")
