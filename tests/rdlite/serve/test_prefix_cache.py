"""What was read serves later texts, within a cap, and never at another's cost."""

import pytest

import rdlite
from rdlite import Cache, Depth
from rdlite.serve.prefix_cache import PrefixCache

HOW = (Depth(4), 0)
LONG = [*range(1, 151)]


@pytest.fixture(scope="module", params=[None, 2, "last"])
def model(request):
    with rdlite.load(cache=Cache(request.param)) as model:
        yield model


def read(model, kept, prompt, how=HOW, count=3):
    plan = model.plan(count, how[0], None, how[1], ())
    return [token.id for token in kept.generate(prompt, plan, how)], plan.stats


def kept_of(model, prefixes, prompt, how=HOW):
    kept = prefixes.take(prompt, how)
    ids, _ = read(model, kept, prompt, how)
    prefixes.give(kept)
    return ids


def test_the_text_with_most_in_common_is_taken(model):
    prefixes = PrefixCache(model, 2**30)
    for prompt in ([1, 2, 3], [1, 2, 3, 4, 5, 6], [9, 9, 9]):
        kept_of(model, prefixes, prompt)
    kept = prefixes.take([1, 2, 3, 4, 5, 6, 7, 8], HOW)
    assert kept.tokens[:6] == [1, 2, 3, 4, 5, 6]
    assert prefixes.take([1, 2, 3, 7], (Depth(5), 0)).tokens == []  # read at another depth
    assert prefixes.take([8, 2, 3], HOW).tokens == []


def test_a_text_that_others_may_want_is_copied_and_gives_what_a_new_one_gives(model):
    prefixes = PrefixCache(model, 2**30)
    kept_of(model, prefixes, LONG)
    other = [*LONG[:50], 7, 8, 9]
    kept = prefixes.take(other, HOW)
    assert kept.tokens == LONG[:50]
    ids, stats = read(model, kept, other)
    assert stats.reused_tokens == 50
    if model.cache.share is None:  # shared slots depend on what was read together
        assert ids == read(model, prefixes.new(), other)[0]
    again = prefixes.take([*LONG, 5], HOW)  # the first one was not harmed
    assert again.tokens[:150] == LONG


def test_memory_stays_below_the_cap(model):
    size = 0
    unlimited = PrefixCache(model, 2**40)
    for start in range(5):
        kept_of(model, unlimited, [start + 1, 2, 3])
        size = size or unlimited.bytes
    assert unlimited.bytes == 5 * size
    some = PrefixCache(model, 2 * size)
    for start in range(5):
        kept_of(model, some, [start + 1, 2, 3])
        assert some.bytes <= 2 * size
    assert some.take([5, 2, 3, 1], HOW).tokens
    assert some.take([4, 2, 3, 1], HOW).tokens
    assert not some.take([3, 2, 3, 1], HOW).tokens  # the oldest had to go
    none = PrefixCache(model, 0)
    kept_of(model, none, [1, 2, 3])
    assert none.bytes == 0


def test_what_is_in_use_serves_nobody_else(model):
    prefixes = PrefixCache(model, 2**30)
    kept_of(model, prefixes, [1, 2, 3])
    first = prefixes.take([1, 2, 3, 4], HOW)
    assert first.tokens
    assert not prefixes.take([1, 2, 3, 4], HOW).tokens
