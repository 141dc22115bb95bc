"""GPTQ as a scheme: the loop runs with the full weights, then with what was made of them."""

import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rdlite.export.exporter import write_bundle

from rdlite.api.load import load
from rdlite.api.model import Model
from rdlite.bundle.reader import Bundle
from rdlite.config.quantization import Quantization
from rdlite.errors import InputError, OutputError
from rdlite.loader import open_bundle
from rdlite.measure.exit_record import problem_samples
from rdlite.measure.texts import read_tokens, windows
from rdlite.weights.source_model import SourceModel
from rdlite.weights.storage import Storage

from .gptq import DAMPING, GPTQ, Factor, factor_moments
from .hessians import second_moments
from .options import EMBEDDING, Options, quantizable, quantization

PASSES = 2
#: Practice problems of each task and difficulty, where no text is given.
PROBLEMS = 6
LEAST_TOKENS, WINDOW, MOST_TOKENS = 256, 128, 16_384
#: Moments of so many bytes are gathered in one run.
MOST_MOMENT_BYTES = 4 * 2**30
#: The largest moment that is worked with: room is left for damping.
MOST_MOMENT = 1e30
#: Damping of the embedding: its rows are looked up too, and then every column counts alike.
LOOKED_UP = 0.5


class Calibrated:
    """GPTQ, calibrated over all steps of the loop.

    The first pass gathers what the matrices see in the model as it is. The second one does so in
    the model that came out of the first, whose states carry the errors of every step before.
    """

    def __init__(self, name: str, options: Options, bits: int, passes: int = PASSES) -> None:
        self._name = name
        self._options = options
        self._bits = bits
        self._passes = passes

    def prepare(self, original: SourceModel) -> Storage:
        """Run the model and decide how its weights are stored."""
        options = self._options
        names = quantizable(original)
        plan = quantization(self._name, dict.fromkeys(names, self._bits), options, original)
        factors = FactorFolder(options.work)
        storage = Storage(plan, GPTQ(factors))
        with tempfile.TemporaryDirectory(dir=options.work) as folder:
            for turn in range(self._passes):
                bundle = write_bundle(original, Path(folder) / str(turn), storage if turn else None)
                factors.gather(open_bundle(bundle), plan, options)
        return storage


class FactorFolder:
    """GPTQ's factors of many weights, in files, because they may be more than memory holds."""

    def __init__(self, work: Path | None) -> None:
        self._folder = Path(tempfile.mkdtemp(dir=work))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._names: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def load(self, name: str) -> Factor:
        """Return the factor of a weight."""
        with np.load(self._path(name)) as found:
            return Factor(found["order"], found["upper"])

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.npz"

    def gather(self, bundle: Bundle, plan: Quantization, options: Options) -> None:
        """Run a model on the calibration texts and make the factors of the weights in a plan."""
        with load(bundle.folder, threads=options.threads) as model:
            texts = calibration_texts(model, options)
            steps = model.config.steps_or_default(options.steps)
        for group in _groups(bundle, [*plan.bits]):
            moments = second_moments(bundle, texts, steps, group, options.seed, options.threads)
            for name in group:
                found = moments.pop(name, None)
                if found is None:  # an embedding that is only looked up
                    continue
                if not np.abs(found).max() < MOST_MOMENT:
                    raise InputError(
                        f"what {name} is applied to is not finite, or far too large, after up to "
                        f"{steps} steps; calibrate with fewer --steps, or use int4"
                    )
                damping = LOOKED_UP if name == EMBEDDING else DAMPING
                factor = factor_moments(found, plan.block_of(name), damping)
                path = self._path(name)
                try:
                    np.savez(path, order=factor.order, upper=factor.upper)
                except OSError as problem:  # the disk is full, which NumPy does not say
                    raise OutputError(
                        f"cannot write {path}: {problem.strerror or problem}; it takes "
                        f"{factor.upper.nbytes} bytes"
                    ) from None
                self._names.add(name)


def calibration_texts(model: Model, options: Options) -> list[Sequence[int]]:
    """Return token ids of the texts to calibrate on.

    Raises InputError if the text is too short or cannot be read, or there is none and the model
    cannot chat.
    """
    if options.calibration is None:
        return [sample.ids for sample in problem_samples(model, PROBLEMS, options.seed)]
    ids = read_tokens(model, options.calibration, MOST_TOKENS)
    if len(ids) < LEAST_TOKENS:
        raise InputError(
            f"the calibration text {options.calibration} has {len(ids)} tokens; at least "
            f"{LEAST_TOKENS} are needed"
        )
    return list(windows(ids, min(WINDOW, model.context), model.context))


def _groups(bundle: Bundle, names: Sequence[str]) -> list[list[str]]:
    """Cut the names into groups whose moments fit in memory together."""
    config = bundle.config
    widest = max(2 * config.hidden_size, config.intermediate_size)
    size = max(1, MOST_MOMENT_BYTES // (4 * widest**2))
    return [list(names[i : i + size]) for i in range(0, len(names), size)]
