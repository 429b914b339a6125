"""The nearest name is asked after, whatever its case."""

from __future__ import annotations

import pytest

from ex2.base.errors import did_you_mean


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("cosin", " Did you mean cosine?"),
        ("COSINE", " Did you mean cosine?"),
        ("siglip", " Did you mean SigLIP?"),
        ("zebra", ""),
        ("", ""),
    ],
)
def test_the_nearest_name(name: str, hint: str) -> None:
    assert did_you_mean(name, ["cosine", "margin", "SigLIP"]) == hint


def test_how_near_it_has_to_be() -> None:
    assert did_you_mean("clip_b32", ["paper/clip_l14"], cutoff=0.8) == ""
    assert did_you_mean("clip_b32", ["paper/clip_b32"], cutoff=0.5) == " Did you mean paper/clip_b32?"
