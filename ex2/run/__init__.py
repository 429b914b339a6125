"""A run from start to report."""

import lazy_loader

# What is public stands in __init__.pyi; it is imported on first use, so that importing the package stays quick.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
