"""What is said where a GPU cannot be used; never does the CPU run in its place unsaid."""

import importlib.metadata
import json
import threading
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

import rdlite
from rdlite import Cuda, InputError, RuntimeFailure
from rdlite.cli.main import main
from rdlite.cuda import install
from rdlite.cuda.runtime import CudaMemory
from rdlite.utils.install import install_hint


def has_gpu():
    return install.what_is_missing() is None


without_gpu = pytest.mark.skipif(has_gpu(), reason="this machine has a GPU that can be used")


@without_gpu
def test_a_gpu_that_is_not_there_is_an_error():
    for device in ("cuda", Cuda(), Cuda(graphs=True)):
        with pytest.raises(RuntimeFailure, match="device 'cuda' cannot be used: "):
            rdlite.load(device=device)
    result = CliRunner().invoke(main, ["generate", "hello", "--device", "cuda"])
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()[-1:]
    assert line.startswith("error: device 'cuda' cannot be used: ")


@without_gpu
def test_auto_takes_the_cpu_then():
    with rdlite.load(device="auto") as model:
        assert model.device == "cpu"
    assert "124" in CliRunner().invoke(main, ["chat", "--device", "auto"], input="48 + 76?").output


@without_gpu
def test_doctor_says_what_is_missing():
    report = json.loads(CliRunner().invoke(main, ["doctor", "--json"]).output)
    assert report["device cuda"] == f"cannot be used: {install.what_is_missing()}"
    assert report["GPUs"] == "none that can be used"


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("tpu", r"device must be auto, cpu, cuda or rdlite\.Cuda\(\.\.\.\), got 'tpu'"),
        (None, "device must be auto"),
        (0, "device must be auto"),
    ],
)
def test_other_devices_are_refused(device, said):
    with pytest.raises(InputError, match=said):
        rdlite.load(device=device)


def test_options_have_bounds():
    for options in ({"index": 64}, {"index": -1}, {"graphs": 1}, {"memory": 0}, {"index": True}):
        with pytest.raises(InputError):
            Cuda(**options)
    assert Cuda(index=3, graphs=True, memory=2**34) == Cuda(3, True, 2**34)


@pytest.fixture
def installed(monkeypatch):
    """Lets packages be installed, or not, as far as their versions tell."""
    real = importlib.metadata.version

    def let(*names):
        def version(name):
            if name in ("onnxruntime", "onnxruntime-gpu", "cuda-bindings"):
                if name in names:
                    return "1"
                raise importlib.metadata.PackageNotFoundError(name)
            return real(name)

        monkeypatch.setattr(importlib.metadata, "version", version)

    return let


@without_gpu
@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["onnxruntime"], "onnxruntime-gpu is not installed"),
        (["onnxruntime", "onnxruntime-gpu"], "both installed and hide each other"),
        (["onnxruntime-gpu"], "this onnxruntime has no CUDAExecutionProvider"),
    ],
)
def test_what_is_missing_is_named(installed, names, said):
    """With the CPU's onnxruntime in place of the one that is named."""
    installed(*names)
    assert said in install.what_is_missing()
    assert install_hint("gpu") in install.what_is_missing()


@without_gpu
def test_a_driver_that_is_missing_is_named():
    pytest.importorskip("cuda.bindings", reason="cuda-bindings, of the extra [gpu]")
    with pytest.raises(RuntimeFailure, match="cudaSetDevice failed on GPU 0: cudaError"):
        CudaMemory(0)
    assert install.describe_gpus() == []


@pytest.mark.parametrize("problem", [KeyboardInterrupt(), RuntimeFailure("no memory")])
def test_a_capture_ends_whatever_ends_the_call(problem):
    """The stream would take down, and not do, all that comes after."""
    said = []
    memory = object.__new__(CudaMemory)
    memory.lock, memory._stream = threading.RLock(), 1
    memory._runtime = SimpleNamespace(
        cudaStreamCaptureMode=SimpleNamespace(cudaStreamCaptureModeRelaxed=2)
    )
    memory._call = lambda name, *_: (said.append(name), ("graph",))[1]

    def call():
        raise problem

    with pytest.raises(type(problem)):
        memory.capture(call)
    assert said == ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphDestroy"]
