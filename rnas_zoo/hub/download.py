"""Release folders from the Hub: pinned by commit, whole or not at all, safetensors only, offline once cached."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import genotype
from ..engine.progress import Reporter, Silent
from ..errors import DataError, HubError, NoWeightsError, UnknownNameError, WeightsError, closest
from ..files import atomic_folder, make_readable
from . import client

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FILES = (
    CONFIG, WEIGHTS, "README.md", "LICENSE", "genotype.json", "recipe.toml", "training.json", "robustness.json",
    "verdicts.npz", "check.npz", "labels.npz", "limits.json", "twin.json", "export.json", "model.onnx",
    "model.int8.onnx", "figures/*.png", "figures/*.svg", "figures/*.json",
)  # fmt: skip
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".tar")
SCHEMAS = {"robustness.json": 1, "genotype.json": genotype.SCHEMA}
TIMEOUT = 10.0  # seconds for an answer of the Hub
PAUSES = (1.0, 3.0)  # seconds before the server is asked again after a fault of its own


@dataclass(frozen=True)
class Downloaded:
    """A release that was brought here.

    Attributes:
        folder: where it lies; without an `out` in the client's cache, which is not to be changed.
        ref: the reference that names exactly these files again: `hf-hub:owner/name@commit`, or the name of a release
            that is bundled with the package.
    """

    folder: Path
    ref: str

    @property
    def files(self) -> list[str]:
        """Paths of its files, inside the folder."""
        return sorted(path.relative_to(self.folder).as_posix() for path in present(self.folder))


def present(folder: Path) -> list[Path]:
    """The files of a release folder, whatever else lies in it."""
    return sorted(path for pattern in FILES for path in folder.glob(pattern) if path.is_file())


def download(
    ref: str,
    out: str | Path | None = None,
    *,
    endpoint: str | None = None,
    offline: bool | None = None,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> Path:
    """Bring a release from the Hub; returns its folder.

    Args:
        ref, out, endpoint, offline, overwrite, reporter: see `fetch`, which also tells the commit.

    Raises:
        HubError, UnknownNameError, NoWeightsError, WeightsError, DataError, UsageError: see `fetch`.
        OutputExistsError, OutputNotWritableError: `out` is taken, or cannot be written.
    """
    return fetch(ref, out, endpoint=endpoint, offline=offline, overwrite=overwrite, reporter=reporter).folder


def fetch(
    ref: str,
    out: str | Path | None = None,
    *,
    endpoint: str | None = None,
    offline: bool | None = None,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> Downloaded:
    """Bring a release from the Hub.

    A revision is resolved to a commit once, and every file is that commit's; a commit that is wholly cached needs no
    network. Files are compared with the checksums the Hub announced (others leave the cache), tensors with the digest
    that config.json declares. Pickles are never fetched. Tokens are the client's own: HF_TOKEN, or `hf auth login`.

    Args:
        ref: `hf-hub:owner/name[@revision]`, `owner/name[@revision]`, or a name whose weights are published or bundled.
        out: folder to write; without it the files stay in the client's cache.
        endpoint: another Hub than the client's own (HF_ENDPOINT).
        offline: take it from the cache, without network; by default as HF_HUB_OFFLINE says.
        overwrite: `out` may be there already.
        reporter: hears what is asked for; silent by default.

    Raises:
        HubError: no such repository or revision, no access, no network and not cached, or bytes that are not the
            announced ones.
        UnknownNameError: no such name, or an architecture nobody has registered.
        NoWeightsError: nothing is published.
        WeightsError: no release folder, no safetensors, or other tensors than declared.
        DataError: written for a newer release of this package.
        UsageError: `ref` has another form.
        OutputExistsError, OutputNotWritableError: `out` is taken, or cannot be written.
    """
    if out is None:
        return _fetch(ref, endpoint, offline, reporter or Silent())
    with atomic_folder(out, overwrite=overwrite) as folder:
        found = _fetch(ref, endpoint, offline, reporter or Silent())
        for path in present(found.folder):
            target = folder / path.relative_to(found.folder)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target)
        make_readable(folder)
    return Downloaded(Path(out), found.ref)


def _fetch(ref: str, endpoint: str | None, offline: bool | None, reporter: Reporter) -> Downloaded:
    declared = None
    if not client.is_hub(ref) and "/" not in ref:
        bundled, ref, declared = _named(ref)
        if bundled is not None:
            return Downloaded(bundled, ref)
    repo, revision = client.split(ref)
    local, unreachable = bool(offline), None
    if not (local or _is_cached(repo, revision)):
        reporter.say(f"asking {client.host(endpoint)} for {repo}{f' at {revision}' if revision else ''}")
        try:
            _refuse_others(repo, _listed(repo, revision, endpoint))
        except HubError as error:
            if client.is_refusal(error):
                raise
            local, unreachable = True, error
    try:
        folder = _snapshot(repo, revision, endpoint, local, [CONFIG])
    except HubError as error:
        raise unreachable or error from error.__cause__
    commit = folder.name
    _refuse_others(repo, [path.name for path in present(folder)], (CONFIG,))
    config = _config(folder / CONFIG, repo)
    reporter.say(f"{repo} is at commit {commit}{', as far as the cache knows' if local else ''}")
    folder = _snapshot(repo, commit, endpoint, local, FILES)
    if local and not (folder / WEIGHTS).is_file():
        raise unreachable or HubError(client.not_cached(f"{repo}@{commit}"))
    _refuse_others(repo, [path.name for path in present(folder)])
    for name, newest in SCHEMAS.items():
        _readable(folder / name, newest, repo)
    check_tensors(folder / WEIGHTS, config, repo, declared)
    return Downloaded(folder, f"{client.PREFIX}{repo}@{commit}")


def _named(name: str) -> tuple[Path | None, str, str | None]:
    """The bundled folder of a name; else where its weights are published, and their digest if it is known."""
    import timm

    from .. import models  # noqa: F401  (registers the architectures)
    from ..models.weights import bundled_releases, declared_digest, no_weights

    if not timm.is_model(name.split(".")[0]):
        near = closest(name, timm.list_models())
        raise UnknownNameError(f"unknown model {name!r}.{near} A model on the Hub is called hf-hub:owner/name.")
    try:
        cfg: Any = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise UnknownNameError(f"{name}: {error}") from error
    key = f"{cfg.architecture}.{cfg.tag}" if cfg.tag else str(cfg.architecture)
    if key in (releases := bundled_releases()):
        return releases[key], key, None
    if not cfg.hf_hub_id:
        raise NoWeightsError(no_weights(name))
    return None, client.PREFIX + cfg.hf_hub_id, declared_digest(cfg.to_dict())


def _is_cached(repo: str, revision: str | None) -> bool:
    """Whether a commit is in the cache, as far as can be told without network."""
    names = (CONFIG, WEIGHTS, "README.md")
    return bool(revision and client.COMMIT.fullmatch(revision) and all(client.cached(repo, revision, n) for n in names))


def _refuse_others(repo: str, names: Sequence[str], needed: Sequence[str] = (CONFIG, WEIGHTS)) -> None:
    """Refuse what is no release by the names of its files."""
    missing = [name for name in needed if name not in names]
    pickles = [name for name in names if name.endswith(PICKLES)]
    if missing == [WEIGHTS] and pickles:
        raise WeightsError(
            f"{repo} holds pickles only ({pickles[0]}), which are never loaded: its owner must add {WEIGHTS}"
        )
    if missing:
        raise WeightsError(f"{repo} is no release of a model: it has no {' and no '.join(missing)}")


def _listed(repo: str, revision: str | None, endpoint: str | None) -> list[str]:
    """Names of a repository's files at a revision; the client by itself would wait for this answer without end."""
    from huggingface_hub import HfApi

    def ask() -> list[str]:
        with client.asking(repo, revision, endpoint):
            info = HfApi(endpoint=endpoint).model_info(repo, revision=revision, timeout=TIMEOUT)
        return [each.rfilename for each in info.siblings or ()]

    return client.patiently(ask, PAUSES)


def _snapshot(repo: str, revision: str | None, endpoint: str | None, local: bool, patterns: Sequence[str]) -> Path:
    """The folder of a commit in the client's cache, with the files of these patterns, intact."""
    from huggingface_hub import snapshot_download

    def ask() -> str:
        with client.asking(repo, revision, endpoint):
            return snapshot_download(
                repo,
                revision=revision,
                allow_patterns=list(patterns),
                endpoint=endpoint,
                etag_timeout=TIMEOUT,
                local_files_only=local,
                tqdm_class=client.bars(),
            )

    folder = Path(client.patiently(ask, PAUSES[:1]))
    _intact(folder, repo)
    return folder


def _intact(folder: Path, repo: str) -> None:
    """Files of a snapshot must be what the Hub announced; those that are not leave the cache."""
    damaged = [path for path in present(folder) if client.is_damaged(path)]
    for path in damaged:
        client.forget(path)
    if damaged:
        names = ", ".join(path.relative_to(folder).as_posix() for path in damaged)
        raise HubError(
            f"the checksum of {names} from {repo} is not the one the Hub announced: damaged on the way, and removed "
            "from the cache. Download again; if that repeats, something between you and the Hub changes files"
        )


def _config(path: Path, repo: str) -> dict[str, Any]:
    """config.json of a model whose architecture is registered."""
    import timm

    from .. import models  # noqa: F401  (registers the architectures)

    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        name = config["architecture"]
        if not isinstance(name, str) or not isinstance(config["pretrained_cfg"], dict):
            raise TypeError("architecture and pretrained_cfg have another form")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise WeightsError(
            f"{repo} is no release of a model: its {CONFIG} is not one that timm writes ({error!r})"
        ) from error
    if not timm.is_model(name):
        other = "import the package that registers it with timm first"
        fix = "a newer rnas_zoo knows it: upgrade" if name.startswith("rnas_") else other
        raise UnknownNameError(f"{repo} has the architecture {name!r}, which is unknown here; {fix}")
    return config


def _readable(path: Path, newest: int, repo: str) -> None:
    """A file with a schema must not be newer than what this release reads; a damaged one is told by who reads it."""
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))["schema"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return
    if isinstance(schema, int) and schema > newest:
        raise DataError(
            f"{path.name} of {repo} has schema {schema}, this release reads up to {newest}: upgrade rnas_zoo"
        )


def check_tensors(path: Path, config: dict[str, Any], repo: str, published: str | None = None) -> None:
    """The tensors of a release must be those that its config.json declares, and those that were published.

    Raises:
        WeightsError: they are not, or the file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from ..models.weights import declared_digest, tensor_digest

    try:
        found = tensor_digest(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path.name} of {repo} is damaged or no safetensors file ({error})") from error
    for declared, where in ((declared_digest(config["pretrained_cfg"]), CONFIG), (published, "the list of releases")):
        if declared not in (None, found):
            raise WeightsError(
                f"{path.name} of {repo} is not the one {where} declares: tensor digest {found[:12]}, expected "
                f"{str(declared)[:12]}. Take another revision, or tell its owner."
            )
