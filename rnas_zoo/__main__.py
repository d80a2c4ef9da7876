"""`python -m rnas_zoo` is the command `rnas-zoo`."""

from .cli import main

main()
