"""The attention term: which layers learn from which, and the sum it is."""

from __future__ import annotations

from itertools import pairwise

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rnas_zoo import genotype
from rnas_zoo.errors import UsageError
from rnas_zoo.training.attention import Taps, attention_map, tutor_layers
from rnas_zoo.training.cross_layer import CrossLayer, check_teacher, student_layers, tutors_by_depth

from .small import network, taught

SIZE = (16, 16)


def student(tutors=None, name: str = "cl_s3") -> nn.Module:
    """A student with the structure of S3, and other tutors if given."""
    value = genotype.named(name).to_json()
    value.pop("tutors", None)
    if tutors is not None:
        value["tutors"] = list(tutors)
    return timm.create_model("rnas_students", genotype=value, num_classes=4)


@pytest.mark.parametrize(("name", "blocks", "layers"), [("cl_s3", 9, 28), ("cl_s5", 15, 46), ("cl_s7", 21, 64)])
def test_each_convolution_of_a_student_learns(name, blocks, layers):
    """Published: 28, 46 and 64 convolutions, three in each block and the stem."""
    net = student(name=name)
    names = student_layers(net, SIZE)
    assert len(names) == layers == 3 * blocks + 1
    convolutions = [key for key, part in net.named_modules() if isinstance(part, nn.Conv2d)]
    assert [f"{key}.0" for key in names] == convolutions
    assert names[0] == "stem"
    with Taps(net, names) as taps:
        net(torch.rand(2, 3, *SIZE))
    assert taps.order == names, "in the order in which they run"


def test_of_other_networks_the_wide_convolutions_learn():
    net = timm.create_model("rnas_wrn10_1", num_classes=4)
    assert student_layers(net, SIZE) == tutor_layers(net, SIZE)
    assert len(student_layers(net, SIZE)) == 1 + 3 * 2


@given(st.integers(2, 90), st.integers(2, 40))
def test_tutors_by_depth_run_from_the_first_layer_to_the_last(students, teachers):
    found = tutors_by_depth(students, teachers)
    assert len(found) == students
    assert (found[0], found[-1]) == (0, teachers - 1)
    assert all(a <= b for a, b in pairwise(found))
    for i, tutor in enumerate(found):
        assert abs(tutor / (teachers - 1) - i / (students - 1)) <= 0.5 / (teachers - 1) + 1e-9


def test_as_many_tutors_as_students_are_the_same_layers():
    assert tutors_by_depth(31, 31) == tuple(range(31))
    assert tutors_by_depth(1, 7) == (0,)
    assert tutors_by_depth(28, 2) == (0,) * 14 + (1,) * 14


TUTORS = tuple((5 * i) % 7 for i in range(28))


def test_the_tutors_of_a_genotype_are_taken_where_they_fit():
    teacher = timm.create_model("rnas_wrn10_1", num_classes=4)
    assert len(tutor_layers(teacher, SIZE)) == 7
    assert CrossLayer(student(TUTORS), teacher, SIZE).tutors == TUTORS
    assert CrossLayer(student(), teacher, SIZE).tutors == tutors_by_depth(28, 7)
    small = taught()
    assert CrossLayer(student(TUTORS), small, SIZE).tutors == tutors_by_depth(28, 2), "it has two layers only"


@pytest.mark.parametrize("tutors", [(0,) * 27, (0,) * 29, (0,) * 27 + (7,)])
def test_tutors_that_do_not_fit_give_way_to_those_by_depth(tutors):
    teacher = timm.create_model("rnas_wrn10_1", num_classes=4)
    assert CrossLayer(network(), teacher, SIZE, tutors).tutors == tutors_by_depth(2, 7)
    if len(tutors) == 28:
        assert CrossLayer(student(tutors), teacher, SIZE).tutors == tutors_by_depth(28, 7)


def direct(maps, aims, tutors) -> float:
    """Mean over images and student layers of the squared distance to the tutor's map, one after the other."""
    total = 0.0
    for layer, tutor in enumerate(tutors):
        for own, aim in zip(maps[layer], aims[tutor], strict=True):
            total += float((own - aim).square().sum())
    return total / (len(maps) * len(maps[0]))


@pytest.mark.parametrize("tutors", [(0, 1), (1, 1), (1, 0)])
def test_the_term_is_the_mean_squared_distance_of_maps(tutors):
    net, teacher = network(seed=5).eval(), taught()
    x = torch.rand(6, 3, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    cross = CrossLayer(net, teacher, (9, 9), tutors)
    told = cross.teach(x)
    with cross.watch() as watched:
        net(x)
    found = cross.loss(watched, told)
    with torch.no_grad():
        layers = [[module[0](x), module[3](module[:3](x))] for module in (net, teacher)]
        maps, aims = ([attention_map(output, 14) for output in outputs] for outputs in layers)
        torch.testing.assert_close(told.logits, teacher(x))
    assert found.item() == pytest.approx(direct(maps, aims, tutors), rel=1e-5)
    assert found.item() > 0
    found.backward()
    assert net[0].weight.grad is not None
    assert all(weight.grad is None for weight in teacher.parameters())


def test_a_network_that_looks_where_its_tutors_look_pays_nothing():
    teacher = taught()
    net = taught().requires_grad_(True)
    cross = CrossLayer(net, teacher, (8, 8))
    x = torch.rand(3, 3, 8, 8, dtype=torch.float64)
    told = cross.teach(x)
    with cross.watch() as watched:
        net(x)
    assert cross.tutors == (0, 1)
    assert cross.loss(watched, told).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("logits", "text"), [(torch.zeros(1, 10), "knows 10 classes"), (torch.zeros(1, 3, 2, 2), "no")]
)
def test_a_teacher_of_other_classes_is_refused(logits, text):
    check_teacher(torch.zeros(2, 4), 4)
    with pytest.raises(UsageError, match=rf"{text}.*the data set has 4"):
        check_teacher(logits, 4)
