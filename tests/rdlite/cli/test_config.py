"""Settings that commands go by, how they are changed and mended; what doctor advises."""

import json
import os
import re

import pytest
from click.testing import CliRunner

from rdlite.cli.inspect.config import use_settings
from rdlite.cli.main import main
from rdlite.store.settings import settings_file

SUM = "What is 48 + 76?"


def run(*arguments):
    return CliRunner().invoke(main, list(arguments))


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("RDLITE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_without_a_file_the_settings_are_what_rdlite_does_by_itself():
    assert run("config").output.split() == [
        *("model", "nano", "steps", "the", "model", "says", "color", "auto")
    ]
    assert json.loads(run("config", "--json").output) == {
        "model": "nano",
        "steps": None,
        "color": "auto",
    }
    assert not settings_file().exists()
    assert run("config", "--path").output == f"{settings_file()}\n"


def test_commands_go_by_the_settings_and_options_go_before_them(text_bundle, monkeypatch):
    monkeypatch.chdir(text_bundle.parent)
    assert run("config", "model", text_bundle.name).output.split() == ["model", str(text_bundle)]
    assert run("config", "steps", "3").output == "steps    3\n"
    monkeypatch.chdir("/")  # a path is found from everywhere
    assert json.loads(run("inspect", "--json").output)["sizes"]["vocab_size"] == 288
    few = ("a prompt", "--max-tokens", "2", "--raw")
    assert run("generate", *few).output == run("generate", str(text_bundle), *few).output

    def steps(*options):
        result = run("generate", str(text_bundle), "x", "--max-tokens", "1", "--json", *options)
        return json.loads(result.output.splitlines()[0])["steps"]

    assert steps() == 3
    assert steps("--steps", "2") == 2
    assert run("config", "--unset", "steps").output == "steps    the model says\n"
    assert steps() == 4


def test_what_writes_into_a_model_or_counts_steps_otherwise_goes_by_no_setting(text_bundle):
    run("config", "model", str(text_bundle))
    run("config", "steps", "3")
    with main.make_context("rdlite", ["tune"]) as ctx:
        use_settings(ctx)
        defaults = ctx.default_map
    assert not {"tune", "quantize", "export", "gguf"} & set(defaults)
    assert set(defaults["eval"]) == {"model"}


def test_comments_stay(home):
    home.mkdir()
    settings_file().write_text("# mine\nsteps = 8  # deep enough\n")
    assert run("config", "color", "never").exit_code == 0
    assert settings_file().read_text() == '# mine\nsteps = 8  # deep enough\ncolor = "never"\n'


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("steps", "0"), "steps must lie between 1 and 1024, got 0"),
        (("steps", "deep"), "steps must be int, got str 'deep'"),
        (("color", "pink"), "color must be one of auto, always, never"),
        (("depth", "3"), "there is no setting 'depth'; there are model, steps, color"),
        (("depth",), "there is no setting 'depth'"),
        (("model", "nowhere"), "there is no bundle, file or name of a model 'nowhere'"),
        (("--unset",), "--unset needs a key: model, steps, color"),
        (("steps", "3", "--unset"), "--unset takes a key alone"),
    ],
)
def test_a_bad_change_is_one_line_and_changes_nothing(arguments, said):
    run("config", "steps", "5")
    before = settings_file().read_text()
    result = run("config", *arguments)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert said in result.stderr
    assert settings_file().read_text() == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps = 'x'", "config.toml.steps must be int, got str 'x'; change "),
        ("deep = 1", "config.toml has an unknown key 'deep'; known are model, steps, color"),
        ("= 1", "is not valid TOML"),
    ],
)
def test_a_broken_file_is_one_line_that_config_and_doctor_survive(home, text, said):
    home.mkdir()
    settings_file().write_text(text)
    result = run("trace", "hi")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert said in result.stderr
    problems = json.loads(run("doctor", "--json").output)["problems"]
    assert any(said in problem for problem in problems)
    if "=" in text[1:]:
        assert run("config", "--unset", text.split()[0]).exit_code == 0
        assert run("config").exit_code == 0


def test_colours_can_be_turned_off(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    run("config", "color", "never")
    with main.make_context("rdlite", ["models"]) as ctx:
        use_settings(ctx)
        assert ctx.color is False
    assert os.environ.pop("NO_COLOR") == "1"


def test_doctor_ends_with_what_to_do(monkeypatch):
    from rdlite.cli.inspect import doctor

    monkeypatch.setattr(doctor, "SLOW_BYTES_PER_SECOND", 0)
    assert run("doctor").output.endswith("\nNothing to mend.\n")
    monkeypatch.setattr(doctor, "SLOW_BYTES_PER_SECOND", 1e15)
    versions = {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1", "gguf": None}
    monkeypatch.setattr(doctor, "_version", lambda name: versions.get(name, "1.0"))
    lines = run("doctor").output.split("To mend:\n")[1].splitlines()
    assert [line.split(":")[0].split(" at ")[0] for line in lines] == [
        "- onnxruntime and onnxruntime-gpu are both installed and hide each other",
        "- memory is read",
    ]


def test_version_says_what_it_runs_on():
    said = run("--version").output
    assert said.startswith("rdlite 0.")
    assert ": Python 3." in said
    assert ", onnxruntime 1." in said
    assert said.count("\n") == 1


def test_bench_compares_with_the_last_run_of_the_same(home, text_bundle):
    few = ("--prompt-tokens", "8", "--max-tokens", "2", "--repeats", "1")
    assert ", last " not in run("bench", str(text_bundle), *few).output
    lines = run("bench", str(text_bundle), *few).output.splitlines()
    assert ", last run on 20" in lines[0]
    speed = next(line for line in lines if line.startswith("tokens per second"))
    assert re.search(r", last [\d.]+ \([+-]\d+%\)$", speed)
    assert ", last " not in run("bench", str(text_bundle), *few, "--steps", "2").output
    report = json.loads(run("bench", str(text_bundle), *few, "--json").output)
    assert report["last_run"]["steps_per_token"] == report["steps_per_token"]
    (home / "bench.json").write_text("[1]")  # not what was kept: as if there were none
    assert ", last " not in run("bench", str(text_bundle), *few).output
