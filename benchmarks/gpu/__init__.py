"""Checks and measurements of EX2 on one GPU in one call; see README.md."""
