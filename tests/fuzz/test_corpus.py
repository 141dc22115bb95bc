"""Every file that the fuzzer kept: it opens, or a line says what is wrong with it."""

from pathlib import Path

import pytest

from rdlite.errors import GGUFError
from rdlite.gguf.open import open_gguf, read_original

pytestmark = pytest.mark.filterwarnings("ignore::rdlite.errors.RoundingWarning")

CORPUS = Path(__file__).parent / "corpus" / "gguf"


def test_files_that_the_fuzzer_kept_open_or_are_refused(tmp_path):
    opened, refused = 0, set()
    for kept in sorted(CORPUS.iterdir()):
        path = tmp_path / "model.gguf"
        path.write_bytes(kept.read_bytes())
        try:
            _, original, source = read_original(path)
            for name, weight in original.weights.items():
                if weight.sources:
                    (source.packed if name in source.bits else source.floats)(name)
            open_gguf(path)
            opened += 1
        except GGUFError as problem:
            refused.add(str(problem))
        except Exception as problem:
            pytest.fail(f"{kept.name}: {problem!r}")
    assert all(message.isprintable() for message in refused)
    assert opened >= 5
    assert len(refused) >= 50
