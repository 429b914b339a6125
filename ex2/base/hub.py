"""The model hub: is a repository within reach, or in the local cache, before anything waits for it; uploads."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

import yaml

from ex2.base.embedded_llm import EMBEDDED_ID
from ex2.base.errors import UserError
from ex2.base.files import from_home

_TIMEOUT_SECONDS = 10.0


def looks_like_path(name: str) -> bool:
    """Whether `name` cannot be a hub id, which is ``NAME`` or ``OWNER/NAME``."""
    return name.startswith(("/", ".", "~")) or name.count("/") > 1


def is_repository(name: str) -> bool:
    """Whether `name` can be a hub repository with its owner: ``OWNER/NAME``, each of letters, digits, `-`, `_` and `.`."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name and not looks_like_path(name)


def require_repository(repo_id: str, wanted_by: str, cure: str, *filenames: str) -> bool:
    """Make sure that a hub repository can be read; fails within seconds where downloads retry for minutes.

    Args:
        repo_id: Repository such as ``openai/clip-vit-base-patch32``.
        wanted_by: The user's option and its value, for the message.
        cure: What to write instead, for the message.
        filenames: Files any of which, when cached, stands for the repository.

    Returns:
        True when only the local cache can be read (no connection), False when the hub answered.

    Raises:
        UserError: The hub has no such repository or cannot be reached, and the cache has none either.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, HTTPError

    try:
        HfApi().model_info(repo_id, timeout=_TIMEOUT_SECONDS)
    except HFValidationError as error:
        raise UserError(f"{wanted_by}: {repo_id!r} is no name of a hub repository: {cure}") from error
    except (OSError, HTTPError) as error:
        # HTTPError is the base class of the hub's own HTTP client: some connection errors are no OSError there.
        if any(isinstance(try_to_load_from_cache(repo_id, filename), str) for filename in filenames):
            return True
        raise UserError(
            f"{wanted_by}: {repo_id!r} could not be fetched from the hub: {cure}, or check the name and the connection"
        ) from error
    return False


def fetched_before(repo_id: str, kind: str = "model") -> bool:
    """Whether something of a hub repository (`model` or `dataset`) is in the cache of this machine."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    try:
        name = repo_folder_name(repo_id=repo_id, repo_type=kind)
    except ValueError:  # it cannot be the name of any
        return False
    return (Path(constants.HF_HUB_CACHE) / name).is_dir()


def holds_file(repo_id: str, filename: str) -> bool:
    """Whether a hub repository holds a file; without a connection, whether the cache does."""
    from huggingface_hub import file_exists, try_to_load_from_cache
    from huggingface_hub.errors import HTTPError

    if isinstance(try_to_load_from_cache(repo_id, filename), str):
        return True
    try:
        return file_exists(repo_id, filename)
    except (OSError, HTTPError):
        return False


def require_account(wanted_by: str, token: str | None = None) -> None:
    """See whether the hub answers and knows the user.

    Args:
        wanted_by: The user's option and its value, for the message.
        token: Of the hub; None: the one that is logged in.

    Raises:
        UserError: It does not.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    try:
        HfApi(token=token).whoami()
    except (OSError, HTTPError, ValueError) as error:
        raise UserError(
            f"{wanted_by}: the hub does not answer or takes no token: check the connection, log in (`hf auth login`), or leave "
            "it out and upload a finished run with `ex2 export --push_to_hub ID`."
        ) from error


def licence_of(base: str) -> str | None:
    """The licence of a base model, where it is the embedded one or its own card lies on this machine; else None."""
    from huggingface_hub import metadata_load, try_to_load_from_cache

    if base == EMBEDDED_ID:
        return "apache-2.0"
    path = from_home(base)
    try:
        card = path / "README.md" if path.is_dir() else try_to_load_from_cache(base, "README.md")
        fields = metadata_load(card) if isinstance(card, (str, Path)) and Path(card).is_file() else None
    except (ValueError, yaml.YAMLError):  # a folder that is gone is no hub id either; or a damaged card
        return None
    said = (fields or {}).get("license")
    return said if isinstance(said, str) else None  # YAML takes `no` for a boolean, and some cards list several


def push_folder(
    folder: Path,
    repo_id: str,
    wanted_by: str,
    marker: str,
    *,
    private: bool = False,
    kind: Literal["model", "dataset"] = "model",
) -> str:
    """Make the files of a hub repository those of `folder`; the repository is made where there is none.

    Args:
        folder: Folder to upload.
        repo_id: Repository such as ``me/birds``.
        wanted_by: The user's option, for messages.
        marker: File that shows that a repository may be replaced; its history keeps what was there.
        private: Whether a repository that is made is seen by its owner alone; one that exists stays as it is.
        kind: What the repository holds.

    Returns:
        Address of the upload.

    Raises:
        UserError: The repository holds something without `marker`, or the hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, HTTPError

    api = HfApi()
    try:
        api.create_repo(repo_id, exist_ok=True, private=private, repo_type=kind)
        present = set(api.list_repo_files(repo_id, repo_type=kind)) - {".gitattributes"}
        if present and marker not in present:
            raise UserError(
                f"{wanted_by} {repo_id} holds other files ({min(present)}): name another repository. {folder} is written."
            )
        with warnings.catch_warnings():
            # A bundle's table is a data file, and belongs with its model.
            warnings.filterwarnings("ignore", message=".*commit a data file")
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder, delete_patterns="*", repo_type=kind))
    except HFValidationError as error:
        raise UserError(f"{wanted_by}: {repo_id!r} is no name of a hub repository. {folder} is written.") from error
    except (OSError, HTTPError) as error:
        raise UserError(
            f"{wanted_by}: {repo_id!r} could not be written on the hub: check the name, the connection and your token "
            f"(`hf auth login`). {folder} is written."
        ) from error
