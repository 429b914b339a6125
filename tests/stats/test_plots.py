from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from matplotlib import figure as figure_module
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from ex2.base.errors import UserError
from ex2.stats.plots import (
    BLUE,
    GREEN,
    VERMILION,
    before_after_png,
    learning_curve_png,
    plot_before_after,
    plot_learning_curve,
)


def interval(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.01, "high": mean + 0.012}


def summary(*names: str, **meta: str) -> dict:
    systems = {name: {"reward": interval(0.2 + 0.02 * i), "heldout": interval(0.18)} for i, name in enumerate(names)}
    return {
        **systems,
        "aligned_minus_base": {"heldout": interval(0.03)},
        "intervals": {"level": 0.95},
        "meta": meta,
    }


def has_colour(image: Image.Image, colour: str) -> bool:
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return bool((np.asarray(image.convert("RGB")) == wanted).all(axis=-1).sum() > 50)


@pytest.fixture
def drawn(monkeypatch):
    """Every figure that is drawn, so that a test can read its axes."""
    figures = []
    original = figure_module.Figure.savefig

    def keep(self, *args, **kwargs):
        figures.append(self)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(figure_module.Figure, "savefig", keep)
    return figures


def text_overlaps(figure) -> list[tuple[str, str]]:
    """Pairs of shown texts of a figure whose boxes overlap."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    texts = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    for axes in figure.axes:
        texts += axes.get_legend().get_texts() if axes.get_legend() else []
        for axis, (low, high) in ((axes.xaxis, sorted(axes.get_xlim())), (axes.yaxis, sorted(axes.get_ylim()))):
            texts += [axis.label, *(tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high)]
    shown = [text for text in texts if text.get_visible() and text.get_text()]
    assert len(shown) > 8
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in shown]
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for _, box in boxes)
    return [(a, b) for i, (a, x) in enumerate(boxes) for b, y in boxes[i + 1 :] if x.overlaps(y)]


def test_before_after_file(tmp_path, drawn):
    path = tmp_path / "new" / "plot.png"
    plot_before_after(summary("class_name", "template", "base", "best_of_n", "aligned", vlm="hf:x/y"), path)
    image = Image.open(path)
    assert image.format == "PNG"
    assert image.width == 1800
    assert 600 < image.height < 1400
    assert has_colour(image, BLUE)
    assert has_colour(image, VERMILION)
    (axes,) = drawn[0].axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "class name",
        "template",
        "base policy",
        "best of n",
        "aligned policy",
    ]
    assert axes.get_xlabel() == "cosine similarity of text and images (mean over classes, 95 % interval)"
    labels = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert labels == ["reward images", "held-out images"]
    assert drawn[0].get_suptitle().splitlines() == [
        "hf:x/y",
        "aligned minus base, held-out, paired by class: +0.0300 [+0.0200, +0.0420]",
    ]
    assert text_overlaps(drawn[0]) == []


def test_before_after_draws_means_and_interval_ends(drawn):
    assert before_after_png(summary("base", "aligned"))
    points, (low_caps, high_caps), _ = drawn[0].axes[0].containers[0]
    assert points.get_xdata().tolist() == pytest.approx([0.2, 0.22])
    assert low_caps.get_xdata().tolist() == pytest.approx([0.19, 0.21])
    assert high_caps.get_xdata().tolist() == pytest.approx([0.212, 0.232])


def test_long_names_and_dollar_signs_do_not_break_the_title(drawn):
    meta = {"vlm": "open_clip:local-dir:/data/" + "long-folder-" * 9 + "$x$", "dataset": "folder:" + "pets-" * 12}
    assert before_after_png(summary("base", "aligned", **meta))
    assert len(drawn[0].get_suptitle().splitlines()) > 2
    assert text_overlaps(drawn[0]) == []


def test_learning_curve_file(tmp_path, drawn):
    metrics = [
        {
            "step": i,
            "sampled_texts": 64 * i,
            "reward": 25.0,
            "monitors/reward_cosine": 0.25,
            "monitors/heldout_cosine": 0.2 + i / 100,
            "kl": 0.1 * i,
        }
        for i in range(9, -1, -1)
    ]
    metrics += [{"train_runtime": 12.0}, {"step": 9, "sampled_texts": 576, "kl": 5.0}, {"step": 3, "kl": float("nan")}]
    path = tmp_path / "curve.png"
    plot_learning_curve(metrics, path)
    image = Image.open(path)
    assert image.format == "PNG"
    assert image.width == 1800
    assert all(has_colour(image, colour) for colour in (BLUE, VERMILION, GREEN))
    cosine, kl = drawn[0].axes
    assert cosine.get_ylabel() == "cosine similarity"
    assert [text.get_text() for text in cosine.get_legend().get_texts()] == ["reward images", "held-out images"]
    assert kl.get_xlabel() == "sampled texts"
    assert kl.get_ylabel() == "KL from reference\n(nats)"
    assert list(kl.lines[0].get_xdata()) == [64 * i for i in range(10)]
    assert kl.lines[0].get_ydata()[-1] == 5.0
    assert text_overlaps(drawn[0]) == []


def test_a_scaled_reward_has_a_panel_of_its_own(drawn):
    metrics = [
        {"step": i, "reward": 25.0 + i, "rewards/cosine/mean": 25.0 + i, "heldout_cosine": 0.2} for i in range(80)
    ]
    assert learning_curve_png(metrics)
    assert [axes.get_ylabel() for axes in drawn[0].axes] == ["cosine similarity", "reward"]
    assert drawn[0].axes[1].get_xlabel() == "training step"
    assert text_overlaps(drawn[0]) == []


@pytest.mark.parametrize(
    ("row", "labels"),
    [
        ({"kl": 1}, ["KL from reference\n(nats)"]),
        ({"reward": 0.3}, ["reward"]),
        ({"rewards/cosine/mean": 0.3, "reward": 30.0}, ["cosine similarity"]),
        ({"monitors/heldout_cosine": 0.3, "objective/kl": 2.0}, ["cosine similarity", "KL from reference\n(nats)"]),
    ],
)
def test_absent_keys_leave_their_panel_out(drawn, row, labels):
    assert learning_curve_png([{"step": 1, **row}])
    assert [axes.get_ylabel() for axes in drawn[0].axes] == labels


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ([], "the metrics have no sampled_texts or step to draw a learning curve against"),
        ([{"kl": 1.0}], "the metrics have no sampled_texts or step"),
        ([{"step": 1, "kl": float("inf"), "reward": None}], "the metrics have no cosine, reward or KL to draw"),
    ],
)
def test_nothing_to_draw(tmp_path, metrics, message):
    with pytest.raises(UserError, match=message):
        plot_learning_curve(metrics, tmp_path / "curve.png")
    assert list(tmp_path.iterdir()) == []


def test_no_pyplot_and_no_torch():
    code = """if True:
        import sys
        import ex2.texts.descriptions
        from ex2.stats.before_after import summarise
        from ex2.stats.plots import learning_curve_png
        assert learning_curve_png([{"step": 1, "kl": 0.5}]).startswith(b"\\x89PNG")
        print(sorted({"torch", "matplotlib.pyplot"} & set(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_both_readings_stand_side_by_side(drawn):
    one = summary("class_name", "base", "aligned")
    nameless = {name: one[name] for name in ("class_name", "base", "aligned")}
    assert before_after_png({**one, "nameless": nameless})
    (figure,) = drawn
    assert [axes.get_title() for axes in figure.axes] == ["as written", "without the class name"]
    assert text_overlaps(figure) == []
