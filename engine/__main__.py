"""`python -m engine` is `atft-engine` without `hpo`, which stands above it: what torchrun starts."""

from engine.cli.app import main

main()
