"""The front matter survives the Hub's own client, nothing of it lost."""

import pytest
import yaml
from huggingface_hub import ModelCard

from rnas_zoo.hub.card_data import front_matter
from rnas_zoo.intervals import clopper_pearson

from .test_measured import make

CONFIG = {"rnas_zoo": {"name": "rnas_x.pgd_cifar10_linf8", "dataset": "cifar10"}, "pretrained_cfg": {"license": "mit"}}


def parsed(runs, data="cifar10", **kinds):
    matter = front_matter(CONFIG, {"data": data}, runs, **{"searched": True, "onnx": True, **kinds})
    text = f"---\n{matter.to_yaml()}\n---\n\n# x\n"
    assert ModelCard(str(ModelCard(text))).data.to_dict() == matter.to_dict()
    return ModelCard(text).data, yaml.safe_load(matter.to_yaml())


def test_every_file_and_threat_model_has_its_metric_with_all_arguments():
    """All results share a data set, whose `dataset_args` the client keeps of the first only."""
    runs = [
        make(n=1000),
        make("quick", "onnx", "model.onnx"),
        make("fast", "int8", "model.int8.onnx"),
        make(eps="4/255"),
    ]
    data, plain = parsed(runs)
    (model,) = plain["model-index"]
    (group,) = model["results"]
    assert group["dataset"] == {"name": "cifar10", "type": "uoft-cs/cifar10", "split": "test"}
    names = [metric["name"] for metric in group["metrics"]]
    assert names == [
        "Accuracy",
        "Accuracy, model.onnx",
        "Accuracy, model.int8.onnx",
        "Robust accuracy (standard, L∞ 8/255)",
        "Robust accuracy (quick, L∞ 8/255), model.onnx",
        "Robust accuracy (fast, L∞ 8/255), model.int8.onnx",
        "Robust accuracy (standard, L∞ 4/255)",
    ]
    found = {result.metric_name: result for result in data.eval_results}
    clean = found["Accuracy"]
    low, high = clopper_pearson(800, 1000)
    assert clean.metric_value == 0.8
    assert clean.metric_args == {"file": "model.safetensors", "n": 1000, "interval": [round(low, 4), round(high, 4)]}
    assert found["Robust accuracy (quick, L∞ 8/255), model.onnx"].metric_args == {
        "file": "model.onnx", "norm": "linf", "eps": "8/255", "protocol": "quick", "seed": 3, "n": 100,
        "interval": [0.3, 0.5],
    }  # fmt: skip
    assert found["Robust accuracy (standard, L∞ 4/255)"].metric_value == pytest.approx(0.4)


def test_what_the_hub_searches_by():
    data, plain = parsed([make()])
    assert (data.license, data.library_name, data.pipeline_tag) == ("mit", "timm", "image-classification")
    assert (data.metrics, data.datasets, data.base_model) == (["accuracy"], ["uoft-cs/cifar10"], None)
    assert {"adversarial-robustness", "neural-architecture-search", "onnx"} <= set(data.tags)
    assert "base_model" not in plain
    data, _ = parsed([make()], searched=False, onnx=False)
    assert data.tags == ["image-classification", "timm", "adversarial-robustness"]


@pytest.mark.parametrize(
    "dataset",
    [
        {"name": "digits", "split": "test"},
        {"name": "cifar10", "kind": "npz", "split": "test"},
        {"name": "cifar10@16", "image_size": [16, 16], "split": "test"},
    ],
)
def test_only_data_sets_of_the_hub_have_its_names(dataset):
    data, plain = parsed([make(dataset=dataset)], data="digits")
    assert data.datasets is None
    assert "datasets" not in plain
    assert {result.dataset_type for result in data.eval_results} == {dataset["name"]}
