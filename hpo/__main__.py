"""`python -m hpo` is `atft-engine`."""

from atft_engine import main

main()
