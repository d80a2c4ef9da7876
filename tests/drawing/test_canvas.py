"""Files of pictures: their kinds, whole or absent, and labels kept apart."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from rnas_zoo import genotype
from rnas_zoo.drawing.canvas import spread
from rnas_zoo.drawing.curves import draw_curve
from rnas_zoo.drawing.genotypes import draw_genotype
from rnas_zoo.drawing.pairs import draw_pairs
from rnas_zoo.errors import OutputNotWritableError, UsageError


@pytest.mark.parametrize("file", ["cells.pdf", "cells", "cells.svg.gz"])
def test_other_suffixes_are_refused(file: str, tmp_path: Path) -> None:
    pixels = np.zeros((1, 2, 2, 3), np.uint8)
    for attempt in (
        lambda: draw_genotype(genotype.named("arnas"), tmp_path / file),
        lambda: draw_curve({"a": [(0, 1)]}, tmp_path / file, title=""),
        lambda: draw_pairs(pixels, pixels, [("", "")], tmp_path / file, title=""),
    ):
        with pytest.raises(UsageError, match=r"\.svg or \.png"):
            attempt()
    assert list(tmp_path.iterdir()) == []


def test_unwritable_path_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputNotWritableError):
        draw_genotype(genotype.named("cl_s3"), tmp_path / "file" / "cells.svg")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_failure_while_writing_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(self: Figure, path: Path, **options: Any) -> None:
        Path(path).write_bytes(b"<svg")
        raise OSError("disk full")

    target = tmp_path / "cells.svg"
    target.write_text("old")
    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(OSError, match="disk full"):
        draw_genotype(genotype.named("cl_s3"), target)
    assert [path.name for path in tmp_path.iterdir()] == ["cells.svg"]
    assert target.read_text() == "old"


@given(st.lists(st.floats(0, 300), min_size=1, max_size=24))
def test_spread_keeps_order_and_distance(wanted: list[float]) -> None:
    at = spread(wanted, 13.0, 300.0)
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i], at[i]))
    assert all(at[b] - at[a] >= 13 - 1e-6 for a, b in pairwise(order))
    assert -1e-6 <= min(at) <= max(at) <= 300 + 1e-6
    if all(b - a >= 13 for a, b in pairwise(sorted(wanted))):
        assert at == wanted
