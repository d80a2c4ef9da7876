"""RNAS-CL's supernet: compact students of all widths in one network, and a tutor for each of their convolutions.

Every block chooses its width and every convolution a layer of the teacher, both by Gumbel-softmax (Nath, Wang, Yang,
UAI 2024; masks as in FBNetV2: Wan et al., CVPR 2020). A width is a mask over the channels of the widest student. At
one-hot choices the masked network is exactly the compact student that `extract` cuts out of it:

* the channels between expand and project are masked like the block's input, or biases and batch norms would revive
  those that a narrower input does not have;
* a residual is weighted by the cosine similarity of the choices on both of its ends: 1 where both chose one width, 0
  where they chose different ones, and 1 between equal soft choices, so that depth does not fade the signal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attacks import Keys
from ..errors import UsageError
from ..genotype import Channels, Genotype, Stage
from ..models.rnas_students import RnasStudent
from ..random import uniform

WIDTHS = ((16, 12), (32, 28, 24, 20), (64, 60, 56, 52))
STRIDES = (1, 2, 2)


class ChannelSupernet(nn.Module):
    """Images (N, 3, H, W) in [0, 1] to logits (N, num_classes), through softly masked inverted residual blocks.

    The defaults are the paper's S3 on CIFAR with a WRN-34-10 as teacher.

    Args:
        depths: blocks of each stage.
        stem, stem_stride: width and stride of the first convolution.
        widths: for each stage, the widths its blocks choose from, widest first.
        strides: of each stage's first block.
        tutors: number of teacher layers to choose from.
        image_size: height and width of the images, for `expected_macs`.
        bn_momentum: of all batch norms; those of the students have 0.003, too slow for short searches.

    Attributes:
        alphas: θ by name: `stage0`, ... of shape (blocks, widths), and `tutors` of shape (convolutions, tutors).
        temperature: of the Gumbel-softmax; a buffer, to be changed in place.

    Raises:
        UsageError: arguments out of range or of different lengths.
    """

    temperature: Tensor

    def __init__(
        self,
        num_classes: int,
        depths: Sequence[int] = (3, 3, 3),
        stem: int = 16,
        stem_stride: int = 2,
        widths: Sequence[Sequence[int]] = WIDTHS,
        strides: Sequence[int] = STRIDES,
        expansion: int = 6,
        tutors: int = 31,
        image_size: tuple[int, int] = (32, 32),
        bn_momentum: float = 0.1,
    ) -> None:
        super().__init__()
        if not len(depths) == len(widths) == len(strides) > 0:
            raise UsageError(
                f"needs one per stage: {len(depths)} depths, {len(widths)} width lists, {len(strides)} strides"
            )
        for options in widths:
            if not options or list(options) != sorted(set(options), reverse=True):
                raise UsageError(f"the widths of a stage must fall from the widest on, got {tuple(options)}")
        numbers = (*depths, stem, expansion, tutors, *image_size, *(options[-1] for options in widths))
        if min(numbers) < 1 or not {stem_stride, *strides} <= {1, 2}:
            raise UsageError("depths, widths, expansion, tutors and image size must be at least 1, and strides 1 or 2")
        self.widths, self.num_classes = tuple(tuple(options) for options in widths), num_classes
        self.widest = Channels(
            stem,
            stem_stride,
            tuple(Stage((w[0],) * depth, stride) for w, depth, stride in zip(widths, depths, strides, strict=True)),
            expansion,
        )
        self.student = RnasStudent(Genotype("widest", self.widest), num_classes)
        for module in self.student.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = bn_momentum
        shapes = {f"stage{i}": (depth, len(self.widths[i])) for i, depth in enumerate(depths)}
        shapes["tutors"] = (1 + 3 * sum(depths), tutors)
        self.alphas = nn.ParameterDict({name: torch.full(shape, 1 / shape[1]) for name, shape in shapes.items()})
        self.drawn = False
        self.register_buffer("temperature", torch.tensor(5.0))
        for name, shape in shapes.items():
            self.register_buffer(f"noise_{name}", torch.zeros(shape), persistent=False)
        for i, options in enumerate(self.widths):
            sizes = torch.tensor(options)
            self.register_buffer(f"widths_{i}", sizes.float(), persistent=False)
            self.register_buffer(f"cover_{i}", (torch.arange(options[0]) < sizes[:, None]).float(), persistent=False)
            before = self.widths[i - 1] if i else (stem,)
            shared = (torch.tensor(before)[:, None] == sizes).float()
            self.register_buffer(f"entry_{i}", shared, persistent=False)
        self.areas = self._areas(image_size)

    def _areas(self, size: tuple[int, int]) -> list[int]:
        """Pixels of the maps behind the stem and behind every block."""
        strides = [self.widest.stem_stride]
        strides += [stage.stride if j == 0 else 1 for stage in self.widest.stages for j in range(len(stage.widths))]
        areas, (height, width) = [], size
        for stride in strides:
            height, width = (height - 1) // stride + 1, (width - 1) // stride + 1
            areas.append(height * width)
        return areas

    def arch_parameters(self) -> list[nn.Parameter]:
        """θ of the widths and of the tutors."""
        return list(self.alphas.values())

    def weight_parameters(self) -> Iterator[nn.Parameter]:
        """All other parameters."""
        return self.student.parameters()

    def draw(self, keys: Keys) -> None:
        """Draw the Gumbel noise of all forwards in training mode until the next call.

        Args:
            keys: the seed and the first position key the draw.
        """
        sizes = [theta.numel() for theta in self.alphas.values()]
        draws = uniform((sum(sizes),), seed=keys.seed, stream="gumbel", draw=0, positions=keys.positions[:1])[0]
        gumbel = -torch.log(-torch.log(draws.double() + 2**-25))  # the middle of each step of 2^-24, so never infinite
        for (name, theta), noise in zip(self.alphas.items(), gumbel.split(sizes), strict=True):
            self.get_buffer(f"noise_{name}").copy_(noise.view_as(theta))
        self.drawn = True

    def _choice(self, name: str) -> Tensor:
        """Rows of weights that sum to 1: a soft sample, or in evaluation mode and before any draw the argmax."""
        theta = self.alphas[name]
        if not (self.training and self.drawn):
            return (torch.arange(theta.shape[1], device=theta.device) == theta.argmax(1, keepdim=True)).to(theta.dtype)
        return ((theta + self.get_buffer(f"noise_{name}")) / self.temperature).softmax(1)

    @contextmanager
    def untracked(self) -> Iterator[None]:
        """Running statistics stay as they are inside the block; training mode still uses the batch's own."""
        norms = [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.track_running_stats = False
        try:
            yield
        finally:
            for norm in norms:
                norm.track_running_stats = True

    def width_weights(self) -> list[Tensor]:
        """m: for each stage, (blocks, widths)."""
        return [self._choice(f"stage{i}") for i in range(len(self.widths))]

    def tutor_weights(self) -> Tensor:
        """g: (convolutions, tutors)."""
        return self._choice("tutors")

    def features(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits, and the masked output of every convolution behind its batch norm and activation, in forward order."""
        student: Any = self.student
        x = student.stem(x)
        maps = [x]
        entering, before = self.temperature.new_ones(x.shape[1]), self.temperature.new_ones(1)
        for i, (blocks, choices) in enumerate(zip(student.stages, self.width_weights(), strict=True)):
            for j, (block, choice) in enumerate(zip(blocks, choices, strict=True)):
                leaving = _mixed(choice, self.get_buffer(f"cover_{i}"))
                inner = entering.repeat_interleave(self.widest.expansion)
                expanded = _masked(block.expand(x), inner)
                spread = _masked(block.depthwise(expanded), inner)
                y = _masked(block.project(spread), leaving)
                maps += [expanded, spread, y]
                if j > 0 or self.widest.stages[i].stride == 1:
                    same = _mixed(before, self.get_buffer(f"entry_{i}")) if j == 0 else before
                    kept = (same * choice).sum() / (before.norm() * choice.norm())
                    y = y + _masked(F.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1])), kept * leaving)
                x, entering, before = y, leaving, choice
        return student.head(x), maps

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)[0]

    def expected_macs(self) -> Tensor:
        """Multiply-accumulates per image at the effective widths Σ_i m_i width_i, as a differentiable scalar.

        Unlike the published code's cost, the depthwise convolution is counted as depthwise.
        """
        areas = iter(self.areas)
        area = next(areas)
        stem, expansion = self.widest.stem_width, self.widest.expansion
        total, entering = torch.as_tensor(float(27 * area * stem)), torch.as_tensor(float(stem))
        for i, choices in enumerate(self.width_weights()):
            for leaving in (choices * self.get_buffer(f"widths_{i}")).sum(1):
                mid, before, area = expansion * entering, area, next(areas)
                total = total + before * entering * mid + area * (9 * mid + mid * leaving)
                entering = leaving
        return total + entering * self.num_classes

    def derive(self) -> Channels:
        """The student of the largest θ, with the tutor of each convolution; the wider option where two are equal."""
        stages = tuple(
            Stage(tuple(self.widths[i][k] for k in self.alphas[f"stage{i}"].argmax(1).tolist()), stage.stride)
            for i, stage in enumerate(self.widest.stages)
        )
        tutors = tuple(self.alphas["tutors"].argmax(1).tolist())
        return Channels(self.widest.stem_width, self.widest.stem_stride, stages, self.widest.expansion, tutors)

    def extract(self, genotype: Genotype | Channels) -> RnasStudent:
        """The compact student of a genotype, carrying the weights it has in here.

        Raises:
            UsageError: the genotype is not one this supernet can choose.
        """
        found = genotype if isinstance(genotype, Genotype) else Genotype("extracted", genotype)
        self._check_member(found)
        student = RnasStudent(found, self.num_classes)
        own = self.student.state_dict()
        state = {name: own[name][tuple(map(slice, cut.shape))] for name, cut in student.state_dict().items()}
        student.load_state_dict(state)
        return student.to(self.temperature.device).train(self.training)

    def _check_member(self, found: Genotype) -> None:
        structure, wide = found.structure, self.widest
        if (
            isinstance(structure, Channels)
            and _skeleton(structure) == _skeleton(wide)
            and all(set(stage.widths) <= set(own) for stage, own in zip(structure.stages, self.widths, strict=True))
        ):
            return
        raise UsageError(
            f"genotype {found.name!r} lies outside this supernet of stem {wide.stem_width}, stride {wide.stem_stride}, "
            f"expansion {wide.expansion}, {'+'.join(str(len(s.widths)) for s in wide.stages)} blocks with strides "
            f"{tuple(s.stride for s in wide.stages)}, and widths {self.widths}"
        )


def _mixed(weights: Tensor, rows: Tensor) -> Tensor:
    """Σ_i weights_i rows_i; no matrix product, which autocast would round to half precision."""
    return (weights[:, None] * rows).sum(0)


def _masked(x: Tensor, mask: Tensor) -> Tensor:
    """Channels of (N, C, H, W) scaled by a mask (C,), in the type of x."""
    return x * mask[:, None, None].to(x.dtype)


def _skeleton(structure: Channels) -> tuple[Any, ...]:
    """All but the widths of the blocks and the tutors."""
    stages = tuple((len(stage.widths), stage.stride) for stage in structure.stages)
    return structure.stem_width, structure.stem_stride, structure.expansion, stages
