"""4 bits where they do no harm, 8 where they pay: a budget, spent by measured sensitivity."""

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path

from rdlite.export.exporter import write_bundle

from rdlite.api.load import load
from rdlite.errors import InputError
from rdlite.weights.source_model import SourceModel
from rdlite.weights.storage import Storage

from .gptq_scheme import Calibrated, calibration_texts
from .options import Options, least_bits, quantizable, quantization
from .sensitivity import divergence_of, grouped, with_bits

#: Texts that sensitivity is measured on, and the depths: shares of the mean depth.
MOST_TEXTS, DEPTHS = 64, (0.25, 0.5, 1)


class Mixed:
    """GPTQ at 4 or 8 bits, the same for a projection in all layers of a part.

    For each projection the divergence from full precision is measured with it alone at 4 bits and
    all others at 8. The ones that do the most harm for their size get 8 bits, as far as the budget
    reaches.
    """

    def __init__(self, name: str, options: Options) -> None:
        self._options = options
        self._four = Calibrated(name, options, bits=4)

    def prepare(self, original: SourceModel) -> Storage:
        """Calibrate, measure, and decide how the weights are stored."""
        options = self._options
        names = quantizable(original)
        low = least_bits(
            quantization("int4-mixed", dict.fromkeys(names, 4), options, original), original
        )
        budget = low + 0.1 if options.bits is None else options.bits
        if not low <= budget <= low + 4:
            raise InputError(
                f"bits must lie between {low:.3g} and {low + 4:.3g} with these blocks and their "
                f"scales, got {budget:g}"
            )
        storage = self._four.prepare(original)
        groups = grouped(names)
        sizes = {
            group: sum(math.prod(original.weights[name].shape) for name in members)
            for group, members in groups.items()
        }
        harm = self._harm(original, storage, groups)
        wide = spend(harm, sizes, (budget - low) / 4)
        bits = {name: 8 if group in wide else 4 for group, all in groups.items() for name in all}
        return with_bits(storage, {name: bits[name] for name in names})

    def _harm(
        self, original: SourceModel, storage: Storage, groups: Mapping[str, list[str]]
    ) -> dict[str, float]:
        """Mean divergence with one group at 4 bits and the others at 8, over the depths."""
        options, eight = self._options, dict.fromkeys(storage.quantization.bits, 8)
        with tempfile.TemporaryDirectory(dir=options.work) as folder:
            full = write_bundle(original, Path(folder) / "full")
            with load(full, threads=options.threads) as reference:
                mean = reference.config.recurrence.mean_steps
                depths = sorted({max(1, round(share * mean)) for share in DEPTHS})
                texts = calibration_texts(reference, options)
                texts = texts[:: math.ceil(len(texts) / MOST_TEXTS)]
                harm = {}
                for group, members in groups.items():
                    tried = with_bits(storage, {**eight, **dict.fromkeys(members, 4)})
                    found = divergence_of(original, tried, reference, texts, depths, options)
                    harm[group] = sum(each.mean for each in found) / len(found)
        return harm


def spend(harm: Mapping[str, float], sizes: Mapping[str, int], share: float) -> set[str]:
    """Choose what gets 8 bits: the most harm for each weight first, while it fits.

    Args:
        harm: of each group at 4 bits.
        sizes: weights of each group.
        share: of all weights that may have 8 bits.
    """
    left = share * sum(sizes.values()) + 0.5  # not to fail by rounding
    chosen = set()
    for group in sorted(harm, key=lambda group: harm[group] / sizes[group], reverse=True):
        if sizes[group] <= left:
            chosen.add(group)
            left -= sizes[group]
    return chosen
