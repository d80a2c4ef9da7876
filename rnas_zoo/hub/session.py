"""What writing to the Hub needs of its client: endpoint, token, how files travel, errors that say how to go on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import HubError, RnasZooError, UsageError
from .client import LOGIN, explained

HUB = "https://huggingface.co"
AGAIN = "the same command goes on where it stopped"


def endpoint(given: str | None = None) -> str:
    """The Hub to talk to: the one given, else the client's own choice (HF_ENDPOINT when the process began)."""
    from huggingface_hub import constants

    return (given or constants.ENDPOINT).rstrip("/")


def has_token() -> bool:
    """Whether the client has a token in its own store or environment.

    Raises:
        HubError: it cannot be had, or has characters that would make the client show it in its errors.
    """
    from huggingface_hub import get_token

    with asking("the token cannot be had"):
        token = get_token()
    if token and not re.fullmatch("[!-~]+", token):
        raise HubError(f"the token has spaces or other characters that no token has. To replace it, {LOGIN}")
    return bool(token)


@contextmanager
def transfers(url: str) -> Iterator[None]:
    """The block sends and receives files without bars of the client, and without xet unless `url` is the Hub itself:
    others do not speak it.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    xet_was_off, bars_were_off = constants.HF_HUB_DISABLE_XET, are_progress_bars_disabled()
    constants.HF_HUB_DISABLE_XET = xet_was_off or url != HUB
    if not bars_were_off:
        disable_progress_bars()
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_XET = xet_was_off
        if not bars_were_off:
            enable_progress_bars()


def check_repository(name: str) -> None:
    """Refuse a name that the Hub would not take.

    Raises:
        UsageError: it is not `owner/name`, or has characters or a length that the Hub refuses.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UsageError(f"the Hub takes no such name: {_line(error)}") from error
    if "/" not in name:
        raise UsageError(f"{name!r} names no repository: it is owner/name")


@contextmanager
def asking(what: str, repo: str = "", url: str | None = None) -> Iterator[None]:
    """Whatever the client raises inside the block becomes a HubError: `what`, the cause, and what to do.

    Raises:
        HubError: naming all three.
    """
    from huggingface_hub import errors

    of_login = [getattr(errors, name) for name in ("OIDCError", "DeviceCodeError") if hasattr(errors, name)]
    try:
        yield
    except RnasZooError:
        raise
    except (errors.HTTPError, OSError, RuntimeError, ValueError, *of_login) as error:
        raise HubError(f"{what}: {_cause(error, repo, url)}") from error


def _cause(error: BaseException, repo: str, url: str | None) -> str:
    from huggingface_hub import errors

    root: Any = error
    while not isinstance(root, errors.HTTPError) and root.__cause__ is not None:
        root = root.__cause__
    said = f"{_line(error)}. " if root is not error else ""
    if isinstance(root, errors.RepositoryNotFoundError | errors.RevisionNotFoundError) or "Invalid cred" in str(root):
        return explained(root, repo, None, url)
    if isinstance(root, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set: unset it to use the network"
    if isinstance(root, errors.HfHubHTTPError):
        return said + _refusal(root.response.status_code, root.server_message)
    if isinstance(root, errors.HTTPError):
        return f"{said}The connection failed ({_line(root)}): check the network and HF_ENDPOINT; {AGAIN}"
    return " ".join(str(root).split())[:300] or type(root).__name__


def _refusal(status: int, message: str | None) -> str:
    answer = f"the Hub answered {status}" + (f" ({_line(message)})" if message else "")
    if status in (401, 403):
        return f"{answer}: the token may not do this. It must be one that may write for this owner; {LOGIN}"
    if status == 429:
        return f"{answer}: too many requests. Wait some minutes; {AGAIN}"
    return f"{answer}: try again later; {AGAIN}" if status >= 500 else answer


def _line(text: object) -> str:
    """The first line that says something, without its full stop."""
    lines = [line.strip() for line in str(text).splitlines() if line.strip()]
    return lines[0].rstrip(".:") if lines else type(text).__name__
