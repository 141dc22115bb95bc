"""`rdlite pull`: a checkpoint from the hub into a folder."""

import shlex

import click

from rdlite.cli.shared.output import progress_bar


@click.command()
@click.argument("repo")
@click.option(
    "-o",
    "--output",
    metavar="FOLDER",
    type=click.Path(),
    help="Where to put it. Default: a folder named after the repository.",
)
@click.option(
    "--revision",
    metavar="NAME",
    default="main",
    show_default=True,
    help="Branch, tag or commit.",
)
@click.option(
    "--offline",
    is_flag=True,
    help="Don't use the network; use what FOLDER or huggingface_hub's cache has.",
)
def pull(repo: str, output: str | None, revision: str, offline: bool) -> None:
    """Download the checkpoint REPO from the Hugging Face Hub.

    Downloads safetensors, config.json and the tokenizer's files, and nothing else: no code, no
    pickles. An interrupted download resumes, and an existing one is updated. HF_ENDPOINT, HF_TOKEN
    and HF_HOME work as in huggingface_hub. Needs the extra [hub].

    \b
    Example:
        rdlite pull tomg-group-umd/huginn-0125
        rdlite pull tomg-group-umd/huginn-0125 --revision main -o huginn-0125
    """
    from rdlite.architectures.registry import find_family
    from rdlite.hub.pull import pull as pull_checkpoint

    try:
        with progress_bar("weights") as progress:
            folder = pull_checkpoint(
                repo,
                output,
                revision=revision,
                offline=offline,
                accept=lambda config: find_family(config, ()),
                progress=progress,
            )
    except KeyboardInterrupt:
        click.echo("stopped; the same command goes on where it was", err=True)
        raise
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    click.echo(f"{folder}: {size / 2**20:.1f} MiB")
    name = shlex.quote(str(folder))
    bundle = shlex.quote(f"{folder.name}-int4")
    click.echo(f"Next: rdlite export {name} -o {bundle} --scheme int4")
