"""Runs the stages of a protocol block by block: attack, judge, keep, go on with what still stands."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..attacks import AttackResult, Keys, Square, Threat
from ..deploy.graph import scorer
from ..engine import distribution
from ..engine.budget import TimeBudget
from ..engine.progress import Reporter
from ..errors import BudgetReachedError
from ..reference import Subject
from . import sanity
from .accelerate import QUANTUM, Tiled, folded, quick_gradients
from .evidence import EVERY_IMAGE
from .flags import flag
from .ledger import CLEAN, Ledger, attack_part, clean_part
from .pace import Pace
from .protocols import Stage
from .store import Part, Store

BLOCK = 256  # images that go through all attacks before the next ones start
BUDGETED_BLOCK = 16
UNIT = 288  # rows an attack keeps in step; the network is asked for at most batch_size of them at once
SANITY = "sanity"
EXPORT_FROM = 4_000  # images times operations; below that exporting to onnxruntime costs more than it saves


@dataclass(frozen=True)
class Plan:
    """What is verified, by which attacks, and how."""

    subject: Subject
    source: Subject | None
    threat: Threat
    stages: tuple[Stage, ...]
    protocol: str
    seed: int
    batch_size: int
    device: torch.device
    given: np.ndarray | None = None
    declared: float | None = None
    checks: bool = True

    @property
    def every(self) -> bool:
        """Whether each attack tries every image, not only those still standing."""
        return self.protocol in EVERY_IMAGE

    @property
    def attacked(self) -> nn.Module | None:
        """The network whose gradients the attacks follow."""
        return (self.source or self.subject).network

    def followed(self, stage: Stage) -> nn.Module | None:
        """The network whose gradients a stage follows."""
        return self.subject.unrounded if stage.unrounded else self.attacked

    def can_run(self, stage: Stage) -> bool:
        return self.threat.eps > 0 and (self.given is not None or stage.scores or self.followed(stage) is not None)

    def route(self, stage: Stage) -> str:
        """Which way the images of a stage come from."""
        if self.given is not None:
            return "given"
        if self.source is not None:
            return "transfer"
        if self.subject.kind == "torch":
            return "network"
        return "session" if stage.scores else "float twin" if stage.unrounded else "twin"


class Driver:
    """One process's share of a verification; results go into the ledger."""

    def __init__(
        self,
        plan: Plan,
        ledger: Ledger,
        pixels: np.ndarray,
        labels: np.ndarray,
        positions: np.ndarray,
        *,
        store: Store | None,
        budget: TimeBudget | None,
        reporter: Reporter,
    ) -> None:
        self.plan, self.ledger, self.store, self.budget, self.reporter = plan, ledger, store, budget, reporter
        self.pixels, self.labels, self.positions = pixels, labels, positions
        self.flags: list[str] = []
        self.outputs: sanity.Outputs | None = None
        self._made: list[tuple[str, Part]] = []
        self._cheap: dict[bool, Tiled] = {}
        self._names = [stage.name for stage in plan.stages]
        self.pace = Pace([stage.name for stage in plan.stages if plan.can_run(stage)], len(labels))
        self._judged = plan.subject
        if plan.subject.kind == "torch":
            self._judged = replace(plan.subject, judge=Tiled(plan.subject.judge, plan.batch_size))
        size = min(BUDGETED_BLOCK if budget else BLOCK, -(-len(labels) // distribution.world()))
        self._blocks = [np.arange(first, min(first + size, len(labels))) for first in range(0, len(labels), size)]

    def run(self) -> None:
        """Do what is not done yet; ends early, without an error, when the time budget does."""
        for stage, part in self.store.read() if self.store else ():
            self._apply(stage, part)
        n = len(self.labels)
        settled = self._settled()
        self.pace.settled, self.pace.before = int(settled.sum()), int(self.ledger.done[CLEAN].sum())
        self.reporter.start(f"verify {self.plan.subject.kind}", n, self.pace.settled, timed=False)
        with contextlib.suppress(BudgetReachedError):
            for number, rows in enumerate(self._blocks):
                if number % distribution.world() == distribution.rank() and not settled[rows].all():
                    self._tick()
                    self._block(rows)
        for rank, (parts, flags) in enumerate(distribution.gather((self._made, self.flags))):
            if rank != distribution.rank():
                self.flags += [text for text in flags if text not in self.flags]
                for stage, part in parts:
                    self._apply(stage, part)

    def covered(self) -> np.ndarray:
        """Images of the blocks that are finished; a block cut short would tell of its easiest images only."""
        settled = self._settled()
        done = [rows for rows in self._blocks if settled[rows].all()]
        return np.concatenate(done) if done else np.arange(0)

    def totals(self, rows: np.ndarray) -> dict[str, dict[str, int]]:
        """Broken images among `rows`, and passes spent, by attack that ran."""
        return {
            stage.name: {
                "broken": int(self.ledger.broken_each[stage.name][rows].sum()),
                "passes": round(float(self.ledger.passes[stage.name][rows].sum())),
            }
            for stage in self.plan.stages
            if self.plan.can_run(stage) or self.plan.threat.eps == 0
        }

    def _settled(self) -> np.ndarray:
        return self.ledger.settled(self._names, self.plan.every)

    def _apply(self, stage: str, part: Part) -> None:
        if stage == SANITY:
            self.flags += [str(text) for text in part["flags"] if text not in self.flags]
            self.outputs = sanity.Outputs(bool(part["probabilities"]), float(part["scale"]))
        else:
            self.ledger.apply(stage, part)

    def _keep(self, order: int, stage: str, part: Part) -> None:
        self._apply(stage, part)
        if self.store:
            self.store.write(order, stage, part)
        if distribution.world() > 1 and stage != SANITY:
            self._made.append((stage, part))

    def _tick(self) -> None:
        if self.budget and self.budget.left <= 0:
            raise BudgetReachedError("the time budget ended")

    def _tensors(self, rows: np.ndarray) -> tuple[Tensor, Tensor, Keys]:
        x = torch.from_numpy(self.pixels[rows]).to(self.plan.device)
        y = torch.from_numpy(self.labels[rows]).to(self.plan.device)
        return x, y, Keys(self.plan.seed, torch.from_numpy(self.positions[rows]).to(self.plan.device))

    def _block(self, rows: np.ndarray) -> None:
        attacked = self._attacked()
        pending = rows[~self.ledger.done[CLEAN][rows]]
        for first in range(0, len(pending), self.plan.batch_size):
            part = pending[first : first + self.plan.batch_size]
            x, y, _ = self._tensors(part)
            self._keep(0, CLEAN, clean_part(self._judged, x, y, part))
        if self.outputs is None:
            self._examine(rows, attacked)
        before = int(self._settled().sum())
        self._advance(before - self.pace.settled)
        for order, stage in enumerate(self.plan.stages, 1):
            mask = np.ones(len(rows), bool) if self.plan.every else self.ledger.standing[rows]
            candidates = rows[mask]
            if not self.plan.can_run(stage):
                self.ledger.done[stage.name][candidates] = True
                continue
            self.pace.enter(stage.name, len(candidates))
            size = max(self.plan.batch_size, UNIT) // min(stage.rows, max(1, self.plan.subject.num_classes - 1))
            size = max(1, size - size % QUANTUM if size > QUANTUM else size)
            for first in range(0, len(candidates), size):
                unit = candidates[first : first + size]
                unit = unit[~self.ledger.done[stage.name][unit]]
                if len(unit):
                    with self.pace.timing(stage.name, len(unit)):
                        self._keep(order, stage.name, self._attack(stage, unit))
                    self._advance(int(self._settled().sum()) - self.pace.settled)

    def _advance(self, by: int) -> None:
        self.pace.settled += by
        seen, standing = int(self.ledger.done[CLEAN].sum()), int(self.ledger.standing.sum())
        self.reporter.advance(self.pace.note(seen, standing), by=by)

    def _attack(self, stage: Stage, rows: np.ndarray) -> Part:
        x, y, keys = self._tensors(rows)
        if self.plan.given is not None:
            x_adv = torch.from_numpy(self.plan.given[rows]).to(x.device)
            result = AttackResult(x_adv, torch.ones_like(y, dtype=torch.bool), torch.zeros_like(y), len(x), 0)
        else:
            direct = stage.scores and self.plan.source is None
            asked = self._asked_for_scores() if direct else self._attacked(stage.unrounded)
            if asked is not None and getattr(asked, "memory_format", None) == torch.channels_last:
                x = x.contiguous(memory_format=torch.channels_last)
            result = stage.attack(self._read(asked), x, y, self.plan.threat, stage.config, keys)
        return attack_part(self._judged, self.plan.threat, x, y, result, rows, self.plan.route(stage))

    # Whom attacks ask

    def _read(self, asked: Any) -> Any:
        return asked if self.outputs is None else self.outputs.read(asked)

    def _attacked(self, unrounded: bool = False) -> Tiled | None:
        """The cheap equivalent of the network whose gradients are followed."""
        network = self.plan.subject.unrounded if unrounded else self.plan.attacked
        if unrounded not in self._cheap and network is not None:
            example = self._tensors(np.arange(min(8, len(self.labels))))[0]
            graph, memory_format = folded(network, example)
            on_cpu, traced = self.plan.device.type == "cpu", graph is not network
            self._cheap[unrounded] = Tiled(
                quick_gradients(graph) if on_cpu and traced else graph,
                self.plan.batch_size,
                scores=self._session(graph) if on_cpu and traced and self.plan.subject.kind == "torch" else None,
                memory_format=memory_format,
                tick=self._tick,
            )
        return self._cheap.get(unrounded)

    def _session(self, graph: nn.Module) -> Callable[[Tensor], Tensor] | None:
        """The graph in onnxruntime, which answers faster, if Square will ask often enough to be worth exporting."""
        operations = sum(1 for module in graph.modules() if not any(module.children()))
        often = any(isinstance(stage.config, Square) for stage in self.plan.stages)
        if not often or operations * len(self.labels) < EXPORT_FROM:
            return None
        return scorer(graph, self._tensors(np.arange(QUANTUM) % len(self.labels))[0])

    def _asked_for_scores(self) -> Tiled | None:
        """Whom attacks ask that need no gradients: for an ONNX file its session."""
        if self.plan.subject.kind == "torch":
            return self._attacked()
        return Tiled(self.plan.subject.judge, self.plan.batch_size, quantum=1, tick=self._tick)

    def _examine(self, rows: np.ndarray, attacked: Tiled | None) -> None:
        self.outputs = sanity.Outputs()
        if not self.plan.checks:
            return
        flags: list[str] = []
        first = self._tensors(np.arange(min(sanity.IMAGES, len(self.labels))))[0]
        found, outputs = sanity.examine_outputs(self.plan.subject.judge, first)
        flags += found
        if self.plan.source is not None:  # the attacks ask this one, whatever the judge's outputs are
            outputs = sanity.examine_outputs(self.plan.source.judge, first)[1]
        if rows[0] == 0:
            ledger = self.ledger
            judged = rows[~ledger.refused[rows]]
            flags += sanity.examine_clean(
                ledger.correct[judged], ledger.clean_class[judged], self.labels[judged], self.plan.declared
            )
            if attacked is None:
                flags.append(flag("score-only", str(self.plan.subject.score_only)))
            elif self.plan.source is None and self.plan.given is None:
                right = rows[ledger.correct[rows] & ~ledger.refused[rows]][: sanity.IMAGES]
                x, y, keys = self._tensors(right)
                flags += sanity.examine_gradients(outputs.read(attacked), x, y, self.plan.threat, keys)
        part = {
            "rows": np.array([distribution.rank()]),
            "flags": np.array(flags, dtype="U512"),
            "probabilities": np.array(outputs.probabilities),
            "scale": np.array(outputs.scale),
        }
        self._keep(0, SANITY, part)
