"""Writes the model as Huginn-0125 lies on the hub, so that `rdlite export` reads it."""

import json
import shutil
from pathlib import Path

from huginn import Huginn
from rdlite.export.random_checkpoint import hub_config, write_text_files
from safetensors.torch import save_file
from tokenizers import Tokenizer


def save_checkpoint(model: Huginn, tokenizer: Tokenizer, folder: Path) -> None:
    """Write config.json, model.safetensors (float32) and the text files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config
    tensors = {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}
    part = folder / "model.part"
    save_file(tensors, part, metadata={"format": "pt"})
    part.replace(folder / "model.safetensors")
    hub = hub_config(
        config.width,
        config.heads,
        config.inner,
        config.vocabulary,
        config.context,
        config.mean_steps,
        config.layers,
    )
    (folder / "config.json").write_text(json.dumps(hub | {"_name_or_path": "nano"}, indent=1))
    write_text_files(folder, tokenizer, temperature=0)
    shutil.copyfile(Path(__file__).with_name("card.md"), folder / "README.md")
