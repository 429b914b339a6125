"""EX2: extract what a vision-language model attends to, explore it, use it. The Python API is in docs/export.md."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ex2.export.generator import DescriptionGenerator

__all__ = ["DescriptionGenerator"]


def __getattr__(name: str) -> Any:
    # On first use: `import ex2` stays quick for those who want something else of it.
    if name == "DescriptionGenerator":
        from ex2.export.generator import DescriptionGenerator

        return DescriptionGenerator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
