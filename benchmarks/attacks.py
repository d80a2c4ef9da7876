"""The protocol `standard` beside the authors' own package: seconds and verdicts, image by image.

    python benchmarks/attacks.py [--net resnet8|REF] [--data digits] [--n 256] [--batch-size 64] [--eps 8/255]
        [--repeats 1] [--device cpu]

`resnet8` is a small residual network that is first trained adversarially on the digits at low contrast, so that about
half of them survive. On the CPU one thread and process-CPU seconds, on CUDA seconds on the clock; both harnesses in
turn, `--repeats` times, medians.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch
from pyautoattack import AutoAttack
from torch import Tensor, nn

import rnas_zoo
import rnas_zoo.verification.run  # both harnesses are imported before the clock starts
from rnas_zoo import data
from rnas_zoo.attacks import PGD, Keys, pgd
from rnas_zoo.cli.common import table
from rnas_zoo.verification import evidence

STEPS, CONTRAST = 250, 0.35


def _on_cuda() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


CLOCKS = {"cpu": time.process_time, "cuda": _on_cuda}


class Block(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv2d(channels, out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
            nn.Conv2d(out, out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        short = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        self.short: nn.Module = nn.Identity() if stride == 1 and channels == out else short

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.path(x) + self.short(x))


def resnet8() -> nn.Module:
    """20k weights: a stride-2 stem and one residual block at 8, 16 and 32 channels, for images of 32x32."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        Block(8, 8, 1),
        Block(8, 16, 2),
        Block(16, 32, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def faint(images: np.ndarray) -> Tensor:
    """Digits in [0, 1] at low contrast."""
    return 0.5 + CONTRAST * (data.to_pixels(images) - 0.5)


def trained(threat: rnas_zoo.Threat) -> nn.Module:
    """resnet8 after `STEPS` steps of adversarial training (PGD-3) on the faint digits."""
    torch.manual_seed(0)
    net, train = resnet8(), data.load("digits").train
    x, y = faint(train.images), torch.from_numpy(train.labels)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, STEPS)
    for step in range(STEPS):
        rows = torch.randint(len(x), (64,))
        ball = rnas_zoo.Threat("linf", threat.eps * min(1, 2 * step / STEPS))
        net.eval()
        x_adv = pgd(net, x[rows], y[rows], ball, PGD(steps=3, relative_step=0.5), Keys(step, rows)).x_adv
        net.train()
        loss = nn.functional.cross_entropy(net(x_adv), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval().requires_grad_(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="resnet8")
    parser.add_argument("--n", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--eps", default="8/255")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--data", default="digits", help="for a REF: name, FILE.npz or folder")
    parser.add_argument("--device", default="cpu", choices=list(CLOCKS))
    arguments = parser.parse_args()
    clock, device = CLOCKS[arguments.device], arguments.device
    torch.set_num_threads(1)
    threat = rnas_zoo.Threat("linf", arguments.eps)
    source = "digits" if arguments.net == "resnet8" else arguments.data
    test = data.load(source).test
    images, y = test.images[: arguments.n], torch.from_numpy(test.labels[: arguments.n])
    if arguments.net == "resnet8":
        network, x = trained(threat), faint(images)
    else:
        network, x = rnas_zoo.load(arguments.net).requires_grad_(False), data.to_pixels(images)
    network, x, y, n = network.to(device), x.contiguous().to(device), y.to(device), len(images)

    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(arguments.repeats):
        begin = clock()
        report = rnas_zoo.verify(network, x, y, threat=threat, batch_size=arguments.batch_size, device=device)
        seconds["ours"].append(clock() - begin)
        begin = clock()
        reference = AutoAttack(network, norm="Linf", eps=threat.eps, version="standard", device=device, seed=0)
        reference.logger.log = lambda *_: None
        found = reference.run_standard_evaluation(x, y, batch_size=arguments.batch_size)[0]
        seconds["theirs"].append(clock() - begin)
    ours = evidence.standing(report.verdicts)
    with torch.no_grad():
        theirs = (network(found).argmax(1) == y).cpu().numpy()
    ours_seconds, theirs_seconds = (statistics.median(seconds[name]) for name in ("ours", "theirs"))
    rows = [["", "robust", "CPU s" if device == "cpu" else "s", "ratio"]]
    ratio = f"{theirs_seconds / ours_seconds:.2f}x"
    rows.append(["rnas_zoo standard", f"{ours.mean():.4f}", f"{ours_seconds:.1f}", ratio])
    rows.append(["pyautoattack standard", f"{theirs.mean():.4f}", f"{theirs_seconds:.1f}", "1.00x"])
    print(f"{arguments.net}, {threat}, first {n} test images of {source}, {device}, batch {arguments.batch_size}")
    print(f"torch {torch.__version__}")
    print(table(rows))
    print(f"verdicts differ on {int(np.sum(ours != theirs))} of {n} images; clean {report.clean_accuracy:.4f}")


if __name__ == "__main__":
    main()
