"""Adversarial attacks: one file per attack, one signature, images in [0, 1]."""

from .fgsm import FGSM, fgsm
from .noise import Noise, noise
from .pgd import PGD, pgd
from .result import AttackResult, Keys
from .threat import Threat

__all__ = ["FGSM", "PGD", "AttackResult", "Keys", "Noise", "Threat", "fgsm", "noise", "pgd"]
