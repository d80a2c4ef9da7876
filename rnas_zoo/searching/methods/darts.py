"""First-order DARTS as it stands (Liu, Simonyan, Yang, ICLR 2019): the controls of the robust methods.

Every hook is the default one. `darts` takes its weight steps on adversarial images, `darts_clean` on the images as they
are, which is the original.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..config import FAST
from .base import Method


class Darts(Method):
    """Adversarial weight steps, clean validation loss; the values of `paper` are the original's, with PGD-7."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {}, "fast": FAST}


class DartsClean(Method):
    """DARTS without any adversary."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"attack": "clean"},
        "fast": {**FAST, "attack": "clean"},
    }
