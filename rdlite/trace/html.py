"""A trace as an HTML page that stands alone: no scripts, nothing from a network, light and dark."""

from html import escape
from typing import TYPE_CHECKING

from rdlite.utils.printable import heading, label, printable, shorten

if TYPE_CHECKING:
    from rdlite.trace.record import Thought, TokenTrace, Trace

LONGEST = 40  # characters of a token
# One hue from the page's colour to blue: its lightness tells how sure, to every reader; and text
# can be read on all of it, in both schemes.
STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --text: #1b1f24; --faint: #59636e;
  --line: #d1d9e0; --sure: #7db8f0; --bar: #0969da; }
@media (prefers-color-scheme: dark) { :root { --page: #14181d; --text: #e6edf3;
  --faint: #9aa4ae; --line: #3a424b; --sure: #1f5fa8; --bar: #58a6ff; } }
body { margin: 2rem auto; padding: 0 1rem; max-width: 72rem; background: var(--page);
  color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; max-height: 20rem; overflow-y: auto;
  padding: .6rem .8rem; border: 1px solid var(--line); border-radius: 6px; }
.faint { color: var(--faint); }
.wide { overflow-x: auto; }
table { border-collapse: separate; border-spacing: 2px; font-size: 13px; }
th { font-weight: 400; color: var(--faint); text-align: right; white-space: nowrap; }
tbody th { color: var(--text); padding-right: .5rem; }
.answers tbody th:first-child { position: sticky; left: 0; background: var(--page); }
td { white-space: nowrap; padding: .15rem .3rem; border-radius: 3px; }
.answers thead th + th + th { text-align: center; }
.answers td { text-align: center; min-width: 2.4rem; max-width: 2.4rem; overflow: hidden;
  text-overflow: ellipsis; background: color-mix(in oklab, var(--sure) var(--p), var(--page)); }
.answers .new { box-shadow: inset 2px 0 var(--text); }
.key { display: inline-block; width: 10rem; height: .8rem; vertical-align: -.1rem;
  border: 1px solid var(--line);
  background: linear-gradient(in oklab to right, var(--page), var(--sure)); }
.steps thead th { text-align: left; padding: 0 .3rem; }
.steps td { font-variant-numeric: tabular-nums; padding-right: 1rem; }
.meter { display: inline-block; width: 4rem; height: .6rem; border-radius: 3px;
  background: linear-gradient(to right, var(--bar) var(--p), var(--line) var(--p)); }
details { border-top: 1px solid var(--line); padding: .3rem 0; }
summary { cursor: pointer; overflow-wrap: anywhere; }
"""
HEAD = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<style>{STYLE}</style>
"""


def trace_page(trace: "Trace") -> str:
    """Return the page; it is to be encoded as UTF-8."""
    depth, stats = trace.depth, trace.stats
    rule = "" if depth.exit is None else f", exit {depth.exit} at {depth.threshold:g}"
    title = f"{_text(heading(trace.model))}: {_text(heading(trace.prompt or 'token ids', 80))}"
    most = max((token.steps for token in trace.tokens), default=0)
    numbers = "".join(f"<th>{step}</th>" for step in range(1, most + 1))
    return "".join(
        [
            HEAD,
            f"<title>{title}</title>\n</head>\n<body>\n<h1>{title}</h1>\n",
            f"<p class=faint>{'A chat. ' * trace.chat}At most {depth.max_steps} core steps a "
            f"token{rule}; {stats.mean_steps:.1f} were taken on average. "
            f"Temperature {trace.sampling.temperature:g}, seed {trace.seed}.</p>\n",
            f"<h2>Asked</h2>\n<pre dir=auto>{_lines(trace.prompt or '')}</pre>\n",
            f"<h2>Said</h2>\n<pre dir=auto>{_lines(trace.text)}</pre>\n",
            "<h2>Likeliest answer after each core step</h2>\n",
            "<p class=faint>A row for each token of the answer. How sure: 0% ",
            "<span class=key></span> 100%. A bar on the left marks a change of mind.</p>\n",
            "<div class=wide><table class=answers>\n<thead><tr><th>token</th><th>steps</th>",
            f"{numbers}</tr></thead>\n<tbody>\n",
            *(_row(number, token) for number, token in enumerate(trace.tokens, 1)),
            "</tbody></table></div>\n<h2>Step by step</h2>\n",
            *(
                _details(number, token, opened=len(trace.tokens) == 1, rule=depth.exit)
                for number, token in enumerate(trace.tokens, 1)
            ),
            "</body>\n</html>\n",
        ]
    )


def _row(number: int, token: "TokenTrace") -> str:
    cells, before = [], None
    for thought in token.thoughts:
        best = thought.likeliest[0]
        changed = " class=new" if before not in (None, best.id) else ""
        hint = "\n".join(f"{_short(c.token)} {c.probability:.1%}" for c in thought.likeliest)
        share = f'style="--p:{best.probability:.1%}"'
        cells.append(f'<td{changed} {share} title="{escape(hint)}">{_token(best.token)}</td>')
        before = best.id
    name = f"<a href=#t{number}>{number}</a> {_token(token.token)}"
    return f"<tr><th>{name}</th><th>{token.steps}</th>{''.join(cells)}</tr>\n"


def _details(number: int, token: "TokenTrace", opened: bool, rule: str | None) -> str:
    heads = ("step", "change", *([rule] if rule else []), "likeliest")
    most = max((thought.change or 0 for thought in token.thoughts), default=0)
    rows = (
        _step(step, thought, most, bool(rule)) for step, thought in enumerate(token.thoughts, 1)
    )
    return (
        f"<details id=t{number}{' open' * opened}><summary>Token {number}: "
        f"<b>{_token(token.token)}</b>, {token.steps} steps, the likeliest settled at step "
        f"{token.settled}; probability {token.thoughts[-1].probability:.1%}</summary>\n"
        "<div class=wide><table class=steps><thead><tr>"
        f"{''.join(f'<th>{_text(head)}</th>' for head in heads)}</tr></thead>\n"
        f"<tbody>\n{''.join(rows)}</tbody></table></div></details>\n"
    )


def _step(step: int, thought: "Thought", most: float, has_rule: bool) -> str:
    move = (thought.change or 0) / most if most > 0 else 0
    cells = [f"{_meter(move)} {_number(thought.change)}"]
    if has_rule:
        cells.append(_number(thought.exit_value))
    cells += [
        f"{_meter(c.probability)} {_token(c.token)} {c.probability:.1%}" for c in thought.likeliest
    ]
    return f"<tr><th>{step}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>\n"


def _meter(share: float) -> str:
    return f'<span class=meter style="--p:{share:.1%}"></span>'


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _token(text: str) -> str:
    """A token's text, whatever it holds, as markup that says no more than that text."""
    return f"<bdi>{escape(_short(text))}</bdi>"


def _short(text: str) -> str:
    return shorten(label(text), LONGEST)


def _text(text: str) -> str:
    return escape(printable(text))


def _lines(text: str) -> str:
    return _text(text) or "<span class=faint>(nothing)</span>"
