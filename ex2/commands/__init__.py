"""The sub-commands of `ex2`, one module each: `add` describes a command to the parser, `run` does it."""
