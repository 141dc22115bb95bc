"""`rdlite gguf`: a model as one GGUF file, a GGUF file as a bundle, and what is in one."""

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rdlite.cli.shared.bundle_options import options_of, quantize_options, report_bundle
from rdlite.cli.shared.options import model_argument
from rdlite.cli.shared.output import print_json, progress_bar

if TYPE_CHECKING:
    from rdlite.gguf.reader import GGUFFile


@click.group()
def gguf() -> None:
    """Convert models to and from GGUF: one file per model.

    Every command takes a .gguf file as MODEL. llama.cpp runs the architecture 'nanbeige', and
    'ouro' if your build supports it; the others run in rdlite only.

    
    Example:
        rdlite gguf export BUNDLE -o model.gguf
        rdlite chat model.gguf
    """


@gguf.command("export")
@model_argument
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="File to write, NAME.gguf.",
)
@click.option(
    "--type",
    "kind",
    metavar="TYPE",
    help="How to store matrices: q4_0, q4_1, q8_0, f16, bf16 or f32. Default: as they are.",
)
@click.option(
    "--scheme",
    metavar="NAME",
    help="Scheme for q4_0 and q8_0, as in 'rdlite quantize'. Default: int4 or int8.",
)
@quantize_options
@click.option(
    "--license", "licence", help="License to store in general.license. Default: the model card's."
)
@click.option("--url", help="Where the model comes from, to store in general.source.url.")
@click.option("--force", is_flag=True, help="Replace OUTPUT if it is already a GGUF file.")
def export_command(
    model: str,
    output: Path,
    kind: str | None,
    scheme: str | None,
    licence: str | None,
    url: str | None,
    force: bool,
    **options: Any,
) -> None:
    """Convert MODEL to one GGUF file.

    MODEL is a bundle or a checkpoint folder. int4 and int8 weights are stored as Q4_0 and Q8_0, bit
    for bit. Nothing is rounded a second time.

    \b
    Example:
        rdlite gguf export nano -o nano.gguf
        rdlite gguf export CHECKPOINT -o model.gguf --type q4_0 --scheme int4-gptq
    """
    from dataclasses import replace

    from rdlite.errors import InputError
    from rdlite.export.read import read_model
    from rdlite.export.to_gguf import QUANTIZED, check_file, check_kind, export_gguf
    from rdlite.quant import find_scheme

    check_kind(kind)
    check_file(output, force)
    original, storage = read_model(model, as_stored=True), None
    with options_of(str(output), options) as wanted:
        if kind in QUANTIZED and original.quantization is None:
            name = scheme or f"int{QUANTIZED[kind]}"
            wanted = replace(wanted, block_size=wanted.block_size or 32)
            chosen = find_scheme(name, wanted)
            bits = "int8" if kind == "q8_0" else "int4"
            if not name.startswith(bits) or name == "int4-mixed" or wanted.block_size != 32:
                raise InputError(
                    f"{kind} holds what the {bits} schemes make in blocks of 32, not {name} in "
                    f"blocks of {wanted.block_size}"
                )
            storage = chosen.prepare(original)
        elif scheme is not None:
            raise InputError(
                "--scheme is for --type q4_0 and q8_0, of a model that is not quantized"
            )
        with progress_bar("weights") as progress:
            out = export_gguf(
                original,
                output,
                kind,
                storage,
                licence=licence,
                url=url,
                force=force,
                progress=progress,
            )
    click.echo(f"{out}: {out.stat().st_size / 2**20:.1f} MiB, {who_reads(original.config.family)}")
    click.echo(f"Next: rdlite chat {output}")


def who_reads(family: str) -> str:
    """Say which programs can run a file of this family."""
    if family == "ouro":
        return "for rdlite, and for builds of llama.cpp that support the architecture 'ouro'"
    if family == "nanbeige":
        return "for rdlite and llama.cpp"
    name = family.replace("-", "")
    return f"for rdlite; llama.cpp does not know the architecture {name!r}"


@gguf.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(), help="Bundle to write.")
@click.option("--force", is_flag=True, help="Replace OUTPUT if it is already a bundle.")
def import_command(file: Path, output: str, force: bool) -> None:
    """Convert a GGUF FILE to a bundle.

    Q4_0 and Q8_0 become int4 and int8, bit for bit, and F32 stays float32. Matrices of all other
    types are rounded again, to int4 or int8, and a note says by how much they are off.

    \b
    Example:
        rdlite gguf import nano.gguf -o BUNDLE
    """
    from rdlite.export.from_gguf import import_gguf

    with progress_bar("weights") as progress:
        out = import_gguf(file, output, force=force, progress=progress)
    report_bundle(out, output)


@gguf.command("inspect")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect_command(file: Path, as_json: bool) -> None:
    """Show what is in a GGUF FILE: keys, tensors, sizes, and whether rdlite can run it.

    \b
    Example:
        rdlite gguf inspect nano.gguf
    """
    from rdlite.gguf.reader import describe, read_gguf

    found = read_gguf(file)
    keys, odd = dict(describe(found)), _odd(found)
    if as_json:
        tensors = [
            {"name": t.name, "shape": t.shape, "type": t.type, "offset": t.offset, "bytes": t.size}
            for t in found.tensors.values()
        ]
        print_json(
            {
                "version": found.version,
                "bytes": found.size,
                "alignment": found.alignment,
                "data_offset": found.start,
                "metadata": keys,
                "tensors": tensors,
                "odd": odd,
            }
        )
        return
    click.echo(
        f"{file}: GGUF version {found.version}, {found.size:,} bytes, {len(keys)} keys, "
        f"{len(found.tensors)} tensors, data from offset {found.start:,} on"
    )
    for key, value in keys.items():
        click.echo(f"  {key} = {value[:100]}{'…' if len(value) > 100 else ''}")
    for tensor in found.tensors.values():
        shape = " x ".join(map(str, tensor.shape))
        click.echo(f"  {tensor.name:<40} {tensor.type:>5} {shape:>16} {tensor.size:>14,} bytes")
    for line in odd:
        click.echo(f"odd: {line}")


def _odd(file: "GGUFFile") -> list[str]:
    """Return what is unusual about a file, and why rdlite cannot run it if it cannot."""
    from rdlite.errors import RdliteError
    from rdlite.gguf.open import read_original

    lines = []
    ends = sorted((t.offset, t.size) for t in file.tensors.values())
    holes = sum(
        later - (offset + size) >= file.alignment for (offset, size), (later, _) in pairwise(ends)
    )
    if holes:
        lines.append(f"{holes} gaps between tensors are wider than the alignment needs")
    if ends and file.size - sum(ends[-1]) >= file.alignment:
        lines.append(f"{file.size - sum(ends[-1]):,} bytes follow the last tensor")
    try:
        read_original(file.path)
    except RdliteError as problem:
        lines.append(f"rdlite cannot run it: {problem}")
    return lines
