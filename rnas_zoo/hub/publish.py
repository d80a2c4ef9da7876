"""Release folders go to the Hub: validated, sent as one commit, downloaded again and compared.

Developed with the real client against a local stand-in (`rnas_zoo.testing`); the real Hub has not been tried. The token
is the client's own (`hf auth login`, HF_TOKEN): nothing here takes, shows or writes one.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..engine.progress import Reporter, Silent
from ..errors import CheckFailedError, HubError, RnasZooError, UsageError
from ..models.weights import declared_digest
from . import registry, session, upload
from .client import LOGIN
from .download import CONFIG
from .upload import LocalFile, Plan, Remote
from .validation import problems

TAG = re.compile(r"(?!.*\.\.)[A-Za-z0-9_][A-Za-z0-9._+-]*(?<!\.)")


@dataclass(frozen=True)
class Release:
    """A release folder that may be published: its name, what config.json says for timm, and its files as they were
    validated.
    """

    folder: Path
    name: str
    pretrained_cfg: dict[str, Any]
    files: dict[str, LocalFile]


@dataclass(frozen=True)
class Published:
    """What became of a release.

    Attributes:
        name: of the release, `architecture.tag`.
        repo: owner/name.
        url: where to look at it.
        commit: 40 hexadecimal digits; None if a dry run found something to commit.
        created: whether the repository is new.
        private: whether only its owner sees it.
        new, changed, removed, unchanged: paths in the repository.
        bytes: size of the folder's files.
        sent: size of the new and changed ones.
        tag: the tag that the commit has.
        recorded: whether the commit was written into the registry's list of published weights.
        dry_run: nothing was written; the rest says what would be.
    """

    name: str
    repo: str
    url: str
    commit: str | None
    created: bool
    private: bool
    new: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    unchanged: tuple[str, ...]
    bytes: int
    sent: int
    tag: str | None
    recorded: bool
    dry_run: bool


@dataclass(frozen=True)
class _Order:
    """How to publish, the same for every release of a call."""

    api: Any
    url: str
    private: bool
    tag: str | None
    dry_run: bool
    record: bool
    reporter: Reporter


def publish(
    folder: str | Path,
    to: str,
    *,
    private: bool = False,
    tag: str | None = None,
    dry_run: bool = False,
    record: bool | None = None,
    endpoint: str | None = None,
    reporter: Reporter | None = None,
) -> Published:
    """Make a repository on the Hub hold exactly a release folder, in one commit.

    The folder is validated first, all of it. The commit builds on the head that was compared with the folder: if
    someone else was faster, nothing is overwritten. It is then downloaded into an empty cache and compared with the
    folder. Without a difference there is no commit, but the comparison is made. After an interruption the same call
    goes on: what the Hub has is not sent again.

    A folder of the registry (`model_cards/`) in a public repository is then written into
    `model_cards/published.json`, by which its weights can be had by name.

    Args:
        folder: the release folder.
        to: owner/name; made if it does not exist.
        private: a new repository is visible to its owner only. By default it is what the owner's default is.
        tag: name for the commit.
        dry_run: compare only, and write nothing; public repositories need no token for this.
        record: whether to write that list; by default on https://huggingface.co only, and never on another endpoint
            than the client's own.
        endpoint: URL of the Hub; the client's own (HF_ENDPOINT) by default. All but https://huggingface.co are spoken
            to without xet.
        reporter: hears of stages and their progress; silent by default.

    Raises:
        CheckFailedError: the folder may not be published, or what arrived is something else.
        HubError: no token, a refusal, no connection, or a repository that others changed meanwhile.
        UsageError: a name that the Hub does not take, or the tag names another commit.
    """
    session.check_repository(to)
    order = _order(endpoint, private, tag, dry_run, record, reporter)
    return _send(examine(folder, order.reporter), to, order)


def publish_all(
    directory: str | Path,
    owner: str,
    *,
    private: bool = False,
    tag: str | None = None,
    dry_run: bool = False,
    record: bool | None = None,
    endpoint: str | None = None,
    reporter: Reporter | None = None,
) -> tuple[list[Published], dict[str, RnasZooError]]:
    """Publish every release folder of a directory as `owner/<name of the release>`; arguments as in `publish`.

    All folders are validated before the first is sent. One that cannot be sent does not stop the others.

    Returns:
        What was published, and the error of each release that was not, by name.

    Raises:
        CheckFailedError: folders that may not be published, with every reason.
        HubError: no token.
        UsageError: no release folders, names that the Hub does not take, or two releases of one name.
    """
    order = _order(endpoint, private, tag, dry_run, record, reporter)
    found = sorted(path.parent for path in Path(directory).glob(f"*/{CONFIG}") if not path.parent.name.startswith("."))
    if not found:
        raise UsageError(f"{directory} holds no release folders (folders with a {CONFIG})")
    releases: dict[str, Release] = {}
    refused = []
    for folder in found:
        try:
            release = examine(folder, order.reporter)
        except CheckFailedError as error:
            refused.append(str(error))
            continue
        if release.name in releases:
            raise UsageError(f"{folder} and {releases[release.name].folder} are both called {release.name}")
        session.check_repository(f"{owner}/{release.name}")
        releases[release.name] = release
    if refused:
        raise CheckFailedError("\n".join([*refused, "nothing was sent"]))
    done, failed = [], {}
    for name, release in releases.items():
        try:
            done.append(_send(release, f"{owner}/{name}", order))
        except RnasZooError as error:
            failed[name] = error
            order.reporter.say(f"{name}: {error}")
    return done, failed


def examine(folder: str | Path, reporter: Reporter | None = None) -> Release:
    """A release folder as it may be published.

    Raises:
        CheckFailedError: with everything that forbids it.
        UsageError: no folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder. Publish what `rnas-zoo package` wrote.")
    (reporter or Silent()).say(f"checking {folder}")
    files = upload.local_files(folder)
    if found := problems(folder):
        raise CheckFailedError("\n  ".join([f"{folder} cannot be published:", *found]))
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    return Release(folder, config["rnas_zoo"]["name"], config["pretrained_cfg"], files)


def _order(
    endpoint: str | None, private: bool, tag: str | None, dry_run: bool, record: bool | None, reporter: Reporter | None
) -> _Order:
    from huggingface_hub import HfApi

    if tag is not None and not TAG.fullmatch(tag):
        raise UsageError(f"{tag!r} cannot be a tag: give letters, digits and '._+-', as in v1")
    known = session.has_token()
    if not (known or dry_run):
        raise HubError(f"publishing needs a token that may write, and there is none: {LOGIN}")
    url = session.endpoint(endpoint)
    api = HfApi(endpoint=url, token=known, library_name="rnas_zoo", library_version=__version__)
    recorded = not dry_run and (url == session.HUB if record is None else record)
    return _Order(api, url, private, tag, dry_run, recorded, reporter or Silent())


def _send(release: Release, repo: str, order: _Order) -> Published:
    with session.transfers(order.url):
        remote = upload.read(order.api, repo)
        created = remote is None
        if remote is None and not order.dry_run:
            remote = _create(repo, order)
        wanted = upload.plan(release.files, remote)
        _check_remote(release, repo, remote, wanted, order)
        recorded = _is_ours(release, remote, order)
        if recorded:
            registry.references()  # a damaged list is found before anything is sent
        head = remote.commit if remote else None
        if remote is not None and not order.dry_run:
            head = _update(release, repo, remote, wanted, order)
    if recorded and head is not None:
        cfg = release.pretrained_cfg
        registry.record(release.name, repo, head, str(declared_digest(cfg)), cfg)
    return Published(
        name=release.name,
        repo=repo,
        url=f"{order.url}/{repo}",
        commit=None if order.dry_run and wanted.differs else head,
        created=created,
        private=remote.private if remote else order.private,
        new=wanted.new,
        changed=wanted.changed,
        removed=wanted.removed,
        unchanged=wanted.unchanged,
        bytes=sum(file.size for file in release.files.values()),
        sent=sum(release.files[path].size for path in (*wanted.new, *wanted.changed)),
        tag=order.tag,
        recorded=recorded,
        dry_run=order.dry_run,
    )


def _create(repo: str, order: _Order) -> Remote:
    order.reporter.say(f"making {order.url}/{repo}")
    with session.asking(f"{repo} cannot be made", repo, order.url):
        order.api.create_repo(repo, private=order.private or None, exist_ok=True)
    remote = upload.read(order.api, repo)
    if remote is None:
        raise HubError(f"{repo} was made, but cannot be read: may the token read what it writes?")
    return remote


def _check_remote(release: Release, repo: str, remote: Remote | None, wanted: Plan, order: _Order) -> None:
    """Refuse what a repository that is there already does not allow."""
    if remote is None:
        return
    if order.private and not remote.private:
        raise UsageError(f"{repo} is public: --private is for new ones. Change it in its settings, or leave it out.")
    if order.tag in remote.branches:
        raise UsageError(f"{repo} has a branch {order.tag}: choose another --tag")
    tagged = remote.tags.get(order.tag or "")
    if tagged and (wanted.differs or tagged != remote.commit):
        same = "is not what" if wanted.differs else "is what"
        raise UsageError(
            f"the tag {order.tag} of {repo} is at commit {tagged} already; its head {remote.commit} {same} "
            f"{release.folder} holds. A tag stays where it is: choose another --tag."
        )


def _update(release: Release, repo: str, remote: Remote, wanted: Plan, order: _Order) -> str:
    """Commit what differs, compare, tag; the commit."""
    api, head = order.api, remote.commit
    if wanted.differs or head is None:
        count = len(wanted.new) + len(wanted.changed)
        order.reporter.say(f"sending {count} files to {order.url}/{repo}")
        head = upload.commit(api, repo, release.files, wanted, head, f"Publish {release.name}")
    order.reporter.say(f"downloading commit {head[:12]} of {repo} to compare it")
    upload.compare(api, repo, head, release.files)
    if order.tag and order.tag not in remote.tags:
        what = f"commit {head[:12]} of {repo} is there, but cannot be tagged {order.tag}"
        with session.asking(what, repo, order.url):
            api.create_tag(repo, tag=order.tag, revision=head)
    return head


def _is_ours(release: Release, remote: Remote | None, order: _Order) -> bool:
    """Whether the reference belongs into the registry: a folder of it, that everybody can get where users look."""
    public = remote is not None and not remote.private
    return order.record and public and registry.holds(release.folder) and order.url == session.endpoint()
