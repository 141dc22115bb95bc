"""Writes the model as Huginn-0125 lies on the hub, so that `rdlite export` reads it."""

import json
import shutil
from pathlib import Path

from huginn import Huginn
from rdlite.export.random_checkpoint import hub_config, write_text_files
from safetensors.torch import save_file
from tokenizers import Tokenizer

#: What the hub's configs do not say: its name, and the tokens of the rows that it is trained on.
OF_NANO = {"_name_or_path": "nano", "trained_length": 896}


def save_checkpoint(model: Huginn, tokenizer: Tokenizer, folder: Path) -> None:
    """Write config.json, model.safetensors (float32), the text files and the model card.

    They are written beside `folder` and take its place together.
    """
    new, old = folder.with_suffix(".new"), folder.with_suffix(".old")
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    new.mkdir(parents=True)
    config = model.config
    tensors = {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}
    save_file(tensors, new / "model.safetensors", metadata={"format": "pt"})
    hub = hub_config(
        config.width,
        config.heads,
        config.inner,
        config.vocabulary,
        config.context,
        config.mean_steps,
        config.layers,
    )
    (new / "config.json").write_text(json.dumps(hub | OF_NANO, indent=1))
    write_text_files(new, tokenizer, temperature=0)
    card = Path(__file__).with_name("checkpoint") / "README.md"
    shutil.copyfile(card, new / "README.md")
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
