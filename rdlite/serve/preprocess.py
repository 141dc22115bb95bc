"""From a request that was understood to a job: prompt, plan, and the shape of its answer."""

import dataclasses
import secrets
from collections.abc import Callable
from typing import Any

from rdlite.api.chat_file import model_hash
from rdlite.api.model import Model
from rdlite.config.depth import changed_depth
from rdlite.config.sampling import Sampling
from rdlite.errors import InputError
from rdlite.serve.protocol import ChatRequest, CompletionRequest, DepthRequest
from rdlite.serve.responses import Answer
from rdlite.serve.settings import Settings
from rdlite.serve.worker import Item, Job
from rdlite.tokenizer.thinking import ThinkingSplitter, opens_thinking

COMPLETION_TOKENS = 16  # what OpenAI's API generates of a completion, unless told
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


class UnknownModelError(InputError):
    """A request names another model than the one that is served."""


class Preprocessor:
    """Makes jobs for one model. Thread-safe."""

    def __init__(self, model: Model, settings: Settings) -> None:
        self._model = model
        self._settings = settings
        self.name = model.bundle.manifest.name
        self.fingerprint = "rdlite-" + model_hash(model.bundle)[:12]

    def chat(self, body: ChatRequest, deliver: Callable[[Item], None]) -> tuple[Job, Answer]:
        """Return the job of a chat; raises InputError for what this model cannot do."""
        if body.top_logprobs is not None and not body.logprobs:
            raise InputError("top_logprobs needs logprobs: true")
        limits = {body.max_tokens, body.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise InputError("max_tokens and max_completion_tokens differ; give one of them")
        variables = {**self._settings.template_variables, **(body.chat_template_kwargs or {})}
        if body.enable_thinking is not None:
            variables.setdefault("enable_thinking", body.enable_thinking)
        messages = [message.for_template() for message in body.messages]
        rendered = self._model.chat_template.render(messages, template_variables=variables)
        prompt = self._model.encode(rendered, add_special_tokens=False)
        most = next(iter(limits), None) or self._settings.max_tokens
        top = (body.top_logprobs or 0) if body.logprobs else None
        thinking = ThinkingSplitter(opens_thinking(rendered))
        return self._job(body, prompt, most, top, thinking, deliver)

    def completion(
        self, body: CompletionRequest, deliver: Callable[[Item], None]
    ) -> tuple[Job, Answer]:
        """Return the job of a completion; raises InputError for what this model cannot do."""
        ids = self._model.encode(body.prompt)
        most = body.max_tokens or COMPLETION_TOKENS
        return self._job(body, ids, most, body.logprobs, None, deliver)

    def _job(
        self,
        body: ChatRequest | CompletionRequest,
        prompt: list[int],
        most: int,
        top: int | None,
        thinking: ThinkingSplitter | None,
        deliver: Callable[[Item], None],
    ) -> tuple[Job, Answer]:
        settings, model, asked = self._settings, self._model, body.depth or DepthRequest()
        if body.model != self.name:
            raise UnknownModelError(
                f"this server has the model {self.name}, not {body.model!r:.80}"
            )
        if body.stream_options is not None and not body.stream:
            raise InputError("stream_options needs stream: true")
        depth = changed_depth(settings.depth, **asked.model_dump(exclude={"changes"}))
        changes = bool(asked.changes)
        # Without a seed, answers are drawn anew; where states start stays, so that what was read
        # of one request serves the next.
        seed = settings.seed if body.seed is None else body.seed
        plan = model.plan(
            most,
            depth,
            self._sampling(body),
            seed,
            body.stop or (),
            speculate=None if changes else settings.speculate,
            top_logprobs=top or 0,
            changes=changes,
            draws=secrets.randbits(64) if body.seed is None else None,
        )
        answer = Answer(
            chat=thinking is not None,
            thinking=thinking,
            model=self.name,
            fingerprint=self.fingerprint,
            tokenizer=model.tokenizer if plan.stream else None,
            stop_ids=plan.stop_ids,
            top=top,
            changes=changes,
        )
        # A seed asks for the same answer each time. Where the positions of a prompt's chunk stop
        # together, or share slots of the cache, that depends on what was read before.
        adaptive = depth.exit is not None and depth.prompt == "mean"
        alone = body.seed is not None and (adaptive or model.cache.share is not None)
        return Job(prompt, plan, (depth, seed), deliver, alone), answer

    def _sampling(self, body: ChatRequest | CompletionRequest) -> Sampling:
        given: dict[str, Any] = {name: getattr(body, name) for name in SAMPLING}
        changes = {name: value for name, value in given.items() if value is not None}
        if body.logit_bias:
            changes["logit_bias"] = {int(id): bias for id, bias in body.logit_bias.items()}
        return dataclasses.replace(self._settings.sampling, **changes)
