"""Whole steps as CUDA graphs: many small kernels are launched as one. On the CPU a step simply runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import UsageError

Outputs = Mapping[str, Tensor] | Tensor | None
Function = Callable[..., Outputs]


class Graphs(Protocol):
    """What `Captured` needs of a device that can record work and repeat it."""

    def eagerly(self, function: Callable[[], Outputs]) -> Outputs:
        """Run the function now, where captured work will run."""

    def capture(self, function: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        """Record the function's work without doing it: what repeats it, and where repetitions leave their outputs."""


class CudaGraphs:
    """Graphs of one CUDA device; warm-up and capture share a side stream, as autograd and NCCL need it.

    Args:
        pool: memory shared with other graphs, of `torch.cuda.graph_pool_handle()`. They must be replayed on one stream,
            one after the other.
    """

    def __init__(self, device: torch.device, pool: Any = None) -> None:
        self.device, self.pool = device, pool
        self.stream = torch.cuda.Stream(device)

    def eagerly(self, function: Callable[[], Outputs]) -> Outputs:
        around = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(around)
        with torch.cuda.stream(self.stream):
            outputs = function()
        around.wait_stream(self.stream)
        return outputs

    def capture(self, function: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        graph = torch.cuda.CUDAGraph()
        # "thread_local": threads that load data or watch NCCL may go on calling CUDA.
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            outputs = function()
        return graph.replay, outputs


class Captured:
    """A function of tensors that is captured once and then replayed.

    The first `warmup` calls are ordinary ones: real steps, in which libraries choose their algorithms and optimisers
    make their state. The next call captures the function and replays it, later calls replay it on their own inputs.
    Every call takes exactly one step, and its outputs are the caller's own.

    What the function reads besides its inputs must be tensors changed in place; a Python number keeps the value it had
    at the capture. A learning rate that changes is a tensor, of an optimiser with `capturable=True` (Adam) or
    `fused=True` (SGD). Global random numbers start from the seed set before each call. Reading a tensor on the host
    (`.item()`, `float()`, indexing by a mask) fails during capture. Whoever replaces a tensor that the function reads,
    as `load_state_dict` of an optimiser does, calls `reset`.

    Args:
        function: maps tensors, whose shapes never change, to a tensor, a mapping of tensors or None.
        device: where its tensors are; only on CUDA there is something to capture.
        enabled: False always calls the function.
        warmup: ordinary calls before the capture.
        pool: see `CudaGraphs`.
        graphs: another recorder than `CudaGraphs(device, pool)`.

    Raises:
        UsageError: negative `warmup`; in a call, inputs of other shapes or types than those captured, or an output that
            is no tensor.
    """

    def __init__(
        self,
        function: Function,
        device: torch.device | str,
        enabled: bool = True,
        warmup: int = 3,
        *,
        pool: Any = None,
        graphs: Graphs | None = None,
    ) -> None:
        if warmup < 0:
            raise UsageError(f"warmup must not be negative, got {warmup}")
        device = torch.device(device)
        if graphs is None and enabled and device.type == "cuda":
            graphs = CudaGraphs(device, pool)
        self.function, self.warmup = function, warmup
        self._graphs = graphs if enabled else None
        self.reset()

    def reset(self) -> None:
        """Forget the graph: the next calls warm up and capture again."""
        self._warm = 0
        self._replay: Callable[[], None] | None = None
        self._inputs: list[Tensor] = []
        self._outputs: Outputs = None

    def __call__(self, *inputs: Tensor) -> Outputs:
        if self._graphs is None:
            return self.function(*inputs)
        if self._replay is None and self._warm < self.warmup:
            self._warm += 1
            return self._graphs.eagerly(lambda: self.function(*inputs))
        if self._replay is None:
            self._replay = self._captured(self._graphs, inputs)
        else:
            self._fill(inputs)
        self._replay()
        return _cloned(self._outputs)

    def _captured(self, graphs: Graphs, inputs: tuple[Tensor, ...]) -> Callable[[], None]:
        self._inputs = [tensor.detach().clone() for tensor in inputs]
        try:
            replay, outputs = graphs.capture(lambda: self.function(*self._inputs))
        except RuntimeError as error:
            error.add_note("A step that is captured must not read tensors on the host, nor move them to or from it.")
            raise
        for value in outputs.values() if isinstance(outputs, Mapping) else (outputs,):
            if value is not None and not isinstance(value, Tensor):
                raise UsageError(
                    f"a captured step returns tensors; the {type(value).__name__} {value!r} would never change"
                )
        self._outputs = outputs
        return replay

    def _fill(self, inputs: tuple[Tensor, ...]) -> None:
        given, expected = ([(tuple(t.shape), t.dtype) for t in tensors] for tensors in (inputs, self._inputs))
        if given != expected:
            raise UsageError(f"the step was captured for inputs {expected}, got {given}")
        for buffer, tensor in zip(self._inputs, inputs, strict=True):
            buffer.copy_(tensor)


def _cloned(outputs: Outputs) -> Outputs:
    if isinstance(outputs, Mapping):
        return {key: value.clone() for key, value in outputs.items()}
    return None if outputs is None else outputs.clone()
