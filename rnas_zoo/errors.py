"""Every error this package raises on purpose, one tree.

A message names the cause and the fix in one line. The command line prints it without a traceback and exits with
`exit_code`: 1 a check failed, 2 wrong use or bad input, 3 stopped at the time budget (resumable).
"""

from __future__ import annotations


class RnasZooError(Exception):
    """Base of all errors meant for the user."""

    exit_code = 2


class UsageError(RnasZooError, ValueError):
    """Arguments that do not fit together or lie outside their range."""


class GenotypeError(RnasZooError, ValueError):
    """A genotype that cannot be built; the message carries path and field."""


class UnknownNameError(RnasZooError, LookupError):
    """A model, genotype, data set or protocol nobody has registered."""


class NoWeightsError(RnasZooError, RuntimeError):
    """`pretrained=True` for an architecture without published weights."""


class WeightsError(RnasZooError, RuntimeError):
    """A weight file that is damaged, or not the one its configuration names."""


class ImageSizeError(RnasZooError, ValueError):
    """An image size the network cannot process."""


class DataError(RnasZooError, ValueError):
    """Images or labels that are missing, malformed or out of range."""


class OutputExistsError(RnasZooError, FileExistsError):
    """The output path is taken; nothing was overwritten."""


class OutputNotWritableError(RnasZooError, PermissionError):
    """The output path cannot be written."""


class OnnxFileError(RnasZooError, ValueError):
    """A file that is not a usable ONNX model."""


class CheckpointError(RnasZooError, RuntimeError):
    """A checkpoint that is damaged or belongs to another run."""


class CheckFailedError(RnasZooError, RuntimeError):
    """A check of results failed: parity, evidence, or a claim."""

    exit_code = 1


class FlaggedError(RnasZooError, RuntimeError):
    """A measurement that would be meaningless; the message begins with the flag that says why."""


class BudgetReachedError(RnasZooError):
    """The time budget ended before the work did; a checkpoint was written."""

    exit_code = 3


class InterruptedRunError(RnasZooError):
    """A signal ended the run after a checkpoint was written."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signum


class HubError(RnasZooError, RuntimeError):
    """The Hub could not be reached, or refused."""


class ProviderError(RnasZooError, RuntimeError):
    """The execution provider asked for is not the one onnxruntime would use."""


def closest(name: str, known: list[str], n: int = 3) -> str:
    """` Did you mean a, b?` for the names nearest to `name`, or an empty string."""
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=n, cutoff=0.5)
    return f" Did you mean {', '.join(near)}?" if near else ""
