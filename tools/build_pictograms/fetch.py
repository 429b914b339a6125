"""Step ``fetch``: install the pictogram packages, the clip art and WordNet into the work folder."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tools.build_pictograms.common import (
    EXCLUDED_FAMILIES,
    FAMILIES,
    HELD_OUT_FAMILIES,
    NAME_PACKAGES,
    OPENCLIPART_DEB,
    OPENCLIPART_DEB_VERSION,
    WORDNET_DEB,
    WORDNET_DEB_VERSION,
    Work,
    verify_sha256,
)


def npm_specs() -> list[str]:
    """Return every npm package of the build as ``name@version``, refusing share-alike families."""
    families = [family for family in (*FAMILIES, *HELD_OUT_FAMILIES) if family.package != OPENCLIPART_DEB]
    specs = [f"{family.package}@{family.version}" for family in families]
    specs += [f"{name}@{version}" for name, version in NAME_PACKAGES.items()]
    for spec in specs:
        if spec.rsplit("@", 1)[0].rsplit("/", 1)[-1] in EXCLUDED_FAMILIES:
            raise ValueError(f"share-alike package in the list: {spec}")
    return specs


def install_npm(work: Work) -> None:
    """Install the pinned npm packages (no install scripts are run)."""
    prefix = work.root / "npm"
    prefix.mkdir(parents=True, exist_ok=True)
    options = ["--no-audit", "--no-fund", "--ignore-scripts", "--save-exact"]
    subprocess.run(["npm", "install", "--prefix", str(prefix), *options, *npm_specs()], check=True)


def install_deb(name: str, version: str, target: Path) -> None:
    """Download a Debian package and unpack it into a folder, where its file stays (nothing is installed)."""
    target.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", f"{name}={version}"], cwd=target, check=True)
    archive = next(target.glob(f"{name}_*.deb"))
    subprocess.run(["dpkg", "-x", archive.name, "."], cwd=target, check=True)


def copy_wordnet(source: Path, work: Work) -> None:
    """Take the two WordNet files from an existing folder instead of the Debian package."""
    work.wordnet.mkdir(parents=True, exist_ok=True)
    for name in ("index.noun", "data.noun"):
        shutil.copyfile(source / name, work.wordnet / name)


def fetch(work: Work, wordnet: Path | None = None) -> None:
    """Install what is not there yet, and check the clip art and the WordNet file against their recorded hashes."""
    if not all((work.node_modules / spec.rsplit("@", 1)[0]).is_dir() for spec in npm_specs()):
        install_npm(work)
    clip_art = work.root / "openclipart"
    if not work.openclipart.is_dir():
        install_deb(OPENCLIPART_DEB, OPENCLIPART_DEB_VERSION, clip_art)
    verify_sha256(OPENCLIPART_DEB, next(clip_art.glob("*.deb")))
    if not (work.wordnet / "data.noun").is_file():
        if wordnet is None:
            install_deb(WORDNET_DEB, WORDNET_DEB_VERSION, work.root / "wordnet")
        else:
            copy_wordnet(wordnet, work)
    verify_sha256("wordnet data.noun", work.wordnet / "data.noun")
