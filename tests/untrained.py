"""A model of ours that nobody has trained yet, whichever the zoo holds."""

import timm

import rnas_zoo  # noqa: F401  (registers the architectures)

SMALL_FIRST = ("rnas_resnet20", "rnas_mobilenetv2", "rnas_resnet20_s7", "rnas_mobilenetv2_s7", "rnas_cl_m", "rnas_cl_l")


def name_without_weights() -> str:
    """A registered name without weights, small if there is one."""
    every = timm.list_models("rnas_*")
    return next(name for name in (*SMALL_FIRST, *every) if name in every and not timm.is_model_pretrained(name))
