"""A page on which the generator of a bundle describes classes: for a browser here, or as a Space on the hub. Needs gradio."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import requires
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ex2.base.errors import UserError
from ex2.base.folders import is_empty
from ex2.base.hub import is_repository
from ex2.base.shown import markdown, printable
from ex2.export.bundle import read_bundle
from ex2.export.folder import new_folder
from ex2.export.generator import DescriptionGenerator, bundle_folder

if TYPE_CHECKING:
    import gradio
    from PIL import Image

    from ex2.vlm import VLM

MOST_NAMES, MOST_TEXTS = 20, 16
"""How many classes the page takes at once, and how many descriptions of each."""

_FONTS = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")  # of the reader's machine: no other is asked
_APP = '''"""The page of `ex2 demo`, as a Space."""

from ex2.export.demo import launch, open_demo

launch(open_demo("bundle", fetch=True)).block_thread()
'''


@dataclass(frozen=True)
class Demo:
    """What the page works with.

    Attributes:
        generator: Describes classes.
        class_names: Those of the bundle, which the page offers; any others may be typed.
        facts: Of the bundle's manifest.
        vlm: Scores descriptions with an image; None: there is none.
    """

    generator: DescriptionGenerator
    class_names: tuple[str, ...]
    facts: dict[str, Any]
    vlm: VLM | None = None

    @property
    def columns(self) -> list[str]:
        """Titles of what `describe` returns."""
        return ["class", "description"] + (["cosine"] if self.vlm is not None else [])

    def describe(
        self, names: Sequence[str], count: int, seed: int, image: Image.Image | None = None
    ) -> list[list[str | float]]:
        """A row a description, in the order of `columns`; with an image the most similar text comes first.

        Args:
            names: Classes, at most `MOST_NAMES`.
            count: Descriptions of each, at most `MOST_TEXTS`.
            seed: Of the sampling.
            image: What the VLM compares the descriptions with; None: they stay without a number.

        Raises:
            UserError: No name, a blank one, or a number out of range.
        """
        if len(names) > MOST_NAMES or count > MOST_TEXTS:
            raise UserError(f"At most {MOST_NAMES} classes and {MOST_TEXTS} descriptions of each at once.")
        records = self.generator.describe(names, count, seed=seed)
        rows: list[list[str | float]] = [[printable(r.class_name), printable(r.text)] for r in records]
        if self.vlm is None:
            return rows
        if image is None or not rows:
            return [[*row, ""] for row in rows]
        cosines = (self.vlm.encode_texts([r.text for r in records]) @ self.vlm.encode_images([image])[0]).tolist()
        return sorted(
            ([*row, round(c, 3)] for row, c in zip(rows, cosines, strict=True)), key=lambda row: -float(row[2])
        )


def open_demo(
    source: str | Path,
    *,
    vlm: str | None = None,
    fetch: bool = False,
    base_model: str | None = None,
    device: str = "cpu",
    cache_dir: str | None = None,
    allow_pickle_formats: bool = False,
) -> Demo:
    """The generator of a bundle and a VLM beside it.

    Args:
        source: Folder or hub id of a bundle.
        vlm: Spec of the VLM; None: the one that the bundle names, where it is the very one and on this machine; ``none``: no VLM.
        fetch: Fetch that VLM if it is not on this machine.
        base_model: As `DescriptionGenerator.from_pretrained`, and so the following.
        device: Torch device of both.
        cache_dir: Where the embedded LLM is converted to.
        allow_pickle_formats: Read weights in formats that can hold code.

    Raises:
        UserError: As `DescriptionGenerator.from_pretrained`; or `vlm` cannot be loaded.
    """
    folder = bundle_folder(str(source), "main")
    bundle = read_bundle(folder)
    generator = DescriptionGenerator.from_pretrained(
        folder, base_model=base_model, device=device, cache_dir=cache_dir, allow_pickle_formats=allow_pickle_formats
    )
    how = {"device": device, "allow_pickle_formats": allow_pickle_formats}
    return Demo(
        generator, tuple(dict.fromkeys(bundle.class_names)), bundle.facts, _vlm(bundle.facts["vlm"], vlm, fetch, how)
    )


def _vlm(named: dict[str, Any], wanted: str | None, fetch: bool, how: dict[str, Any]) -> VLM | None:
    """The VLM that the user wants, else the one that a bundle names."""
    from ex2.vlm import load_vlm
    from ex2.vlm.specs import source_of_vlm

    if wanted is not None:
        return None if wanted == "none" else load_vlm(wanted, **how)
    spec = str(named["name"])
    try:
        found = load_vlm(spec, **how) if fetch or source_of_vlm(spec) is None else None
    except UserError:  # such as a folder of the machine that the bundle comes from
        return None
    return found if found is not None and found.fingerprint == named["fingerprint"] else None


def require_gradio() -> Any:
    """The library, which is an extra.

    Raises:
        UserError: It is not installed.
    """
    try:
        import gradio
    except ImportError:
        raise UserError("ex2 demo needs gradio: run `pip install 'ex2[demo]'`.") from None
    return gradio


def demo_page(demo: Demo) -> gradio.Blocks:
    """The page; `launch` serves it."""
    gr = require_gradio()

    def describe(
        names: list[str], count: float, seed: float | None, image: Image.Image | None = None
    ) -> list[list[Any]]:
        try:
            return demo.describe(names, int(count), int(seed or 0), image)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from None

    name, vlm = (markdown(str(demo.facts[part]["name"])) for part in ("base_model", "vlm"))
    with gr.Blocks(title=f"{demo.facts['name']}: what a VLM likes to read", analytics_enabled=False) as page:
        gr.Markdown(
            f"# What {vlm} likes to read\n\n{name}, trained by EX2 to describe classes the way this vision-language model scores "
            "highest. The texts show what the model attends to. They are not facts."
        )
        names = gr.Dropdown(
            list(demo.class_names), value=list(demo.class_names[:1]), multiselect=True, allow_custom_value=True,
            max_choices=MOST_NAMES, label="Classes", info="Choose some of those it was trained on, or type others.",
        )  # fmt: skip
        with gr.Row():
            count = gr.Slider(1, MOST_TEXTS, value=4, step=1, label="Descriptions of each")
            seed = gr.Number(0, minimum=0, maximum=2**31 - 1, precision=0, label="Seed")
        inputs = [names, count, seed]
        if demo.vlm is not None:
            label = f"Image, for the cosine of {demo.vlm.name}"
            inputs.append(gr.Image(type="pil", image_mode=None, height=240, label=label))
        button = gr.Button("Describe", variant="primary")
        widths = ["18%", "58%", "24%"][: len(demo.columns)]
        table = gr.Dataframe(
            headers=demo.columns, datatype="str", wrap=True, interactive=False, column_widths=widths, label="Descriptions"
        )  # fmt: skip
        button.click(describe, inputs, table, api_name="describe")
    return page


def launch(demo: Demo, *, host: str | None = None, port: int | None = None) -> Any:
    """Serve the page until it is closed; returns at once with gradio's page, whose `local_url` says where it is.

    Args:
        demo: What it works with.
        host: Address that it answers at; None: this machine, or what the variables of a Space say.
        port: None: the first free one from 7860 on, or likewise.

    Raises:
        UserError: gradio is not installed.
    """
    gr = require_gradio()
    page, (plain, mono) = demo_page(demo), _FONTS
    theme = gr.themes.Default(font=plain, font_mono=mono)
    page.launch(server_name=host, server_port=port, share=False, quiet=True, prevent_thread_lock=True, theme=theme)
    return page


def check_space(bundle: Path, out: Path) -> None:
    """See whether a Space may be written to `out`; nothing is written.

    Raises:
        UserError: `out` is a file, holds something or lies in the bundle.
    """
    if Path(os.path.realpath(out)).is_relative_to(os.path.realpath(bundle)):
        raise UserError(f"--space {out} lies in the bundle: name a folder elsewhere.")
    if out.exists() and not out.is_dir():
        raise UserError(f"--space {out} is a file: name a folder.")
    if out.is_dir() and not is_empty(out):
        raise UserError(f"--space {out} is not empty: name a new folder.")


def write_space(bundle: Path, out: Path, gradio_version: str) -> None:
    """Write a folder that is a Space as it is: the page, a copy of the bundle and of EX2's own code, what to install.

    Args:
        bundle: Folder of a bundle, whose files have been checked.
        out: Folder to write; it must not be there yet, or be empty.
        gradio_version: What the hub is to serve it with.

    Raises:
        UserError: `out` is a file, holds something or lies in the bundle; or the disk refuses.
    """
    facts = read_bundle(bundle).facts
    check_space(bundle, out)
    package = Path(__file__).resolve().parents[1]
    needed = [requirement for requirement in requires("ex2") or [] if "extra ==" not in requirement]
    with new_folder(out, overwrite=False, option="--space") as work:
        shutil.copytree(bundle, work / "bundle")
        shutil.copytree(package, work / package.name, ignore=shutil.ignore_patterns("__pycache__"))
        (work / "app.py").write_text(_APP, encoding="utf-8")
        (work / "requirements.txt").write_text("".join(f"{line}\n" for line in sorted(needed)), encoding="utf-8")
        (work / "README.md").write_text(_space_card(facts, gradio_version), encoding="utf-8")


def _space_card(facts: dict[str, Any], gradio_version: str) -> str:
    """What the hub reads about a Space."""
    import yaml

    base, name = facts["base_model"], facts["name"]
    head = {
        "title": f"{name}: what a VLM likes to read",
        "sdk": "gradio",
        "sdk_version": gradio_version,
        "python_version": f"{sys.version_info.major}.{sys.version_info.minor}",
        "app_file": "app.py",
        **({"license": base["licence"]} if base["licence"] else {}),
        **({"models": [base["name"]]} if is_repository(base["name"]) else {}),
    }
    return (
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n\n# {markdown(name)}\n\n"
        "A page made by `ex2 demo`. The bundle that it serves is in `bundle`, the code of EX2 (Apache-2.0) in `ex2`.\n"
    )
