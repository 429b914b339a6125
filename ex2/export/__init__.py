"""Bundles: an aligned generator and its descriptions in the formats that other libraries read (docs/export.md)."""

from ex2.export.bundle import Bundle, read_bundle, write_bundle

__all__ = ["Bundle", "read_bundle", "write_bundle"]
