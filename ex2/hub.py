"""The model hub: is a repository within reach, or in the local cache, before anything waits for it."""

from __future__ import annotations

from ex2.errors import UserError

_TIMEOUT_SECONDS = 10.0


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
