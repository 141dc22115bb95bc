"""An answer as the items of a response, and as the events of its stream."""

import time
import uuid
from typing import Any

from rdlite.decode.results import Stats, Token
from rdlite.serve.requests.items import ResponsesRequest
from rdlite.serve.responses import Answer
from rdlite.serve.splitter import AnswerPiece, CallPart

Json = dict[str, Any]
#: By the kind of an item: what its id begins with, and the events of its text.
IDS = {"reasoning": "rs", "message": "msg", "function_call": "fc"}
TEXTS = {"reasoning": "response.reasoning_text", "message": "response.output_text"}


class Composer:
    """Puts one response together."""

    def __init__(self, body: ResponsesRequest, answer: Answer, temperature: float) -> None:
        """Begin a response.

        Args:
            body: what was asked for.
            answer: takes the text apart, and tells of depth.
            temperature: at which it is drawn.
        """
        self.id = f"resp_{uuid.uuid4().hex}"
        self._body, self._answer = body, answer
        self._temperature = temperature
        self._created = int(time.time())
        self._items: list[Json] = []
        self._open = False  # whether the last item may go on
        self._number = 0
        self._tokens: list[Token] = []
        self._thought = 0  # tokens of thinking

    def begin(self) -> list[Json]:
        """Return the events that a stream begins with."""
        told = self.response("in_progress")
        names = ("response.created", "response.in_progress")
        return [self._event(name, response=told) for name in names]

    def push(self, token: Token) -> list[Json]:
        """Take a token; returns the events of what is clear of it."""
        self._tokens.append(token)
        thinking = self._answer.splitter.thinking
        events = self._add(self._answer.splitter.push(token.text, ended=False))
        self._thought += thinking or self._answer.splitter.thinking
        return events

    def finish(self, stats: Stats) -> list[Json]:
        """Return the last events; the last of all has the whole response."""
        events = self._add(self._answer.splitter.push("", ended=True))
        if all(item["type"] == "reasoning" for item in self._items):
            events += self._begin_item("message")  # clients look for what was said
        events += self._end_item("incomplete" if _cut(stats) else "completed")
        status = "incomplete" if _cut(stats) else "completed"
        told = self.response(status, stats)
        return [*events, self._event(f"response.{status}", response=told)]

    def fail(self, message: str) -> Json:
        """Return the event that ends a stream where something went wrong."""
        told = self.response("failed") | {"error": {"code": "server_error", "message": message}}
        return self._event("response.failed", response=told)

    def response(self, status: str, stats: Stats | None = None) -> Json:
        """Return the response as it is."""
        body = self._body
        shape = body.text and body.text.format
        choice = body.tool_choice or "auto"
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"}
            if status == "incomplete"
            else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "model": self._answer.model,
            "output": [dict(item) for item in self._items],
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id,
            "reasoning": {"effort": body.reasoning and body.reasoning.effort, "summary": None},
            "store": body.store is not False,
            "temperature": self._temperature,
            "text": {
                "format": shape.model_dump(by_alias=True, exclude_none=True)
                if shape
                else {"type": "text"}
            },
            "tool_choice": choice if isinstance(choice, str) else choice.model_dump(),
            "tools": body.tools or [],
            "top_p": body.top_p or 1.0,
            "truncation": "disabled",
            "usage": None if stats is None else self._usage(stats),
            "metadata": body.metadata or {},
            "depth": self._answer.depth_of(self._tokens),
        }

    def message(self) -> Json:
        """Return what was answered as the message of a chat, for what follows it."""
        message: Json = {"role": "assistant", "content": ""}
        for item in self._items:
            if item["type"] == "message":
                message["content"] += item["content"][0]["text"]
            elif item["type"] == "reasoning":
                thought = message.get("reasoning_content", "")
                message["reasoning_content"] = thought + item["content"][0]["text"]
            else:
                function = {"name": item["name"], "arguments": item["arguments"]}
                call = {"id": item["call_id"], "type": "function", "function": function}
                message.setdefault("tool_calls", []).append(call)
        return message

    def _add(self, piece: AnswerPiece) -> list[Json]:
        events = self._say("reasoning", piece.reasoning) + self._say("message", piece.content)
        for call in piece.calls:
            events += self._call(call)
        return events

    def _say(self, kind: str, text: str) -> list[Json]:
        if not text:
            return []
        events = [] if self._open and self._items[-1]["type"] == kind else self._begin_item(kind)
        self._items[-1]["content"][0]["text"] += text
        extra: Json = {"logprobs": []} if kind == "message" else {}
        delta = self._event(f"{TEXTS[kind]}.delta", **self._place(0), delta=text, **extra)
        return [*events, delta]

    def _call(self, call: CallPart) -> list[Json]:
        events = []
        if call.name is not None:
            made = {"call_id": call.id, "name": call.name, "arguments": ""}
            events = self._begin_item("function_call", made)
        if call.arguments:
            self._items[-1]["arguments"] += call.arguments
            name = "response.function_call_arguments.delta"
            events.append(self._event(name, **self._place(), delta=call.arguments))
        return events

    def _begin_item(self, kind: str, more: Json | None = None) -> list[Json]:
        events = self._end_item("completed")
        item: Json = {
            "id": f"{IDS[kind]}_{uuid.uuid4().hex}",
            "type": kind,
            "status": "in_progress",
        }
        item |= {"role": "assistant"} if kind == "message" else {}
        item |= {"summary": []} if kind == "reasoning" else {}
        self._items.append(item | (more or {"content": []}))
        self._open = True
        added = dict(self._items[-1])
        events.append(self._event("response.output_item.added", **self._index(), item=added))
        if kind in TEXTS:
            part: Json = {"type": TEXTS[kind].removeprefix("response."), "text": ""}
            part |= {"annotations": [], "logprobs": []} if kind == "message" else {}
            self._items[-1]["content"] = [part]
            name = "response.content_part.added"
            events.append(self._event(name, **self._place(0), part=dict(part)))
        return events

    def _end_item(self, status: str) -> list[Json]:
        if not self._open:
            return []
        item, self._open = self._items[-1], False
        item["status"] = status
        if item["type"] == "function_call":
            name = "response.function_call_arguments.done"
            said = {"name": item["name"], "arguments": item["arguments"]}
            events = [self._event(name, **self._place(), **said)]
        else:
            (part,) = item["content"]
            extra: Json = {"logprobs": []} if item["type"] == "message" else {}
            done = f"{TEXTS[item['type']]}.done"
            events = [
                self._event(done, **self._place(0), text=part["text"], **extra),
                self._event("response.content_part.done", **self._place(0), part=dict(part)),
            ]
        told = dict(item)
        return [*events, self._event("response.output_item.done", **self._index(), item=told)]

    def _index(self) -> Json:
        return {"output_index": len(self._items) - 1}

    def _place(self, content: int | None = None) -> Json:
        place = {"item_id": self._items[-1]["id"], **self._index()}
        return place if content is None else place | {"content_index": content}

    def _event(self, type: str, **said: Any) -> Json:
        self._number += 1
        return {"type": type, "sequence_number": self._number - 1, **said}

    def _usage(self, stats: Stats) -> Json:
        return {
            "input_tokens": stats.prompt_tokens,
            "input_tokens_details": {
                "cached_tokens": stats.reused_tokens,
                "cache_write_tokens": 0,
            },
            "output_tokens": stats.new_tokens,
            "output_tokens_details": {"reasoning_tokens": self._thought},
            "total_tokens": stats.prompt_tokens + stats.new_tokens,
            "core_steps": stats.core_steps,
            "mean_steps": stats.mean_steps,
        }


def _cut(stats: Stats) -> bool:
    return stats.finish in ("length", "context")
