"""docs/options.md is what the dataclasses say today."""

from __future__ import annotations

from tools.build_options_page import PAGE, page


def test_the_page_of_options_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m tools.build_options_page"


def test_it_has_every_option_of_ex2_with_its_range() -> None:
    text = page()
    assert "| `images_per_class` | `256` | 1 and up | Images of a class" in text
    assert "| `gamma` | `1.0` | 0 to 1 | Discount per token." in text
    assert "| `learning_rate` |" in text
    assert "| `dtype` | by machine |" in text
