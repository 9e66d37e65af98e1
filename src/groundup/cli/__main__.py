"""`python -m groundup.cli`."""

from groundup.cli import main

main()
