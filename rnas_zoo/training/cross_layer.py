"""RNAS-CL's training: every convolution of a student looks where its tutor, a layer of a robust teacher, looks.

    L = CE + KL(teacher ‖ student) + γ A      (Nath, Wang, Yang, UAI 2024; A in `training.attention`, reading `paper`)

Retraining takes the strongest tutor of each layer, where the published code goes on drawing them at a low temperature.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..genotype import Channels
from ..models.rnas_students import ConvBN, RnasStudent
from .attention import Taps, attention_loss, attention_map, tutor_layers

GRID = 14


@dataclass(frozen=True)
class Taught:
    """What a teacher says about a batch: logits (N, K), and the attention map (N, P) of each tutor layer."""

    logits: Tensor
    maps: list[Tensor]


def student_layers(student: nn.Module, image_size: tuple[int, int]) -> list[str]:
    """Names of the layers that learn: a student's convolutions with batch norm and activation, else its wide ones."""
    if isinstance(student, RnasStudent):
        return [name for name, part in student.named_modules() if isinstance(part, ConvBN)]
    return tutor_layers(student, image_size)


def tutors_by_depth(students: int, teachers: int) -> tuple[int, ...]:
    """For each of the student's layers the teacher layer at the same relative depth."""
    return tuple(round(i * (teachers - 1) / max(1, students - 1)) for i in range(students))


class CrossLayer:
    """The attention term between a student and a teacher.

    The tutors are those given, or else of the student's genotype, if there is one for each layer and the teacher has
    as many layers; otherwise the layers at the same relative depth.

    Args:
        student, teacher: networks that run on images (N, 3, H, W); the teacher is frozen by whoever owns it.
        image_size: height and width of these images.
        tutors: for each student layer the number of its teacher layer; None for the genotype's.

    Attributes:
        tutors: for each student layer the number of its teacher layer.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        image_size: tuple[int, int],
        tutors: tuple[int, ...] | None = None,
    ) -> None:
        self.student, self.teacher = student, teacher
        self.student_names = student_layers(student, image_size)
        self.teacher_names = tutor_layers(teacher, image_size)
        count, layers = len(self.student_names), len(self.teacher_names)
        structure = getattr(getattr(student, "genotype", None), "structure", None)
        chosen = structure.tutors if isinstance(structure, Channels) and tutors is None else tutors
        if chosen is None or len(chosen) != count or max(chosen) >= layers:
            chosen = tutors_by_depth(count, layers)
        self.tutors = chosen
        self.used = sorted(set(chosen))
        device = next(student.parameters()).device
        self._weights = torch.tensor([[float(j == tutor) for j in self.used] for tutor in chosen], device=device)

    def teach(self, x: Tensor) -> Taught:
        """The teacher on clean images, without gradients."""
        with torch.no_grad(), Taps(self.teacher, self.teacher_names, _attend) as taps:
            logits = self.teacher(x)
        return Taught(logits, taps.outputs)

    def watch(self) -> Taps:
        """A context in which the student's attention maps are recorded."""
        return Taps(self.student, self.student_names, _attend)

    def loss(self, watched: Taps, taught: Taught) -> Tensor:
        """A, from what was recorded of one forward pass of the student."""
        return attention_loss(watched.outputs, [taught.maps[i] for i in self.used], self._weights)


def _attend(output: Tensor) -> Tensor:
    return attention_map(output, GRID)


def check_teacher(taught: Tensor, classes: int) -> None:
    """Whether the logits (N, K) of a teacher are for that many classes.

    Raises:
        UsageError: they are not.
    """
    if taught.ndim != 2 or taught.shape[1] != classes:
        known = taught.shape[1] if taught.ndim == 2 else "no"
        raise UsageError(f"the teacher knows {known} classes, the data set has {classes}")
