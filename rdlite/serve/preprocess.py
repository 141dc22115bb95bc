"""From a request that was understood to a job: prompt, plan, and the shape of its answer."""

import dataclasses
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from rdlite.api.chat_file import model_hash
from rdlite.api.model import Model
from rdlite.config.constraint import Constraint
from rdlite.config.depth import changed_depth
from rdlite.config.parallel import parse_sampler
from rdlite.config.sampling import Sampling
from rdlite.errors import InputError
from rdlite.serve.requests.answer_shape import constraint_for
from rdlite.serve.requests.effort import depth_for
from rdlite.serve.requests.functions import chosen, naming, tools_for
from rdlite.serve.requests.messages import for_template
from rdlite.serve.requests.protocol import ChatRequest, CompletionRequest, DepthRequest
from rdlite.serve.responses import Answer
from rdlite.serve.settings import Settings
from rdlite.serve.splitter import AnswerSplitter
from rdlite.serve.worker import Item, Job
from rdlite.tokenizer.thinking import CLOSE, ThinkingSplitter, opens_thinking

COMPLETION_TOKENS = 16  # what OpenAI's API generates of a completion, unless told
SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
)


Deliver = Callable[[Item], None]


class UnknownModelError(InputError):
    """A request names another model than the one that is served."""


class Preprocessor:
    """Makes jobs for one model. Thread-safe."""

    def __init__(self, model: Model, settings: Settings) -> None:
        self._model = model
        self._settings = settings
        self.name = model.bundle.manifest.name
        self.fingerprint = "rdlite-" + model_hash(model.bundle)[:12]

    def chat(self, body: ChatRequest, queues: Sequence[Deliver]) -> list[tuple[Job, Answer]]:
        """Return a job for each choice of a chat, each of which fills one of the queues.

        Raises InputError for what this model cannot do.
        """
        if body.top_logprobs is not None and not body.logprobs:
            raise InputError("top_logprobs needs logprobs: true")
        limits = {body.max_tokens, body.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise InputError("max_tokens and max_completion_tokens differ; give one of them")
        variables = {**self._settings.template_variables, **(body.chat_template_kwargs or {})}
        if body.enable_thinking is not None:
            variables.setdefault("enable_thinking", body.enable_thinking)
        called = any(message.tool_calls or message.role == "tool" for message in body.messages)
        choice = chosen(body.tool_choice)
        tools = tools_for(self._model, body.tools, choice, called)
        told = None if tools is None else tools.definitions
        messages = for_template(body.messages)
        most = next(iter(limits), None) or self._settings.max_tokens
        history = self._settings.history if body.history is None else body.history
        kept = self._model.recent(messages, history, most, variables, told)
        rendered = self._model.chat_template.render(kept, tools=told, template_variables=variables)
        prompt = self._model.encode(rendered, add_special_tokens=False)
        thinks = opens_thinking(rendered)
        shape = constraint_for(body.response_format, body.grammar, body.regex)
        if tools is not None:
            with naming("tools"):
                parallel = body.parallel_tool_calls is not False
                shape = tools.constraint(choice or "auto", parallel, thinks, shape)
        elif shape is not None and thinks:
            shape = dataclasses.replace(shape, after=[CLOSE])
        top = (body.top_logprobs or 0) if body.logprobs else None

        def splitter() -> AnswerSplitter:
            return AnswerSplitter(
                ThinkingSplitter(thinks), None if tools is None else tools.splitter()
            )

        jobs = self._jobs(body, prompt, most, top, shape, splitter, queues)
        for _, answer in jobs:
            answer.left_out = len(messages) - len(kept)
        return jobs

    def temperature(self, body: ChatRequest) -> float:
        """Return the temperature at which an answer is drawn."""
        return self._sampling(body).temperature

    def completion(
        self, body: CompletionRequest, queues: Sequence[Deliver]
    ) -> list[tuple[Job, Answer]]:
        """Return a job for each choice of a completion; raises InputError likewise."""
        ids = self._model.encode(body.prompt)
        most = body.max_tokens or COMPLETION_TOKENS
        shape = constraint_for(body.response_format, body.grammar, body.regex)
        return self._jobs(body, ids, most, body.logprobs, shape, AnswerSplitter, queues)

    def _jobs(
        self,
        body: ChatRequest | CompletionRequest,
        prompt: list[int],
        most: int,
        top: int | None,
        constraint: Constraint | None,
        splitter: Callable[[], AnswerSplitter],
        queues: Sequence[Deliver],
    ) -> list[tuple[Job, Answer]]:
        settings, model, asked = self._settings, self._model, body.depth or DepthRequest()
        if body.model is not None and body.model != self.name:
            raise UnknownModelError(
                f"this server has the model {self.name}, not {body.model!r:.80}"
            )
        if body.stream_options is not None and not body.stream:
            raise InputError("stream_options needs stream: true")
        effort = body.reasoning_effort if isinstance(body, ChatRequest) else None
        full = model.config.steps_or_default(settings.depth.max_steps)
        sampler = settings.sampler if asked.sampler is None else parse_sampler(asked.sampler)
        wanted = asked.model_dump(exclude={"changes", "sampler"})
        if sampler is not None and wanted["exit"] is None:
            wanted["exit"] = "off"  # it freezes tokens by a rule of its own
        default = depth_for(effort, settings.depth, full, model.bundle.manifest.exit)
        depth = changed_depth(default, **wanted)
        changes = bool(asked.changes)
        # Without a seed, answers are drawn anew; where states start stays, so that what was read
        # of one request serves the next.
        seed = settings.seed if body.seed is None else body.seed
        # A seed asks for the same answer each time. Where the positions of a prompt's chunk stop
        # together, or share slots of the cache, that depends on what was read before.
        adaptive = depth.exit is not None and depth.prompt == "mean"
        alone = body.seed is not None and (adaptive or model.cache.share is not None)
        first: Answer | None = None
        jobs: list[tuple[Job, Answer]] = []
        for index, deliver in enumerate(queues):
            plan = model.plan(
                most,
                depth,
                self._sampling(body),
                seed,
                body.stop or (),
                speculate=None if changes or sampler is not None else settings.speculate,
                top_logprobs=top or 0,
                changes=changes,
                draws=_draws(body.seed, index),
                min_tokens=body.min_tokens or 0,
                constraint=constraint,
                sampler=sampler,
            )
            answer = Answer(
                chat=isinstance(body, ChatRequest),
                splitter=splitter(),
                model=self.name,
                fingerprint=self.fingerprint,
                tokenizer=model.tokenizer if plan.stream else None,
                stop_ids=plan.stop_ids,
                top=top,
                changes=changes,
                index=index,
            )
            first = first or answer
            answer.id, answer.created = first.id, first.created
            job = Job(prompt, plan, (depth, seed), deliver, alone)
            if jobs:
                jobs[-1][0].then = job
            jobs.append((job, answer))
        return jobs

    def _sampling(self, body: ChatRequest | CompletionRequest) -> Sampling:
        given: dict[str, Any] = {name: getattr(body, name) for name in SAMPLING}
        changes = {name: value for name, value in given.items() if value is not None}
        if body.logit_bias:
            changes["logit_bias"] = {int(id): bias for id, bias in body.logit_bias.items()}
        return dataclasses.replace(self._settings.sampling, **changes)


def _draws(seed: int | None, index: int) -> int | None:
    """Return the seed of a choice's draws; None: the request's own."""
    if seed is None:
        return secrets.randbits(64)
    # An odd factor: no two choices of a request, nor neighbouring seeds', draw the same.
    return None if index == 0 else (seed + index * 0x9E3779B97F4A7C15) % 2**64
