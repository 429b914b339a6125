"""The name that `ex2.texts.descriptions` had until version 0.2; it goes with 0.3."""

import warnings

from ex2.texts.descriptions import *  # noqa: F403

warnings.warn(
    "ex2.descriptions is now ex2.texts.descriptions: import from ex2.texts, or from ex2.",
    DeprecationWarning,
    stacklevel=2,
)
