"""`python -m rdlite` is `rdlite`."""

from rdlite.cli.main import main

main(prog_name="rdlite")
