"""A run from start to report."""
