"""From a row to a request: its id, its prompt, and what it says of its answer."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from rdlite.api.loaded import CHARACTERS_PER_TOKEN
from rdlite.api.model import Model
from rdlite.batch.options import Options
from rdlite.config.depth import Depth, changed_depth
from rdlite.config.sampling import Sampling
from rdlite.errors import ContextError, InputError
from rdlite.tokenizer.chat_template import check_variables

Id = str | int
CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
LINE_KEYS = ("custom_id", "method", "url", "body")
IDS = ("custom_id", "id")
SAMPLING = tuple(field.name for field in dataclasses.fields(Sampling))
DEPTH = tuple(field.name for field in dataclasses.fields(Depth))
#: What a row may say of its answer.
OPTIONS = (
    *SAMPLING,
    *("max_tokens", "max_completion_tokens", "min_tokens", "seed", "stop", "depth"),
    "chat_template_kwargs",
)
#: What OpenAI's clients send and what has no effect, with this value or with any (...).
NEUTRAL: Mapping[str, Any] = {
    "n": 1,
    "stream": False,
    "logprobs": False,
    "user": ...,
    "metadata": ...,
    "store": ...,
    "service_tier": ...,
}
ROLES = ("system", "developer", "user", "assistant")
MAX_ID = 1000


def id_of(row: object) -> Id | None:
    """Return the id that a row gives itself, or None; raises InputError for one of no use."""
    if not isinstance(row, Mapping):
        return None
    for key in IDS:
        given = row.get(key)
        if given is None:
            continue
        if isinstance(given, str) and len(given) <= MAX_ID and _is_unicode(given):
            return given
        if type(given) is int and -(2**63) <= given < 2**63:
            return given
        raise InputError(
            f"{key} must be a text of up to {MAX_ID} characters or a whole number of 64 bits, "
            f"got {given!r:.60}"
        )
    return None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half a character, which JSON can write
        return False
    return True


def request_of(row: object, identity: Id | None, model: Model, options: Options) -> dict[str, Any]:
    """Return what a row asks of a model, as a prompt of `Model.generate_many`.

    Args:
        row: an OpenAI batch line, or an object with a prompt or messages and options beside it.
        identity: what the draws of this row are told apart by; None: its prompt.
        model: which will answer.
        options: for what the row does not say.

    Raises:
        InputError: it asks nothing that can be answered (ContextError: it does not fit).
    """
    if not isinstance(row, Mapping):
        raise InputError(f"a row must be an object, got {type(row).__name__}")
    if "body" in row or "url" in row:
        body, chat, column = _body(row), False, "prompt"
    else:
        body = {k: item for k, item in row.items() if k not in IDS and k not in options.ignore}
        chat = model.can_chat if options.chat is None else options.chat
        column = options.column
    body = {key: item for key, item in body.items() if item is not None}
    given = {key: item for key, item in body.items() if key not in (column, "messages")}
    _check_known(given, model)
    prompt = _prompt(body, chat, column, model, options)
    return {"prompt": prompt, **_options(given, identity, prompt, model, options)}


def _body(row: Mapping[str, Any]) -> Mapping[str, Any]:
    for key in row:
        if key not in LINE_KEYS:
            raise InputError(
                f"a batch line has the keys {', '.join(LINE_KEYS)}, not {key!r:.60}: leave it out"
            )
    body, url = row.get("body"), row.get("url", CHAT)
    if row.get("method", "POST") != "POST":
        raise InputError(f"method must be POST, got {row['method']!r:.40}")
    if url not in (CHAT, COMPLETION):
        raise InputError(f"url must be {CHAT} or {COMPLETION}, got {url!r:.60}")
    if not isinstance(body, Mapping):
        raise InputError(f"body must be an object, got {type(body).__name__}")
    wanted, other = ("messages", "prompt") if url == CHAT else ("prompt", "messages")
    if other in body or wanted not in body:
        raise InputError(f"the body of {url} needs {wanted!r}, and not {other!r}")
    return body


def _prompt(
    body: Mapping[str, Any], chat: bool, column: str, model: Model, options: Options
) -> list[int]:
    """Return the token ids of a prompt."""
    prompt, messages = body.get(column), body.get("messages")
    if (prompt is None) == (messages is None):
        raise InputError(f"a row needs {column!r:.60} or 'messages', one of them")
    if messages is None:
        if not isinstance(prompt, str | list):
            raise InputError(
                f"{column!r:.60} must be text or token ids, got {type(prompt).__name__}"
            )
        if not chat or not isinstance(prompt, str):
            return model.encode(prompt)
        if not prompt:  # the template would hide it
            raise InputError("the prompt is empty; give at least one word")
        messages = [{"role": "user", "content": prompt}]
    own = body.get("chat_template_kwargs", {})
    if not isinstance(own, Mapping):
        raise InputError(f"chat_template_kwargs must be an object, got {type(own).__name__}")
    variables = check_variables({**options.template_variables, **own})
    said = _messages(messages)
    size = sum(len(message["content"]) for message in said)
    if size > CHARACTERS_PER_TOKEN * model.context:  # the template would refuse it in other words
        raise ContextError(
            f"the prompt has {size} characters, the context is {model.context} tokens; shorten it"
        )
    return model.encode_chat(said, variables)


def _messages(messages: object) -> list[dict[str, str]]:
    if not isinstance(messages, list) or not messages:
        raise InputError("messages must be a list of at least one message")
    checked = []
    for message in messages:
        if not isinstance(message, Mapping) or message.get("role") not in ROLES:
            raise InputError(f"a message needs a role, one of {', '.join(ROLES)}")
        extra = [key for key, item in message.items() if item and key not in ("role", "content")]
        if extra:
            raise InputError(f"a message has the key {extra[0]!r:.60}, which is not supported")
        content = message.get("content")
        if isinstance(content, list) and all(
            isinstance(p, Mapping) and p.get("type") == "text" and isinstance(p.get("text"), str)
            for p in content
        ):
            content = "".join(part["text"] for part in content)
        if not isinstance(content, str):
            raise InputError("the content of a message must be text, or parts of the type 'text'")
        role = "system" if message["role"] == "developer" else message["role"]
        checked.append({"role": role, "content": content})
    return checked


def _check_known(given: Mapping[str, Any], model: Model) -> None:
    """Raise InputError for what would have an effect elsewhere and has none here."""
    name = model.bundle.manifest.name
    for key, item in given.items():
        if key in OPTIONS or NEUTRAL.get(key) is ... or (key == "model" and item == name):
            continue
        if key == "model":
            raise InputError(
                f"the row asks for the model {item!r:.60}, this job runs {name}: leave 'model' out"
            )
        if key not in NEUTRAL or type(item) is not type(NEUTRAL[key]) or item != NEUTRAL[key]:
            raise InputError(f"{key!r:.60} means nothing in a row: leave it out, or --ignore it")


def _options(
    given: Mapping[str, Any],
    identity: Id | None,
    prompt: list[int],
    model: Model,
    options: Options,
) -> dict[str, Any]:
    """Return the options of `generate`; the planner checks most of them."""
    limits = [given[key] for key in ("max_tokens", "max_completion_tokens") if key in given]
    if len(limits) == 2 and limits[0] != limits[1]:
        raise InputError("max_tokens and max_completion_tokens differ; give one of them")
    wanted = given.get("depth", {})
    if not isinstance(wanted, Mapping) or not set(wanted) <= set(DEPTH):
        raise InputError(f"depth must be an object with {', '.join(DEPTH)}, got {wanted!r:.60}")
    if not isinstance(wanted.get("exit"), str | None):
        raise InputError(f"exit must be the name of a rule, got {wanted['exit']!r:.60}")
    chosen = {
        "max_tokens": limits[0] if limits else options.max_tokens,
        "depth": changed_depth(options.depth or model.default_depth, **wanted),
        "sampling": _sampling(given, options.sampling or model.generation_config.sampling),
        "seed": given.get("seed", options.seed),
        "stop": given.get("stop", options.stop),
        "min_tokens": given.get("min_tokens", 0),
    }
    if "seed" not in given:
        chosen["draws"] = _draws(options.seed, prompt if identity is None else identity)
    return chosen


def _sampling(given: Mapping[str, Any], default: Sampling) -> Sampling:
    changes = {key: given[key] for key in SAMPLING if key in given}
    biases = changes.get("logit_bias")
    if isinstance(biases, Mapping):
        if not all(re.fullmatch("[0-9]{1,8}", str(key)) for key in biases):
            raise InputError(f"logit_bias must map token ids to numbers, got {biases!r:.60}")
        changes["logit_bias"] = {int(key): bias for key, bias in biases.items()}
    return dataclasses.replace(default, **changes)


def _draws(seed: int, identity: Id | list[int]) -> int:
    """Return the seed of a row's draws: other rows draw otherwise, wherever they stand."""
    named = json.dumps([seed, identity]).encode()
    return int.from_bytes(hashlib.sha256(named).digest()[:8], "big")
