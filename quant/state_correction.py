"""Rounding, and a correction of the state that the rounded core leaves behind."""

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rdlite.export.exporter import write_bundle

from rdlite.api.load import load
from rdlite.api.model import Model
from rdlite.errors import InputError
from rdlite.measure.divergence import divergence
from rdlite.weights.source_model import SourceModel
from rdlite.weights.storage import Scheme, Storage

from .gptq_scheme import calibration_texts
from .options import Options
from .state_errors import Floats, state_pairs


class Corrected:
    """Another scheme, with the norm that ends a core step scaled against its errors.

    Every step adds errors that lean the same way; a factor for each channel, by least squares over
    all steps of the loop, takes that part out, at no cost when the model runs. It is fitted on
    one half of the texts and kept if it lowers the divergence from full precision on the other.
    """

    def __init__(self, name: str, scheme: Scheme, options: Options) -> None:
        self._name = name
        self._scheme = scheme
        self._options = options

    def prepare(self, original: SourceModel) -> Storage:
        """Run the model with and without quantized weights, and fit the factors.

        Returns:
            The scheme's storage, under this one's name and with the factors if they help.
        """
        norm = original.family.state_norm(original.config)
        if norm is None:
            raise InputError(
                f"{self._name} scales the norm that ends a core step, and the family "
                f"{original.config.family} has none; use int4 or int4-gptq"
            )
        options, plain = self._options, self._scheme.prepare(original)
        named = dataclasses.replace(plain.quantization, scheme=self._name)
        with tempfile.TemporaryDirectory(dir=options.work) as name:
            folder = Path(name)
            full = write_bundle(original, folder / "full")
            with load(full, threads=options.threads) as reference:
                texts = calibration_texts(reference, options)
                order = np.random.default_rng(options.seed).permutation(len(texts))
                fit, check = ([texts[i] for i in part] for part in np.array_split(order, 2))
                steps = reference.config.steps_or_default(options.steps)
                tried = write_bundle(original, folder / "plain", plain)
                with load(tried, threads=options.threads) as model:
                    factors = fit_factors(model, reference, fit, steps, options.seed)
                    before = divergence(model, reference, check, [steps], options.seed)[0]
                corrected = Storage(named, plain.quantizer, {norm: factors})
                tried = write_bundle(original, folder / "corrected", corrected)
                with load(tried, threads=options.threads) as model:
                    after = divergence(model, reference, check, [steps], options.seed)[0]
        return corrected if after.mean < before.mean else Storage(named, plain.quantizer)


def fit_factors(
    model: Model, reference: Model, texts: Sequence[Sequence[int]], steps: int, seed: int = 0
) -> Floats:
    """Return what each channel of the model's states times makes them nearest the reference's.

    Arguments as for `state_pairs`.

    Returns:
        float32 [E], by least squares over all steps and positions; 1 for a channel that is zero.
    """
    size = model.config.hidden_size
    both, own = np.zeros(size), np.zeros(size)
    for _, x, y in state_pairs(model, reference, texts, steps, seed):
        both += np.einsum("se,se->e", x, y, dtype=np.float64)
        own += np.einsum("se,se->e", x, x, dtype=np.float64)
    factors: Floats = np.where(own > 0, both / np.where(own > 0, own, 1), 1).astype(np.float32)
    return factors
