"""Adversarial attacks: one file per attack, one signature, images in [0, 1].

    attack(model, x, y, threat, config, keys) -> AttackResult

An attack proposes images; a verification judges them once more on the model that counts. Functions whose names end in
`_images` are for training: they return images (N, C, H, W) that nobody has judged.

Args:
    model: maps images (N, C, H, W) in [0, 1] to logits (N, K); a module should be in evaluation mode.
    x: clean images, floating point, (N, C, H, W) in [0, 1].
    y: their labels, integers (N,).
    threat: the norm and ε, in pixels of [0, 1].
    config: the attack's own numbers, a frozen dataclass.
    keys: what draws are keyed by, so that a result depends neither on the batch nor on the order of the images.
"""

from .apgd import APGD, APGDT, apgd, apgd_t
from .cw import CW, cw, mean_l2
from .fab import FABT, fab_t
from .fgsm import FGSM, fgsm
from .halving import Halving, halving
from .kl_pgd import KLPGD, kl_pgd, kl_pgd_images
from .margin_pgd import MarginPGD, margin_pgd
from .mi_fgsm import MIFGSM, mi_fgsm
from .n_fgsm import FGSMRS, NFGSM, n_fgsm, n_fgsm_images
from .noise import Noise, noise
from .pgd import PGD, pgd, pgd_images
from .result import AttackResult, Keys
from .square import Square, square
from .square_l2 import square_l2
from .threat import Threat

__all__ = [
    "APGD",
    "APGDT",
    "CW",
    "FABT",
    "FGSM",
    "FGSMRS",
    "KLPGD",
    "MIFGSM",
    "NFGSM",
    "PGD",
    "AttackResult",
    "Halving",
    "Keys",
    "MarginPGD",
    "Noise",
    "Square",
    "Threat",
    "apgd",
    "apgd_t",
    "cw",
    "fab_t",
    "fgsm",
    "halving",
    "kl_pgd",
    "kl_pgd_images",
    "margin_pgd",
    "mean_l2",
    "mi_fgsm",
    "n_fgsm",
    "n_fgsm_images",
    "noise",
    "pgd",
    "pgd_images",
    "square",
    "square_l2",
]
