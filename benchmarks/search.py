"""Steps of a search on the supernet: a mixed operation per edge, as everybody has it, beside rnas_zoo's grouped cells.

    python benchmarks/search.py [--channels 16] [--layers 8] [--batch 16] [--repeats 3] [--threads 1] [--device cpu]
        [--steps clean ...] [--networks "per edge" rnas_zoo ...]

A step is an α step on a validation batch and an SGD step on a training batch (first order); the weight step follows an
attack of seven or one passes, or none. Only the gradients a step needs are computed, for all networks alike. Every line
of the table is a process of its own. On the CPU: process-CPU seconds and peak resident memory; on CUDA: wall seconds
of eager steps and peak allocated memory. Medians over the repeats, after one shorter step that is not counted.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rnas_zoo.cli.common import table
from rnas_zoo.genotype import PRIMITIVES
from rnas_zoo.models.ops import FactorizedReduce, ReLUConvBN, build_op, conv_bn
from rnas_zoo.searching.grouped import edges_out_of
from rnas_zoo.searching.supernet import Supernet

NODES, CLASSES, SIZE, EPS = 4, 10, 32, 8 / 255
NETWORKS = ("per edge", "per edge, channels-last", "rnas_zoo")
STEPS = {
    "cpu": ("clean", "PGD-7, train mode", "PGD-7, eval mode"),
    "cuda": ("clean", "N-FGSM", "PGD-7, train mode", "PGD-7, eval mode"),
}


class MixedOp(nn.Module):
    def __init__(self, chs: int, stride: int) -> None:
        super().__init__()
        self.ops = nn.ModuleList()
        for name in PRIMITIVES:
            op = build_op(name, chs, stride, affine=False)
            self.ops.append(nn.Sequential(op, nn.BatchNorm2d(chs, affine=False)) if "pool" in name else op)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        return sum(weight * op(x) for weight, op in zip(weights, self.ops, strict=True))


class PerEdgeCell(nn.Module):
    def __init__(self, in_chs: tuple[int, int], chs: int, reduction: bool, reduction_prev: bool) -> None:
        super().__init__()
        self.role = "reduce" if reduction else "normal"
        self.preprocess0 = (FactorizedReduce if reduction_prev else ReLUConvBN)(in_chs[0], chs, affine=False)
        self.preprocess1 = ReLUConvBN(in_chs[1], chs, affine=False)
        self.edges = nn.ModuleList(
            MixedOp(chs, 2 if reduction and source < 2 else 1) for node in range(NODES) for source in range(2 + node)
        )

    def forward(self, s0: Tensor, s1: Tensor, weights: Tensor) -> Tensor:
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        first = 0
        for node in range(NODES):
            states.append(sum(self.edges[first + i](state, weights[first + i]) for i, state in enumerate(states)))
            first += 2 + node
        return torch.cat(states[2:], dim=1)


class PerEdge(nn.Module):
    """The supernet of Liu et al. (ICLR 2019), one module per operation and edge."""

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_bn(3, 3 * channels, 3))
        in_chs, chs, reduction_prev = (3 * channels, 3 * channels), channels, False
        self.cells = nn.ModuleList()
        for index in range(layers):
            reduction = index in (layers // 3, 2 * layers // 3)
            chs *= 2 if reduction else 1
            self.cells.append(PerEdgeCell(in_chs, chs, reduction, reduction_prev))
            in_chs, reduction_prev = (in_chs[1], NODES * chs), reduction
        self.classifier = nn.Linear(in_chs[1], CLASSES)
        self.alphas = nn.ParameterDict({role: 1e-3 * torch.randn(14, len(PRIMITIVES)) for role in ("normal", "reduce")})

    def arch_parameters(self) -> list[nn.Parameter]:
        return list(self.alphas.values())

    def weight_parameters(self) -> Iterator[nn.Parameter]:
        return (parameter for name, parameter in self.named_parameters() if not name.startswith("alphas."))

    def forward(self, x: Tensor) -> Tensor:
        weights = {role: alpha.softmax(1) for role, alpha in self.alphas.items()}
        s0 = s1 = self.stem(x)
        for cell in self.cells:
            s0, s1 = s1, cell(s0, s1, weights[cell.role])
        return self.classifier(s1.mean((2, 3)))

    def copy_from(self, ours: Supernet) -> None:
        """Take over the weights of the grouped supernet: its edges lie side by side in the first dimension."""
        common = {name: value for name, value in ours.state_dict().items() if ".outgoing." not in name}
        self.load_state_dict(common, strict=False)
        for cell, grouped in zip(self.cells, ours.cells, strict=True):
            for state, outgoing in enumerate(grouped.outgoing):
                rows = edges_out_of(state)
                for position, row in enumerate(rows):
                    for name, op in zip(PRIMITIVES, cell.edges[row].ops, strict=True):
                        halves = [part[name] for part in (outgoing.first, outgoing.second) if name in part]
                        wide = [weight for half in halves for weight in (half.depthwise, half.pointwise)]
                        if name == "skip_connect":
                            wide = [conv.weight for conv in outgoing.reduce[:2]]
                        for weight, source in zip(op.parameters(), wide, strict=True):
                            weight.data.copy_(source.chunk(len(rows))[position])


def attacked(net: nn.Module, x: Tensor, y: Tensor, passes: int, noise: float, size: float, ball: float) -> Tensor:
    """Images after uniform noise and signed gradient steps inside a ball; the network is frozen meanwhile."""
    net.requires_grad_(False)
    found = (x + noise * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
    for _ in range(passes):
        found.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(net(found), y), found)
        found = torch.clamp(found.detach() + size * gradient.sign(), x - ball, x + ball).clamp(0, 1)
    net.requires_grad_(True)
    return found


def search_step(net: nn.Module, steps: str, device: torch.device, batch: int) -> Callable[[int], None]:
    """One step of a first-order search; its argument is the length of PGD."""
    x, u = torch.rand(2, batch, 3, SIZE, SIZE, device=device)
    y, v = torch.randint(CLASSES, (2, batch), device=device)
    alphas, weights = net.arch_parameters(), list(net.weight_parameters())
    of_alphas = torch.optim.Adam(alphas, 3e-4, (0.5, 0.999), weight_decay=1e-3)
    of_weights = torch.optim.SGD(weights, 0.025, momentum=0.9, weight_decay=3e-4)

    def gradients(parameters: list[nn.Parameter], x: Tensor, y: Tensor) -> None:
        found = torch.autograd.grad(F.cross_entropy(net(x), y), parameters)
        for parameter, gradient in zip(parameters, found, strict=True):
            parameter.grad = gradient

    def step(passes: int) -> None:
        net.train()
        gradients(alphas, u, v)
        of_alphas.step()
        x_adv = x
        if steps == "N-FGSM":
            x_adv = attacked(net, x, y, 1, 2 * EPS, EPS, 3 * EPS)
        elif steps != "clean":
            net.train(steps == "PGD-7, train mode")
            x_adv = attacked(net, x, y, passes, EPS, EPS / 4, EPS)
            net.train()
        gradients(weights, x_adv, y)
        nn.utils.clip_grad_norm_(weights, 5.0)
        of_weights.step()

    return step


def resident() -> float:
    """Peak resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(network: str, steps: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Median seconds of a step and MiB, in this process."""
    device = torch.device(arguments.device)
    interpreter = resident()
    torch.manual_seed(0)
    sizes = (arguments.channels, arguments.layers)
    net: nn.Module = Supernet(CLASSES, *sizes) if network == "rnas_zoo" else PerEdge(*sizes)
    if network.endswith("channels-last"):
        net.to(memory_format=torch.channels_last)
        net.register_forward_pre_hook(lambda _, inputs: inputs[0].contiguous(memory_format=torch.channels_last))
    net.to(device)
    step = search_step(net, steps, device, arguments.batch)

    def now() -> float:
        if device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize(device)
        return time.perf_counter()

    step(1)
    seconds = []
    for _ in range(arguments.repeats):
        begin = now()
        step(7)
        seconds.append(now() - begin)
    if device.type == "cpu":
        return {"seconds": statistics.median(seconds), "peak": resident(), "interpreter": interpreter}
    return {
        "seconds": statistics.median(seconds),
        "peak": torch.cuda.max_memory_allocated(device) / 2**20,
        "interpreter": 0.0,
    }


def agreement(arguments: argparse.Namespace) -> dict[str, float]:
    """Largest differences of logits at the same weights over the largest logit, in training mode."""
    torch.manual_seed(0)
    sizes = (arguments.channels, arguments.layers)
    ours, reference = Supernet(CLASSES, *sizes), PerEdge(*sizes)
    for alpha in ours.arch_parameters():
        nn.init.normal_(alpha)
    reference.copy_from(ours)
    count = sum(parameter.numel() for parameter in reference.parameters())
    if count != sum(parameter.numel() for parameter in ours.parameters()):
        raise RuntimeError("the two networks do not have the same parameters")
    x = torch.rand(arguments.batch, 3, SIZE, SIZE, dtype=torch.float64)
    (a, b), (exact, fp64) = (
        [net.to(arguments.device, dtype)(x.to(arguments.device, dtype)).detach().double() for net in (reference, ours)]
        for dtype in (torch.float32, torch.float64)
    )
    pairs = {"fp32": (b, a), "fp64": (fp64, exact), "ours": (b, exact), "reference": (a, exact)}
    found = {name: ((one - other).abs().max() / other.abs().max()).item() for name, (one, other) in pairs.items()}
    return {"parameters": count, **found}


def in_own_process(arguments: argparse.Namespace, *job: str) -> dict[str, float]:
    numbers = [f"--{name}={getattr(arguments, name)}" for name in ("channels", "layers", "batch", "repeats", "threads")]
    command = [sys.executable, __file__, *numbers, f"--device={arguments.device}", "--job", *job]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=list(STEPS))
    parser.add_argument("--steps", nargs="+", help="kinds of steps; all of the table by default")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS, help="ratios are to the first")
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--batch", type=int, help="default: 16 on the CPU, 256 on CUDA")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--job", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    kinds = arguments.steps or STEPS[arguments.device]
    if unknown := sorted(set(kinds) - set(STEPS[arguments.device])):
        parser.error(f"no steps {unknown}; on {arguments.device} there are {list(STEPS[arguments.device])}")
    arguments.batch = arguments.batch or (16 if arguments.device == "cpu" else 256)
    torch.set_num_threads(arguments.threads)
    if arguments.job:
        found = agreement(arguments) if arguments.job == ["agreement"] else measure(*arguments.job, arguments)
        print(json.dumps(found))
        return
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("there is no CUDA device here; try --device cpu", file=sys.stderr)
        return

    same = in_own_process(arguments, "agreement")
    clock = "CPU s" if arguments.device == "cpu" else "wall s"
    rows = [["step", "network", clock, "ratio", "images/s", "peak MiB", "ratio", "without interpreter", "ratio"]]
    for steps in kinds:
        base: dict[str, float] = {}
        for network in arguments.networks:
            found = in_own_process(arguments, network, steps)
            base = base or found
            own, of_base = (one["peak"] - one["interpreter"] for one in (found, base))
            rows.append(
                [
                    steps,
                    network,
                    f"{found['seconds']:.3f}",
                    f"{found['seconds'] / base['seconds']:.2f}",
                    f"{arguments.batch / found['seconds']:.1f}",
                    f"{found['peak']:.0f}",
                    f"{found['peak'] / base['peak']:.2f}",
                    f"{own:.0f}",
                    f"{own / of_base:.2f}",
                ]
            )
    print(
        f"supernet of {arguments.layers} cells from {arguments.channels} channels, {same['parameters']:,} parameters; "
        f"batches of {arguments.batch} at {SIZE}x{SIZE}; {arguments.device}, {arguments.threads} thread(s), "
        f"torch {torch.__version__}, median of {arguments.repeats}"
    )
    print(table(rows))
    print(
        f"largest relative difference of logits at equal weights: fp32 {same['fp32']:.1e}, fp64 {same['fp64']:.1e}; "
        f"of fp32 from fp64: per edge {same['reference']:.1e}, rnas_zoo {same['ours']:.1e}"
    )


if __name__ == "__main__":
    main()
