"""Several processes started as users start them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import rnas_zoo

ROOT = Path(rnas_zoo.__file__).parents[1]


def torchrun(python: Path, *module: object, cwd: Path = ROOT) -> str:
    """What two processes of `-m module arguments …` print; fails with what they complain of.

    `python` is the interpreter of the launcher and of the two.
    """
    launcher = [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHON_EXEC": str(python)}
    done = subprocess.run(
        [*launcher, *map(str, module)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
