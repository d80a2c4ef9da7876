"""Deployable networks. Importing this package registers them with timm."""

from . import rnas_cells, rnas_students, teachers

__all__ = ["rnas_cells", "rnas_students", "teachers"]
