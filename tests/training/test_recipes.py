"""Every recipe is read, describes a network that can be built, and trains where its data are there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rnas_zoo import data, reference, resources
from rnas_zoo.errors import NoWeightsError
from rnas_zoo.training.config import build_model, read_recipe
from rnas_zoo.training.task import TrainTask

FOLDER = Path(resources.folder("recipes"))
RECIPES = {str(path.relative_to(FOLDER).with_suffix("")): path for path in sorted(FOLDER.rglob("*.toml"))}
PAPERS = {name: path for name, path in RECIPES.items() if name.startswith("paper")}
EPOCHS = {"rnas_vuln": 300, "rnas_noise": 200, "arnas": 200, "e2rnas": 600, "rnas_cl": 200, "rnas_cl_trades": 20}


@pytest.mark.parametrize("path", RECIPES.values(), ids=RECIPES)
def test_a_recipe_describes_a_network_that_takes_its_images(path):
    config = read_recipe(path)
    model = build_model(config, 10).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert config.total_steps > 0
    assert path.read_text().startswith("# ")
    assert f"rnas-zoo train recipes/{path.relative_to(FOLDER)}" in " ".join(path.read_text().split())


def test_each_seed_system_has_the_recipe_of_its_paper():
    assert {path.stem for path in PAPERS.values()} == EPOCHS.keys()


@pytest.mark.parametrize("path", PAPERS.values(), ids=PAPERS)
def test_papers_train_for_their_epochs_on_cifar10(path):
    config = read_recipe(path)
    images = 50_000 * (1 - config.holdout)
    assert config.data == "cifar10"
    assert config.total_steps == EPOCHS[path.stem] * images // config.batch_size


def test_steps_of_arnas_are_its_epochs():
    config = read_recipe(PAPERS["paper/arnas"])
    assert [milestone * 200 for milestone in config.milestones] == pytest.approx([99, 149])


@pytest.mark.parametrize("name", [name for name, path in RECIPES.items() if read_recipe(path).data == "digits"])
def test_recipes_for_digits_take_a_step(name):
    config = read_recipe(RECIPES[name])
    task = TrainTask(config, data.load("digits"), torch.device("cpu"))
    before = {key: value.clone() for key, value in task.model.state_dict().items()}
    task.step(config.total_steps // 2)
    assert any(not torch.equal(value, before[key]) for key, value in task.model.state_dict().items())


def test_a_recipe_of_a_paper_is_not_taken_for_that_of_weights():
    with pytest.raises(NoWeightsError, match=r"rnas-zoo train --arch rnas_e2rnas"):
        reference.load("rnas_e2rnas")
