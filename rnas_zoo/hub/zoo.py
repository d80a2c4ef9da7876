"""The zoo's models, chosen by name, size and what was measured on them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from typing import Any

import timm
import torch
from torch import nn

from .. import data, models  # noqa: F401  (registers the architectures)
from ..attacks import Threat
from ..attacks.threat import parse_eps
from ..engine.budget import parse_count
from ..errors import UnknownNameError, UsageError, closest
from ..models.size import count_macs, count_parameters
from ..verification import evidence
from ..verification.protocols import CHOICES
from . import results
from .sections import percent, threat_name

SORTS = ("name", "params", "macs", "clean", "robust")


@dataclass(frozen=True)
class Query:
    """What is asked of a model.

    Attributes:
        filter: pattern of its name.
        pretrained: `architecture.tag` names whose weights can be had. All that follows but `max_params` and the sort
            keys name, params and macs is about weights and implies it.
        max_params: at most so many parameters, a number or text such as `350k` and `1e6`.
        min_robust: at least this robust accuracy in per cent, by the strongest run under `threat` by `protocol`.
        dataset: what it was trained on.
        threat: a threat model or text such as `linf:8/255`; the one trained against where it is not asked.
        protocol: one of quick, fast, standard and full; the strongest there is where it is not asked.
        sort: one of SORTS: name, params and macs rise, accuracies fall.

    Raises:
        UnknownNameError: no such protocol or sort key.
        UsageError: a number out of its range, or a threat that cannot be read.
    """

    filter: str = "*"
    pretrained: bool = False
    max_params: int | float | str | None = None
    min_robust: float | None = None
    dataset: str | None = None
    threat: Threat | str | None = None
    protocol: str | None = None
    sort: str | None = None

    def __post_init__(self) -> None:
        _check_known("sort key", self.sort, SORTS)
        _check_known("protocol", self.protocol, CHOICES)
        if self.max_params is not None:
            limit = parse_count(self.max_params) if isinstance(self.max_params, str) else self.max_params
            object.__setattr__(self, "max_params", limit)
            if not limit > 0:
                raise UsageError(f"max_params must be above 0, got {limit}")
        if self.min_robust is not None and 0 < self.min_robust < 1:
            raise UsageError(f"min_robust is in per cent: for 40 % write 40, got {self.min_robust:g}")
        if self.min_robust is not None and not 0 <= self.min_robust <= 100:
            raise UsageError(f"min_robust is in per cent, 0 to 100, got {self.min_robust:g}")
        if isinstance(self.threat, str):
            norm, colon, eps = self.threat.partition(":")
            if not colon:
                raise UsageError(f"cannot read the threat {self.threat!r}; write linf:8/255 or l2:0.5")
            object.__setattr__(self, "threat", Threat(norm, eps))

    @property
    def about_weights(self) -> bool:
        """Whether only models with weights can answer."""
        asked = (self.min_robust, self.dataset, self.threat, self.protocol)
        return self.pretrained or any(each is not None for each in asked) or self.sort in ("clean", "robust")

    @property
    def by_name(self) -> bool:
        """Whether names alone answer."""
        return self.max_params is None and self.sort in (None, "name") and self.about_weights == self.pretrained


@dataclass(frozen=True)
class Model:
    """One line of the list.

    Attributes:
        result: what its release folder says; None for an architecture, whose size is counted when asked for.
        run: the strongest run about what was asked, None if there is none.
    """

    name: str
    result: results.Result | None = None
    run: dict[str, Any] | None = None

    @cached_property
    def _network(self) -> nn.Module:
        with torch.device("meta"):
            return timm.create_model(self.name)

    @cached_property
    def parameters(self) -> int:
        """Number of parameters."""
        return self.result.parameters if self.result else count_parameters(self._network)

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates per image."""
        if self.result:
            return self.result.macs
        cfg: Any = timm.get_pretrained_cfg(self.name)
        return count_macs(self._network, cfg.input_size)

    def to_json(self) -> dict[str, Any]:
        """What is known of it, accuracies in 0..1; of an architecture its number of parameters."""
        if self.result is None:
            return {"model": self.name, "parameters": self.parameters}
        keys = ("norm", "eps", "protocol", "robust_accuracy", "interval", "n")
        return {**self.result.to_json(), "robust": {key: self.run[key] for key in keys} if self.run else None}


def list_models(
    filter: str = "*",
    *,
    pretrained: bool = False,
    max_params: int | float | str | None = None,
    min_robust: float | None = None,
    dataset: str | None = None,
    threat: Threat | str | None = None,
    protocol: str | None = None,
    sort: str | None = None,
) -> list[str]:
    """Names of this package's models, or with `pretrained` the `architecture.tag` names whose weights can be had.

    Args:
        filter, pretrained, max_params, min_robust, dataset, threat, protocol, sort: see `Query`.

    Example:
        import rnas_zoo

        rnas_zoo.list_models(max_params="350k", min_robust=35, dataset="cifar10", threat="linf:8/255", sort="robust")

    Raises:
        UnknownNameError, UsageError: see `Query`; and for a data set that nobody knows.
    """
    query = Query(filter, pretrained, max_params, min_robust, dataset, threat, protocol, sort)
    return names(filter, pretrained) if query.by_name else [model.name for model in select(query)]


def names(filter: str, pretrained: bool) -> list[str]:
    """The names that fit a pattern."""
    found = [
        name
        for module in ("baselines", "rnas_cells", "rnas_students", "teachers")
        for name in timm.list_models(module=module, pretrained=pretrained, include_tags=pretrained)
    ]
    return sorted(name for name in found if fnmatch(name, filter))


def select(query: Query, releases: Iterable[results.Result] | None = None) -> list[Model]:
    """The models that meet everything asked, sorted; by name without a sort key.

    Args:
        releases: the bundled ones by default.

    Raises:
        UnknownNameError: no such data set.
    """
    found = [model for model in _candidates(query, releases) if not misses(model, query)]
    keys: dict[str, Any] = {
        "params": lambda model: model.parameters,
        "macs": lambda model: model.macs,
        "clean": lambda model: -model.result.clean["clean_accuracy"],
        "robust": lambda model: -model.run["robust_accuracy"] if model.run else 1.0,
    }
    return sorted(found, key=keys.get(query.sort or "name", lambda model: 0))


def _candidates(query: Query, releases: Iterable[results.Result] | None) -> list[Model]:
    """Everything with a fitting name, by name."""
    if not query.about_weights:
        return [Model(name) for name in names(query.filter, pretrained=False)]
    known = results.collect() if releases is None else list(releases)
    _check_known("data set", query.dataset, sorted({*data.DATASETS, *(each.dataset for each in known)}))
    fitting = [each for each in known if fnmatch(each.name, query.filter)]
    return [Model(each.name, each, _run(each, query)) for each in sorted(fitting, key=lambda each: each.name)]


def _run(result: results.Result, query: Query) -> dict[str, Any] | None:
    runs = (run for run in _under(result, query) if query.protocol in (None, run["protocol"]))
    return max(runs, key=evidence.rank, default=None)


def _under(result: results.Result, query: Query) -> list[dict[str, Any]]:
    """The runs by protocols of ours under the threat asked for."""
    wanted = str(query.threat) if query.threat else result.threat
    return [run for run in result.runs if threat_name(run) == wanted and run["protocol"] in CHOICES]


def misses(model: Model, query: Query) -> dict[str, float]:
    """What a model does not meet, in words, and by how much; empty if it meets everything."""
    found: dict[str, float] = {}
    if query.max_params is not None and model.parameters > float(query.max_params):
        found[f"{model.parameters:,} parameters"] = math.log10(model.parameters / float(query.max_params))
    if model.result is None:
        return found
    if query.dataset not in (None, model.result.dataset):
        found[f"data {model.result.dataset}"] = 1.0
    if isinstance(query.threat, Threat) and not _under(model.result, query):
        sizes = [(run["norm"], parse_eps(run["eps"])) for run in model.result.runs]
        near = [abs(size - query.threat.eps) for norm, size in sizes if norm == query.threat.norm]
        found[f"only measured under {', '.join(dict.fromkeys(map(threat_name, model.result.runs)))}"] = min(
            near, default=1
        )
    elif query.protocol and not model.run:
        found[f"not measured by {query.protocol}"] = 1.0
    if query.min_robust is not None:
        share = model.run["robust_accuracy"] if model.run else 0.0
        lacking = query.min_robust / 100 - share
        if lacking > 1e-9 and model.run:
            found[f"{percent(share)} robust under {threat_name(model.run)}"] = lacking
        elif not model.run and not found:
            found["robustness not measured"] = 1.0
    return found


def nearest(query: Query, releases: Iterable[results.Result] | None = None) -> str:
    """Of a question without an answer: the model that misses least of it, and what it misses; empty if names fail."""
    ranked = [(misses(model, query), model.name) for model in _candidates(query, releases)]
    if not ranked:
        return closest(query.filter, names("*", query.about_weights)).strip()
    missed, name = min(ranked, key=lambda each: (len(each[0]), sum(each[0].values()), each[1]))
    return f"Nearest: {name} ({', '.join(missed)})."


def _check_known(what: str, name: str | None, known: Sequence[str]) -> None:
    if name is not None and name not in known:
        raise UnknownNameError(f"unknown {what} {name!r}.{closest(name, list(known))} Known: {', '.join(known)}")
