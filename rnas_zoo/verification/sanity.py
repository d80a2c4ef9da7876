"""Signs that a robust accuracy would say less than it seems to; every flag has a section in flags.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from .. import random
from ..attacks import Keys, MarginPGD, Threat, losses, margin_pgd
from ..attacks.result import frozen, input_gradient
from ..errors import FlaggedError, UsageError
from ..intervals import clopper_pearson
from .flags import flag

IMAGES = 32
ALONE = 8
RANDOM = 1e-4
BATCH = 1e-3
USUAL_MARGIN = (1e-3, 50.0)
CHANCE_IMAGES = 50
FAR_BELOW = 0.10
UNBOUNDED_LEFT = 0.1
UNBOUNDED_STEPS = (5, 40)  # the few steps are enough for all but masked gradients
MORE_THAN = 0.005
MOODY = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd, nn.AlphaDropout)

Logits = Callable[[Tensor], Tensor]


@contextmanager
def modes_kept(model: object) -> Iterator[None]:
    """A module given by the user has its training and evaluation modes restored after the block.

    Raises:
        UsageError: a batch norm or dropout is in training mode: that is not the model that will be used.
    """
    modes = [(module, module.training) for module in model.modules()] if isinstance(model, nn.Module) else []
    moody = [type(module).__name__ for module, training in modes if training and isinstance(module, MOODY)]
    if moody:
        raise UsageError(
            f"train-mode: the model's {moody[0]} is in training mode, where logits depend on chance or neighbours; "
            "call model.eval() first"
        )
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@dataclass(frozen=True)
class Outputs:
    """How a model's outputs are read by the attacks.

    Attributes:
        probabilities: they are softmax outputs; the attacks see their logarithms.
        scale: power of two the attacks see the logits multiplied with.
    """

    probabilities: bool = False
    scale: float = 1.0

    def read(self, logits: Logits) -> Logits:
        """The model as attacks see it."""
        if not self.probabilities and self.scale == 1.0:
            return logits
        return _Read(logits, self)


class _Read(nn.Module):
    def __init__(self, logits: Logits, outputs: Outputs) -> None:
        super().__init__()
        self.logits, self.outputs = logits, outputs

    def forward(self, x: Tensor) -> Tensor:
        found = self.logits(x)
        if self.outputs.probabilities:
            found = found.clamp_min(torch.finfo(found.dtype).tiny).log()
        return found * self.outputs.scale


@torch.no_grad()
def examine_outputs(logits: Logits, x: Tensor) -> tuple[list[str], Outputs]:
    """Flags of a model's logits on images x (N, 3, H, W), and how attacks should read them.

    Raises:
        FlaggedError: none of 32 images has finite logits.
    """
    x = x[:IMAGES]
    first, second = logits(x).float(), logits(x).float()
    finite = torch.isfinite(first).all(1) & torch.isfinite(second).all(1)
    if not bool(finite.any()):
        if len(x) == IMAGES:
            raise FlaggedError(
                flag("non-finite", f"none of {IMAGES} images has finite logits: nothing can be measured")
            )
        return [], Outputs()
    first, second, flags = first[finite], second[finite], []
    size = float((first.amax(1) - first.amin(1)).median().clamp_min(1e-30))
    differ = float((first - second).abs().max()) / size
    if differ > RANDOM:
        flags.append(flag("random-forward", f"two forwards of the same images differ by {differ:.2g} of the logits"))
    else:
        flags += _depends_on_neighbours(logits, x, size)
    probabilities = bool((first >= 0).all()) and bool(((first.sum(1) - 1).abs() < 1e-4).all())
    if probabilities:
        flags.append(flag("probabilities", "outputs are not negative and sum to one; attacks see their logarithms"))
        return flags, Outputs(probabilities=True)
    top = first.topk(min(2, first.shape[1]), dim=1).values
    gap = float((top[:, 0] - top[:, -1]).median())
    if gap > 0 and not USUAL_MARGIN[0] <= gap <= USUAL_MARGIN[1]:
        scale = 2.0 ** round(np.log2(5 / gap))
        flags.append(flag("logit-scale", f"the median margin is {gap:.3g}; attacks see the logits times {scale:g}"))
        return flags, Outputs(scale=scale)
    return flags, Outputs()


def _depends_on_neighbours(logits: Logits, x: Tensor, size: float) -> list[str]:
    few = x[:ALONE]
    noise = random.uniform(tuple(x.shape[1:]), seed=0, stream="sanity", draw=0, positions=torch.arange(len(few)))
    alone, among = logits(few).float(), logits(torch.cat([few, noise.to(few.device)])).float()[: len(few)]
    differ = float(torch.nan_to_num(alone - among).abs().max()) / size
    if differ <= BATCH:
        return []
    return [flag("batch-dependent", f"logits change by {differ:.2g} of their size with the images beside them")]


def examine_clean(correct: np.ndarray, predicted: np.ndarray, labels: np.ndarray, declared: float | None) -> list[str]:
    """What clean verdicts say about preprocessing.

    Args:
        declared: the clean accuracy its card states on this data set, if any.

    Raises:
        FlaggedError: accuracy at chance, or far below the declared one: nothing measured on top would mean anything.
    """
    n, right = len(labels), int(correct.sum())
    if not n:
        return []
    low, high = clopper_pearson(right, n)
    if declared is not None and high < declared - FAR_BELOW:
        raise FlaggedError(
            flag("preprocessing", f"clean accuracy is {right / n:.1%}, its card states {declared:.1%}: check {_CHECK}")
        )
    constant = len(np.unique(predicted)) == 1 and len(np.unique(labels)) > 1
    most = np.bincount(labels).max() / n
    if n >= CHANCE_IMAGES and len(np.unique(labels)) > 1 and low <= most:
        code = "constant" if constant else "preprocessing"
        raise FlaggedError(
            flag(code, f"clean accuracy is {right / n:.1%} on {n} images, no better than always naming one class "
                 f"({most:.1%}): check {_CHECK}")
        )  # fmt: skip
    return [flag("constant", f"class {predicted[0]} for all {n} images")] if constant and n > 1 else []


_CHECK = "--mean --std --range --layout --input-size and the labels"


def examine_gradients(network: Logits, x: Tensor, y: Tensor, threat: Threat, keys: Keys) -> list[str]:
    """Signs of masked gradients on correctly classified images x (N, 3, H, W) with labels y (N,)."""
    x, y, keys = x[:IMAGES], y[:IMAGES], keys.take(torch.arange(min(IMAGES, len(y)), device=y.device))
    if not len(x):
        return []
    with frozen(network):
        gradient, before = input_gradient(lambda z: losses.margin(network(z), y), x)
    zero = int((losses.finite(gradient).flatten(1).abs().amax(1) == 0).sum())
    flags = []
    if zero:
        flags.append(flag("zero-gradients", f"the input gradient is zero on {zero} of {len(x)} images"))
    if threat.eps > 0:
        result = margin_pgd(network, x, y, threat, MarginPGD(steps=10), keys)
        with torch.no_grad():
            after = losses.margin(network(result.x_adv), y)
        if float(losses.finite(after).mean()) <= float(losses.finite(before).mean()):
            flags.append(flag("loss-not-rising", "ten steps of PGD do not raise the mean loss above the clean one"))
    everything = 1.0 if threat.norm == "linf" else float(np.sqrt(x[0].numel()))
    left, few = torch.arange(len(x), device=y.device), max(1, UNBOUNDED_LEFT * len(x))
    for steps in UNBOUNDED_STEPS:
        if len(left) > few:
            config = MarginPGD(steps=steps)
            result = margin_pgd(network, x[left], y[left], Threat(threat.norm, everything), config, keys.take(left))
            left = left[~result.broken]
    if len(left) > few:
        flags.append(flag("unbounded-eps", f"{len(left)} of {len(x)} images withstand PGD that may change every pixel"))
    return flags


def black_box_wins(broken: int, n: int) -> list[str]:
    """A flag where attacks without gradients broke more than rounding explains of what gradients left standing."""
    if broken <= max(1, MORE_THAN * n):
        return []
    return [flag("black-box-wins", f"attacks without gradients broke {broken} images that the gradient attacks left")]
