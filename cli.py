"""`python cli.py` in a checkout is `rdlite`."""

from rdlite.cli.main import main

main()
