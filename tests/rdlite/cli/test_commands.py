"""Commands: what they print, for people and for programs; errors are one line and exit code 2."""

import json
import os
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner

import rdlite
from rdlite.bundle.update import update_bundle
from rdlite.cli.main import main
from rdlite.cli.shared.output import say
from rdlite.loader import open_bundle
from rdlite.utils.install import install_hint


def run(*arguments, stdin=None):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)


def test_every_command_has_help_with_an_example():
    for name, command in main.commands.items():
        result = run(name, "--help")
        assert result.exit_code == 0
        assert "Example:\n" in result.output, name
        assert command.get_short_help_str()
    assert run("--version").output.startswith("rdlite 0.")


def test_export_inspect_verify_generate(text_checkpoint, tmp_path):
    out = tmp_path / "bundle"
    result = run("export", text_checkpoint, "-o", out)
    assert result.exit_code == 0, result.output
    assert f"Next: rdlite chat {out}" in result.output
    assert (tmp_path / "bundle" / "rdlite.json").exists()
    result = run("inspect", out)
    assert "hidden_size              64" in result.output
    assert "share 1" in result.output
    result = run("verify", out)
    assert "core.onnx.data" in result.output
    assert "is whole: 10 files" in result.output
    result = run("generate", out, "hello", "--raw", "--max-tokens", 5, "--temp", 0, "--stats")
    assert result.exit_code == 0
    assert "5 tokens" in result.stderr
    assert ", 4.0 steps a token; prompt 5 tokens, 4.0 steps a token; " in result.stderr
    assert result.stderr.splitlines()[-1].rpartition("; first token after ")[2].startswith("0.")


def test_inspect_json_says_what_inspect_promises(text_bundle):
    report = json.loads(run("inspect", text_bundle, "--json").output)
    assert report["family"] == "huginn"
    assert report["sizes"]["vocab_size"] == 288
    assert report["parameters"]["all"] == sum(
        count for part, count in report["parameters"].items() if part != "all"
    )
    assert report["recurrence"]["mean_steps"] == 4
    assert report["bytes"]["all"] == sum(
        path.stat().st_size for path in text_bundle.iterdir() if path.name != "rdlite.json"
    )
    cache = report["cache_bytes_per_token_at_4_steps"]
    assert cache["one slot a step"] == rdlite.Cache().bytes_per_token(
        rdlite.load(text_bundle).config, 4
    )
    assert cache["share 1"] < cache["share 2"] < cache["one slot a step"]
    assert cache["share 2, int8"] == cache["share 2"] / 4
    assert report["int8_cache_scales"] is None


def test_inspect_says_whether_the_cache_can_be_int8(text_bundle, scaled_bundle):
    note = "note: the cache cannot be int8 until 'rdlite tune' finds its scales"
    assert note in run("inspect", text_bundle).output
    result = run("inspect", scaled_bundle)
    assert note not in result.output
    report = json.loads(run("inspect", scaled_bundle, "--json").output)
    assert report["int8_cache_scales"]["steps"] == 3
    assert report["int8_cache_scales"]["file"] in report["bytes"]


def test_the_cache_can_be_int8(scaled_bundle):
    result = run(
        "generate", scaled_bundle, "hello", "--raw", "--max-tokens", 4, "--cache-bits", 8, "--json"
    )
    assert result.exit_code == 0
    with rdlite.load(scaled_bundle, cache=rdlite.Cache(bits=8)) as model:
        tokens = [json.loads(line) for line in result.output.splitlines()[:-1]]
        again = model.generate("hello", 4, sampling=model.generation_config.sampling)
        assert [token["logprob"] for token in tokens] == [token.logprob for token in again]
    asked = ("--against", "nano", "--tasks", "hops", "--count", 1, "--steps", "8,16")
    result = run("eval", "--cache-bits", 8, *asked, "--json")
    found = json.loads(result.output)["divergence"]
    assert all(0 < median < 0.01 for median in found["median"])


def test_verify_json(text_bundle):
    report = json.loads(run("verify", text_bundle, "--json").output)
    assert report["whole"] is True
    assert len(report["checked"]) == 10


def test_generate_json_has_a_line_for_each_token(text_bundle):
    result = run("generate", text_bundle, "hello", "--max-tokens", 4, "--json", "--steps", 2)
    *tokens, last = [json.loads(line) for line in result.output.splitlines()]
    assert len(tokens) == last["stats"]["new_tokens"] == 4
    assert all(token["steps"] == 2 for token in tokens)
    assert "".join(token["text"] for token in tokens) == last["text"]


def test_generate_reads_a_pipe_and_drops_one_line_end(text_bundle):
    piped = run("generate", text_bundle, "--max-tokens", 4, "--seed", 1, stdin="hello\n")
    given = run("generate", text_bundle, "hello", "--max-tokens", 4, "--seed", 1)
    assert piped.output == given.output


def test_generate_follows_the_sampling_options(text_bundle, model):
    result = run(
        "generate", text_bundle, "hello", "--raw", "--max-tokens", 8, "--temp", 0, "--json"
    )
    ids = [json.loads(line)["id"] for line in result.output.splitlines()[:-1]]
    assert ids == model.generate("hello", 8).ids
    hot = run("generate", text_bundle, "hello", "--raw", "--max-tokens", 8, "--temp", 5, "--json")
    assert ids != [json.loads(line)["id"] for line in hot.output.splitlines()[:-1]]


def test_doctor_reports_versions_threads_and_bandwidth():
    report = json.loads(run("doctor", "--json").output)
    assert report["rdlite"] == rdlite.__version__
    assert report["onnxruntime"].startswith("1.")
    assert "CPUExecutionProvider" in report["providers"]
    assert report["threads"] >= 1
    assert report["telemetry"] == "off"
    assert float(report["read bandwidth"].removesuffix(" GB/s")) > 0.1


def test_doctor_says_what_is_wrong_with_the_runtime(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    result = run("doctor")
    assert result.exit_code == 0
    assert "onnxruntime cannot be imported" in result.output
    assert install_hint("cpu") in result.output
    assert "read bandwidth" in result.output


def test_a_runtime_that_is_too_old_is_refused(monkeypatch, text_bundle):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "__version__", "1.22.0")
    result = run("generate", text_bundle, "x")
    assert result.exit_code == 2
    assert "onnxruntime 1.22.0 is older than 1.30.1" in result.stderr


def test_files_that_were_not_hashed_are_mentioned(monkeypatch, text_bundle):
    monkeypatch.setattr("rdlite.bundle.reader.HASHED_ON_LOAD_BYTES", 60_000)
    result = run("generate", text_bundle, "x", "--max-tokens", 1)
    assert result.stderr == "note: 4 large files were not hashed; 'rdlite verify' does that\n"


def test_chat_through_a_pipe(text_bundle):
    lines = "hello\n\n/stats\n/steps 3\n/steps\n/reset\n/help\nbye\n/quit\nnever\n"
    result = run("chat", text_bundle, "--max-tokens", 5, stdin=lines)
    assert result.exit_code == 0
    assert "\x1b" not in result.output  # a model of random bytes says it often enough
    assert "; cut off by --max-tokens; context " in result.stderr
    assert "3 steps a token from now on." in result.stderr
    assert "4 steps a token from now on." in result.stderr
    assert "The conversation is forgotten." in result.stderr
    assert "forget the conversation" in result.stderr
    assert "steps" not in result.stdout
    assert "> " not in result.stdout


def test_a_models_text_cannot_play_tricks_on_a_terminal(capsys):
    family = "\N{MAN}\N{ZERO WIDTH JOINER}\N{WOMAN}"
    say("a\x1b[2Jb\x07\x9bc\td\ne\u202ef\r" + family)
    assert capsys.readouterr().out == "a[2Jbc\td\nef" + family


def test_chat_complains_and_goes_on(text_bundle):
    lines = "/nope\n/steps many\n/steps 0\n" + "x" * 700 + "\nhello\n"
    result = run("chat", text_bundle, "--max-tokens", 3, stdin=lines)
    assert result.exit_code == 2
    assert result.stdout.strip()
    assert result.stderr.splitlines() == [
        "error: /nope is not a command; /help lists them",
        "error: steps must be a whole number, got 'many'",
        "error: steps must be a whole number from 1 to 1024, got 0",
        "error: the prompt has 720 tokens, the context is 640; shorten it; /reset starts over",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chat", "NOWHERE"], "NOWHERE is not a folder"),
        (
            ["generate", "BUNDLE", "x", "--steps", "0"],
            "'--steps': 0 is not in the range 1<=x<=1024 ('rdlite generate",
        ),
        (["generate", "BUNDLE", "x", "--temp", "-1"], "'--temp': -1.0 is not in the range"),
        (["generate", "BUNDLE", "x", "--top-p", "0"], "'--top-p': 0.0 is not in the range 0<x<=1"),
        (["generate", "BUNDLE", "x", "--max-tokens", "0"], "'--max-tokens': 0 is not in"),
        (["generate", "BUNDLE", "x", "--seed", "-1"], "'--seed': -1 is not in"),
        (["generate", "BUNDLE", "x", "--threads", "0"], "'--threads': 0 is not in"),
        (["generate", "BUNDLE", "x", "--context", "9999"], "context must be"),
        (
            ["generate", "BUNDLE", "x", "--cache-share", "0"],
            "'--cache-share': '0' must be last, or a number",
        ),
        (["generate", "BUNDLE", "x", "--cache-bits", "4"], "bits must be None (float32) or 8"),
        (
            ["chat", "BUNDLE", "--cache-bits", "8"],
            "has no scales for an int8 cache: run 'rdlite tune",
        ),
        (["generate", "BUNDLE", "x", "--nope"], "No such option"),
        (["generate", "BUNDLE", "x", "--exit", "cosin"], "got 'cosin'; did you mean cosine?"),
        (["generate", "BUNDLE", "x", "--speculate", "4"], "'4' must be auto, off, or two numbers"),
        (["generate", "BUNDLE", "x", "--speculate", "atuo"], "like 4,8; did you mean auto?"),
        (["generate", "BUNDLE", "x", "--speculate", "0,4"], "drafts must be a whole number from 1"),
        (
            ["chat", "BUNDLE", "--speculate", "2,2", "--cache-share", "1"],
            "speculate needs a cache slot for each step",
        ),
        (["generate", "BUNDLE", "x", "--threshold", "1"], "a threshold needs an exit rule"),
        (["generate", "BUNDLE", "x", "--prompt-exit", "each"], "needs an exit rule"),
        (["chat", "--exit", "kl", "--prompt-exit", "each"], "needs a rule that looks at states"),
        (["chat", "--prompt-exit", "all"], "'all' is not one of 'mean', 'each'"),
        (
            ["generate", "BUNDLE", "x", "--exit", "kl", "--threshold", "-1"],
            "the threshold of kl must be a number from 0 to 100, got -1.0",
        ),
        (
            ["chat", "BUNDLE", "--steps", "4", "--min-steps", "5"],
            "min_steps must be a whole number from 1 to 4, got 5",
        ),
        (["generate", "BUNDLE", "x", "--steps", "many"], "'many' is not a valid integer"),
        (["generate"], "the prompt is empty"),
        (["generate", "BUNDLE", "x", "y"], "got 3 arguments; put the PROMPT in quotation marks"),
        (["generate", "./some/where"], "some/where is not a folder"),
        (["nope"], "No such command 'nope'"),
        (["generate", "BUNDLE", ""], "the prompt is empty"),
        (["generate", "BUNDLE", "x" * 641, "--raw"], "641 tokens, the context is 640"),
        (["export", "BUNDLE", "-o", "OUT"], "has no config.json"),
        (["export", "CHECKPOINT", "-o", "OUT", "--bits", "5"], "--bits is for quantizing; add"),
        (["export", "CHECKPOINT", "-o", "OUT", "--quant", ""], "scheme must be one of"),
        (["export", "CHECKPOINT", "-o", "BUNDLE"], "exists; give another name, or --force"),
        (["verify", "CHECKPOINT"], "looks like a checkpoint"),
        (["inspect", "NOWHERE"], "is not a folder"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(
    arguments, message, text_bundle, text_checkpoint, tmp_path
):
    places = {
        "BUNDLE": str(text_bundle),
        "CHECKPOINT": str(text_checkpoint),
        "OUT": str(tmp_path / "out"),
    }
    result = run(*(places.get(argument, argument) for argument in arguments))
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_an_exit_rule_is_reported_token_by_token(text_bundle):
    options = ("--exit", "latent-diff", "--threshold", 0.5, "--min-steps", 2, "--temp", 0)
    result = run("generate", text_bundle, "hi", *options, "--max-tokens", 5, "--json")
    *tokens, last = map(json.loads, result.stdout.splitlines())
    assert [token["steps"] for token in tokens] == [
        token.steps
        for token in rdlite.load(text_bundle).generate(
            "hi", 5, rdlite.Depth(None, 2, "latent-diff", 0.5)
        )
    ]
    assert all(token["exit_value"] is not None for token in tokens)
    assert last["stats"]["core_steps"] == sum(token["steps"] for token in tokens)
    plain = run("generate", text_bundle, "hi", "--max-tokens", 1, "--json")
    assert json.loads(plain.stdout.splitlines()[0])["exit_value"] is None


def test_a_prompt_can_be_read_with_each_token_at_its_own_step():
    def stats(*options):
        question = (
            "generate",
            "nano",
            "Tom has 5 pens. Eats 4. Finds 9. How many pens now?",
            "--exit",
            "latent-diff",
        )
        question += ("--threshold", 0.03)
        result = run(*question, "--max-tokens", 1, "--json", *options)
        return json.loads(result.stdout.splitlines()[-1])["stats"]

    mean, each = stats(), stats("--prompt-exit", "each")
    assert stats("--prompt-exit", "mean")["prompt_steps"] == mean["prompt_steps"]
    assert each["prompt_steps"] < mean["prompt_steps"]
    assert each["mean_prompt_steps"] == each["prompt_steps"] / each["prompt_tokens"]
    assert each["time_to_first_token"] > 0


def test_a_chat_says_that_an_exit_rule_may_stop_sooner(text_bundle):
    result = run("chat", text_bundle, "--exit", "latent-diff", stdin="/steps 3\n/steps 1\n")
    assert result.stderr.splitlines() == [
        "at most 3 steps a token from now on, exit rule latent-diff.",
        "at most 1 step a token from now on, exit rule latent-diff.",
    ]


def test_an_error_never_carries_control_codes(tmp_path):
    result = run("inspect", tmp_path / "\x1b[31mred\nline")
    (line,) = result.stderr.splitlines()
    assert "\x1b" not in line
    assert "\\x1b[31mred line" in line


def test_a_checkpoint_without_a_tokenizer_says_what_it_is_for(checkpoint_copy, tmp_path):
    (checkpoint_copy / "tokenizer.json").unlink()
    result = run("export", checkpoint_copy, "-o", tmp_path / "out")
    assert "takes token ids, through the Python API alone" in result.output


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_output_is_no_traceback(text_bundle):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "rdlite", "inspect", str(text_bundle)]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: cannot read or write: ")


def test_a_reader_that_leaves_is_no_traceback(text_bundle):
    command = [sys.executable, "-m", "rdlite", "generate", str(text_bundle), "hi"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ
    )
    process.stdout.close()
    error = process.stderr.read().decode()
    process.stderr.close()
    process.wait()
    assert "Traceback" not in error


def test_cli_py_in_the_checkout_is_rdlite():
    root = os.path.abspath(os.path.join(os.path.dirname(__file__), "../../.."))
    result = subprocess.run(
        [sys.executable, "cli.py", "--version"], cwd=root, capture_output=True, text=True
    )
    assert result.stdout.startswith("rdlite 0.")


def test_more_steps_than_the_model_was_made_for_are_refused_unless_forced(bundle_copy, sign):
    path = bundle_copy / "rdlite.json"
    manifest = json.loads(path.read_text())
    manifest["model"]["recurrence"]["max_steps"] = 4
    path.write_text(json.dumps(manifest))
    sign(bundle_copy)
    for steps, more, code, said in (
        (4, (), 0, ""),
        (5, (), 2, "error: 5 steps were asked for; the model was made for 4 at most"),
        (5, ("--force-steps",), 0, "note: the model was made for 4 steps at most"),
    ):
        command = ["generate", bundle_copy, "x", "--steps", str(steps), *more]
        result = subprocess.run(
            [sys.executable, "-m", "rdlite", *command], capture_output=True, text=True
        )
        assert result.returncode == code
        assert result.stderr.startswith(said)
        assert len(result.stderr.splitlines()) == bool(said)


def test_bench_measures_what_it_promises(text_bundle):
    options = ("--new-tokens", 4, "--prompt-tokens", 9, "--repeats", 2, "--steps", 3)
    report = json.loads(run("bench", text_bundle, *options, "--json").stdout)
    assert (report["prompt_tokens"], report["new_tokens"]) == (9, 4)
    assert (report["steps_per_token"], report["steps_per_prompt_token"]) == (3, 3)
    for name in ("tokens_per_second", "prompt_tokens_per_second", "time_to_first_token"):
        assert 0 < report[name]["least"] <= report[name]["median"] <= report[name]["most"]
    assert report["peak_resident_mib"] > 10
    assert report["read_bandwidth_gb_per_second"]["median"] > 0
    text = run("bench", text_bundle, *options, "--speculate", "2,1").stdout
    assert "tokens per second " in text
    refused = run("bench", text_bundle, "--new-tokens", 1)
    assert refused.exit_code == 2
    assert "2<=x<=1048576" in refused.stderr


def test_a_chat_model_answers_unless_raw(text_bundle, bundle_copy):
    assert run("generate", "What is 48 + 76?").output == "124"
    assert run("generate", "--chat", "What is 48 + 76?").output == "124"
    one = ("generate", text_bundle, "hello", "--max-tokens", 3, "--json")

    def prompt_tokens(*more):
        return json.loads(run(*one, *more).output.splitlines()[-1])["stats"]["prompt_tokens"]

    assert prompt_tokens() == prompt_tokens("--chat") > prompt_tokens("--raw") == 5
    update_bundle(open_bundle(bundle_copy), {}, {"chat_template.jinja": None})
    plain = run("generate", bundle_copy, *one[2:]).output.splitlines()
    assert json.loads(plain[-1])["stats"]["prompt_tokens"] == 5
    result = run("generate", bundle_copy, "hello", "--chat")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "has no chat template" in result.stderr


def test_hints_install_what_can_be_installed(monkeypatch, tmp_path):
    from rdlite.utils import install

    assert install_hint("hub", "plot") == f"pip install -e '{install.ROOT}[hub,plot]'"
    monkeypatch.setattr(install, "ROOT", tmp_path)  # as if it were in site-packages
    assert install_hint("hub") == "pip install 'huggingface_hub>=1.0'"
    assert install_hint("nothing") == "install rdlite again with its extras [nothing]"


def test_what_is_chosen_for_this_machine_is_said_in_a_line(text_bundle, monkeypatch):
    from rdlite.cli.shared import options
    from rdlite.utils import memory

    one = ("generate", text_bundle, "hi", "--max-tokens", 1)
    assert not run(*one).stderr
    monkeypatch.setattr(memory, "SMALL_BYTES", 0)
    weights = sum(file.stat().st_size for file in text_bundle.iterdir())
    token = 4 * 128 * (1 + 2 * 4 + 1)  # float32, keys and values of 64 numbers, by layer and slot
    monkeypatch.setattr(memory, "free_bytes", lambda: int(1.5 * weights) + 2 * token * 300)
    said = run(*one).stderr
    assert re.fullmatch(
        r"note: float32, 0.0\d+ GB, (299|300) tokens of context \(with 0.00\d+ GB of cache at 4 "
        r"steps\), \d+ threads?; the model's own context of 640 does not fit in free memory\n",
        said,
    )
    assert "300 tokens" not in run(*one, "--context", "20").stderr
    monkeypatch.setattr(memory, "free_bytes", lambda: weights)
    result = run(*one)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "for its weights and" in result.stderr
    assert "use fewer bits (--scheme int4) or a smaller model" in result.stderr
    monkeypatch.undo()
    monkeypatch.setattr(options, "SAID_BYTES", 0)
    assert "640 tokens of context (with" in run(*one).stderr


def test_a_long_chat_says_that_it_leaves_turns_out(short_nano):
    lines = "".join(f"What is {n} + {n}?\n" for n in range(20, 29))
    result = run("chat", short_nano, stdin=lines)
    assert result.stdout.split() == [str(2 * n) for n in range(20, 29)]
    said = "longer than the 128 tokens that this model was trained on"
    assert result.stderr.count(said) == 1
    kept = run("chat", short_nano, "--history", "all", stdin=lines + "/history 64\n/stats\n")
    assert said not in kept.stderr
    assert "left out where a conversation is longer than 64 tokens." in kept.stderr
    assert re.search(r"context \d\d\d of 64 tokens", kept.stderr)
    bad = run("chat", "--history", "5", stdin="")
    assert (bad.exit_code, bad.stderr.count("\n")) == (2, 1)
    assert "history must be a whole number from 16" in bad.stderr


def test_the_trained_length_goes_along(text_checkpoint, tmp_path):
    run("export", text_checkpoint, "-o", tmp_path / "a", "--trained-length", 100)
    run("quantize", tmp_path / "a", "-o", tmp_path / "b", "--scheme", "int8")
    run("gguf", "export", tmp_path / "b", "-o", tmp_path / "c.gguf")
    run("gguf", "import", tmp_path / "c.gguf", "-o", tmp_path / "d")
    for name in ("a", "b", "c.gguf", "d"):
        assert open_bundle(tmp_path / name).manifest.trained_length == 100
    result = run("export", text_checkpoint, "-o", tmp_path / "e", "--trained-length", 9999)
    assert "trained_length must be a whole number from 1 to 640, got 9999" in result.stderr
    assert open_bundle("nano").manifest.trained_length == 896


def test_exit_off_turns_the_tuned_default_off():
    question = ("generate", "nano", "x", "--max-tokens", 2, "--json")
    tuned, off = (
        json.loads(run(*question, *more).stdout.splitlines()[-1])["stats"]
        for more in ((), ("--exit", "off"))
    )
    assert off["mean_steps"] == 32
    assert tuned["mean_steps"] < 32
    assert (
        json.loads(run(*question, "--exit", "off", "--steps", 4).stdout.splitlines()[-1])["stats"][
            "mean_steps"
        ]
        == 4
    )
