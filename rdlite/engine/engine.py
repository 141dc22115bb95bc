"""The three sessions of one model, and what its texts share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rdlite.bundle.cache_scales import read_cache_scales
from rdlite.bundle.manifest import PARTS
from rdlite.bundle.reader import Bundle
from rdlite.config.cache import Cache
from rdlite.engine.packed_scales import lend, with_lent_scales
from rdlite.engine.row_check import rows_pair
from rdlite.engine.rows import EngineRows, spare_slot
from rdlite.errors import InputError
from rdlite.graphs.derived.change import change_graph, without_change
from rdlite.graphs.derived.float16 import with_float16
from rdlite.graphs.derived.gpu import with_gpu_kernels
from rdlite.graphs.derived.int8_halves import with_int8_halves
from rdlite.graphs.derived.int8_kv import with_int8_cache
from rdlite.graphs.derived.unrolled import with_steps
from rdlite.graphs.derived.wide_scales import Place
from rdlite.graphs.rotary import Floats, rotary_table, with_positions
from rdlite.ort.kv_cache import HostSlots, MakeSlot, Slot
from rdlite.ort.row_runner import RowRunner, Rows
from rdlite.ort.runner import Runner
from rdlite.ort.session import Session
from rdlite.ort.staggered_runner import StaggeredRunner
from rdlite.ort.text import Text

if TYPE_CHECKING:
    from rdlite.cuda.arrays import Device

#: Weights from which on a model is worth huge pages: smaller ones load in less time than it takes.
LARGE = 2**26
#: Weights of a core below which one thread is faster than two: handing work over takes longer.
SMALL = 2**22


class Engine:
    """The three sessions of one model. Thread-safe; each text has a Sequence of its own."""

    def __init__(
        self,
        bundle: Bundle,
        cache: Cache,
        threads: int | None = None,
        device: Device | None = None,
        context: int | None = None,
        together: bool = False,
    ) -> None:
        """Load the graphs of a bundle, for caches of one kind.

        Args:
            bundle: opened, and so checked.
            cache: what to keep of past positions.
            threads: for one operator; None: one for a small model, or else one a physical core.
            device: where to run; None: the CPU.
            context: the longest text; None: as long as the bundle's rotary tables are.
            together: read positions in pairs where a single one has other bits; it costs one text
                alone up to a third of its speed.

        Raises:
            InputError: the cache is to be int8, and the bundle is portable or has no scales; or the
                device is a GPU, and the bundle is portable or the cache is to be int8.
            BundleError: the file of its scales breaks a rule.
            RuntimeFailure: onnxruntime is missing or refuses a graph.
        """
        self.config = bundle.config
        self.cache = cache
        self.device = device
        graphs = bundle.graphs
        #: Those of the slots, if they are int8.
        self.scales = None
        portable = bundle.manifest.flavour == "portable"
        if device is not None:
            if cache.bits is not None:
                raise InputError(
                    f"the cache on {device.name} is float16; Cache(bits=8) is for the CPU"
                )
            if portable:
                raise InputError(
                    f"{bundle.folder} is portable, and those run on the CPU; export the checkpoint "
                    "with --flavour fused"
                )
            graphs = dict(graphs) | {"core": without_change(graphs["core"])}
            graphs = {part: with_gpu_kernels(with_float16(graph)) for part, graph in graphs.items()}
        elif cache.bits is not None:
            if portable:
                raise InputError(
                    f"{bundle.folder} is portable, and no standard operator keeps an int8 cache; "
                    "leave the cache in float32, or export the checkpoint with --flavour fused"
                )
            share = cache.share if isinstance(cache.share, int) else None
            self.scales = read_cache_scales(bundle).shared(share)
            graphs = {part: with_int8_cache(graph) for part, graph in graphs.items()}
        if device is None:
            graphs = {part: with_int8_halves(graph) for part, graph in graphs.items()}
        self.sessions: dict[str, Any] = {}
        provider = device.provider if device else None
        longer = context is not None and context > self.config.rotary_positions
        if longer and portable:
            raise InputError(
                f"{bundle.folder} is portable and holds {self.config.rotary_positions} positions; "
                f"a context of {context} needs the checkpoint exported with --flavour fused"
            )
        tables: dict[str, Floats] = {}  # the parts share them
        stretched: dict[str, bytes] = {}
        own: dict[str, dict[str, Floats]] = {}
        for part in PARTS:
            stretched[part], names = graphs[part], tuple[str, ...]()
            if context is not None and longer:
                stretched[part], names = with_positions(graphs[part], context)
            for name in names:
                if name not in tables:
                    tables[name] = rotary_table(self.config, name, context or 0)
            own[part] = {name: tables[name] for name in names}

        #: Whether steps are so short that what a call costs besides them counts: they are taken
        #: several at a time.
        self.bursts = device is None and bundle.manifest.parameters["core"] < SMALL
        if threads is None and self.bursts:
            threads = 1
        large = device is None and sum(bundle.manifest.parameters.values()) >= LARGE
        lent: dict[str, dict[str, Place]] = {part: {} for part in PARTS}
        if large:
            for part in PARTS:
                stretched[part], lent[part] = with_lent_scales(stretched[part])

        def make(part: str, graph: bytes, in_order: bool = True) -> Session:
            with bundle.data_folder(part) as folder:
                memory = lend(lent[part], folder)
                tables = {name: own[part][name] for name in own[part] if name.encode() in graph}
                given = tables | memory.arrays
                options = folder, threads, provider, given, in_order, large, device is not None
                try:
                    return Session(part, graph, *options)
                finally:
                    memory.take_back()

        #: Calls that take rows of any texts; None where a row has not the bits it has alone.
        self.rows: Rows | None = None
        pairs = None if device or portable else rows_pair(stretched.values())
        if self.bursts and not portable and not (pairs and together):
            self.sessions["steps"] = make("core", with_steps(stretched["core"]))
        if pairs is None or (pairs and not together):
            for part, graph in stretched.items():
                self.sessions[part] = make(part, graph, in_order=False)
            if device is not None:
                from rdlite.cuda.dense import dense_sessions

                self.sessions["change"] = Session(
                    "change",
                    change_graph(self.config.hidden_size),
                    bundle.folder,
                    threads,
                    provider,
                )
                for part, dense in dense_sessions(device, stretched, make).items():
                    self.sessions[f"dense.{part}"] = dense
                packed = b"MatMulNBits" in stretched["core"]
                self.rows = self._lanes(device, context or self.config.rotary_positions, packed)
            return
        self.rows = rows = EngineRows(stretched, make, self.config, pairs, self._spare)
        self.sessions |= {part: each.chunks for part, each in rows.parts.items()}

    def _lanes(self, device: Device, context: int, packed: bool) -> Rows:
        from rdlite.cuda.lanes import Lanes

        return Lanes(device, self.config, self.cache, context, self.sessions, packed)

    def _spare(self, part: str) -> Slot:
        scales: Any = self.scales
        if scales is not None:
            scales = scales.of_slot(0) if part == "core" else getattr(scales, part)
        return spare_slot(self.slots(), getattr(self.config.layers, part), scales)

    def slots(self) -> MakeSlot:
        """Return what makes the cache slots of one text."""
        if self.device is None:
            return HostSlots(self.config)
        from rdlite.cuda.kv_cache import device_slots

        return device_slots(self.device, self.config)

    def runner(self, sequence: Text, size: int, by_rows: bool = False) -> Runner:
        """Return a new runner of a text, by rows if the engine can."""
        if self.device is not None:
            from rdlite.cuda.lanes import LaneRunner
            from rdlite.cuda.runner import DeviceRunner

            if size == 1 and sequence.lane is not None:
                return LaneRunner(sequence, self.device, sequence.lane)
            return DeviceRunner(sequence, size, self.device)
        if by_rows and self.rows is not None:
            return RowRunner(sequence, size, self.rows)
        return Runner(sequence, size)

    def staggered(self, sequence: Text, seats: int) -> StaggeredRunner:
        """Return a new runner of positions at depths of their own; `rows` must take rows."""
        assert self.rows is not None
        return StaggeredRunner(sequence, seats, self.rows)
