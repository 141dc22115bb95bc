"""Every quantization scheme on nano: what it costs, by depth.

    .venv/bin/python bench/quantization.py

Quantizes the checkpoint of nano (examples/nano/checkpoint) with each scheme and compares the result
with full precision on held-out problems: mean KL divergence over all tokens of the conversations,
exact answers, the relative error of the state after the last step, bytes on disk.
"""

import tempfile
from itertools import chain
from pathlib import Path
from typing import Any

import click
from rdlite.export import export_checkpoint
from rdlite.quant import Options, find_scheme
from rdlite.quant.state_errors import state_errors
from report import finish

import rdlite
from rdlite.measure.answers import answer, encode_problem, held_out_problems
from rdlite.measure.divergence import divergence

CHECKPOINT = Path(__file__).parents[1] / "examples" / "nano" / "checkpoint"
DEPTHS = (1, 4, 8, 16, 32)
SCHEMES: dict[str, tuple[str, Options]] = {
    "int8": ("int8", Options()),
    "int8, float32 activations": ("int8", Options(accuracy_level=1)),
    "int8-gptq": ("int8-gptq", Options()),
    "int8-gptq, float32 activations": ("int8-gptq", Options(accuracy_level=1)),
    "int4-plain": ("int4-plain", Options()),
    "int4": ("int4", Options()),
    "int4-hqq": ("int4-hqq", Options()),
    "int4-corrected": ("int4-corrected", Options()),
    "int4-gptq": ("int4-gptq", Options()),
    "int4-gptq, float32 activations": ("int4-gptq", Options(accuracy_level=1)),
    "int4-gptq, blocks of 32": ("int4-gptq", Options(block_size=32)),
    "int4-mixed, 4.5 bits": ("int4-mixed", Options(bits=4.5)),
    "int4-mixed, 5.5 bits": ("int4-mixed", Options(bits=5.5)),
}


@click.command(help=__doc__)
@click.option("--count", default=10, show_default=True, help="Problems a task and difficulty.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the results here.")
def main(count: int, out: Path | None) -> None:
    problems = held_out_problems(count)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        full = rdlite.load(export_checkpoint(CHECKPOINT, folder / "full"))
        texts = [[*chain(*encode_problem(full, problem))] for problem in problems]
        exact = answer(full, problems, DEPTHS).accuracy()
        rows.append({"scheme": "float32", "MiB": _size(folder / "full"), **_answers(exact)})
        for i, (label, (scheme, options)) in enumerate(SCHEMES.items()):
            path = folder / str(i)
            export_checkpoint(CHECKPOINT, path, quant=find_scheme(scheme, options))
            with rdlite.load(path) as model:
                found = divergence(model, full, texts, DEPTHS)
                rows.append(
                    {
                        "scheme": label,
                        "MiB": _size(path),
                        **{
                            f"KL, r={d}": f"{x.mean:.1e}"
                            for d, x in zip(DEPTHS, found, strict=True)
                        },
                        "same top, r=32": f"{found[-1].same_top:.1%}",
                        **_answers(answer(model, problems, DEPTHS).accuracy()),
                        "state error, r=32": f"{state_errors(model, full, texts, 32)[-1]:.1%}",
                    }
                )
            click.echo(f"{label} done", err=True)
    # The widest row first, so that the columns are in order.
    finish("quantization", rows[1:] + rows[:1], out)


def _answers(accuracy: list[float]) -> dict[str, str]:
    return {f"exact, r={depth}": f"{x:.1%}" for depth, x in zip(DEPTHS, accuracy, strict=True)}


def _size(folder: Path) -> float:
    data = sum(file.stat().st_size for file in folder.glob("*.data"))
    return round(data / 2**20, 2)


if __name__ == "__main__":
    main()
