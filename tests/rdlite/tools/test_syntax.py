"""How a template writes calls is seen from what it renders."""

import pytest
from tool_templates import TEMPLATES

from rdlite.tokenizer.chat_template import ChatTemplate
from rdlite.tools.syntax import ToolSyntax, find_syntax

REFUSES = "{%- if message.role == 'tool' -%}{{- raise_exception('no results') -}}"
HEAD = '<tool_call>\n{"name": "'


def syntax_of(source):
    return find_syntax(ChatTemplate(source, {"bos_token": "<s>"}))


def test_calls_as_json_between_marks():
    found = syntax_of(TEMPLATES["json"])
    assert found == ToolSyntax(HEAD, '", "arguments": ', "}\n</tool_call>", "\n")
    assert found.mark == "<tool_call>"


def test_calls_as_parameters():
    found = syntax_of(TEMPLATES["parameters"])
    assert found == ToolSyntax(
        head="<tool_call>\n<function=",
        middle=">\n",
        tail="</function>\n</tool_call>",
        between="\n",
        key="<parameter=",
        equals=">\n",
        end="\n</parameter>\n",
    )


def test_other_marks_and_no_space_between_calls():
    source = TEMPLATES["json"].replace("<tool_call>", "<|call|>").replace("</tool_call>", "<|end|>")
    source = source.replace("{{- '\\n' -}}", "")
    found = syntax_of(source)
    assert found is not None
    assert (found.mark, found.tail) == ("<|call|>", "}\n<|end|>")


@pytest.mark.parametrize(
    "change",
    [
        ("{%- if tools -%}", "{%- if false -%}"),  # shows no tools
        ("message.tool_calls or []", "[]"),  # no calls
        (
            "{%- if message.role",
            "{%- if message.role == 'tool' -%}{{- raise_exception('no') -}}{%- elif message.role",
        ),  # refuses results
        ("~ message.content -}}", "-}}"),  # shows no results
        ("<tool_call>", ""),  # nothing tells a call from an answer
        ("call.arguments | tojson", "call.arguments | length"),
        ('{"name": "', '{"f": "x", "name": "'),  # still a way that is known
        ("{{- bos_token -}}", "{{- raise_exception('no') -}}"),
    ],
)
def test_templates_without_a_known_way(change):
    old, new = change
    source = TEMPLATES["json"]
    assert old in source
    found = syntax_of(source.replace(old, new))
    assert (found is None) == ('"f"' not in new)


def test_a_template_without_tools(nano):
    assert find_syntax(nano.chat_template) is None
    assert nano.tool_syntax is None
