"""The Hub's client as the package needs it: references are read, errors are one line, damaged files are forgotten."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..errors import HubError, OutputNotWritableError, RnasZooError, UsageError
from ..files import no_room

T = TypeVar("T")
PREFIX = "hf-hub:"
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
COMMIT = re.compile("[0-9a-f]{40}")
LOGIN = "log in with `hf auth login`, or set HF_TOKEN"
READ = 1 << 20


def is_hub(ref: object) -> bool:
    """Whether a model reference is of the form `hf-hub:…`."""
    return isinstance(ref, str) and ref.startswith(PREFIX)


def split(ref: str) -> tuple[str, str | None]:
    """Repository and revision of `owner/name[@revision]`, with or without `hf-hub:`.

    Raises:
        UsageError: it has another form.
    """
    repo, at, revision = ref.removeprefix(PREFIX).partition("@")
    if not REPOSITORY.fullmatch(repo) or (at and not revision) or "@" in revision or revision.strip() != revision:
        raise UsageError(f"a model on the Hub is called hf-hub:owner/name or hf-hub:owner/name@revision, not {ref!r}")
    return repo, revision or None


def host(endpoint: str | None = None) -> str:
    """The address of the Hub without its scheme."""
    from huggingface_hub import constants

    return (endpoint or constants.ENDPOINT).partition("://")[2].rstrip("/")


@contextlib.contextmanager
def asking(repo: str, revision: str | None = None, endpoint: str | None = None) -> Iterator[None]:
    """Errors of the client inside the block become a `HubError` of one line with cause and fix.

    Raises:
        HubError: see `explained`.
        OutputNotWritableError: the client's cache cannot be written.
    """
    from huggingface_hub import errors

    try:
        yield
    except RnasZooError:
        raise
    except PermissionError as error:
        where = error.filename or "the client's cache"
        raise OutputNotWritableError(
            f"cannot write {where}: {error.strerror}. Set HF_HOME to a folder of yours."
        ) from error
    except (OSError, errors.HTTPError, errors.EntryNotFoundError, errors.HFValidationError) as error:
        if reason := no_room(error):
            where = getattr(error, "filename", None) or "the client's cache"
            raise OutputNotWritableError(
                f"cannot write {where}: {reason}. Make room, or set HF_HOME to a folder elsewhere."
            ) from error
        raise HubError(explained(error, repo, revision, endpoint)) from error


def explained(error: BaseException, repo: str, revision: str | None = None, endpoint: str | None = None) -> str:
    """What the client says, in one line that names cause and fix."""
    from huggingface_hub import errors, get_token

    asked, where = f"{repo}@{revision}" if revision else repo, host(endpoint)
    cause: Any = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ else error
    status = getattr(getattr(cause, "response", None), "status_code", None)
    text = " ".join(str(cause).split())
    if isinstance(cause, errors.GatedRepoError):
        return f"{repo} is gated: ask for access on https://{where}/{repo}, and {LOGIN} with that account"
    if "Invalid credentials" in text:
        return f"{where} does not know your token: make a new one on https://{where}/settings/tokens and {LOGIN}"
    if isinstance(cause, errors.RepositoryNotFoundError):
        if get_token():
            return (
                f"there is no {repo} on {where} that your token may read: check owner and name, and whose token it is"
            )
        return f"there is no {repo} on {where}, or it is private: check owner and name; for a private one {LOGIN}"
    if isinstance(cause, errors.RevisionNotFoundError):
        return (
            f"{repo} has no revision {revision!r}: give a branch, a tag or a commit; https://{where}/{repo} lists them"
        )
    if isinstance(cause, errors.RemoteEntryNotFoundError):
        return f"{asked} lacks a file that was asked for ({_url(text)}): it is no release of rnas_zoo, or an old one"
    if status == 429:
        return f"{where} asks to wait (too many requests): try again in some minutes, or {LOGIN} for more"
    if status is not None and status >= 500:
        return f"{where} has a fault of its own (HTTP {status}) and {asked} is not cached: try again later"
    if status in (401, 403):
        return f"{where} refuses access to {asked} (HTTP {status}): {LOGIN} with an account that has it"
    if isinstance(cause, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError):
        return not_cached(asked)
    if isinstance(cause, errors.FileMetadataError):
        return (
            f"{where} answered without the headers of a Hub about {asked}: check HF_ENDPOINT and proxies, or try again"
        )
    if "Consistency check failed" in text:
        return f"a file of {asked} arrived incomplete and was thrown away: try again"
    if isinstance(cause, errors.HFValidationError):
        return f"{asked} is no name of a model on the Hub: {text}"
    if status is not None:
        return f"{where} refused the request for {asked} (HTTP {status}): {text[:200]}"
    return (
        f"{where} could not be reached and {asked} is not cached ({type(cause).__name__}: {text[:120]}): "
        "check the network, proxies and HF_ENDPOINT"
    )


def not_cached(asked: str) -> str:
    """What to say of `owner/name@revision` where the cache lacks it and may not be filled."""
    return f"{asked} is not wholly in the cache, and the network is switched off: allow it once, or give a folder"


def _is_passing(error: HubError) -> bool:
    """Whether the same request may succeed in a moment: the server had a fault."""
    status = _status(error)
    return status is not None and status >= 500


def patiently(ask: Callable[[], T], pauses: Sequence[float]) -> T:
    """The answer; after a fault of the server it is asked again, as often as there are pauses (seconds)."""
    for pause in pauses:
        try:
            return ask()
        except HubError as error:
            if not _is_passing(error):
                raise
            time.sleep(pause)
    return ask()


def is_refusal(error: HubError) -> bool:
    """Whether the Hub answered and said no: what is cached of it is no answer either."""
    status = _status(error)
    return status is not None and status < 500


def _status(error: BaseException) -> int | None:
    """The HTTP status that is behind an error, None if there was no answer."""
    cause: Any = error
    while cause is not None:
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if status is not None:
            return int(status)
        cause = cause.__cause__
    return None


def _url(text: str) -> str:
    found = re.search(r"https?://\S+", text)
    return found[0].rstrip(".") if found else text[:120]


def bars() -> Any:
    """The client's class of progress bars, but none in a pipe."""
    from huggingface_hub.utils import tqdm

    class Bars(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": options.get("disable") or not sys.stderr.isatty()})

    return Bars


def is_damaged(path: Path) -> bool:
    """Whether a file of the client's cache is not what the Hub announced: its blob is named by its checksum.

    A cache without links has no such names; nothing is known about its files.
    """
    if not path.is_symlink():
        return False
    announced = Path(os.readlink(path)).name
    if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", announced):
        return False
    digest = hashlib.sha256() if len(announced) == 64 else hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while block := file.read(READ):
            digest.update(block)
    return digest.hexdigest() != announced


def forget(path: Path) -> None:
    """Remove a file from the client's cache, so that the next download fetches it anew."""
    chain = [path]
    while chain[-1].is_symlink():
        chain.append(chain[-1].parent / os.readlink(chain[-1]))
    for each in chain:
        each.unlink(missing_ok=True)


def cached(repo: str, revision: str | None, name: str, folder: str | Path | None = None) -> Path | None:
    """Where a file of a repository lies in the client's cache (or another cache folder), if it does."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, name, cache_dir=folder, revision=revision)
    return Path(found) if isinstance(found, str) else None
