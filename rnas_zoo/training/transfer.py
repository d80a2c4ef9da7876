"""Transfer: a network that starts from the body of a trained one, with a new head unless the classes are the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..engine.record import finished_training, is_run
from ..errors import UsageError, WeightsError
from ..files import read_json
from ..models.pixels import Preprocessed
from ..reference import load, local_folder


def architecture_of(ref: str) -> tuple[str, dict[str, Any]]:
    """Architecture and model arguments of a model reference: a name, a folder or `hf-hub:owner/name`.

    The number of classes is not among them: the data decide it.

    Raises:
        UsageError: a reference without a registered architecture (an .onnx file, a Python function).
        WeightsError: a folder without a readable config.json that is no training run either.
        CheckpointError: a training run that is not finished.
        HubError and others: see `hub.download.fetch`.
    """
    if folder := local_folder(ref):
        try:
            value = finished_training(folder)["config"] if is_run(folder) else read_json(folder / "config.json")
            return str(value["architecture"]), _but_classes(value.get("model_args"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise WeightsError(
                f"{ref} is not a release folder: its config.json cannot be read ({error!r}); nor is it that of a run"
            ) from error
    if ref.endswith(".onnx") or ".py:" in ref:
        raise UsageError(
            f"training starts from a model name, a release folder, a training run or hf-hub:owner/name, not {ref!r}"
        )
    return ref.split(".")[0], {}


def _but_classes(arguments: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (arguments or {}).items() if name != "num_classes"}


def take_over(model: Any, ref: str, *, head: bool = False) -> None:
    """Copy the weights of `ref` into a timm model of the same architecture; the classifier's only with `head`.

    Raises:
        WeightsError: the weights do not fit.
    """
    source = load(ref)
    source = source.network if isinstance(source, Preprocessed) else source
    new = set() if head else _head_names(model)
    own = model.state_dict()
    body = {name: tensor for name, tensor in source.state_dict().items() if name not in new}
    wrong = [name for name in own.keys() - new if name not in body or body[name].shape != own[name].shape]
    if wrong or body.keys() - own.keys():
        name = min(wrong, default=min(body.keys() - own.keys(), default=""))
        raise WeightsError(
            f"the weights of {ref} do not fit {type(model).__name__} with these model_args, as in {name}"
        )
    model.load_state_dict({**own, **body})


def _head_names(model: Any) -> set[str]:
    classifier = model.get_classifier()
    (prefix,) = (name for name, module in model.named_modules() if module is classifier)
    return {f"{prefix}.{part}" for part, _ in classifier.named_parameters()}


def body_and_head(model: Any) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters of a timm model before its classifier, and those of the classifier."""
    head = list(model.get_classifier().parameters())
    own = {id(parameter) for parameter in head}
    return [parameter for parameter in model.parameters() if id(parameter) not in own], head
