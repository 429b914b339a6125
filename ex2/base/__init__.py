"""The ground: one-line errors, files written whole, ranges, the cache, the hub, the processor."""
