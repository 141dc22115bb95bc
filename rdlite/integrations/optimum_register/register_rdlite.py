"""Adds `optimum-cli export rdlite`: optimum looks in this folder for REGISTER_COMMANDS."""

from optimum.commands.export.base import ExportCommand

from rdlite.integrations.optimum_cli import RdliteExportCommand

REGISTER_COMMANDS = [(RdliteExportCommand, ExportCommand)]
