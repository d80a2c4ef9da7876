"""Attention transfer between the layers of a student and those of a teacher (RNAS-CL: Nath, Wang, Yang, UAI 2024).

A layer's attention map is the sum of its squared activations over channels, so widths never have to match; maps are
resized to one grid, so resolutions need not either. Two readings of the loss exist:

* `paper`: every image's map has norm 1, and squared distances are averaged over the batch;
* `repo`, the published code: all maps of a layer in a batch share one norm, and the distance is not squared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError, closest

READINGS = ("paper", "repo")
SMALLEST = 1e-12


class Taps:
    """Records what named modules return, while entered.

    Of a module that runs several times the last output stands; one that has two names is recorded once. What is kept is
    what `transform` makes of an output at once, so that operations in place cannot reach it any more.

    Args:
        module: any network.
        names: dotted names of modules in it.
        transform: what is kept of an output; the output itself by default.

    Raises:
        UsageError: a name that is no module of the network.
    """

    def __init__(
        self, module: nn.Module, names: Sequence[str], transform: Callable[[Tensor], Any] | None = None
    ) -> None:
        known = dict(module.named_modules(remove_duplicate=False))
        for name in names:
            if name not in known:
                raise UsageError(f"{type(module).__name__} has no module {name!r}.{closest(name, list(known))}")
        self._modules = {name: known[name] for name in names}
        self._transform = transform
        self._recorded: dict[nn.Module, Any] = {}
        self._hooks: list[Any] = []

    def __enter__(self) -> Taps:
        self.remove()
        self._recorded.clear()
        self._hooks = [part.register_forward_hook(self._record) for part in set(self._modules.values())]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()

    def remove(self) -> None:
        """Stop recording; what was recorded stays."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _record(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self._recorded[module] = self._transform(output) if self._transform else output

    @property
    def order(self) -> list[str]:
        """The names whose modules have run, in the order in which they first did."""
        ran = {part: place for place, part in enumerate(self._recorded)}
        return sorted((n for n, part in self._modules.items() if part in ran), key=lambda n: ran[self._modules[n]])

    @property
    def outputs(self) -> list[Any]:
        """What was recorded, in the order of the names.

        Raises:
            UsageError: a module has not run.
        """
        for name, part in self._modules.items():
            if part not in self._recorded:
                raise UsageError(f"nothing was recorded of {name!r}: no forward pass reached it while tapped")
        return [self._recorded[part] for part in self._modules.values()]


@torch.no_grad()
def tutor_layers(teacher: nn.Module, image_size: tuple[int, int] = (32, 32)) -> list[str]:
    """Names of a teacher's convolutions with a kernel larger than 1x1, in the order in which they run.

    Their raw outputs are the tutors: 31 in a WRN-34-10, the first convolution and two of each block.

    Args:
        image_size: height and width of the RGB image that is passed through to find the order.

    Raises:
        UsageError: there is none.
    """
    wide = [n for n, part in teacher.named_modules() if isinstance(part, nn.Conv2d) and max(part.kernel_size) > 1]
    weight = next(teacher.parameters(), torch.zeros(()))
    training = [part for part in teacher.modules() if part.training]
    try:
        with Taps(teacher, wide, lambda output: None) as taps:
            teacher.eval()(torch.zeros(1, 3, *image_size, device=weight.device, dtype=weight.dtype))
    finally:
        for part in training:
            part.training = True
    if not taps.order:
        raise UsageError(f"{type(teacher).__name__} has no convolution larger than 1x1 to learn from: not a teacher")
    return taps.order


def attention_map(x: Tensor, grid: int, reading: str = "paper") -> Tensor:
    """Where a layer is active: Σ_c A_c² on a square grid, with norm 1 (zero stays zero).

    Args:
        x: activations A, (N, C, H, W).
        grid: height and width the map is resized to (bilinear).
        reading: `paper` gives each image's map the norm 1, `repo` all maps of the batch together.

    Returns:
        float32 (N, grid * grid).
    """
    _check_reading(reading)
    with _in_float32(x):
        energy = x.float().square().sum(1, keepdim=True)
        flat = F.interpolate(energy, size=(grid, grid), mode="bilinear", align_corners=False).flatten(1)
        norm = torch.linalg.vector_norm(flat, dim=1 if reading == "paper" else None, keepdim=True)
        return flat / norm.clamp_min(SMALLEST)


def attention_loss(
    student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor], weights: Tensor, reading: str = "paper"
) -> Tensor:
    """How far each student layer looks away from its tutors.

    `paper`: mean over images of Σ_i Σ_j g_ij ‖F_s^i - F_t^j‖² / n_s. The paper divides by n_t as well; rows of g sum to
    1 already, so that factor would only rescale γ. `repo`: Σ_i ‖(g_ij (F_t^j - F_s^i))_j‖, over the whole batch.

    Args:
        student_maps, teacher_maps: n_s and n_t maps (N, P), made by `attention_map` in the same reading.
        weights: g, (n_s, n_t).

    Raises:
        UsageError: numbers of maps that do not fit the weights, or an unknown reading.
    """
    _check_reading(reading)
    if weights.shape != (len(student_maps), len(teacher_maps)):
        raise UsageError(
            f"{len(student_maps)} student and {len(teacher_maps)} teacher maps need weights of that shape, "
            f"got {tuple(weights.shape)}"
        )
    with _in_float32(weights):
        images = student_maps[0].shape[0]
        s, t = (torch.stack(list(maps)).float().flatten(1) for maps in (student_maps, teacher_maps))
        # ‖s - t‖² = ‖s‖² + ‖t‖² - 2 s·t, for all pairs at once and without their (n_s, n_t, N, P) differences
        squared = s.square().sum(1)[:, None] + t.square().sum(1)[None] - 2 * (s @ t.T)
        if reading == "paper":
            return (weights * squared).sum() / (images * len(s))
        return ((weights.square() * squared).sum(1).clamp_min(0) + SMALLEST).sqrt().sum()


def distillation_kl(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    """KL(teacher ‖ student) at temperature 1, mean over the batch.

    From log-softmax values, so that it is exact for any logits; the published code adds 1e-6 to probabilities instead.
    """
    return F.kl_div(
        student_logits.float().log_softmax(1),
        teacher_logits.float().log_softmax(1),
        log_target=True,
        reduction="batchmean",
    )


def _check_reading(reading: str) -> None:
    if reading not in READINGS:
        raise UsageError(f"unknown reading {reading!r} of the attention loss, known are {', '.join(READINGS)}")


def _in_float32(x: Tensor) -> torch.autocast:
    return torch.autocast(x.device.type, enabled=False)
