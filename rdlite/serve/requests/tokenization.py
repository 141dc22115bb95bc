"""/tokenize and /detokenize: text to token ids and back, as other local servers have them."""

from typing import Annotated, Any

from pydantic import Field

from rdlite.api.model import Model
from rdlite.errors import InputError
from rdlite.serve.requests.protocol import MAX_TOKENS
from rdlite.serve.requests.strict import Label, Strict


class TokenizeRequest(Strict):
    """A text, as `prompt` or as `content`."""

    model: Label | None = None
    prompt: str | None = None
    content: str | None = None
    add_special_tokens: bool | None = None


class DetokenizeRequest(Strict):
    """Token ids."""

    model: Label | None = None
    tokens: list[Annotated[int, Field(ge=0, lt=2**22)]] = Field(max_length=MAX_TOKENS)


def tokenize(model: Model, body: TokenizeRequest) -> dict[str, Any]:
    """Return the token ids of a text; raises InputError unless exactly one is given."""
    if (body.prompt is None) == (body.content is None):
        raise InputError("give the text as prompt or as content")
    text = body.content if body.prompt is None else body.prompt
    special = (
        body.prompt is not None if body.add_special_tokens is None else body.add_special_tokens
    )
    ids = model.tokenizer.encode(text or "", special)
    return {"tokens": ids, "count": len(ids), "max_model_len": model.context}


def detokenize(model: Model, body: DetokenizeRequest) -> dict[str, Any]:
    """Return the text of token ids, without special tokens; raises InputError for unknown ids."""
    text = model.tokenizer.decode(model.check_ids(body.tokens)) if body.tokens else ""
    return {"prompt": text, "content": text}
