"""`python -m engine` is `atft-engine` without `hpo`, which stands above it."""

from atft_engine import refuse_clashes

refuse_clashes()

from engine.cli.app import main  # noqa: E402

main()
