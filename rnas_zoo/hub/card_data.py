"""The front matter of a card: what the Hub reads of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ..intervals import clopper_pearson
from .sections import threat_name

HUB_DATASETS = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100", "svhn": "ufldl-stanford/svhn"}
DIGITS = 4  # of a share


def front_matter(
    config: Mapping[str, Any], recipe: Mapping[str, Any], runs: Sequence[dict[str, Any]], *, searched: bool, onnx: bool
) -> ModelCardData:
    """The front matter of a release, with a model-index of the accuracies of every file that was measured.

    All results on one data set share a block of the model-index, whose `dataset_args` the client keeps of the first
    only: the threat model stands in each metric's name and arguments. There are no files `.eval_results/*.yaml`: they
    are for the Hub's benchmark data sets, of which robust accuracy on these data is none.

    Args:
        config: config.json.
        runs: what the card shows, the strongest run for each file and threat model.
        searched: whether a search found the architecture.
        onnx: whether there is an ONNX file.
    """
    kinds = {"neural-architecture-search": searched, "onnx": onnx}
    known = HUB_DATASETS.get(recipe["data"])
    return ModelCardData(
        library_name="timm",
        license=config["pretrained_cfg"]["license"],
        pipeline_tag="image-classification",
        tags=["image-classification", "timm", "adversarial-robustness", *(tag for tag, fits in kinds.items() if fits)],
        datasets=[known] if known else None,
        metrics=["accuracy"],
        model_name=config["rnas_zoo"]["name"],
        eval_results=[*_clean(runs), *map(_robust, runs)],
    )


def _clean(runs: Sequence[dict[str, Any]]) -> list[EvalResult]:
    """Clean accuracy of each file on each data set, by the run with the most images."""
    widest: dict[tuple[str, str], dict[str, Any]] = {}
    for run in runs:
        key = run["subject"]["file"], run["dataset"]["name"]
        if key not in widest or run["n"] > widest[key]["n"]:
            widest[key] = run
    return [_result(run, "Accuracy", run["clean_accuracy"], _counted(run, _interval(run))) for run in widest.values()]


def _interval(run: dict[str, Any]) -> tuple[float, float]:
    return clopper_pearson(round(run["clean_accuracy"] * run["n"]), run["n"])


def _counted(run: dict[str, Any], interval: Sequence[float]) -> dict[str, Any]:
    return {"n": run["n"], "interval": [round(bound, DIGITS) for bound in interval]}


def _robust(run: dict[str, Any]) -> EvalResult:
    arguments = {key: run[key] for key in ("norm", "eps", "protocol", "seed")} | _counted(run, run["interval"])
    name = f"Robust accuracy ({run['protocol']}, {threat_name(run)})"
    return _result(run, name, run["robust_accuracy"], arguments)


def _result(run: dict[str, Any], name: str, value: float, arguments: dict[str, Any]) -> EvalResult:
    dataset, file = run["dataset"], run["subject"]["file"]
    own = dataset.get("kind") is None and not dataset.get("image_size")
    return EvalResult(
        task_type="image-classification",
        dataset_type=HUB_DATASETS.get(dataset["name"], dataset["name"]) if own else dataset["name"],
        dataset_name=dataset["name"],
        dataset_split=dataset["split"],
        metric_type="accuracy",
        metric_name=name if run["subject"]["kind"] == "torch" else f"{name}, {file}",
        metric_value=round(value, DIGITS),
        metric_args={"file": file, **arguments},
    )
