"""Zero-shot classification: class vectors from texts, FuDD, and what describing changes."""
