"""What `rnas-zoo doctor` finds: is this environment fit to run the package, and if not, which command mends it.

Whatever may hang, crash or write to standard error (torch, torchvision, onnxruntime) is tried in a process of its own.
"""

from __future__ import annotations

import json
import operator
import os
import platform
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal

from . import resources

Done = subprocess.CompletedProcess[str]
Run = Callable[[str], Done]
Status = Literal["ok", "warning", "problem"]

# Every one of these installs the same module `onnxruntime`.
_RUNTIMES = tuple("onnxruntime" + kind for kind in ("", "-gpu", "-directml", "-openvino", "-qnn", "-rocm", "-training"))
_PAIR_FIX = "pip install --force-reinstall torch torchvision  # both from the same index, both of the same build"
_TRIO_FIX = "pip install --upgrade torch torchvision timm"
_COMPARE = {
    ">=": operator.ge, "<=": operator.le, "==": operator.eq, "!=": operator.ne, ">": operator.gt, "<": operator.lt,
}  # fmt: skip

_TORCH = """
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

_TORCHVISION = "import torchvision; print(torchvision.__version__)"

# One line of JSON for the module, then one per provider, so that a native crash loses only the provider that crashed.
# The library writes to the descriptors 1 and 2 itself: both go to a file, which tells why a provider was not taken.
_ONNXRUNTIME = r"""
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


@dataclass(frozen=True)
class Finding:
    """One line of the examination: `warning` works but not as expected, `problem` does not work; `fix` mends it."""

    name: str
    status: Status
    detail: str
    fix: str = ""


def run_python(code: str, timeout: float = 120.0) -> Done:
    """Run code in a fresh interpreter; one that outlasts `timeout` seconds is killed and comes back with status 124."""
    command = [sys.executable, "-P", "-c", code]  # -P: files of the working directory must not shadow packages
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"not finished after {timeout:g} s")


def examine(
    *,
    run: Run = run_python,
    distributions: Mapping[str, str] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> list[Finding]:
    """Examine the interpreter, the dependencies, the devices and the package; takes seconds, raises and prints nothing.

    Args:
        run: runs a Python program and returns how it ended.
        distributions: installed distribution name → version; default: those of this interpreter.
        environ: environment variables.

    Returns:
        The findings in a fixed order. A check that itself fails is a finding with status `problem`.
    """
    with ThreadPoolExecutor() as pool:
        programs = {"torch": _TORCH, "torchvision": _TORCHVISION, "onnxruntime": _ONNXRUNTIME}
        ended = {name: pool.submit(run, code) for name, code in programs.items()}
    installed = _installed() if distributions is None else {_normal(name): v for name, v in distributions.items()}
    checks: dict[str, Callable[[], list[Finding]]] = {
        "rnas-zoo": _package,
        "python": _python,
        "dependencies": lambda: _dependencies(_requirements(), installed),
        "torch": lambda: _torch(ended["torch"].result()),
        "torchvision": lambda: _torchvision(ended["torchvision"].result(), installed),
        "onnxruntime": lambda: _onnxruntime(
            ended["onnxruntime"].result(), installed, gpu=any(found.detail.startswith("cuda:") for found in findings)
        ),
        "huggingface_hub": lambda: _hub(installed, environ),
    }
    findings: list[Finding] = []
    for name, check in checks.items():
        try:
            findings += check()
        except Exception as error:
            findings.append(Finding(name, "problem", f"this check itself failed: {type(error).__name__}: {error}"))
    return findings


def render(findings: Iterable[Finding], width: int = 110) -> str:
    """The findings as a plain-text table `width` columns wide, each fix on one line (never broken), then a count."""
    findings = list(findings)
    column = max((len(finding.name) for finding in findings), default=0)
    margin = " " * (column + 11)
    lines = []
    for finding in findings:
        room = max(width - len(margin), 30)
        first, *rest = textwrap.wrap(finding.detail, room, break_long_words=False, break_on_hyphens=False) or [""]
        lines.append(f"{finding.status:<9}{finding.name:<{column}}  {first}".rstrip())
        lines += [margin + line for line in rest]
        if finding.fix:
            lines.append(f"{margin}fix: {finding.fix}")
    counts = {word: sum(finding.status == word for finding in findings) for word in ("problem", "warning")}
    return "\n".join([*lines, "", ", ".join(f"{n or 'no'} {word}{'s' * (n != 1)}" for word, n in counts.items())])


def _package() -> list[Finding]:
    import rnas_zoo

    detail, places = [f"version {getattr(rnas_zoo, '__version__', 'unknown')}"], {}
    for name, pattern in (("genotypes", "*.json"), ("recipes", "*.toml"), ("model_cards", "*/config.json")):
        places[name] = len(list(resources.folder(name).glob(pattern)))
        detail.append(f"{places[name]} {name} in {resources.folder(name)}" if places[name] else f"no {name}")
    fix = "" if places["genotypes"] else "pip install --force-reinstall --no-deps rnas-zoo"
    return [Finding("rnas-zoo", "warning" if fix else "ok", ", ".join(detail), fix)]


def _python() -> list[Finding]:
    cpus = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cpus
    detail = f"{platform.python_version()} in {sys.prefix}; {platform.platform()}; {usable} of {cpus} CPUs"
    if _fits(platform.python_version(), ">=3.11"):
        return [Finding("python", "ok", detail)]
    return [Finding("python", "problem", detail, "make a new environment with Python 3.11 or newer")]


def _dependencies(requirements: Iterable[str], installed: Mapping[str, str]) -> list[Finding]:
    """One finding per dependency that is missing or out of range, one with the versions of all others."""
    good, findings = [], []
    for text in requirements:
        requirement, _, marker = text.partition(";")
        match = re.match(r"\s*([\w.-]+)\s*(?:\[[^]]*\])?\s*\(?([^()]*)\)?\s*$", requirement)
        if match is None:
            findings.append(Finding("dependencies", "warning", f"requirement not understood: {text}"))
            continue
        name, bounds = _normal(match[1]), match[2].replace(" ", "")
        if re.search(r"\bextra\s*==", marker) or (name in _RUNTIMES and name != _runtime_wanted()):
            continue
        names = [name, *(_RUNTIMES if name in _RUNTIMES else ())]
        found = next((candidate for candidate in names if candidate in installed), None)
        fix = _TRIO_FIX if name in ("torch", "torchvision", "timm") else f'pip install --upgrade "{name}{bounds}"'
        if found is None:
            findings.append(
                Finding("dependencies", "problem", f"{name} is not installed; {name}{bounds} is needed", fix)
            )
            continue
        fits = [_fits(installed[found], bound) for bound in bounds.split(",") if bound]
        if False in fits:
            detail = f"{found} {installed[found]} is installed; {bounds} is needed"
            findings.append(Finding("dependencies", "problem", detail, fix))
        elif None in fits:
            detail = f"requirement not understood: {text} ({found} {installed[found]} is installed)"
            findings.append(Finding("dependencies", "warning", detail))
        else:
            good.append(f"{found} {installed[found]}")
    return [Finding("dependencies", "ok", ", ".join(good)), *findings] if good else findings


def _torch(done: Done) -> list[Finding]:
    if done.returncode:
        return [Finding("torch", "problem", f"`import torch` fails: {_last(done)}", _PAIR_FIX)]
    facts = _answers(done)[-1]
    build = f"{facts['version']} (built {'for CUDA ' + facts['cuda'] if facts['cuda'] else 'without CUDA'})"
    findings = [Finding("torch", "ok", f"{build}, {facts['threads']} threads")]
    detail = f"CPU {facts['cpu']}, bf16 {'yes' if facts['cpu_bf16'] else 'no'}"
    for i, (name, memory, bf16) in reversed(list(enumerate(facts["gpus"]))):
        detail = f"cuda:{i} {name}, {memory / 2**30:.1f} GiB, bf16 {'yes' if bf16 else 'no'}; {detail}"
    if facts["gpus"] or not (facts["driver"] or facts["warnings"]):
        return [*findings, Finding("device", "ok", detail if facts["gpus"] else f"no CUDA device; {detail}")]
    cause = "; ".join(facts["warnings"]) or f"torch {build}"
    detail = f"an NVIDIA driver is there, but torch finds no CUDA device: {cause}; {detail}"
    fix = "update the NVIDIA driver, or take a torch for the CUDA version it has" if facts["cuda"] else _PAIR_FIX
    return [*findings, Finding("device", "warning", detail, fix)]


def _torchvision(done: Done, installed: Mapping[str, str]) -> list[Finding]:
    if not done.returncode:
        return [Finding("torchvision", "ok", f"{done.stdout.strip()}, imports beside torch")]
    mismatch = re.search(r"operator torchvision::\w+ does not exist|different CUDA major versions", done.stderr)
    if not mismatch:
        fix = _TRIO_FIX if "No module named 'torchvision'" in done.stderr else _PAIR_FIX
        return [Finding("torchvision", "problem", f"`import torchvision` fails: {_last(done)}", fix)]
    torch, vision = (installed.get(name, "unknown") for name in ("torch", "torchvision"))
    detail = f"torch {torch} and torchvision {vision} are no matching pair ({mismatch[0]})"
    if torch.partition("+")[2] != vision.partition("+")[2]:
        detail += "; they are different builds: what follows the + must agree"
    return [Finding("torchvision", "problem", detail, _PAIR_FIX)]


def _onnxruntime(done: Done, installed: Mapping[str, str], *, gpu: bool) -> list[Finding]:
    present = [name for name in _RUNTIMES if name in installed]
    clean = f"pip uninstall -y {' '.join(sorted({*present, *_RUNTIMES[:2]}))} && pip install {_runtime_wanted()}"
    findings = []
    if len(present) > 1:
        both = f"{' and '.join(present)} are both installed; they overwrite each other's files"
        findings.append(Finding("onnxruntime", "problem", both, clean))
    answers = _answers(done)
    if not answers:
        fix = clean if present else f"pip install {_runtime_wanted()}"
        return [*findings, Finding("onnxruntime", "problem", f"`import onnxruntime` fails: {_last(done)}", fix)]
    module, *tried = answers
    if not module["version"]:
        empty = "the module is empty, as uninstalling one of two onnxruntime packages leaves it"
        return [*findings, Finding("onnxruntime", "problem", empty, clean)]
    if not findings:
        findings.append(Finding("onnxruntime", "ok", f"{module['version']}, from {' '.join(present) or 'no package'}"))

    usable = [answer["provider"] for answer in tried if answer["provider"] == answer["taken"]]
    reasons = {answer["provider"]: answer["reason"] for answer in tried if answer["provider"] not in usable}
    for name in module["listed"][len(tried) :]:
        reasons[name] = f"the trial ended early: {_last(done)}"
    detail = f"usable: {', '.join(usable) or 'none'}"
    if reasons:
        detail += "; listed but not usable: " + ", ".join(f"{name} ({reason})" for name, reason in reasons.items())
    if "CPUExecutionProvider" not in usable:
        fix = "pip install --upgrade onnx" if "No module named 'onnx'" in done.stderr else clean
        return [*findings, Finding("providers", "problem", detail, fix)]
    if gpu and "CUDAExecutionProvider" in reasons:
        fix = 'pip install "onnxruntime-gpu[cuda,cudnn]"  # the CUDA libraries, without which sessions run on the CPU'
        return [*findings, Finding("providers", "warning", detail, fix)]
    return [*findings, Finding("providers", "ok", detail)]


def _hub(installed: Mapping[str, str], environ: Mapping[str, str]) -> list[Finding]:
    detail = installed.get("huggingface-hub", "not installed")
    status: Status = "ok"
    fix = ""
    if endpoint := environ.get("HF_ENDPOINT"):
        shown = re.sub(r"^(\w+://)?.*@", r"\1***@", re.split(r"[?#]", endpoint)[0])  # a URL may carry credentials
        detail += f"; HF_ENDPOINT={shown}"
        if not re.match(r"https?://", endpoint):
            status, fix = "warning", "let HF_ENDPOINT begin with https:// or http://"
    if offline := environ.get("HF_HUB_OFFLINE"):
        effect = "no downloads" if offline.upper() in ("1", "ON", "YES", "TRUE") else "no effect"
        detail += f"; HF_HUB_OFFLINE={offline}: {effect}"
    if "huggingface-hub" not in installed:
        status, fix = "problem", "pip install huggingface-hub"
    return [Finding("huggingface_hub", status, detail, fix)]


def _installed() -> dict[str, str]:
    """Normalised name → version; the first on the path counts, it is the one that is imported."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if name:  # an interrupted uninstall leaves folders without metadata
            found.setdefault(_normal(name), distribution.version)
    return found


def _requirements() -> list[str]:
    pyproject = resources.PACKAGE.parent / "pyproject.toml"
    if pyproject.is_file():
        import tomllib

        project = tomllib.loads(pyproject.read_text(encoding="utf-8")).get("project", {})
        if _normal(project.get("name", "")) == "rnas-zoo":
            return project["dependencies"]
    return metadata.requires("rnas-zoo") or []


def _runtime_wanted() -> str:
    """The onnxruntime distribution that the markers in pyproject.toml choose here."""
    gpu = sys.platform in ("linux", "win32") and platform.machine() in ("x86_64", "AMD64")
    return "onnxruntime-gpu" if gpu else "onnxruntime"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _fits(version: str, bound: str) -> bool | None:
    """Whether the release numbers satisfy one bound (a pre-release counts as its release); None: not understood."""
    match = re.fullmatch(r"(>=|<=|==|!=|>|<)v?(\d+(?:\.\d+)*)", bound)
    release = re.match(r"v?(\d+(?:\.\d+)*)", version)
    if match is None or release is None:
        return None
    a, b = ([int(part) for part in text.split(".")] for text in (release[1], match[2]))
    length = max(len(a), len(b))
    return _COMPARE[match[1]](a + [0] * (length - len(a)), b + [0] * (length - len(b)))


def _answers(done: Done) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def _last(done: Done) -> str:
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    if done.returncode < 0:
        return f"killed by {signal.Signals(-done.returncode).name}"
    return lines[-1] if lines else f"exit status {done.returncode}"
