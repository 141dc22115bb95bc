"""`python cli.py` in a checkout is `rdlite`."""

from rdlite.commands import main

main()
