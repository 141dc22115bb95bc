"""Nano's tokenizer, and how problems and small talk become token ids with targets."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from rdlite.export.random_checkpoint import SPECIAL_TOKENS
from small_talk import CANNOT
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from rdlite.measure.task_kinds import Mark, Problem, is_held_out
from rdlite.measure.tasks import TASKS, draw

VOCABULARY = 512
IGNORED = -100  # a target that the loss leaves out


def make_tokenizer() -> Tokenizer:
    """Return a byte-level BPE tokenizer whose merges make words, never digits.

    Its merges come from the wordings alone, so numbers and lists of letters stay one token a
    character. An empty line, which the chat template has before each message, is a token too,
    whatever follows: so a message's tokens do not depend on where it stands.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n\n", "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rng = random.Random(0)
    tokenizer.train_from_iterator(_words(rng), trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in SPECIAL_TOKENS])
    assert tokenizer.get_vocab_size() <= VOCABULARY, tokenizer.get_vocab_size()
    return tokenizer


def _words(rng: random.Random) -> Iterator[str]:
    for name, task in TASKS.items():
        for _ in range(400):
            problem = draw(rng, name, rng.randint(1, task.highest), False)
            yield "".join(c for c in problem.question if not c.isdigit())
    yield from ["user", "Huginn", "\n\n", "even", "odd", CANNOT] * 400


@dataclass(frozen=True)
class Example:
    """One turn: ids, and for each position the id that should come next (or IGNORED)."""

    ids: list[int]
    targets: list[int]
    answer_start: int


class Encoder:
    """Turns problems into ids as the chat template lays them out."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        special = {t: tokenizer.token_to_id(t) for t in SPECIAL_TOKENS}
        self.begin = special["<|begin_text|>"]
        self.pad = special["<|pad|>"]
        self.end_turn = special["<|end_turn|>"]
        self._user = self._ids("<|begin_header|>user<|end_header|>\n\n")
        self._assistant = self._ids("<|begin_header|>Huginn<|end_header|>\n\n")
        self._first: dict[str, int] = {}

    def _first_id(self, text: str) -> int:
        if text not in self._first:
            self._first[text] = self._ids(text)[0]
        return self._first[text]

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def turn(
        self, question: str, answer: str, marks: list[tuple[int, str]] = (), scratch: str = ""
    ) -> Example:
        """Encode a question and its answer.

        Args:
            question: what the user says.
            answer: what the model should say.
            marks: (end offset in the question, what is known there).
            scratch: what is known at the tokens between the question and the answer.
        """
        encoding = self.tokenizer.encode(question, add_special_tokens=False)
        end = {stop: i for i, (_, stop) in enumerate(encoding.offsets)}
        ids = [*self._user, *encoding.ids, self.end_turn, *self._assistant]
        targets = [IGNORED] * len(ids)
        for offset, text in marks:
            targets[len(self._user) + end[offset]] = self._first_id(text)
        for i, text in enumerate(scratch[: len(self._assistant)]):
            targets[len(self._user) + len(encoding.ids) + i] = self._first_id(text)
        reply = [*self._ids(answer), self.end_turn]
        start = len(ids) - 1
        targets[-1:] = reply
        targets.append(IGNORED)
        return Example(ids + reply, targets, start)


#: Core steps that a unit of difficulty takes at the least, after a first one: what is asked for
#: after fewer steps than that is not trained.
PACE = {"chain": 1, "story": 1, "sorting": 1}
OTHER_PACE = 2


def steps_needed(task: str, difficulty: int) -> int:
    """Return the fewest core steps at which a problem's answer is trained."""
    return 1 + PACE.get(task, OTHER_PACE) * difficulty


def marks_of(problem: Problem, steps: int) -> list[tuple[int, str]]:
    """Return (end offset in the question, partial result) of the marks to train.

    They are those that `steps` steps can know and that are no answers to held-out problems.
    """
    marks, offset = [], 0
    for piece in problem.pieces:
        if not isinstance(piece, Mark):
            offset += len(piece)
        elif steps_needed(problem.task, piece.difficulty) <= steps and not is_held_out(
            problem.task, piece.difficulty, piece.key
        ):
            marks.append((offset, piece.text))
    return marks
