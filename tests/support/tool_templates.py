"""Chat templates with tools in the two ways that models write calls, on nano's headers."""

_TEMPLATE = """{{- bos_token -}}
{%- if tools -%}
{{- '<|begin_header|>system<|end_header|>\n\nTools:' -}}
{%- for tool in tools -%}{{- '\n' ~ (tool | tojson) -}}{%- endfor -%}
{{- '<|end_turn|>' -}}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'tool' -%}
{{- '<|begin_header|>user<|end_header|>\n\n<tool_response>\n' ~ message.content -}}
{{- '\n</tool_response><|end_turn|>' -}}
{%- else -%}
{%- set role = 'Huginn' if message.role == 'assistant' else message.role -%}
{{- '<|begin_header|>' ~ role ~ '<|end_header|>\n\n' ~ message.content | trim -}}
{%- for call in message.tool_calls or [] -%}
{%- set call = call.function -%}
{%- if message.content or not loop.first -%}{{- '\n' -}}{%- endif -%}
CALL
{%- endfor -%}
{{- '<|end_turn|>' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|begin_header|>Huginn<|end_header|>\n\n' -}}
{%- if enable_thinking -%}{{- '<think>\n' -}}{%- endif -%}
{%- endif -%}
"""

_JSON = r"""{{- '<tool_call>\n{"name": "' ~ call.name ~ '", "arguments": ' -}}
{{- call.arguments | tojson ~ '}\n</tool_call>' -}}"""

_PARAMETERS = r"""{{- '<tool_call>\n<function=' ~ call.name ~ '>\n' -}}
{%- for key, value in call.arguments | items -%}
{{- '<parameter=' ~ key ~ '>\n' -}}
{{- (value if value is string else value | tojson) ~ '\n</parameter>\n' -}}
{%- endfor -%}
{{- '</function>\n</tool_call>' -}}"""

TEMPLATES = {
    "json": _TEMPLATE.replace("CALL", _JSON),
    "parameters": _TEMPLATE.replace("CALL", _PARAMETERS),
}

#: Tokens that some tokenizers have for the marks of calls; nano has room for them.
MARKS = {507: "<tool_call>", 508: "</tool_call>"}
