"""Tokens as OpenAI's API tells them: whole answers, chunks of a stream, errors.

What depth adds stands in an object `depth` beside each choice: the core steps of each token, what
the exit rule said last, and where it was asked for, how far each step moved the state.
"""

import json
import math
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rdlite.decode.results import Stats, Token
from rdlite.serve.splitter import AnswerPiece, AnswerSplitter, CallPart
from rdlite.tokenizer.stream import TextStream
from rdlite.tokenizer.tokenizer import REPLACEMENT, Tokenizer

FINISH = {"stop": "stop", "stop-string": "stop", "length": "length", "context": "length"}
LEAST_LOGPROB = -9999.0  # what OpenAI's API tells of the impossible, which JSON cannot
Json = dict[str, Any]


def dumps(value: object) -> bytes:
    """Return JSON in ASCII: text of models and clients may be anything."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def error(message: str, kind: str, param: str | None = None, code: str | None = None) -> Json:
    """Return an error as OpenAI's clients read it."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


@dataclass(slots=True)
class Answer:
    """One answer, of which every chunk tells the same id.

    Attributes:
        chat: whether it answers a chat, or completes a text.
        splitter: takes a chat's answer apart: what it thinks, what it says, what it calls.
        model: its name.
        fingerprint: tells this model's files from others.
        tokenizer: for how tokens are written; None where the model has none.
        stop_ids: tokens that end an answer and are no part of its text.
        top: alternatives to tell of each token; None: tell no log-probabilities at all.
        changes: whether they are told.
        index: of the choice that it is.
        left_out: messages that were not read, because the model was trained on shorter texts.
    """

    chat: bool
    model: str
    fingerprint: str
    tokenizer: Tokenizer | None
    stop_ids: frozenset[int]
    top: int | None
    changes: bool
    splitter: AnswerSplitter = field(default_factory=AnswerSplitter)
    index: int = 0
    left_out: int = 0
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))
    _offset: int = 0  # of the text so far, in characters
    _stream: TextStream | None = None  # the text again, nothing held back for stop strings

    def chunk(
        self, tokens: Sequence[Token], finish: str | None = None, opens: bool = False
    ) -> Json:
        """Return a part of a stream: the first brings the role, the last why it ended."""
        piece = self._split(tokens, ended=finish is not None)
        said: Json
        if self.chat:
            said = {"delta": ({"role": "assistant"} if opens else {})}
            if piece.reasoning:
                said["delta"]["reasoning_content"] = piece.reasoning
            if piece.calls:
                said["delta"]["tool_calls"] = [_call(call, streamed=True) for call in piece.calls]
            silent = not piece.reasoning and not self.splitter.may_call
            if piece.content or (silent and (tokens or opens)):
                said["delta"]["content"] = piece.content
        else:
            said = {"text": piece.content}
        return self._frame(".chunk") | {"choices": [self._choice(said, tokens, finish)]}

    def whole(self, tokens: Sequence[Token], stats: Stats) -> Json:
        """Return the answer in one piece."""
        piece = self._split(tokens, ended=True)
        message: Json = {"role": "assistant", "content": piece.content, "refusal": None}
        if piece.reasoning:
            message["reasoning_content"] = piece.reasoning
        if piece.calls:
            message["content"] = piece.content or None
            message["tool_calls"] = [_call(call, streamed=False) for call in piece.calls]
        said: Json = {"message": message} if self.chat else {"text": piece.content}
        choice = self._choice(said, tokens, FINISH.get(stats.finish))
        return self._frame("") | {"choices": [choice], "usage": usage(stats)}

    def _split(self, tokens: Sequence[Token], ended: bool) -> AnswerPiece:
        """Return what tokens think, say and call; at the end also what was held back."""
        return self.splitter.push("".join(token.text for token in tokens), ended)

    def usage_chunk(self, stats: Sequence[Stats]) -> Json:
        """Return what a stream ends with, where that was asked for."""
        return self._frame(".chunk") | {"choices": [], "usage": usage_of(stats)}

    def _frame(self, suffix: str) -> Json:
        return {
            "id": f"{'chatcmpl' if self.chat else 'cmpl'}-{self.id}",
            "object": f"chat.completion{suffix}" if self.chat else "text_completion",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }

    def _choice(self, said: Json, tokens: Sequence[Token], finish: str | None) -> Json:
        if finish == "stop" and self.splitter.called:
            finish = "tool_calls"
        choice: Json = {"index": self.index, **said, "logprobs": None, "finish_reason": finish}
        if self.left_out and finish is not None:
            choice["left_out_messages"] = self.left_out
        said_tokens = [token for token in tokens if token.id not in self.stop_ids]
        if self.top is not None and said_tokens:
            logprobs = self._chat_logprobs if self.chat else self._text_logprobs
            choice["logprobs"] = logprobs(said_tokens)
        if tokens:
            choice["depth"] = self.depth_of(tokens)
        return choice

    def depth_of(self, tokens: Sequence[Token]) -> Json:
        """Return what depth adds to the tokens of an answer, in order."""
        depth: Json = {
            "steps": [token.steps for token in tokens],
            "exit_values": [token.exit_value for token in tokens],
        }
        if self.changes:
            depth["changes"] = [
                [change if math.isfinite(change) else None for change in token.changes or ()]
                for token in tokens
            ]
        return depth

    def _chat_logprobs(self, tokens: Sequence[Token]) -> Json:
        return {
            "content": [
                self._written(token.id, token.logprob)
                | {"top_logprobs": [self._written(*pair) for pair in token.alternatives]}
                for token in tokens
            ],
            "refusal": None,
        }

    def _written(self, token: int, logprob: float) -> Json:
        text = self._name(token)
        encoded = None if self._nameless(token) else list(text.encode())
        return {"token": text, "logprob": _bounded(logprob), "bytes": encoded}

    def _text_logprobs(self, tokens: Sequence[Token]) -> Json:
        offsets = []
        if self._stream is None and self.tokenizer is not None:
            self._stream = TextStream(self.tokenizer)
        for token in tokens:
            offsets.append(self._offset)
            if self._stream is not None:
                self._offset += len(self._stream.push(token.id))
        return {
            "tokens": [self._name(token.id) for token in tokens],
            "token_logprobs": [_bounded(token.logprob) for token in tokens],
            "top_logprobs": [
                {self._name(id): _bounded(logprob) for id, logprob in token.alternatives}
                for token in tokens
            ]
            if self.top
            else None,
            "text_offset": offsets,
        }

    def _name(self, token: int) -> str:
        return f"#{token}" if self.tokenizer is None else self.tokenizer.written(token)

    def _nameless(self, token: int) -> bool:
        """Whether a token has no text of its own: it is special, or a part of a character."""
        if self.tokenizer is None:
            return True
        text = self.tokenizer.decode([token])
        return not text or REPLACEMENT in text


def _call(call: CallPart, streamed: bool) -> Json:
    """Return a part of a call, or a whole one."""
    told: Json = {"function": {"arguments": call.arguments}}
    if call.name is not None:
        told["function"] = {"name": call.name} | told["function"]
        told = {"id": call.id, "type": "function"} | told
    return {"index": call.index} | told if streamed else told


def _bounded(logprob: float) -> float:
    return max(logprob, LEAST_LOGPROB) if math.isfinite(logprob) else LEAST_LOGPROB


def usage(stats: Stats) -> Json:
    """Return what an answer took, in tokens; and in core steps."""
    return {
        "prompt_tokens": stats.prompt_tokens,
        "completion_tokens": stats.new_tokens,
        "total_tokens": stats.prompt_tokens + stats.new_tokens,
        "prompt_tokens_details": {"cached_tokens": stats.reused_tokens},
        "core_steps": stats.core_steps,
        "mean_steps": stats.mean_steps,
    }


def joined(answers: Sequence[Json], stats: Sequence[Stats]) -> Json:
    """Return the choices of one request, each made by `Answer.whole`, as one answer."""
    choices = [choice for answer in answers for choice in answer["choices"]]
    return answers[0] | {"choices": choices, "usage": usage_of(stats)}


def usage_of(stats: Sequence[Stats]) -> Json:
    """Return what the choices of one request took; its prompt counts once."""
    if len(stats) == 1:
        return usage(stats[0])
    total = usage(stats[0])
    new, steps = sum(s.new_tokens for s in stats), sum(s.core_steps for s in stats)
    total["completion_tokens"], total["core_steps"] = new, steps
    total["total_tokens"] = total["prompt_tokens"] + new
    total["mean_steps"] = steps / new if new else 0.0
    return total
