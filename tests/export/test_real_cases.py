"""Checkpoints cut down from public reports and published files; each names where it is from."""

import json

import pytest
from checkpoints import make_checkpoint
from rdlite.export import export_checkpoint

import rdlite
from rdlite import CheckpointError, Sampling

ENDS = ("<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
#: Leaves out of the history what was thought, as Qwen3's and Ouro's do.
THINKING = (
    "{%- for m in messages %}{%- set said = m.content %}"
    "{%- if m.role == 'assistant' and '</think>' in said %}"
    "{%- set said = said.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{{- '<|im_start|>' + m.role + '\n' + said + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
OURO = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")


def stops_of(tmp_path, base="raven-llama-tiny", **changes):
    checkpoint = make_checkpoint(tmp_path / "in", base, **changes)
    out = export_checkpoint(checkpoint, tmp_path / "out")
    return json.loads((out / "generation_config.json").read_text())


@pytest.mark.parametrize(
    ("special", "config", "generation", "tokenizer", "stops"),
    [
        # hiyouga/LlamaFactory#7454, Blaizzy/mlx-vlm#2112: the tokenizer's own eos is the turn's end
        (
            ENDS,
            {"eos_token_id": 257},
            {"eos_token_id": 257},
            {"eos_token": "<|im_end|>", "chat_template": CHATML},
            {257, 260},
        ),
        # LoopedLMs/retrofitting-recurrence: ids of another vocabulary, outside of this one
        (
            ENDS[:3],
            {"eos_token_id": 65505},
            {"eos_token_id": 65505, "_from_model_config": True},
            {"eos_token": "</s>"},
            {257},
        ),
        # the same, inside: an ordinary token
        (
            ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"),
            {"eos_token_id": 101},
            {"eos_token_id": 101, "_from_model_config": True},
            {"eos_token": {"content": "<|end_of_text|>", "special": True}},
            {257, 258},
        ),
        # huggingface/transformers#7275: eos is 0, which is '!'
        (ENDS, {"eos_token_id": 0}, {}, {"eos_token": "</s>"}, {257}),
        # InfiniTensor/InfiniLM#387 (2026-05): two files, two answers
        (ENDS, {"eos_token_id": 257}, {"eos_token_id": [257, 260]}, {}, {257, 260}),
        # QwenLM/Qwen3#927: config.json has the text's end, the tokenizer the turn's
        (ENDS, {"eos_token_id": 257}, {}, {"eos_token": "<|im_end|>"}, {257, 260}),
        # Gemma's turn ends with a token that no file but the template names
        (
            ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
            {"eos_token_id": 257},
            {},
            {
                "eos_token": "<eos>",
                "chat_template": "{% for m in messages %}{{ '<start_of_turn>' + m.role + '\n' + "
                "m.content + '<end_of_turn>\n' }}{% endfor %}",
            },
            {257, 259},
        ),
    ],
)
def test_where_answers_end(tmp_path, special, config, generation, tokenizer, stops):
    files = {"generation_config.json": generation, "tokenizer_config.json": tokenizer}
    said = stops_of(tmp_path, config=config, special=special, files=files)
    assert set(said["stop_ids"]) == stops
    assert {str(id) for id in stops} == said["stop_sources"].keys()


@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    """Ouro as kaist-flexml-lab/loopspec and vllm-project/vllm#38858 have it: special marks."""
    folder = tmp_path_factory.mktemp("thinker")
    checkpoint = make_checkpoint(
        folder / "in",
        "ouro-tiny",
        config={"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0},
        special=OURO,
        first=True,
        files={
            "tokenizer_config.json": {
                "eos_token": "<|endoftext|>",
                "additional_special_tokens": ["<think>", "</think>"],
                "chat_template": THINKING,
            }
        },
    )
    with rdlite.load(export_checkpoint(checkpoint, folder / "out")) as model:
        yield model


@pytest.mark.parametrize("mark", ["<think>", "</think>"])
def test_marks_of_thinking_are_shown_and_can_be_stop_texts(thinker, mark):
    id = thinker.tokenizer.token_id(mark)
    assert set(thinker.generation_config.stop_ids) == {0, 2}
    sampling = Sampling(logit_bias={id: 1000.0})
    answer = thinker.generate("a", max_tokens=2, sampling=sampling)
    assert "".join(token.text for token in answer) == 2 * mark
    answer = thinker.generate("a", max_tokens=4, sampling=sampling, stop=mark)
    assert [token.id for token in answer] == [id]
    assert answer.stats.finish == "stop-string"


def test_thinking_is_left_out_of_the_history_where_the_template_says_so(thinker):
    text = thinker.tokenizer.decode(thinker.encode("<think>hm</think>\nyes"))
    messages = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": text},
        {"role": "user", "content": "and?"},
    ]
    assert text == "<think>hm</think>\nyes"
    assert thinker.chat_template.render(messages).count("<|im_start|>assistant\nyes<|im_end|>") == 1


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("pair", [("<think>", "</think>"), ("[THINK]", "[/THINK]")])
def test_marks_are_one_token_and_text_whether_special_or_not(tmp_path, special, pair):
    # kekzl/imp#719, ohdearquant/lattice#733, LostRuins/koboldcpp#1745 (2026)
    named = {"special": (*ENDS, *pair)} if special else {"special": ENDS, "added": pair}
    checkpoint = make_checkpoint(
        tmp_path / "in", "ouro-tiny", config={"eos_token_id": 257}, **named
    )
    with rdlite.load(export_checkpoint(checkpoint, tmp_path / "out")) as model:
        ids = model.encode(f"{pair[0]}a{pair[1]}</s>")
        assert len(ids) == 4
        assert model.tokenizer.decode(ids) == f"{pair[0]}a{pair[1]}"
        assert model.generation_config.stop_ids == (257, 260)


def test_a_template_with_the_date_and_one_with_a_macro(tmp_path):
    # theroyallab/tabbyAPI#281; huggingface/trl's templates for Qwen3.5, GLM-4, gpt-oss, LFM2.5
    source = (
        "{%- macro turn(m) -%}{{ m['role'] + ': ' + m['content'] }}{%- endmacro -%}"
        "{{ strftime_now('%Y')|length }} {% for m in messages %}{{ turn(m) }}{% endfor %}"
    )
    checkpoint = make_checkpoint(
        tmp_path / "in", "raven-llama-tiny", special=ENDS, files={"chat_template.jinja": source}
    )
    with rdlite.load(export_checkpoint(checkpoint, tmp_path / "out")) as model:
        assert model.chat_template.render([{"role": "user", "content": "Hi"}]) == "4 user: Hi"


def test_a_template_that_is_not_read_says_how_to_export_without(tmp_path):
    checkpoint = make_checkpoint(
        tmp_path / "in", "raven-llama-tiny", files={"chat_template.jinja": "{% include 'x' %}"}
    )
    with pytest.raises(CheckpointError, match=r"line 1: {% include %} is not read; take it out"):
        export_checkpoint(checkpoint, tmp_path / "out")


def test_a_stale_index_beside_a_whole_file_is_not_asked(tmp_path):
    # Neph0s/CoSER#3, Blaizzy/mlx-vlm#1827
    gone = {"lm_head.weight": "model-00002-of-00002.safetensors"}
    index = {"metadata": {"total_size": 1}, "weight_map": gone}
    checkpoint = make_checkpoint(
        tmp_path / "in", "raven-llama-tiny", files={"model.safetensors.index.json": index}
    )
    assert export_checkpoint(checkpoint, tmp_path / "out")


def test_a_pointer_of_git_lfs_and_an_adapter_are_named(tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    checkpoint = make_checkpoint(
        tmp_path / "in", "raven-llama-tiny", files={"model.safetensors": pointer}
    )
    with pytest.raises(CheckpointError, match="is a pointer of Git LFS"):
        export_checkpoint(checkpoint, tmp_path / "out")
    (checkpoint / "model.safetensors").rename(checkpoint / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="holds an adapter"):
        export_checkpoint(checkpoint, tmp_path / "out")
