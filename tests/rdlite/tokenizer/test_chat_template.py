"""Chat templates: the published format comes out, and a hostile template gets nowhere."""

import time

import pytest

from rdlite import BundleError, InputError
from rdlite.tokenizer.chat_template import MAX_TEMPLATE_CHARACTERS, ChatTemplate

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " Hi \n"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Bye"},
]


def test_the_huginn_format(model):
    text = model.chat_template.render(MESSAGES)
    assert text == (
        "<|begin_text|>"
        "<|begin_header|>system<|end_header|>\n\nBe brief.<|end_turn|>"
        "<|begin_header|>user<|end_header|>\n\nHi<|end_turn|>"
        "<|begin_header|>Huginn<|end_header|>\n\nHello.<|end_turn|>"
        "<|begin_header|>user<|end_header|>\n\nBye<|end_turn|>"
        "<|begin_header|>Huginn<|end_header|>\n\n"
    )
    assert not model.chat_template.render(MESSAGES, add_generation_prompt=False).endswith("\n\n")


def render(source, **special):
    return ChatTemplate(source, special).render(MESSAGES)


def test_what_real_templates_use_works():
    assert render("{{ bos_token }}{{ messages|length }}", bos_token="<s>") == "<s>4"
    assert render("{% for m in messages %}{{ loop.index0 ~ m.role[0] }}{% endfor %}") == "0s1u2a3u"
    assert render("{% for m in messages %}{{ loop.last }} {% endfor %}").endswith("False True ")
    assert (
        render(
            "{% set ns = namespace(n=0) %}{% for m in messages %}"
            "{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}"
        )
        == "4"
    )
    assert render("{{ messages[1].content.strip().upper() }}") == "HI"
    assert render("{{ messages[2].content.split('l')[-1] }}") == "o."
    assert render("{{ messages[0]|tojson }}") == '{"role": "system", "content": "Be brief."}'
    assert render("{{ messages[1:]|map(attribute='role')|join(', ') }}") == "user, assistant, user"
    assert (
        render("{% for i in range(3) %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}")
        == "02"
    )
    assert render("{{ 7 % 2 }}{{ 3 * 4 }}{{ 'a' + 'b' }}") == "112ab"
    assert render("{% generation %}x{% endgeneration %}") == "x"


def test_what_transformers_renderer_offers_works():
    turn = "{% macro turn(m, end='.') %}{{ m.role }}: {{ m.content|trim }}{{ end }}{% endmacro %}"
    assert render(turn + "{{ turn(messages[0]) }} {{ turn(messages[1], end='!') }}") == (
        "system: Be brief.. user: Hi!"
    )
    assert render("{% set x %}{{ messages[0].role }}{% endset %}{{ x|upper }}") == "SYSTEM"
    assert render("{% filter upper %}x{% endfilter %}{% with y = 3 %}{{ y }}{% endwith %}") == "X3"
    assert render("{% macro b() %}[{{ caller() }}]{% endmacro %}{% call b() %}x{% endcall %}") == (
        "[x]"
    )
    nested = "{% macro m(n) %}{{ n }}{% if n %}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(3) }}"
    assert render(nested) == "3210"
    assert render("{{ '-' * 5 }}{{ '%s is %03d' % ('it', 7) }}") == "-----it is 007"
    assert render("{{ '%s, %s'|format('a', 'b') }}{{ '{} {k}'.format(1, k='z') }}") == "a, b1 z"
    assert render("{{ ', '.join(['a', 'b']) }}{{ 'a-b'.rsplit('-', 1)[1] }}") == "a, bb"
    assert render("{{ dict(a=1)|tojson(indent=1) }}") == '{\n "a": 1\n}'
    assert render("{{ [3, 1]|max }}{{ [1, 2]|sum }}{{ 'a\nb'|indent(2) }}") == "33a\n  b"
    assert render("{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}")
    assert render("{{ tools is none }}{{ documents is none }}") == "TrueTrue"


def test_what_is_not_read_is_named():
    for source, named in (
        ("a\n{% include 'b' %}", "line 2: {% include %} is not read"),
        ("{% import 'b' as c %}", "{% import %} is not read"),
        ("{{ 2 ** 3 }}", r"the operator \*\* is not read"),
        ("{% for a in b recursive %}{% endfor %}", "recursive loops are not read"),
        ("{{ x|urlize }}", "No filter named 'urlize'"),
    ):
        with pytest.raises(BundleError, match=named):
            ChatTemplate(source)


def test_the_date_is_todays():
    today = {time.strftime("%d %B %Y")}
    text = render("{{ strftime_now('%d %B %Y') }}")
    assert text in today | {time.strftime("%d %B %Y")}  # midnight may have passed


def test_variables_of_the_template_are_named_and_set():
    template = ChatTemplate(
        "{{ bos_token }}{% for m in messages %}{% endfor %}"
        "{% if enable_thinking is defined and not enable_thinking %}fast{% else %}slow{% endif %}"
        "{{ tools or date_string }}",
        {"bos_token": "<s>"},
    )
    assert template.variables == {"enable_thinking", "date_string"}
    assert template.render([]) == "<s>slow"
    variables = {"enable_thinking": False, "date_string": "today", "unused": [1, {"a": None}]}
    assert template.render([], template_variables=variables) == "<s>fasttoday"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"messages": []}, "'messages' cannot be set"),
        ({"add_generation_prompt": False}, "'add_generation_prompt' cannot be set"),
        ({"a b": 1}, "'a b' is not a name"),
        ({"_private": 1}, "'_private' is not a name"),
        ({"x": float("nan")}, "must be what JSON can say"),
        ({"x": object()}, "must be what JSON can say"),
        ({"x": "y" * 70000}, "have 70009 characters as JSON, at most 65536"),
        ({f"x{i}": 1 for i in range(65)}, "there are 65 template variables, at most 64"),
    ],
)
def test_variables_have_bounds(variables, message):
    with pytest.raises(InputError, match=message):
        ChatTemplate("").render([], template_variables=variables)


def test_what_was_thought_is_there_under_its_name_whatever_it_was_called():
    template = ChatTemplate(
        "{% for m in messages %}{{ m.reasoning_content }}{{ m.thinking }}{{ m.name is defined }}"
        "{% endfor %}"
    )
    for key in ("reasoning_content", "thinking", "reasoning"):
        message = {"role": "assistant", "content": "x", key: "hm", "name": None}
        assert template.render([message]) == "hmhmFalse"


def test_a_template_can_refuse_a_conversation():
    with pytest.raises(InputError, match="refuses this conversation: no system prompts"):
        render("{{ raise_exception('no system prompts') }}")


NS = "{% set ns = namespace() %}"
BIG = (  # two million characters
    NS
    + "{% set ns.s = 'xxxxxxxx' %}{% for i in range(18) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}"
)


@pytest.mark.parametrize(
    "source",
    [
        BIG + "{% for i in range(9999) %}{% set z = ns.s is lower %}{% endfor %}",
        BIG + "{% for i in range(9999) %}{% set z = 'xy' is in(ns.s) %}{% endfor %}",
        BIG + "{% for i in range(9999) %}{% set z = ns.s[1:] %}{% endfor %}",
        BIG + "{% for i in range(9999) %}{% set z = ns.s[::-1] %}{% endfor %}",
        BIG + "{% set n2 = namespace(l=[]) %}{% for i in range(2000) %}"
        "{% set n2.l = n2.l + [ns.s] %}{% endfor %}{{ n2.l }}",
        BIG + "{{ ns.s|map('upper')|join|length }}",
        BIG + "{{ ns.s|select|select|reject|first }}",
        BIG + "{{ ns.s|unique|join }}",
        NS + "{% set ns.m = namespace(a='x') %}{% for i in range(60) %}"
        "{% set ns.m = namespace(a=ns.m, b=ns.m) %}{% endfor %}{{ ns.m ~ 1 / 0 }}",
        "{% set r = range(3000000) %}{{ r }}",
        "{% set r = range(9999) %}{% for i in range(9999) %}{{ 5.5 in r }}{% endfor %}",
        "{% set r = range(9999) %}{% for i in range(9999) %}{{ 'a' is in(r) }}{% endfor %}",
        "{% set r = range(9999) %}{% for i in range(9999) %}{{ r|select('none')|first }}"
        "{% endfor %}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ raise_exception.__globals__['__builtins__']['open']('x', 'w') }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ messages|attr('__class__') }}",
        "{{ ''|attr('__class__') }}",
        "{% set x = messages.append({'role': 'user', 'content': ''}) %}",
        "{% set x = messages.clear() %}",
        "{{ '{0.__class__}'.format(1) }}",
        "{{ '%9999s'|format(1) }}",
        "{{ '%*d' % (10**9, 1) }}",
        "{{ '{:2000000000}'.format('a') }}",
        "{{ '{:{}}'.format('a', 2000000000) }}",
        BIG + "{{ ('{0}' ~ '{0}').format(ns.s)|length }}{{ '{0}{0}{0}{0}'.format(ns.s)|length }}",
        "{% include 'secrets' %}",
        "{% import 'os' as os %}{{ os }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(999999) %}{% endfor %}{% for a in range(999999) %}{% endfor %}",
        "{% set l = range(2000)|list %}{% for a in l %}{% for b in l %}{% endfor %}{% endfor %}",
        "{{ 'a' * 10**10 }}",
        "{{ 'a' * 1000000000 }}",
        "{{ [0] * 1000000000 }}",
        "{{ '%09999999999d' % 1 }}",
        "{{ 'a'.center(10000000000) }}",
        "{{ 'a'|center(10000000000) }}",
        "{{ 'a'.ljust(10000000000) }}",
        "{{ lipsum(n=100000) }}",
        "{{ 9 ** 9 ** 9 }}",
        "{% set ns = namespace(s='x') %}{% for i in range(60) %}"
        "{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(s='x') %}{% for i in range(60) %}"
        "{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(s='xx') %}{% for i in range(60) %}{% set ns.s = ns.s * 2 %}"
        "{% endfor %}",
        "{% set ns = namespace(s='xx') %}{% for i in range(60) %}"
        "{% set ns.s = ns.s.replace('x', ns.s) %}{% endfor %}",
        "{% set ns = namespace(s='xx') %}{% for i in range(60) %}"
        "{% set ns.s = ns.s|replace('x', ns.s) %}{% endfor %}",
        "{% set ns = namespace(s='xx') %}{% for i in range(60) %}"
        "{% set ns.s = [ns.s, ns.s]|join(ns.s) %}{% endfor %}",
        "{% set ns = namespace(s=[1, 2]) %}{% for i in range(60) %}"
        "{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(s='x') %}{% for i in range(90000) %}"
        "{% set ns.s = (ns.s ~ 'yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy')|upper %}{% endfor %}",
        "{% set ns = namespace(s='x' ~ range(9000)|join) %}{% for i in range(80000) %}"
        "{% set t = ns.s.upper() %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        # each of these once crashed, hung or bloated the process
        "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}",
        "{% for i in [1] recursive %}{% if loop.depth < 60 %}{{ loop([1]) }}{{ loop([1]) }}"
        "{% endif %}{% endfor %}",
        "{% set ns = namespace(x=9) %}{% for i in range(60) %}{% set ns.x = ns.x * ns.x %}"
        "{% endfor %}",
        "{% set ns = namespace(s='x') %}{% for i in range(40) %}"
        "{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}{% endfor %}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}"
        "{% endfor %}{{ ns.l }}",
        "{% set ns = namespace(t=()) %}{% for i in range(49000) %}{% set ns.t = (((ns.t,),),) %}"
        "{% endfor %}{{ {}[ns.t] }}",
        "{% set ns = namespace(t={}) %}{% for i in range(900) %}{% set ns.t = {'a': ns.t} %}"
        "{% endfor %}{{ ns.t|tojson }}",
        "{{ (1).to_bytes(2000000000, 'big')|length }}",
        "{% for i in range(40000) %}" + "{{ 1 }}" * 9000 + "{% endfor %}",
        "{% set x = 1e999 %}{{ messages[x] }}",
        "{% set s = 'x' ~ range(9000)|join %}{% for i in range(90000) %}"
        "{% if s.find('zz') == 3 or 'zz' in s %}{% endif %}{% endfor %}",
        "{% block a %}{{ self.a() }}{% endblock %}",
        "{% call x() %}{% endcall %}",
        "{% extends 'a' %}",
        "{% from 'a' import b %}",
        "{% autoescape true %}{% endautoescape %}",
        # macros and set blocks hold text that nobody has seen yet
        BIG + "{% macro m(s) %}" + "{{ s }}" * 5000 + "{% endmacro %}{{ m(ns.s)|length }}",
        BIG + "{% set x %}" + "{{ ns.s }}" * 5000 + "{% endset %}{{ x|length }}",
        "{% set x %}{% for i in range(90000) %}" + "x" * 60000 + "{% endfor %}{% endset %}",
        "{% set x %}{% for i in range(9999) %}" + "x" * 60000 + "{% endfor %}{% endset %}",
        "{% macro m() %}" + "x" * 60000 + "{% endmacro %}{% for i in range(9999) %}"
        "{% set ns = m() %}{% endfor %}",
        "{% macro a() %}{{ caller() }}{{ caller() }}{% endmacro %}"
        "{% macro m(n) %}{% if n %}{% call a() %}{{ m(n - 1) }}{% endcall %}{% endif %}"
        "{% endmacro %}{{ m(60) }}",
        "{% macro m(n) %}{% set x %}{{ m(n) }}{% endset %}{% endmacro %}{{ m(1) }}",
        "{{ strftime_now('%999999999d') }}",
        "{{ strftime_now('%d' * 1000) }}",
        "{{ messages|tojson(indent=1000000000) }}",
        "{{ 'a\nb'|indent(1000000000) }}",
        "{{ 'a'.ljust(1000000000) }}",
        "{{ 'a'.zfill(1000000000) }}",
        "{{ dict.__call__.__globals__ }}",
        "{{ dict.fromkeys(range(9)) }}",
        "{% for i in range(90000) %}" + "x" * 60000 + "{% endfor %}",
        "{{ ('x'|replace('x', '"
        + "x" * 200
        + "'))"
        + ("|replace('x', '" + "x" * 200 + "')") * 9
        + " }}",
        "{{ range(0, 10**18)|list }}",
        "{{ messages[9].content }}",
        "{{ 1 / 0 }}",
        "{{ nothing.at.all }}",
    ],
)
def test_a_hostile_or_broken_template_is_one_clear_error(source):
    with pytest.raises((InputError, BundleError), match="the chat template") as caught:
        render(source)
    assert "\n" not in str(caught.value)


def test_a_template_is_bounded_in_size_and_must_compile():
    with pytest.raises(BundleError, match="65537 characters, at most 65536"):
        ChatTemplate("x" * (MAX_TEMPLATE_CHARACTERS + 1))
    for broken in (
        "{% if %}",
        "{{ 1 +",
        "{% generation %}",
        "{{ x|nofilter }}",
        "(" * 9 + "{{" * 9,
    ):
        with pytest.raises(BundleError, match="the chat template cannot be used"):
            ChatTemplate(broken)


def test_the_budget_is_for_each_rendering():
    template = ChatTemplate("{% for i in range(9999) %}" + "{{ '' }}" * 500 + "{% endfor %}ok")
    with pytest.raises(InputError, match="its loops or macros go on for too long"):
        template.render(MESSAGES)
    template = ChatTemplate("{% for i in range(9999) %}" + "{{ '' }}" * 100 + "{% endfor %}ok")
    assert template.render(MESSAGES) == template.render(MESSAGES) == "ok"


def test_a_long_conversation_is_within_the_budget(model):
    messages = [{"role": role, "content": "word " * 400} for role in ("user", "assistant")] * 500
    assert len(model.chat_template.render(messages)) > 2_000_000
