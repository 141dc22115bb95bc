"""The official client against a real server: what its users do, and what they get wrong."""

import itertools
import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import openai
import pytest

from rdlite import Depth

QUESTION = {"role": "user", "content": "What is 48 + 76?"}
CHAIN = "a = 7, b = a + 5, c = b * 3, d = c - 4, e = d * 7; what is e mod 10?"


@pytest.fixture(scope="module")
def client(server):
    with server.client() as client:
        yield client


def chat(client, *messages, **options):
    return client.chat.completions.create(
        model="nano", messages=list(messages or [QUESTION]), **options
    )


def test_models_are_listed_and_found(client):
    (model,) = client.models.list()
    assert model.id == "nano"
    assert model.rdlite["context"] == 1024
    assert client.models.retrieve("nano").id == "nano"
    with pytest.raises(openai.NotFoundError, match="has the model nano, not 'gpt-9'"):
        client.models.retrieve("gpt-9")


def test_a_chat_is_answered_with_usage_and_steps(client, nano):
    answer = chat(client, seed=5)
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "124")
    assert choice.finish_reason == "stop"
    expected = [*nano.chat(seed=5).send(QUESTION["content"])]
    assert answer.usage.completion_tokens == len(expected) == len(choice.depth["steps"])
    assert answer.usage.prompt_tokens == len(nano.encode_chat([QUESTION]))
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + len(expected)
    assert answer.usage.core_steps == sum(choice.depth["steps"])
    assert answer.system_fingerprint.startswith("rdlite-")


def test_steps_and_text_are_those_of_the_runtime(client, nano):
    depth = {"max_steps": 24, "exit": "kl", "threshold": 0.001, "min_steps": 2}
    answer = chat(client, {"role": "user", "content": CHAIN}, seed=9, extra_body={"depth": depth})
    own = [*nano.chat(depth=Depth(**depth), seed=9).send(CHAIN)]
    (choice,) = answer.choices
    assert choice.message.content == "".join(token.text for token in own)
    assert choice.depth["steps"] == [token.steps for token in own]
    assert choice.depth["exit_values"] == pytest.approx([token.exit_value for token in own])


@pytest.mark.parametrize("depth", [{"max_steps": 3, "exit": "off"}, {"max_steps": 1}])
def test_depth_bounds_the_steps(client, depth):
    (choice,) = chat(client, extra_body={"depth": depth}).choices
    assert max(choice.depth["steps"]) <= depth["max_steps"]


def test_changes_tell_how_far_each_step_moved_the_state(client):
    (choice,) = chat(client, extra_body={"depth": {"changes": True}}).choices
    assert [len(changes) for changes in choice.depth["changes"]] == choice.depth["steps"]
    assert all(change > 0 for changes in choice.depth["changes"] for change in changes)


def test_the_parallel_sampler_is_a_field_of_depth(client):
    question = {"role": "user", "content": "What is 48 + 76?"}
    answer = chat(client, question, extra_body={"depth": {"sampler": "parallel"}})
    assert answer.choices[0].message.content == "124"
    with pytest.raises(openai.BadRequestError, match="no knob"):
        chat(client, question, extra_body={"depth": {"sampler": "parallel:speed=9"}})


def test_a_stream_brings_the_same_token_by_token(client):
    whole = chat(client, seed=3, extra_body={"depth": {"exit": "off", "max_steps": 8}})
    options = {"stream": True, "stream_options": {"include_usage": True}, "seed": 3}
    depth = {"depth": {"exit": "off", "max_steps": 8}}
    chunks = list(chat(client, **options, extra_body=depth))
    *tokens, finish, usage = chunks
    assert tokens[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content for chunk in tokens)
    assert text == whole.choices[0].message.content
    steps = [step for chunk in tokens for step in chunk.choices[0].depth["steps"]]
    assert steps == whole.choices[0].depth["steps"]
    assert finish.choices[0].finish_reason == "stop"
    assert not usage.choices
    assert usage.usage.completion_tokens == whole.usage.completion_tokens
    assert len({chunk.id for chunk in chunks}) == 1


def test_stop_strings_end_an_answer_and_are_no_part_of_it(client):
    (choice,) = chat(client, stop=["4"]).choices
    assert (choice.message.content, choice.finish_reason) == ("12", "stop")
    text = "".join(c.choices[0].delta.content or "" for c in chat(client, stop="4", stream=True))
    assert text == "12"


def test_max_tokens_cut_an_answer_off(client):
    for limit in ({"max_tokens": 1}, {"max_completion_tokens": 1}):
        (choice,) = chat(client, **limit).choices
        assert (choice.message.content, choice.finish_reason) == ("1", "length")


def test_logprobs_of_a_chat_are_the_models(client, nano):
    # at a fixed depth, what was read before changes nothing
    depth = {"depth": {"max_steps": 12, "exit": "off"}}
    answer = chat(client, logprobs=True, top_logprobs=3, seed=0, extra_body=depth)
    (choice,) = answer.choices
    assert "".join(entry.token for entry in choice.logprobs.content) == "124"
    own = [*nano.chat(depth=Depth(12), seed=0).send(QUESTION["content"])]
    for entry, token in zip(choice.logprobs.content, own, strict=False):
        assert entry.logprob == pytest.approx(token.logprob, abs=1e-3)
        assert bytes(entry.bytes).decode() == entry.token
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].token == entry.token
        logprobs = [other.logprob for other in entry.top_logprobs]
        assert logprobs == sorted(logprobs, reverse=True)
    streamed = [
        entry
        for chunk in chat(client, logprobs=True, stream=True)
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content
    ]
    assert "".join(entry.token for entry in streamed) == "124"
    assert streamed[0].top_logprobs == []


def test_a_text_is_completed(client, nano):
    answer = client.completions.create(model="nano", prompt="hello", max_tokens=5, seed=2)
    assert answer.choices[0].text == nano.generate("hello", 5, seed=2).text
    assert answer.choices[0].finish_reason == "length"
    ids = nano.tokenizer.encode("hello")
    again = client.completions.create(model="nano", prompt=ids, max_tokens=5, seed=2)
    assert again.choices[0].text == answer.choices[0].text
    pieces = client.completions.create(
        model="nano", prompt=["hello"], max_tokens=5, seed=2, stream=True
    )
    assert "".join(p.choices[0].text for p in pieces) == answer.choices[0].text


def test_logprobs_of_a_completion_have_offsets(client):
    answer = client.completions.create(model="nano", prompt="hello", max_tokens=5, logprobs=2)
    (choice,) = answer.choices
    logprobs = choice.logprobs
    assert "".join(logprobs.tokens) == choice.text
    for offset, token, top in zip(
        logprobs.text_offset, logprobs.tokens, logprobs.top_logprobs, strict=True
    ):
        assert choice.text[offset:].startswith(token)
        assert len(top) == 2
        assert token in top


def test_offsets_count_what_is_held_back_for_a_stop_string(client):
    options = {"model": "nano", "prompt": "hello", "max_tokens": 5, "seed": 1}
    text = client.completions.create(**options).choices[0].text
    options |= {"logprobs": 0, "stop": [text[:4] + "\n\n\n"]}  # held back to the end
    (choice,) = client.completions.create(**options).choices
    assert choice.text == text
    pieces = zip(choice.logprobs.text_offset, choice.logprobs.tokens, strict=True)
    assert all(text[offset:].startswith(token) for offset, token in pieces)
    chunks = list(client.completions.create(**options, stream=True))
    told = [c.choices[0].logprobs.text_offset for c in chunks if c.choices[0].logprobs]
    assert [*itertools.chain(*told)] == choice.logprobs.text_offset


def test_a_bias_moves_tokens(client, nano):
    (token,) = nano.tokenizer.encode("7", add_special_tokens=False)
    (choice,) = chat(client, logit_bias={str(token): 1000}, max_tokens=3).choices
    assert choice.message.content == "777"


def test_sampling_is_as_asked_and_the_same_seed_gives_the_same(client):
    def answer(**options):
        return client.completions.create(
            model="nano", prompt="hello", max_tokens=20, temperature=3, **options
        ).choices[0]

    assert answer(seed=1).text == answer(seed=1).text
    assert answer(seed=1).text != answer(seed=2).text
    assert answer().text != answer().text  # without a seed it is drawn anew
    assert answer(top_p=0.0001).text == answer(extra_body={"top_k": 1}).text


def test_what_was_read_serves_the_next_request(client):
    first = chat(client, QUESTION)
    messages = [QUESTION, {"role": "assistant", "content": "124"}, QUESTION]
    second = chat(client, *messages)
    reused = second.usage.prompt_tokens_details.cached_tokens
    assert first.usage.prompt_tokens <= reused < second.usage.prompt_tokens
    other_depth = chat(client, *messages, extra_body={"depth": {"max_steps": 7}})
    assert other_depth.usage.prompt_tokens_details.cached_tokens == 0


def test_an_answer_can_be_sent_back_as_it_came(client):
    said = chat(client).choices[0].message
    again = chat(client, QUESTION, said, QUESTION)
    assert again.choices[0].message.content == "124"
    nothing = {"name": None, "tool_calls": [], "function_call": None, "audio": None}
    message = {"role": "assistant", "content": "124", "annotations": []} | nothing
    assert chat(client, QUESTION, message, QUESTION).choices[0].message.content == "124"


def test_parts_of_text_and_developers_are_understood(client):
    parts = [{"type": "text", "text": "What is 48 "}, {"type": "text", "text": "+ 76?"}]
    answer = chat(client, {"role": "user", "content": parts})
    assert answer.choices[0].message.content == "124"
    said = chat(client, {"role": "developer", "content": "Be brief."}, QUESTION)
    assert said.usage.prompt_tokens > answer.usage.prompt_tokens


def test_two_clients_are_answered_at_once(server, endless):
    started, lines = threading.Barrier(2, timeout=60), []

    def run():
        with server.client() as client:
            stream = client.completions.create(**endless, stream=True)
            for count, _ in enumerate(stream):
                if count == 2:
                    started.wait()  # neither gets here if the other has to end first
                if count == 5:
                    break
            lines.append(count)
            stream.close()

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lines == [5, 5]
    server.until(busy=0)  # nothing that was left here slows or misleads the next test


CLIENT = """
import json, sys, openai
client = openai.OpenAI(base_url=sys.argv[1], api_key="none")
options = json.loads(sys.argv[2])
for chunk in client.completions.create(**options, stream=True):
    print("token", flush=True)
"""


def test_a_client_that_is_killed_mid_stream_frees_its_slot(start, endless):
    with start("--slots", 1, "--queue", 0) as server:
        options = json.dumps(endless)
        process = subprocess.Popen(
            [sys.executable, "-c", CLIENT, server.url + "/v1", options], stdout=subprocess.PIPE
        )
        assert process.stdout.readline() == b"token\n"
        with server.client() as client:
            with pytest.raises(openai.RateLimitError, match="waiting already") as refused:
                chat(client)
            assert int(refused.value.response.headers["retry-after"]) >= 1
            assert server.health()["busy"] == 1
            process.kill()
            process.communicate()
            server.until(busy=0)
            assert chat(client).choices[0].message.content == "124"
        assert 'rdlite_answers_total{reason="cancelled"} 1.0' in server.get("/metrics")[2]


def give_up(server, client, endless, **numbers):
    """Ask, and leave after a time in which the server was seen to have the request."""
    for patience in (0.5, 2, 8, 30):
        taken, left = threading.Event(), threading.Event()

        def watch(taken=taken, left=left):
            while not taken.is_set() and not left.is_set():
                if numbers.items() <= server.health().items():
                    taken.set()

        watcher = threading.Thread(target=watch)
        watcher.start()
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=patience).completions.create(**endless)
        left.set()
        watcher.join()
        if taken.is_set():
            return
    raise AssertionError(f"the server never came to {numbers}")


def test_clients_that_leave_without_a_stream_or_in_the_line_free_their_places(start, endless):
    with start("--slots", 1, "--queue", 1) as server, server.client() as client:
        stream = client.completions.create(**endless, stream=True)
        next(iter(stream))
        give_up(server, client, endless, waiting=1)  # waits in the line, and leaves it
        server.until(waiting=0)
        stream.close()
        server.until(busy=0)
        give_up(server, client, endless, busy=1)  # is being answered
        server.until(busy=0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n": 9}, "'n': "),
        ({"frequency_penalty": 2.5}, "'frequency_penalty': "),
        ({"tools": [{"type": "function"}]}, "this model's chat template has no tools"),
        ({"response_format": {"type": "yaml"}}, "'response_format.type': "),
        ({"user": "u" * 1025}, "'user': "),
        ({"extra_body": {"prompt_cache_key": 3}}, "'prompt_cache_key': "),
        ({"extra_body": {"chat_template_kwargs": {"messages": []}}}, "'messages' cannot be set"),
        ({"extra_body": {"chat_template_kwargs": {"a": "x" * 70000}}}, "at most 65536 are read"),
        ({"extra_body": {"add_generation_prompt": False}}, "'add_generation_prompt': is not"),
        ({"extra_body": {"continue_final_message": True}}, "'continue_final_message': is not"),
        ({"extra_body": {"depht": {}}}, "'depht' is an unknown or unsupported parameter"),
        ({"extra_body": {"depth": {"steps": 3}}}, "'depth.steps' is an unknown"),
        ({"extra_body": {"depth": {"max_steps": 0}}}, "'depth.max_steps': "),
        ({"extra_body": {"depth": {"exit": "sometimes"}}}, "exit must be one of latent-diff"),
        ({"extra_body": {"depth": {"min_steps": 9, "max_steps": 4}}}, "min_steps must be"),
        ({"temperature": 101}, "'temperature': "),
        ({"temperature": "hot"}, "'temperature': "),
        ({"max_tokens": True}, "'max_tokens': "),
        ({"max_tokens": 0}, "'max_tokens': "),
        ({"max_tokens": 4, "max_completion_tokens": 5}, "differ"),
        ({"top_logprobs": 3}, "top_logprobs needs logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "'top_logprobs': "),
        ({"stream_options": {"include_usage": True}}, "stream_options needs stream"),
        ({"stop": [""]}, "'stop': "),
        ({"stop": ["x"] * 17}, "'stop': "),
        ({"logit_bias": {"a": 1}}, "'logit_bias': has the key 'a'"),
        ({"logit_bias": {"4194303": 1}}, "logit_bias names token 4194303"),
        ({"seed": 2**64}, "'seed': "),
        ({"model": "gpt-9"}, "has the model nano, not 'gpt-9'"),
        ({"messages": []}, "'messages': "),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "'messages.0.role': "),
        ({"messages": [{"role": "user", "content": None}]}, "'messages.0.content' is missing"),
        ({"messages": [{"role": "user"}]}, "'messages.0.content' is missing"),
        ({"messages": [QUESTION | {"name": 3}]}, "'messages.0.name': "),
        ({"messages": [QUESTION | {"prefix": True}]}, "has the key 'prefix', which is not"),
        ({"messages": [QUESTION | {"images": ["x"]}]}, "has the key 'images', which is not"),
        ({"messages": [QUESTION | {"id": "x" * 70000}]}, "has more than 65536 characters in keys"),
        ({"messages": [QUESTION | {f"k{i}": 1 for i in range(300)}]}, "has 302 keys, at most 256"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
            "has a part of the type 'image_url'; only text is read",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "without a text"),
        ({"messages": [QUESTION] * 2049}, "'messages': "),
    ],
)
def test_errors_name_the_parameter(client, options, said):
    with pytest.raises(openai.APIStatusError) as refused:
        client.chat.completions.create(**{"model": "nano", "messages": [QUESTION]} | options)
    assert refused.value.status_code == (404 if options.get("model") else 400)
    assert said in refused.value.body["message"]
    assert "\n" not in refused.value.body["message"]


def test_a_prompt_that_does_not_fit_says_both_numbers(client):
    with pytest.raises(openai.BadRequestError, match=r"has \d+ tokens, the context is 1024") as no:
        chat(client, {"role": "user", "content": "1 + " * 2000})
    assert no.value.code == "context_length_exceeded"


def test_values_without_effect_are_accepted(client):
    answer = chat(
        client,
        n=1,
        presence_penalty=0,
        frequency_penalty=0.0,
        response_format={"type": "text"},
        store=False,
        tool_choice="none",
        extra_body={"user": None, "functions": [], "metadata": None, "service_tier": "auto"},
    )
    assert answer.choices[0].message.content == "124"


def test_an_api_key_is_asked_for(start):
    with start(RDLITE_API_KEY="correct horse") as server:
        with server.client(api_key="correct horse") as client:
            assert chat(client).choices[0].message.content == "124"
        wrong = server.client(api_key="battery staple")
        with wrong, pytest.raises(openai.AuthenticationError, match="key is wrong"):
            chat(wrong)
        assert server.get("/v1/models")[0] == 401
        assert server.get("/metrics")[0] == 401
        assert server.get("/health")[0] == 200
        assert server.get("/")[0] == 200


def test_the_program_in_the_docs_runs(server, capsys):
    page = (Path(__file__).parents[3] / "docs" / "server.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    program = code.replace("http://127.0.0.1:8080", server.url)
    assert program != code
    scope = {}
    exec(program, scope)
    scope["client"].close()
    assert capsys.readouterr().out.startswith("124 [")
