"""Pages of the documentation site that are no files of docs/: a hook of mkdocs.yml.

Measurements and the like stay where people look for them in the repository and become pages all the same; the API
pages are generated from docstrings. Links between files, which are written for the repository, are made links between pages.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File
from pygments.formatters import HtmlFormatter

PAGES = {
    "results.md": "benchmarks/RESULTS.md",
    "model_card.md": "ex2/assets/pictograms/MODEL_CARD.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
"""File of the repository that each page is."""

_ONE_FRAME = ".rst-content .highlight pre { border: 0; margin: 0; padding: 0.5em; }"  # the theme draws a second one

_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s:]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are no files of docs/, and the colours of code."""
    root = Path(config.config_file_path).parent
    for page, source in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(root / source)))
    for face in (root / "ex2").rglob("__init__.pyi"):  # what is public
        package = ".".join(face.parent.relative_to(root).parts)
        files.append(File.generated(config, f"api/{package}.md", content=f"# {package}\n\n::: {package}\n"))
    colours = HtmlFormatter().get_style_defs(".highlight")
    files.append(File.generated(config, "pygments.css", content=f"{colours}\n{_ONE_FRAME}"))
    return files


def on_page_markdown(markdown: str, page: Any, files: Any, **_: Any) -> str:
    """Make links to files of the repository links to their pages; what has no page (a notebook, a script) stays as text."""
    if page.file.generated_by is not None and page.file.src_uri not in PAGES:
        return markdown
    source = Path(page.file.abs_src_path)
    pages = {Path(file.abs_src_path).resolve(): file.src_uri for file in files if file.abs_src_path is not None}

    def to_page(match: re.Match[str]) -> str:
        image, text, target, anchor = match.groups()
        uri = pages.get((source.parent / target).resolve())
        if uri is None:
            return text if (source.parent / target).exists() else match[0]  # a dead link stays one, for --strict to see
        return f"{image}[{text}]({posixpath.relpath(uri, posixpath.dirname(page.file.src_uri))}{anchor or ''})"

    return _LINK.sub(to_page, markdown)
