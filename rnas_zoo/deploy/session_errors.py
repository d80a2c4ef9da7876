"""Errors of the runtime, which knows nothing of this package, as errors of this package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import DataError, OnnxFileError, ProviderError
from .runtime import ImageError, ProviderUnavailableError, SessionError


@contextmanager
def translated() -> Iterator[None]:
    """Raise ProviderError, DataError (images) or OnnxFileError (the rest) instead of the runtime's errors."""
    try:
        yield
    except ProviderUnavailableError as error:
        raise ProviderError(str(error)) from error
    except ImageError as error:
        raise DataError(str(error)) from error
    except SessionError as error:
        raise OnnxFileError(str(error)) from error
