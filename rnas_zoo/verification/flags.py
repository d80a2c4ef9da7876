"""Sanity flags: signs that a verification measured less than it seems to; flags.md says what to do about each."""

from __future__ import annotations

from pathlib import Path

from ..errors import UnknownNameError, closest

FLAGS: dict[str, str] = {
    "random-forward": "logits differ between two forwards of the same images",
    "batch-dependent": "an image's logits depend on the other images of its batch",
    "zero-gradients": "the loss has no input gradient on some correctly classified images",
    "black-box-wins": "noise or Square broke images that the gradient attacks left standing",
    "loss-not-rising": "the loss after more PGD steps is not higher",
    "unbounded-eps": "an attack without a bound does not reach zero accuracy",
    "probabilities": "outputs are non-negative and sum to one: probabilities instead of logits",
    "logit-scale": "logits so large or small that the float32 cross-entropy saturates",
    "non-finite": "non-finite logits or gradients: no verdict on these images",
    "out-of-range": "images outside [0, 1]",
    "train-mode": "the model was left in training mode",
    "not-repeatable": "judging the same images twice gives other verdicts",
    "preprocessing": "clean accuracy at chance or far below the declared one",
    "constant": "one class for every image",
    "score-only": "no differentiable counterpart of the ONNX graph: only score-based attacks ran",
    "twin-differs": "logits of the differentiable twin differ from the session's",
    "partial": "the time budget ended: only the images named are covered",
}
GUIDE = Path(__file__).with_name("flags.md")


def flag(code: str, detail: str) -> str:
    """The text evidence keeps of one finding, `code: detail`.

    Raises:
        UnknownNameError: no such flag.
    """
    return f"{_known(code)}: {detail}"


def explain(code: str) -> str:
    """The section of flags.md about a flag: what was seen, why it matters, what to do. Markdown without its heading.

    Args:
        code: the flag, or the whole text that evidence keeps.

    Raises:
        UnknownNameError: no such flag.
    """
    return sections()[_known(code.partition(":")[0])]


def sections() -> dict[str, str]:
    """Every section of flags.md by its heading."""
    parts = GUIDE.read_text(encoding="utf-8").split("\n## ")[1:]
    return {head.strip(): body.strip() for head, _, body in (part.partition("\n") for part in parts)}


def _known(code: str) -> str:
    if code not in FLAGS:
        raise UnknownNameError(f"unknown flag {code!r}.{closest(code, list(FLAGS))} Known are {', '.join(FLAGS)}.")
    return code
