"""Options that several commands share."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from rnas_zoo.cli.common import chosen_preprocessing, preprocessing_options
from rnas_zoo.errors import UsageError
from rnas_zoo.preprocessing import Preprocessing

found = []


@click.command
@preprocessing_options
def command(**options):
    found.append(chosen_preprocessing(**options))


def call(*arguments):
    found.clear()
    result = CliRunner().invoke(command, arguments)
    if isinstance(result.exception, UsageError):
        raise result.exception
    return found[0] if found else result


def test_no_option_is_no_preprocessing():
    assert call() is None


def test_options_describe_what_a_model_expects():
    assert call("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225") == Preprocessing(
        (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    )
    assert call("--range", "255", "--layout", "nhwc", "--input-size", "192x256") == Preprocessing(
        None, None, (192, 256), "nhwc", 255
    )
    assert call("--range", "1") == Preprocessing()


def test_senseless_options_are_refused():
    assert "'2' is not one of '1', '255'" in call("--range", "2").output
    with pytest.raises(UsageError, match="mean is three numbers"):
        call("--mean", "x")
