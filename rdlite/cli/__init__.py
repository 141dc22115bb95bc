"""The `rdlite` command: commands parse, call and print, and nothing else."""
