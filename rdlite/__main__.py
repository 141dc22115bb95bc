"""`python -m rdlite` is `rdlite`."""

from rdlite.commands import main

main(prog_name="rdlite")
