"""Trains nano, from nothing or from its last checkpoint, on the CPU or a GPU.

    python examples/nano/train.py build/nano --minutes 68

Stop it whenever you like: the same command goes on from the last checkpoint. FOLDER gets
`training.pt` (everything that training needs), `log.jsonl`, and in `checkpoint/` the model in the
hub's format, which `rdlite export` reads.
"""

import json
import math
import random
import time
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn.functional as F
from batches import Curriculum, make_batch
from huginn import Huginn, HuginnConfig
from safetensors.torch import load_file
from save import save_checkpoint
from text import IGNORED, VOCABULARY, Encoder, make_tokenizer
from tokenizers import Tokenizer

from rdlite.cli.inspect.doctor import processor_name

CONTEXT = 1024
WARM_UP = 100  # updates
DECAY = 0.5  # of the time, at the end
EMBEDDING_RATE = 1.5e-3
LEAST_STEPS = 2
LOG_EVERY = 50  # updates
#: Options that cannot change when training goes on, and what is counted.
FIXED = ("width", "inner", "prelude", "core", "coda", "mean_steps")
COUNTERS = ("seconds", "updates", "tokens", "problems", "loss")


def sample_steps(rng: random.Random, mean: float, most: int) -> int:
    """Draw a depth as the paper does: Poisson around a log-normal mean, plus one."""
    rate = rng.lognormvariate(math.log(mean) - 0.125, 0.5)
    steps = int(torch.poisson(torch.tensor(rate))) + 1
    return max(LEAST_STEPS, min(most, steps))


class Training:
    """Model, optimizers, curriculum and counters: all that a checkpoint keeps."""

    def __init__(self, folder: Path, options: dict[str, Any]) -> None:
        self.folder, self.options = folder, options
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(options["seed"])
        self.rng = random.Random(options["seed"])
        self.path = folder / "training.pt"
        saved = self._load() if self.path.exists() else None
        # The tokenizer is kept: other wordings would make another one.
        tokenizer = Tokenizer.from_str(saved["tokenizer"]) if saved else self._first_tokenizer()
        self.encoder = Encoder(tokenizer)
        self.config = HuginnConfig(
            width=options["width"],
            heads=options["width"] // 32,
            inner=options["inner"],
            vocabulary=VOCABULARY,
            context=CONTEXT,
            layers=(options["prelude"], options["core"], options["coda"]),
            mean_steps=options["mean_steps"],
        )
        self.model = Huginn(self.config).to(self.device)
        self.curriculum = Curriculum()
        self.seconds, self.updates, self.tokens, self.problems = 0.0, 0, 0, 0
        self.loss: float | None = None
        self._make_optimizers()
        if saved:
            self._restore(saved)
        elif start := options["start"]:
            self.model.load_state_dict(load_file(start / "model.safetensors"))

    def _first_tokenizer(self) -> Tokenizer:
        start = self.options["start"]
        return Tokenizer.from_file(str(start / "tokenizer.json")) if start else make_tokenizer()

    def _make_optimizers(self) -> None:
        matrices, others = [], []
        for name, parameter in self.model.named_parameters():
            matrix = parameter.dim() == 2 and "wte" not in name
            (matrices if matrix else others).append(parameter)
        self.optimizers = [
            torch.optim.Muon(matrices, lr=self.options["rate"], weight_decay=0.02),
            torch.optim.AdamW(others, lr=EMBEDDING_RATE, betas=(0.9, 0.95), weight_decay=0.0),
        ]
        self.rates = [self.options["rate"], EMBEDDING_RATE]

    def _load(self) -> dict[str, Any]:
        saved: dict[str, Any] = torch.load(self.path, map_location=self.device, weights_only=True)
        for name in FIXED:
            if saved["options"][name] != self.options[name]:
                raise click.UsageError(
                    f"{self.path} was trained with --{name.replace('_', '-')} "
                    f"{saved['options'][name]}, not {self.options[name]}; give another folder"
                )
        return saved

    def _restore(self, saved: dict[str, Any]) -> None:
        self.model.load_state_dict(saved["model"])
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.curriculum = Curriculum(**saved["curriculum"])
        for name in COUNTERS:
            setattr(self, name, saved[name])
        self.rng.seed(f"{self.options['seed']} {self.updates}")
        torch.manual_seed(self.options["seed"] + self.updates)

    def save(self) -> None:
        """Write both checkpoints; each replaces the last one whole."""
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "curriculum": self.curriculum.state(),
            "tokenizer": self.encoder.tokenizer.to_str(),
            "options": self.options | {"start": str(self.options["start"] or "")},
        } | {name: getattr(self, name) for name in COUNTERS}
        part = self.path.with_suffix(".part")
        torch.save(state, part)
        part.replace(self.path)
        save_checkpoint(self.model, self.encoder.tokenizer, self.folder / "checkpoint")

    def update(self, progress: float) -> None:
        """Learn from one batch; `progress` is the share of the time that is gone."""
        mean = min(self.curriculum.depth(), self.options["mean_steps"])
        steps = sample_steps(self.rng, mean, self.options["most_steps"])
        batch = make_batch(self.rng, self.encoder, self.curriculum, self.options["batch"], steps)
        factor = min(1.0, (self.updates + 1) / WARM_UP) * max(
            0.01, min(1.0, (1 - progress) / DECAY)
        )
        for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
        ids, targets = batch.ids.to(self.device), batch.targets.to(self.device)
        wanted = targets != IGNORED
        with torch.autocast(self.device.type, torch.bfloat16):
            hidden = self.model(
                ids, steps, mask=batch.mask.to(self.device), grad_steps=self.options["grad_steps"]
            )
            logits = self.model.head(hidden[wanted]).float()
            loss = F.cross_entropy(logits, targets[wanted])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        right = torch.ones_like(wanted)
        right[wanted] = logits.argmax(-1) == targets[wanted]
        self.curriculum.saw(batch, right.cpu())
        self.updates += 1
        self.tokens += int((batch.ids != self.encoder.pad).sum())
        self.problems += len(batch.answers)
        value = loss.item()
        self.loss = value if self.loss is None else 0.98 * self.loss + 0.02 * value

    def log(self, **more: Any) -> None:
        """Append a line to the log."""
        line = {
            "updates": self.updates,
            "minutes": round(self.seconds / 60, 2),
            "tokens": self.tokens,
            "problems": self.problems,
            "loss": None if self.loss is None else round(self.loss, 4),
            "levels": self.curriculum.levels,
            "accuracy": {task: round(x, 3) for task, x in self.curriculum.accuracy.items()},
        }
        with (self.folder / "log.jsonl").open("a") as file:
            print(json.dumps(line | more), file=file)

    def run(self, minutes: float, save_every: float = 5.0) -> None:
        """Train until so many minutes have gone into it in all."""
        self.log(
            options=self.options | {"start": str(self.options["start"] or "")},
            parameters=sum(p.numel() for p in self.model.parameters()),
            hardware=describe_hardware(self.device),
        )
        saved = clock = time.perf_counter()
        while self.seconds < 60 * minutes:
            self.update(self.seconds / (60 * minutes))
            now = time.perf_counter()
            self.seconds, clock = self.seconds + now - clock, now
            if self.updates % LOG_EVERY == 0:
                self.log()
            if now - saved > 60 * save_every:
                self.save()
                saved = now
        self.log()
        self.save()


def describe_hardware(device: torch.device) -> str:
    """Return one line on what it runs on."""
    what = torch.cuda.get_device_name() if device.type == "cuda" else processor_name()
    return f"{what}, {torch.get_num_threads()} threads, torch {torch.__version__}"


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--minutes", default=68.0, show_default=True, help="Time of training, in all.")
@click.option("--width", default=128, show_default=True)
@click.option("--inner", default=384, show_default=True)
@click.option("--prelude", default=1, show_default=True, help="Layers of the prelude.")
@click.option("--core", default=1, show_default=True, help="Layers of the core.")
@click.option("--coda", default=1, show_default=True, help="Layers of the coda.")
@click.option("--mean-steps", default=16, show_default=True, help="Mean depth at most.")
@click.option("--most-steps", default=32, show_default=True, help="Depth at most.")
@click.option("--grad-steps", default=4, show_default=True, help="Last steps with a gradient.")
@click.option("--batch", default=48, show_default=True, help="Problems an update.")
@click.option("--rate", default=0.007, show_default=True, help="Learning rate of the matrices.")
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--start",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A checkpoint of the same shape to learn on from; without it, from nothing.",
)
def main(folder: Path, minutes: float, **options: Any) -> None:
    """Train nano."""
    folder.mkdir(parents=True, exist_ok=True)
    Training(folder, options).run(minutes)


if __name__ == "__main__":
    main()
