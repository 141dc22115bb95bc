"""What is said where the extra `[optimum]` is missing, or too new: one line with the fix."""

import sys

import pytest
from rdlite.export.optimum import check_extra

from rdlite import RuntimeFailure
from rdlite.utils.install import install_hint

WHOLE = {
    "torch": "2.13.0+cpu",
    "optimum": "2.1.0",
    "optimum-onnx": "0.1.0",
    "transformers": "4.57.6",
}


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Let these distributions, and no others, be what is installed."""

    def install_these(versions):
        for name, version in versions.items():
            folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
            folder.mkdir()
            (folder / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
        monkeypatch.setattr(sys, "path", [str(tmp_path)])

    return install_these


def test_versions_that_go_together_are_fine(install):
    install(WHOLE)
    check_extra()


@pytest.mark.parametrize("missing", WHOLE)
def test_a_missing_package_is_named_with_the_fix(install, missing):
    install({name: version for name, version in WHOLE.items() if name != missing})
    with pytest.raises(RuntimeFailure) as caught:
        check_extra()
    assert f"need {missing}, which is not installed" in str(caught.value)
    assert install_hint("cpu", "optimum") in str(caught.value)


@pytest.mark.parametrize(
    ("name", "version", "fix"),
    [
        ("transformers", "4.58.0", "transformers<4.58"),
        ("transformers", "4.58.0.dev0", "transformers<4.58"),
        ("transformers", "5.0.0rc1", "transformers<4.58"),
        ("optimum-onnx", "0.2.0", "optimum-onnx<0.2"),
    ],
)
def test_a_version_that_is_too_new_is_named_with_the_fix(install, name, version, fix):
    install(WHOLE | {name: version})
    with pytest.raises(RuntimeFailure) as caught:
        check_extra()
    assert f"{version} is installed; pip install '{fix}'" in str(caught.value)


def test_names_are_there_only_with_the_extra(install):
    import rdlite.export.optimum

    install({})
    with pytest.raises(RuntimeFailure, match="portable bundles need torch"):
        _ = rdlite.export.optimum.export_portable
    with pytest.raises(AttributeError, match="no attribute 'export_nothing'"):
        _ = rdlite.export.optimum.export_nothing
