"""Steps whose image passes are counted, also where they are replayed."""

from __future__ import annotations

from torch import Tensor

from .budget import PassCounter
from .capture import Captured, Outputs


def note(passes: PassCounter, output: Tensor) -> None:
    """Count the images of a batch whose output (N, …) has just been computed, and their way back when it is gone."""
    images = len(output)
    passes.add(forward=images)
    if output.requires_grad:
        output.register_hook(lambda _: passes.add(backward=images))


class Counted:
    """A captured step; a replay, which calls no hooks, costs what the last call cost that did.

    Args:
        step: its function counts into `passes`, for instance by hooks that call `note`.
    """

    def __init__(self, step: Captured, passes: PassCounter) -> None:
        self.step, self.passes = step, passes
        self._cost = 0, 0  # forward and backward

    def reset(self) -> None:
        """As `Captured.reset`."""
        self.step.reset()

    def __call__(self, *inputs: Tensor) -> Outputs:
        before = self.passes.forward, self.passes.backward
        found = self.step(*inputs)
        spent = self.passes.forward - before[0], self.passes.backward - before[1]
        if any(spent):
            self._cost = spent
        else:
            self.passes.add(*self._cost)
        return found
