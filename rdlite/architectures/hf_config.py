"""Reads a hub config.json so that no key is overlooked.

Each key is understood, required to have one value, or named harmless. One that nobody accounted
for could change the mathematics, so it is an error.
"""

import math
from collections.abc import Mapping
from typing import Any

from rdlite.errors import FamilyError

#: Keys that transformers writes into every config and that say nothing of the mathematics.
TRANSFORMERS_KEYS = frozenset(
    """_attn_implementation_autoset _commit_hash _name_or_path add_cross_attention architectures
    auto_map bad_words_ids begin_suppress_tokens bos_token_id chunk_size_feed_forward
    cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample dtype
    early_stopping encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty
    finetuning_task forced_bos_token_id forced_eos_token_id hf_config id2label initializer_range
    is_decoder is_encoder_decoder label2id length_penalty max_length min_length model_type name
    no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_attentions
    output_hidden_states output_scores pad_token_id prefix problem_type pruned_heads
    remove_invalid_values repetition_penalty return_dict return_dict_in_generate sep_token_id
    suppress_tokens task_specific_params temperature tf_legacy_loss tokenizer_class top_k top_p
    torch_dtype torchscript transformers_version transformers.js_config typical_p use_bfloat16
    use_cache""".split()
)
#: What the weights are stored as, by transformers 5 and before.
DTYPE_KEYS = ("dtype", "torch_dtype")
MISSING: Any = object()


class ConfigReader:
    """Takes keys out of a config one by one; `finish` refuses what nobody asked for.

    A dotted name reaches into an object (`init_values.std`). All raise FamilyError.
    """

    def __init__(self, raw: Mapping[str, Any], family: str) -> None:
        self._family = family
        self._left = dict(_flatten(raw))
        self._values = dict(self._left)

    def _take(self, names: tuple[str, ...], default: Any, wanted: str) -> Any:
        for name in names:
            if self._values.get(name) is not None:
                self._left.pop(name, None)
                return self._values[name]
        if default is MISSING:
            raise FamilyError(f"config lacks {' or '.join(map(repr, names))} ({wanted})")
        return default

    def _mistyped(self, names: tuple[str, ...], value: Any, wanted: str) -> FamilyError:
        return FamilyError(f"config: {' / '.join(names)} must be {wanted}, got {value!r:.60}")

    def integer(self, *names: str, default: Any = MISSING, low: int = 1) -> int:
        """Take a whole number, `low` to 2^31, under the first of `names` that is there."""
        value = self._take(names, default, "a whole number")
        if type(value) is not int or not low <= value <= 2**31:
            raise self._mistyped(names, value, f"a whole number from {low} to 2^31")
        return value

    def number(self, *names: str, default: Any = MISSING) -> float:
        """Take a number under the first of `names` that is there."""
        value = self._take(names, default, "a number")
        if type(value) not in (int, float) or not abs(value) <= 1e30:
            raise self._mistyped(names, value, "a number up to 1e30")
        return float(value)

    def boolean(self, *names: str, default: Any = MISSING) -> bool:
        """Take true or false under the first of `names` that is there."""
        value = self._take(names, default, "true or false")
        if type(value) is not bool:
            raise self._mistyped(names, value, "true or false")
        return value

    def given(self, name: str) -> Any:
        """Return what a key has, without taking it; None where it is absent or null."""
        return self._values.get(name)

    def must_be(self, name: str, expected: Any) -> None:
        """Refuse any value of `name` but `expected`; absent or null is fine."""
        value = self._values.get(name)
        self._left.pop(name, None)
        same = value == expected and isinstance(value, bool) == isinstance(expected, bool)
        if isinstance(expected, float) and isinstance(value, int | float) and abs(value) < 1e30:
            same = math.isclose(value, expected, rel_tol=1e-6)
        if value is not None and not same:
            raise FamilyError(
                f"config: {name} is {value!r:.60}, but the {self._family} family is only known "
                f"with {expected!r}; this checkpoint computes something else"
            )

    def harmless(self, *names: str) -> None:
        """Let keys pass that do not change what is computed."""
        for name in names:
            self._left.pop(name, None)

    def finish(self) -> None:
        """Refuse every key that nothing above accounted for."""
        kinds = [str(self._values.get(key)).removeprefix("torch.") for key in DTYPE_KEYS]
        if "None" not in kinds and kinds[0] != kinds[1]:
            raise FamilyError(
                f"config: {DTYPE_KEYS[0]} is {kinds[0]:.40} and {DTYPE_KEYS[1]} {kinds[1]:.40}; "
                "they say the same thing, so remove the one that is wrong"
            )
        for name, value in self._left.items():
            if name.partition(".")[0] not in TRANSFORMERS_KEYS and value is not None:
                raise FamilyError(
                    f"config: {name} ({value!r:.60}) is not understood by the {self._family} "
                    "family and may change the mathematics; if it does not, remove it from "
                    "config.json"
                )


def _flatten(raw: Mapping[str, Any], prefix: str = "") -> Any:
    for key, value in raw.items():
        if isinstance(value, Mapping) and value and prefix.count(".") < 4:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
