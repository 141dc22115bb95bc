"""What importing costs: no torch, no transformers, and next to nothing before a name is used."""

import collections
import subprocess
import sys

import rdlite


def loaded_by(code):
    code += "\nimport sys; print('\\n'.join(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


def test_import_loads_nothing_heavy():
    loaded = loaded_by("import rdlite")
    heavy = {"torch", "transformers", "optimum", "onnx", "onnxruntime", "numpy", "rich", "jinja2"}
    assert not loaded & heavy


def test_the_whole_runtime_loads_no_training_library_and_no_exporter():
    names = ", ".join(rdlite.__all__)
    loaded = loaded_by(
        f"from rdlite import {names}\nimport rdlite.engine.engine, rdlite.ort.session"
    )
    assert not loaded & {"torch", "transformers", "optimum", "rdlite.export", "rdlite.quant"}


def test_the_exporter_needs_no_torch():
    heavy = {"torch", "transformers", "optimum", "onnxruntime"}
    assert not loaded_by("import rdlite.export, rdlite.export.optimum") & heavy


def test_help_starts_without_the_runtime():
    code = "from rdlite.cli.main import main\nmain(['--help'], standalone_mode=False)"
    assert not loaded_by(code) & {"onnx", "onnxruntime", "numpy", "tokenizers"}


def test_only_session_imports_onnxruntime():
    import pathlib

    package = pathlib.Path(rdlite.__file__).parent
    users = [
        path.name
        for path in package.rglob("*.py")
        if any(
            line.strip().startswith(("import onnxruntime", "from onnxruntime"))
            for line in path.read_text().splitlines()
        )
    ]
    assert users == ["session.py"]


def test_telemetry_is_off_unless_the_user_says_otherwise():
    code = "import os, rdlite.ort.session; print('ORT=' + os.environ['ORT_DISABLE_TELEMETRY'])"
    assert "ORT=1" in loaded_by(code)
    assert "ORT=0" in loaded_by("import os; os.environ['ORT_DISABLE_TELEMETRY'] = '0'\n" + code)


PUBLIC = """
    BatchPredictor BundleError Cache Chat CheckpointError Constraint ContextError Cuda Depth
    DepthWarning FamilyError GGUFError Generation GraphError HubError InputError Model ModelConfig
    OutputError Parallel RdliteError RoundingWarning RuntimeFailure Sampling Stats Token load
""".split()


def test_public_names_are_exactly_these():
    assert sorted(rdlite.__all__) == PUBLIC
    assert sorted(rdlite.__all__) == sorted(rdlite._HOME_OF.keys())
    for name in rdlite.__all__:
        assert getattr(rdlite, name).__doc__
    assert set(rdlite.__all__) <= set(dir(rdlite))


def test_rooms_stay_small():
    import pathlib

    root = pathlib.Path(__file__).parents[2]
    files = [path for top in ("rdlite", "export", "quant") for path in root.glob(f"{top}/**/*.py")]
    assert len(files) > 200
    long = [str(path) for path in files if len(path.read_text().splitlines()) > 300]
    assert not long, "cut these along their subjects"
    modules = collections.Counter(path.parent for path in files if path.stem != "__init__")
    assert not [folder for folder, count in modules.items() if count > 14]
