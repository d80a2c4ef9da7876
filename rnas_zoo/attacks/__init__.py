"""Adversarial attacks: one file per attack, one signature, images in [0, 1]."""

from .apgd import APGD, APGDT, apgd, apgd_t
from .fab import FABT, fab_t
from .fgsm import FGSM, fgsm
from .noise import Noise, noise
from .pgd import PGD, pgd
from .result import AttackResult, Keys
from .square import Square, square
from .threat import Threat

__all__ = [
    "APGD",
    "APGDT",
    "FABT",
    "FGSM",
    "PGD",
    "AttackResult",
    "Keys",
    "Noise",
    "Square",
    "Threat",
    "apgd",
    "apgd_t",
    "fab_t",
    "fgsm",
    "noise",
    "pgd",
    "square",
]
