"""`python -m strata.cli`."""

from strata.cli.main import main

main()
