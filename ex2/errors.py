"""The name that `ex2.base.errors` had until version 0.2; it goes with 0.3."""

import warnings

from ex2.base.errors import *  # noqa: F403

warnings.warn("ex2.errors is now ex2.base.errors: import from ex2.base, or from ex2.", DeprecationWarning, stacklevel=2)
