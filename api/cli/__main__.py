"""`python -m api.cli` is `meterline`."""

from api.cli.main import main

main()
