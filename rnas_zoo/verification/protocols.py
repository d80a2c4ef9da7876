"""Which attacks a protocol runs, in order, with their published parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..attacks import (
    APGD,
    APGDT,
    FABT,
    FGSM,
    MIFGSM,
    PGD,
    AttackResult,
    Halving,
    MarginPGD,
    Noise,
    Square,
    apgd,
    apgd_t,
    fab_t,
    fgsm,
    halving,
    margin_pgd,
    mi_fgsm,
    noise,
    pgd,
    square,
)
from ..errors import UnknownNameError, closest


@dataclass(frozen=True)
class Stage:
    """One attack of a protocol.

    Attributes:
        name: how evidence calls it.
        attack, config: the attack and its parameters.
        scores: whether it needs logits only, and so can ask the model that counts.
        unrounded: whether it follows the network that does not round, of a model that does.
        rows: runs per image that it keeps in memory side by side.
    """

    name: str
    attack: Callable[..., AttackResult]
    config: Any
    scores: bool = False
    rows: int = 1
    unrounded: bool = False


NOISE = Stage("noise", noise, Noise(), scores=True)
CE, TARGETED = Stage("apgd-ce", apgd, APGD()), Stage("apgd-t", apgd_t, APGDT(), rows=9)
FAB, SQUARE = Stage("fab-t", fab_t, FABT(), rows=9), Stage("square", square, Square(), scores=True)

PROTOCOLS: dict[str, tuple[Stage, ...]] = {
    "quick": (NOISE, Stage("fgsm", fgsm, FGSM()), Stage("pgd20", pgd, PGD())),
    "fast": (
        Stage("apgd-ce", apgd, APGD(steps=25)),
        Stage("halving-t", halving, Halving(), rows=9),
    ),
    "standard": (CE, TARGETED, FAB, SQUARE),
    "full": (
        CE,
        TARGETED,
        FAB,
        Stage("pgd100", pgd, PGD(steps=100, restarts=5, keep="any")),
        Stage("margin-pgd-t", margin_pgd, MarginPGD(steps=100, targets=9)),
        Stage("square", square, Square(queries=20_000), scores=True),
    ),
    "transfer": (
        Stage("mi-fgsm", mi_fgsm, MIFGSM()),
        Stage("pgd20", pgd, PGD()),
        Stage("margin-pgd", margin_pgd, MarginPGD()),
    ),
}
PROTOCOLS["given"] = (Stage("given", noise, None, scores=True),)  # images somebody else found: nothing is run
CHOICES = ("quick", "fast", "standard", "full")
FEW_QUERIES = Stage("square", square, Square(queries=500), scores=True)
UNROUNDED = "-fp"  # ends the names of attacks that follow the network without its rounding


def stages(protocol: str, asked: bool = False, rounds: bool = False) -> tuple[Stage, ...]:
    """The attacks of a protocol.

    Args:
        asked: of a file whose gradients may mislead or are missing (int8, or a graph without a differentiable twin):
            Square, with 500 queries, ends a protocol that has none.
        rounds: of an int8 file that rounds its activations as well: each attack that follows gradients is run through
            rounding that counts as the identity, and then through the network without rounding.

    Raises:
        UnknownNameError: no such protocol.
    """
    if protocol not in PROTOCOLS:
        known = list(CHOICES)
        raise UnknownNameError(f"unknown protocol {protocol!r}.{closest(protocol, known)} Known: {', '.join(known)}")
    found: list[Stage] = []
    for stage in PROTOCOLS[protocol]:
        found.append(stage)
        if rounds and not stage.scores:
            found.append(replace(stage, name=stage.name + UNROUNDED, unrounded=True))
    if asked and all(stage.name != "square" for stage in found):
        found.append(FEW_QUERIES)
    return tuple(found)


def parameters(protocol: str, asked: bool = False, rounds: bool = False) -> dict[str, dict[str, Any]]:
    """Every parameter of every attack, for the record; see `stages`."""
    attacks = stages(protocol, asked, rounds)
    return {stage.name: asdict(stage.config) for stage in attacks if stage.config is not None}
