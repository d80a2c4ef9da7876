"""The how-to pages. Every block runs, from top to bottom."""

import pytest

from .pages import pages, run

pytestmark = pytest.mark.pages


@pytest.mark.parametrize("page", pages("docs/howto/*.md"))
def test_every_block_of_the_page_runs(page, tmp_path, warm_python):
    run(page, tmp_path, warm_python)
