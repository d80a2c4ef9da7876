"""Pictures of results: readable files, the same bytes again, and refused nonsense."""

import xml.etree.ElementTree as ElementTree

import pytest

from rnas_zoo.drawing.classes import draw_classes
from rnas_zoo.errors import UsageError

BARS = [("cat", 0.8, 0.3, (0.2, 0.4)), ("$dog_1$", 0.9, 0.0, (0.0, 0.1)), ("ship", 1.0, 1.0, (0.9, 1.0))]


def test_every_class_is_named_in_the_picture(tmp_path):
    path = draw_classes(BARS, tmp_path / "classes.svg", title="By class")
    text = "".join(ElementTree.parse(path).getroot().itertext())
    for word in ("cat", "$dog_1$", "ship", "By class", "95 % interval"):
        assert word in text


def test_the_same_input_gives_the_same_bytes(tmp_path):
    first, second = (draw_classes(BARS, tmp_path / name, title="t").read_bytes() for name in ("a.png", "b.png"))
    assert first == second
    assert first.startswith(b"\x89PNG")


@pytest.mark.parametrize("bars", [[], [("cat", 1.2, 0.3, (0.2, 0.4))], [("cat", 1.0, 0.5, (0.6, 0.7))]])
def test_nonsense_is_refused(tmp_path, bars):
    with pytest.raises(UsageError):
        draw_classes(bars, tmp_path / "a.png", title="t")
    with pytest.raises(UsageError, match=r"\.svg or \.png"):
        draw_classes(BARS, tmp_path / "a.gif", title="t")
