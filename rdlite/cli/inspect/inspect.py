"""`rdlite inspect`: what a bundle holds, without running it."""

from typing import Any

import click

from rdlite.cli.shared.options import json_option, model_argument
from rdlite.cli.shared.output import print_json
from rdlite.utils.printable import one_line


@click.command()
@model_argument
@json_option
def inspect(model: str, as_json: bool) -> None:
    """Show MODEL's family, sizes, parameters, bytes, cache cost and recurrence.

    \b
    Example:
        rdlite inspect BUNDLE
        rdlite inspect BUNDLE --json | jq .parameters
    """
    from rdlite.loader import open_bundle

    report = _report(open_bundle(model))
    if as_json:
        print_json(report)
        return
    for key, value in report.items():
        if isinstance(value, dict):
            if "bits" in value:  # of each weight: for programs
                value = {name: item for name, item in value.items() if name != "bits"}
            click.echo(f"{key}:")
            for name, item in value.items():
                click.echo(f"  {one_line(name):<24} {_human(key, item)}")
        else:
            click.echo(f"{key:<26} {_human(key, value)}")
    if report["flavour"] == "portable":
        click.echo("note: portable graphs keep the cache in float32")
    elif report["int8_cache_scales"] is None:
        click.echo("note: the cache cannot be int8 until 'rdlite tune' finds its scales")


def _report(bundle: Any) -> dict[str, Any]:
    import dataclasses

    from rdlite.config.cache import Cache

    manifest, config = bundle.manifest, bundle.config
    sizes = dataclasses.asdict(config)
    recurrence, layers = sizes.pop("recurrence"), sizes.pop("layers")
    family, rotary = sizes.pop("family"), sizes.pop("rotary")
    steps = config.recurrence.mean_steps
    shares = {"one slot a step": None, "share 1": 1, "share 2": 2, "share 4": 4}
    policies = {name: Cache(share) for name, share in shares.items()}
    if manifest.flavour == "fused":
        policies |= {f"{name}, int8": Cache(share, 8) for name, share in shares.items()}
    scales = manifest.cache_scales
    return {
        "name": manifest.name,
        "family": family,
        "made_by": manifest.producer,
        "contract_version": manifest.contract_version,
        "flavour": manifest.flavour,
        "sizes": sizes,
        "layers": layers,
        "rotary": rotary,
        "recurrence": recurrence,
        "weights": dict(manifest.weights),
        "quantization": _quantization(bundle),
        "parameters": {**manifest.parameters, "all": sum(manifest.parameters.values())},
        "bytes": {name: entry.bytes for name, entry in manifest.files.items()}
        | {"all": sum(entry.bytes for entry in manifest.files.values())},
        f"cache_bytes_per_token_at_{steps}_steps": {
            name: cache.bytes_per_token(config, steps) for name, cache in policies.items()
        },
        **_endings(bundle),
        f"cache_bytes_of_{config.context_length}_tokens": {
            name: config.context_length * cache.bytes_per_token(config, steps)
            for name, cache in policies.items()
        },
        "int8_cache_scales": dataclasses.asdict(scales) if scales else None,
        "hashes": {
            "compared": len(manifest.files) - len(bundle.unhashed),
            "left to 'rdlite verify'": ", ".join(bundle.unhashed) or "none",
        },
    }


def _endings(bundle: Any) -> dict[str, Any]:
    """Return where answers end and who says so, and what the chat template asks for."""
    from rdlite.config.generation import GenerationConfig, read_generation_config
    from rdlite.tokenizer.chat_template import ChatTemplate
    from rdlite.tokenizer.tokenizer import Tokenizer

    size, special = bundle.config.vocab_size, bundle.manifest.special_tokens
    data = bundle.read_text("generation_config.json")
    config = read_generation_config(data, size) if data is not None else GenerationConfig()
    data = bundle.read_text("tokenizer.json")
    tokenizer = Tokenizer(data, size) if data is not None else None
    data = bundle.read_text("chat_template.jinja")
    template = ChatTemplate(data.decode(errors="replace"), special) if data is not None else None
    stops = {}
    for id in config.stop_ids:
        name = tokenizer.name(id) if tokenizer else None
        shown = f"#{id}" if name is None else f"{name} (#{id})"
        stops[shown] = "from " + config.stop_sources.get(str(id), "generation_config.json")
    for text in config.stop_strings:
        source = config.stop_sources.get(text, "generation_config.json")
        stops[f"the text {text}"] = f"from {source}"
    return {
        "stops_at": stops or None,
        "named_as_stops_but_none": dict(config.stops_ignored) or None,
        "template_variables": sorted(template.variables) if template else None,
    }


def _quantization(bundle: Any) -> dict[str, Any] | None:
    from rdlite.architectures.registry import FAMILIES

    quantization, family = bundle.manifest.quantization, FAMILIES.get(bundle.config.family)
    if quantization is None:
        return None
    bits = {}
    if family is not None:
        shapes = {name: weight.shape for name, weight in family.weights(bundle.config).items()}
        # onnxruntime packs float32 scales and, for int8 activations, a sum beside each of them.
        packed = 64 if quantization.accuracy_level == 4 else 32
        for place, scale in (("on_disk", 16), ("in_memory", packed)):
            bits[f"bits_a_weight_{place}"] = quantization.bits_a_weight(shapes, scale)
    return {
        "scheme": quantization.scheme,
        "block_size": quantization.block_size,
        "other_block_sizes": ", ".join(f"{n}: {s}" for n, s in quantization.block_sizes.items())
        or "none",
        **bits,
        "accuracy_level": quantization.accuracy_level,
        "bits": dict(quantization.bits),
    }


def _human(group: str, value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        unit = " bytes" if "bytes" in group else ""
        return f"{value:,}{unit}"
    if isinstance(value, list):
        return one_line(", ".join(map(str, value)) or "none")
    return f"{value:.6g}" if isinstance(value, float) else one_line(str(value))
