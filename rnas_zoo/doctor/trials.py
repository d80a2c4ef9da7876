"""Programs that try the libraries which may hang, crash or write to standard error, each in a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

Done = subprocess.CompletedProcess[str]
Run = Callable[[str], Done]

TORCH = """
import json, shutil, warnings, torch
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    gpus = []
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        with torch.cuda.device(i):
            gpu = torch.cuda.get_device_properties(i)
            gpus.append([gpu.name, gpu.total_memory, torch.cuda.is_bf16_supported(including_emulation=False)])
try:
    bf16 = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
except (AttributeError, RuntimeError):
    bf16 = False
print(json.dumps({
    "version": torch.__version__, "cuda": torch.version.cuda, "gpus": gpus, "threads": torch.get_num_threads(),
    "cpu": torch.backends.cpu.get_cpu_capability(), "cpu_bf16": bf16,
    "driver": shutil.which("nvidia-smi") is not None, "warnings": [str(w.message) for w in caught],
}))
"""

TORCHVISION = "import torchvision; print(torchvision.__version__)"

# One line of JSON for the module, then one per provider, so that a native crash loses only the provider that crashed.
# The library writes to the descriptors 1 and 2 itself: both go to a file, which tells why a provider was not taken.
ONNXRUNTIME = r"""
import json, os, re, sys, tempfile
answers, stderr, log = os.fdopen(os.dup(1), "w"), os.dup(2), tempfile.TemporaryFile()
os.dup2(2, 1)
import onnxruntime as ort
if not hasattr(ort, "__version__"):
    print(json.dumps({"version": None}), file=answers, flush=True)
    sys.exit()
names = sorted(ort.get_available_providers(), key=lambda name: name != "CPUExecutionProvider")
print(json.dumps({"version": ort.__version__, "listed": names}), file=answers, flush=True)
from onnx import TensorProto, helper
x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", [x], [y])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
options = ort.SessionOptions()
options.log_severity_level = 4
if hasattr(ort, "preload_dlls"):
    ort.preload_dlls()
for name in names:
    log.seek(0), log.truncate()
    os.dup2(log.fileno(), 1), os.dup2(log.fileno(), 2)
    taken = failure = ""
    try:
        taken = ort.InferenceSession(model, options, providers=[name]).get_providers()[0]
    except Exception as error:
        failure = str(error)
    sys.stdout.flush(), sys.stderr.flush()
    os.dup2(stderr, 1), os.dup2(stderr, 2)
    log.seek(0)
    text = re.sub(r"\x1b\[[\d;]*m", "", log.read().decode(errors="replace") + failure)
    lines = [line.strip() for line in text.splitlines() if line.strip(" *")]
    cause = re.search(r"with error: (.+)", text)
    reason = cause[1] if cause else lines[-1] if lines else "no reason given"
    print(json.dumps({"provider": name, "taken": taken, "reason": reason.strip()}), file=answers, flush=True)
"""


def run_python(code: str, timeout: float = 120.0) -> Done:
    """Run code in a fresh interpreter; one that outlasts `timeout` seconds is killed and comes back with status 124."""
    command = [sys.executable, "-P", "-c", code]  # -P: files of the working directory must not shadow packages
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"not finished after {timeout:g} s")


def json_lines(done: Done) -> list[dict[str, Any]]:
    """The objects a trial printed, one per line."""
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def last_words(done: Done) -> str:
    """Why a trial failed: its signal, its last line on standard error, or its exit status."""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    if done.returncode < 0:
        return f"killed by {signal.Signals(-done.returncode).name}"
    return lines[-1] if lines else f"exit status {done.returncode}"
