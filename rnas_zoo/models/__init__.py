"""Deployable networks. Importing this package registers them with timm."""

from . import baselines, rnas_cells, rnas_students, teachers

__all__ = ["baselines", "rnas_cells", "rnas_students", "teachers"]
