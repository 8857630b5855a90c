"""`python -m engine` is `atft-engine`."""

from engine.cli import main

main()
