"""So that `python -m groundup.cli` is the command too."""

from groundup.cli import main

main()
