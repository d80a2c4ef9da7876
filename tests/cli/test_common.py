"""Options that several commands share."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from rnas_zoo import data
from rnas_zoo.cli.common import DATA, chosen_preprocessing, image_size_option, preprocessing_options
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


@click.command
@image_size_option
def sized(image_size):
    click.echo(repr(image_size))


@pytest.mark.parametrize(
    ("arguments", "found"),
    [([], None), (["--image-size", "32"], (32, 32)), (["--image-size", "32x48"], (32, 48))],
)
def test_image_size_is_height_and_width(arguments, found):
    assert CliRunner().invoke(sized, arguments).output == f"{found!r}\n"


@pytest.mark.parametrize("text", ["7", "32x", "32,48", "0x9", "big"])
def test_image_sizes_that_are_none_are_refused_with_the_option(text):
    result = CliRunner().invoke(sized, ["--image-size", text])
    assert result.exit_code == 2
    assert "'--image-size': image size" in result.output


def test_the_help_names_every_data_set():
    assert set(DATA.replace(" or a FOLDER of images", "").replace(",", "").split()) == {*data.DATASETS, "FILE.npz"}
