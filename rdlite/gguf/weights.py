"""The weights of a GGUF file, under rdlite's names: as they are stored, or as floats."""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from rdlite.architectures.registry import Family
from rdlite.config.model import ModelConfig
from rdlite.gguf.block_layout import BITS, BLOCK, from_gguf, turn_back
from rdlite.gguf.reader import GGUFFile
from rdlite.gguf.requantize import SAMPLE_ROWS, requantize, rounding_error, target_bits
from rdlite.gguf.tensor_names import IN_METADATA, Piece, architecture, pieces
from rdlite.graphs.builder import Weight, Weights
from rdlite.graphs.packing import Bytes, Codes, Scales, pack, packed_shape

Floats = npt.NDArray[np.float32]
#: Bytes of a tensor that are taken at once.
GROUP_BYTES = 8 * 2**20
#: The same of one that is not F32, F16 or in blocks of rdlite's: as floats it is far larger.
PACKED_GROUP_BYTES = 2**20
PLAIN = {"F32": "<f4", "F16": "<f2"}


class GGUFWeights:
    """Gives the weights of a file whose tensors are those that its family and config call for."""

    def __init__(
        self, file: GGUFFile, family: Family, config: ModelConfig, requantized: bool = False
    ) -> None:
        """Hold the tensors against the config; raises GGUFError.

        With `requantized`, matrices of types that rdlite does not compute with are given as
        integers and scales, rounded again; without, as floats.
        """
        self._file = file
        self._arch = architecture(config.family)
        self.weights: Weights = family.weights(config)
        self._pieces = pieces(family, config, self.weights)
        self._check()
        #: Matrices that are rounded again -> the types of their tensors, for people.
        self.requantized: dict[str, str] = {}
        #: Bits of the weights that are given as integers and scales.
        self.bits: Mapping[str, int] = self._find_bits(requantized)

    def _find_bits(self, requantized: bool) -> dict[str, int]:
        found: dict[str, int] = {}
        for name, weight in self.weights.items():
            kinds = {self._file.tensors[p.name].type for p in self._pieces.get(name, ())}
            if len(weight.shape) != 2 or not kinds or weight.shape[1] % BLOCK:
                continue  # rows that are no whole blocks stay float32; they are short
            bits = None
            if len(kinds) == 1 and kinds <= BITS.keys():  # as rdlite stores them
                bits = BITS[next(iter(kinds))]
            elif requantized and (bits := target_bits(kinds)) is not None:
                self.requantized[name] = "+".join(sorted(kinds))
            if bits is not None:
                found[name] = bits
        return found

    def rounding(self) -> dict[tuple[str, int], tuple[int, float]]:
        """What is rounded again: (types, bits) -> how many matrices, and a sample's error."""
        found: dict[tuple[str, int], tuple[int, float]] = {}
        for name, kinds in self.requantized.items():
            key = kinds, self.bits[name]
            if key not in found:
                piece = self._pieces[name][0]
                rows = self._floats(piece, next(self._groups(piece))[:SAMPLE_ROWS])
                self._check_finite(name, rows, "values")
                found[key] = 0, rounding_error(rows, key[1])
            count, error = found[key]
            found[key] = count + 1, error
        return found

    def _check(self) -> None:
        file, known = self._file, set()
        for name, parts in self._pieces.items():
            for piece in parts:
                tensor = file.tensors.get(piece.name)
                if tensor is None:
                    raise file.fail(f"the tensor {piece.name!r} is missing ({name})")
                if tensor.shape != piece.shape:
                    raise file.fail(
                        f"the tensor {piece.name!r} at offset {tensor.offset} has the shape "
                        f"{list(tensor.shape)}, its sizes call for {list(piece.shape)}"
                    )
                if len(piece.shape) == 1 and tensor.type not in PLAIN:
                    raise file.fail(f"the tensor {piece.name!r} is {tensor.type}, expected F32")
                known.add(piece.name)
        unknown = sorted(file.tensors.keys() - known)
        if unknown:
            raise file.fail(
                f"it holds {len(unknown)} tensors that its architecture and sizes do not account "
                f"for, the first {unknown[0]!r}; leaving them out would change the model"
            )
        for name, weight in self.weights.items():
            if name in IN_METADATA:
                found = file.numbers(self._key(name))
                if found.shape != weight.shape or found.dtype != np.float32:
                    raise file.fail(
                        f"the key {self._key(name)!r} must hold {weight.shape[0]} floats"
                    )

    def _key(self, name: str) -> str:
        return f"{self._arch}.{IN_METADATA[name]}"

    def pieces(self, name: str) -> Iterator[Floats]:
        """Yield a weight flat and in order, as float32; raises GGUFError for what is not finite."""
        weight = self.weights[name]
        if name in IN_METADATA:
            groups: Iterator[Floats] = iter((self._file.numbers(self._key(name)),))
        elif weight.make is not None and not weight.sources:
            groups = iter((weight.make(),))
        else:
            groups = (
                self._floats(piece, rows)
                for piece in self._pieces[name]
                for rows in self._groups(piece)
            )
        for group in groups:
            self._check_finite(name, group, "values")
            yield group

    def coded(self, name: str) -> Iterator[tuple[Codes, Scales]]:
        """Yield the integers and scales of a weight in `bits`, some rows at a time."""
        bits = self.bits[name]
        for piece in self._pieces[name]:
            for rows in self._groups(piece):
                if name in self.requantized:
                    values = self._floats(piece, rows)
                    self._check_finite(name, values, "values")
                    codes, scales = requantize(values, bits)
                else:
                    codes, scales = from_gguf(rows, bits)
                self._check_finite(name, scales, "scales")
                yield codes, scales

    def packed(self, name: str) -> tuple[Bytes, Scales]:
        """Return a weight in `bits` as onnxruntime has it: bytes, and float16 [N, blocks]."""
        bits = self.bits[name]
        shape = packed_shape(self.weights[name].shape, bits, BLOCK)
        packed, scales, at = np.empty(shape, np.uint8), np.empty(shape[:2], np.float16), 0
        for codes, some in self.coded(name):
            end = at + len(codes)
            packed[at:end], scales[at:end] = pack(codes, bits), some
            at = end
        return packed, scales

    def floats(self, name: str) -> Floats:
        """Return a weight as float32: a view of the file where it lies there like that."""
        weight = self.weights[name]
        view = self._view(name, weight)
        if view is not None:
            self._check_finite(name, view, "values")
            return view
        result, at = np.empty(weight.shape, np.float32), 0
        flat = result.reshape(-1)
        for piece in self.pieces(name):
            flat[at : at + piece.size] = piece.reshape(-1)
            at += piece.size
        return result

    def let_go(self) -> None:
        """Give back the memory that holds the file's pages; they are read again when needed."""
        self._file.let_go()

    def _check_finite(self, name: str, numbers: npt.NDArray[Any], what: str) -> None:
        flat = numbers.reshape(-1)
        for first in range(0, flat.size, GROUP_BYTES):
            if not np.isfinite(flat[first : first + GROUP_BYTES]).all():
                raise self._file.fail(f"the weight {name!r} holds NaN or infinite {what}")

    def _view(self, name: str, weight: Weight) -> Floats | None:
        tensors = [self._file.tensors[p.name] for p in self._pieces.get(name, ())]
        if not tensors or any(piece.heads for piece in self._pieces[name]):
            return None
        if any(tensor.type != "F32" for tensor in tensors):
            return None
        for one, two in pairwise(tensors):
            if one.offset + one.size != two.offset:
                return None
        data = self._file.run(tensors[0].offset, sum(tensor.size for tensor in tensors))
        view: Floats = data.view("<f4").reshape(weight.shape)
        return view

    def _groups(self, piece: Piece) -> Iterator[npt.NDArray[Any]]:
        """Yield a tensor's rows as stored, uint8 [n, bytes], some at a time, in rdlite's order."""
        tensor = self._file.tensors[piece.name]
        count = tensor.shape[0] if len(tensor.shape) == 2 else 1
        rows = self._file.bytes_of(tensor).reshape(count, -1)
        most = GROUP_BYTES if tensor.type in (*PLAIN, *BITS) else PACKED_GROUP_BYTES
        if piece.heads:  # a head is the least that can be turned
            size = count // piece.heads
            some = max(1, most // (rows.shape[1] * size))
            for first in range(0, piece.heads, some):
                last = min(first + some, piece.heads)
                yield turn_back(rows[first * size : last * size], last - first)
            return
        some = max(1, most // rows.shape[1])
        for first in range(0, count, some):
            yield rows[first : first + some]

    def _floats(self, piece: Piece, rows: npt.NDArray[Any]) -> Floats:
        kind = self._file.tensors[piece.name].type
        if kind in PLAIN:
            plain: Floats = rows.view(PLAIN[kind]).astype(np.float32, copy=False)
            return plain
        import gguf

        try:
            with np.errstate(all="ignore"):  # what is not finite is found afterwards
                result: Floats = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[kind])
        except (NotImplementedError, KeyError):
            raise self._file.fail(
                f"the tensor {piece.name!r} is {kind}, which is not read"
            ) from None
        return result
