"""A stream ends its job however it ends."""

import asyncio
import json

import pytest

from rdlite.serve.stream_queue import EventStream


@pytest.mark.parametrize("begins", [True, False])
def test_a_client_that_leaves_ends_the_job_also_before_the_first_token(begins):
    ended, sent, left = [], [], asyncio.Event()

    async def events():
        yield b"data: 1\n\n"
        left.set()
        await asyncio.Event().wait()  # no more tokens come

    async def receive():
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        if not begins:  # the client has left before anything could be said
            left.set()
            await asyncio.Event().wait()
        sent.append(message["type"])

    async def run():
        scope = {"type": "http", "asgi": {"spec_version": "2.3"}}
        stream = EventStream(events(), lambda: ended.append(True))
        await asyncio.wait_for(stream(scope, receive, send), 30)

    asyncio.run(run())
    assert ended == [True]
    assert sent == (["http.response.start", "http.response.body"] if begins else [])


def test_a_conversation_longer_than_the_training_is_cut_and_says_so(server):
    turns = [
        each
        for n in range(20, 61)
        for each in (
            {"role": "user", "content": f"What is {n} + {n}?"},
            {"role": "assistant", "content": str(2 * n)},
        )
    ]
    asked = {"model": "nano", "messages": [*turns, {"role": "user", "content": "What is 48 + 76?"}]}
    url = "/v1/chat/completions"
    (choice,) = json.loads(server.post(url, asked)[2])["choices"]
    assert choice["message"]["content"] == "124"
    assert choice["left_out_messages"] > 0
    kept = json.loads(server.post(url, asked | {"history": "all"})[2])
    assert "left_out_messages" not in kept["choices"][0]
    assert kept["usage"]["prompt_tokens"] > 896
    assert server.post(url, asked | {"history": "some"})[0] == 400
