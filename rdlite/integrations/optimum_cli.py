"""`optimum-cli export rdlite`, for optimum's command line; nothing of rdlite's own imports it."""

import sys
from argparse import ArgumentParser
from pathlib import Path

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo

from rdlite.errors import InputError, RdliteError


class RdliteExportCommand(BaseOptimumCLICommand):
    """The sub-command; optimum_register/register_rdlite.py is where optimum finds it."""

    COMMAND = CommandInfo(name="rdlite", help="Export a recurrent-depth model to an rdlite bundle.")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("-m", "--model", required=True, help="Checkpoint folder.")
        parser.add_argument("output", help="Bundle to write.")
        parser.add_argument(
            "--flavour",
            choices=("fused", "portable"),
            default="fused",
            help="fused (the default): built with onnxruntime's own operators, for every family. "
            "portable: traced from Huginn's PyTorch modules into standard operators only.",
        )
        parser.add_argument(
            "--quant", metavar="SCHEME", help="Quantize on the way; see 'rdlite quantize --help'."
        )
        parser.add_argument(
            "--force", action="store_true", help="Replace OUTPUT if it is already a bundle."
        )

    def run(self) -> None:
        """Export; what goes wrong is one line on standard error, and the exit status 1."""
        from rdlite.cli.shared.bundle_options import report_bundle

        given = self.args
        try:
            out = _export(given.model, given.output, given.flavour, given.quant, given.force)
        except RdliteError as problem:
            sys.exit(f"error: {problem}")
        report_bundle(out, given.output)


def _export(model: str, output: str, flavour: str, quant: str | None, force: bool) -> Path:
    from rdlite.cli.shared.bundle_options import options_of
    from rdlite.export import export_checkpoint
    from rdlite.quant import find_scheme

    if flavour == "fused":
        with options_of(output, {}) as options:
            scheme = None if quant is None else find_scheme(quant, options)
            return export_checkpoint(model, output, quant=scheme, force=force)
    if quant is not None:
        raise InputError(
            f"--quant {quant:.40} needs operators that are not standard; take --flavour fused, "
            "or leave --quant out"
        )
    from rdlite.export.optimum import export_portable

    made: Path = export_portable(model, output, force=force)
    return made
