"""Weights on the Hugging Face Hub: `hf:OWNER/NAME` stands for the best.pth there wherever weights can be named."""

import os
import re
import socket
from functools import cache
from pathlib import Path
from urllib.parse import urlparse

from common.errors import UserError

SCHEME = "hf:"
BEST = "best.pth"
ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def is_id(text: str) -> bool:
    """Whether it has the form OWNER/NAME."""
    return ID.fullmatch(text) is not None


def is_on_hub(weights: str) -> bool:
    """Whether the weights are named as the Hub's, not as a file.

    Raises:
        UserError: they are, but not as hf:OWNER/NAME.
    """
    if not weights.startswith(SCHEME):
        return False
    if not is_id(weights.removeprefix(SCHEME)):
        raise UserError(f"{weights}: weights on the Hub are named hf:OWNER/NAME, as in hf:me/pets")
    return True


def answers() -> bool:
    """Whether the Hub can be reached, so that nobody waits through half a minute of retries where it cannot."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return False
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return True
    endpoint = urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    try:
        socket.create_connection((endpoint.hostname, endpoint.port or 443), timeout=3).close()
    except OSError:
        return False
    return True


@cache  # so that a process that reads them several times has the same commit each time
def local_file(weights: str, option: str) -> Path:
    """The file of `weights`: downloaded into huggingface_hub's cache where they are named hf:OWNER/NAME.

    Args:
        weights: a path, or hf:OWNER/NAME.
        option: by which they were named, for messages.

    Raises:
        UserError: the Hub has no such file for this user, or is out of reach and there is no copy in the cache.
    """
    if not is_on_hub(weights):
        return Path(weights)
    from huggingface_hub import errors, hf_hub_download

    try:
        return Path(hf_hub_download(weights.removeprefix(SCHEME), BEST, local_files_only=not answers()))
    except errors.RepositoryNotFoundError as error:
        remedy = "check the name, or log in with 'hf auth login'"
        raise UserError(f"{option} {weights}: not on the Hub, or not for you to see: {remedy}") from error
    except errors.RemoteEntryNotFoundError as error:
        raise UserError(
            f"{option} {weights}: holds no {BEST}, which export.py --push writes; give the file of the weights"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise UserError(
            f"{option} {weights}: the Hub is out of reach, and its cache has no copy: connect once, or give a file"
        ) from error
    except (OSError, errors.HTTPError) as error:
        raise UserError(f"{option} {weights}: cannot be downloaded: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """What an error of huggingface_hub, which take many lines, says first."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
