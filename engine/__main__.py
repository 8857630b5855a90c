"""`python -m engine` is `atft-engine` without `hpo`, which stands above it."""

from atft_engine import ends_in_one_line, refuse_clashes

with ends_in_one_line():
    refuse_clashes()
    from engine.cli.app import main

    main()
