"""`python -m hpo` is `atft-engine`."""

from hpo.cli import main

main()
