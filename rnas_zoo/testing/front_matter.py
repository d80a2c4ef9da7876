"""The YAML at the head of a model card: reading it, and what the Hub would find wrong with it."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

BLOCK = re.compile(r"\A\s*---[ \t]*\r?\n(?P<yaml>.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
TEXTS = ("license", "language", "tags", "datasets", "metrics", "base_model")
TEXT = ("library_name", "pipeline_tag", "license_name", "license_link")
DATASET = re.compile(r"(?:[\w-]+/)?[\w.-]+", re.ASCII)
NO_METADATA = "empty or missing yaml metadata in repo card"


class _Loader(yaml.SafeLoader):
    """Refuses a key that comes twice, as the Hub does; PyYAML would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"duplicated key {key!r}", node.start_mark)
        return super().construct_mapping(node, deep)


def read(card: str) -> dict[str, Any]:
    """The front matter of a card as a mapping; empty where there is none, or it is broken."""
    return examine(card)[0]


def examine(card: str) -> tuple[dict[str, Any], list[str], list[str]]:
    """The front matter of a card, its errors and its warnings.

    Checked: that it is YAML, a mapping without repeated keys; that the fields the Hub sorts by are text or lists of it;
    names of data sets; and that every result in model-index says task, data set and metrics. The real Hub checks more,
    such as the identifiers of licences.
    """
    block = BLOCK.match(card)
    if block is None:
        return {}, [], [NO_METADATA]
    try:
        # yaml.load with a subclass of SafeLoader builds plain values only.
        found = yaml.load(block["yaml"], Loader=_Loader)
    except yaml.YAMLError as error:
        return {}, ["the metadata is not YAML: " + " ".join(str(error).split())], []
    if found is None:
        return {}, [], [NO_METADATA]
    if not isinstance(found, dict):
        return {}, ["the metadata must be a mapping of names to values"], []
    errors = [f'"{name}" must be a string' for name in TEXT if not isinstance(found.get(name, ""), str)]
    for name in TEXTS:
        value = found.get(name, [])
        if not isinstance(value, str) and not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
            errors.append(f'"{name}" must be a string or a list of strings')
    errors += [
        f'"datasets" with value "{name}" is no name of a data set: letters, digits, "-_.", at most one "/"'
        for name in _list(found.get("datasets"))
        if isinstance(name, str) and not DATASET.fullmatch(name)
    ]
    if "model-index" in found:
        errors += _index_errors(found["model-index"])
    return found, errors, []


def tags(metadata: dict[str, Any]) -> list[str]:
    """What the Hub makes of front matter to search by: plain tags, then `dataset:…`, `license:…` and the like."""
    found = [metadata.get("library_name"), *_list(metadata.get("tags")), metadata.get("pipeline_tag")]
    found += _list(metadata.get("language"))
    for prefix, name in (("dataset", "datasets"), ("license", "license"), ("base_model", "base_model")):
        found += [f"{prefix}:{value}" for value in _list(metadata.get(name))]
    if "model-index" in metadata:
        found.append("model-index")
    return list(dict.fromkeys(tag for tag in found if isinstance(tag, str) and tag))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _index_errors(index: Any) -> list[str]:
    if not isinstance(index, list):
        return ['"model-index" must be a list']
    errors = []
    for i, model in enumerate(index):
        at = f"model-index[{i}]"
        if not isinstance(model, dict) or not isinstance(model.get("name"), str):
            errors.append(f'"{at}.name" is required')
        results = model.get("results") if isinstance(model, dict) else None
        if not isinstance(results, list):
            errors.append(f'"{at}.results" must be a list')
            continue
        for j, result in enumerate(results):
            errors += _result_errors(f"{at}.results[{j}]", result)
    return errors


def _result_errors(at: str, result: Any) -> list[str]:
    if not isinstance(result, dict):
        return [f'"{at}" must be a mapping']
    errors = []
    for part, fields in (("task", ("type",)), ("dataset", ("type", "name"))):
        value = result.get(part)
        if not isinstance(value, dict):
            errors.append(f'"{at}.{part}" is required')
        else:
            errors += [f'"{at}.{part}.{name}" is required' for name in fields if not isinstance(value.get(name), str)]
    metrics = result.get("metrics")
    if not isinstance(metrics, list) or not metrics:
        return [*errors, f'"{at}.metrics" is required']
    for k, metric in enumerate(metrics):
        for name in ("type", "value"):
            if not isinstance(metric, dict) or metric.get(name) is None:
                errors.append(f'"{at}.metrics[{k}].{name}" is required')
    return errors
