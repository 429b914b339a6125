"""`ex2 demo`: a page on which the generator of a bundle describes classes, on this machine or as a Space."""

from __future__ import annotations

import argparse
import socket
from pathlib import Path
from typing import Any

from ex2.base.device import torch_device
from ex2.base.errors import UserError
from ex2.base.files import from_home
from ex2.base.locks import alone_at
from ex2.base.progress import announce
from ex2.base.shown import say, shell_line
from ex2.commands.common import check_fetched, fetch_option, pickle_option

_HERE = "127.0.0.1"


def add(commands: Any) -> None:
    """Describe the command to the parser."""
    parser = commands.add_parser(
        "demo",
        help="a page on which the generator of a bundle describes classes",
        description="Serve a page where classes are chosen or typed and the aligned generator of a bundle describes them. With\n"
        "the VLM that the bundle names, an image can be laid beside the texts. It answers to this machine only.\n"
        "Ctrl-C ends it. --space writes the same page as a folder that is a Space on the hub as it is.",
        epilog="Examples:\n"
        "  ex2 demo bundles/quickstart\n"
        "  ex2 demo bundles/quickstart --space space\n"
        "  hf upload ME/DEMO space --repo-type space     # after: hf repo create ME/DEMO --repo-type space --space_sdk gradio",
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder that `ex2 export` wrote")
    parser.add_argument("--port", type=int, default=7860, metavar="N", help="0: any that is free; default: 7860")
    parser.add_argument(
        "--space", type=Path, metavar="DIR", help="write the page as a Space to this folder; nothing is served"
    )
    parser.add_argument(
        "--vlm",
        metavar="SPEC",
        help="VLM beside the texts; default: the bundle's, if it is on this machine; none: no VLM",
    )
    parser.add_argument("--base_model", metavar="MODEL", help="base LLM of the adapter, where it has moved")
    parser.add_argument("--device", default="auto", help="torch device; default: auto (a GPU where there is one)")
    parser.add_argument(
        "--cache_dir", metavar="DIR", help="folder of converted models; default: $EX2_CACHE or ~/.cache/ex2"
    )
    pickle_option(parser)
    fetch_option(parser, "BUNDLE")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    """Serve until Ctrl-C, or write a Space."""
    from ex2.export.bundle import read_bundle
    from ex2.export.demo import check_space, launch, open_demo, require_gradio, write_space

    folder = from_home(arguments.bundle)
    # What is wrong with it is said before a library is asked for, and before anything in it is used.
    read_bundle(folder)
    if arguments.space is not None:
        out = from_home(arguments.space)
        check_space(folder, out)
        with alone_at(out, "--space"):
            write_space(folder, out, require_gradio().__version__)
        say(
            f"Wrote {out}. Try it: `{shell_line('cd', out)} && python app.py`. Publish it: "
            f"`{shell_line('hf', 'upload', 'ME/DEMO', out, '--repo-type', 'space')}`."
        )
        return
    _check_fetched(arguments, folder)
    port = _free_port(arguments.port)
    require_gradio()  # before weights are loaded
    demo = open_demo(
        folder,
        vlm=arguments.vlm,
        fetch=arguments.fetch,
        base_model=arguments.base_model,
        device=torch_device(arguments.device),
        cache_dir=arguments.cache_dir,
        allow_pickle_formats=arguments.allow_pickle_formats,
    )
    page = launch(demo, host=_HERE, port=port)
    beside = f"with {demo.vlm.name}" if demo.vlm is not None else "without a VLM (--vlm SPEC, or --fetch true, for one)"
    announce(f"{page.local_url} describes classes with {arguments.bundle}, {beside}; Ctrl-C ends it.")
    page.block_thread()


def _check_fetched(arguments: argparse.Namespace, folder: Path) -> None:
    """Refuse to fetch a base model that only the bundle names."""
    from ex2.export.bundle import ADAPTER, MERGED
    from ex2.policy.source import find_policy

    if arguments.base_model is None and not (folder / MERGED).is_dir() and (folder / ADAPTER).is_dir():
        check_fetched(arguments, folder, {"base_model": find_policy(str(folder / ADAPTER), {}).fetched_from})


def _free_port(port: int) -> int:
    """The port, or for 0 one that is free.

    Raises:
        UserError: It is taken.
    """
    with socket.socket() as found:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server that has just ended does not count
        try:
            found.bind((_HERE, port))
        except OSError as error:
            raise UserError(f"--port {port} cannot be used ({error.strerror}): name another one, or 0.") from error
        return int(found.getsockname()[1])
