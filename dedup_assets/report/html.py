"""Pieces of a web page that stands alone: escaping, tables, texts side by side, and the style of it all.

Knows no curation. Whatever comes from a corpus passes through `shown`: nothing of it is ever markup.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from html import escape
from typing import Any

from dedup_assets.display_text import shorten, visible
from dedup_assets.report.plots import CSS

COMPARED_WORDS = 400
"""Words of a text that are compared for differences at most: the comparison is quadratic."""

STYLE = (
    """
:root{color-scheme:light dark;--paper:#fff;--ink:#1f2933;--soft:#52606d;--line:#e4e7eb;--wash:#f5f7fa;
--kept:#4477aa;--removed:#ee7733;--faint:#bbc4cd;--mark:#fde3cf}
@media screen and (prefers-color-scheme:dark){:root{--paper:#14181d;--ink:#e8edf2;--soft:#9fb0c0;--line:#2c353f;
--wash:#1c2229;--kept:#6fa3d8;--removed:#f0935c;--faint:#4a5662;--mark:#5a3a22}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1080px;padding:28px 24px 64px;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,Helvetica,Arial,sans-serif}
h1{font-size:26px;margin:0 0 2px}
h2{font-size:19px;margin:40px 0 10px;padding-top:14px;border-top:1px solid var(--line)}
p{margin:6px 0;max-width:78ch}
.soft,figcaption,th{color:var(--soft)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:20px 0 12px}
.tile{background:var(--wash);border:1px solid var(--line);border-radius:8px;padding:10px 14px}
.tile b{display:block;font-size:22px;font-variant-numeric:tabular-nums}
.bar{display:flex;height:14px;border-radius:7px;overflow:hidden;background:var(--line)}
.bar i{display:block}
.kept{background:var(--kept)}.removed{background:var(--removed)}.exact{background:var(--removed);opacity:.55}
.faint{background:var(--faint)}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(430px,100%),1fr));gap:0 24px}
figure{margin:18px 0;break-inside:avoid}
figcaption{font-size:14px}
.wide{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums;min-width:40%}
th,td{text-align:left;padding:4px 12px 4px 0;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;white-space:nowrap}
td.n,th.n{text-align:right}
td{overflow-wrap:break-word;max-width:34em}
tr.sum td{font-weight:600}
code,.id{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:0 14px;border:1px solid var(--line);border-radius:8px;
margin:10px 0;padding:10px 14px;break-inside:avoid}
.pair>*{min-width:0}
.pair .head{grid-column:1/-1;color:var(--soft);font-size:14px;margin-bottom:4px}
.pair .head b{color:var(--ink);font-variant-numeric:tabular-nums}
.text{white-space:pre-wrap;overflow-wrap:anywhere;font-size:14px;max-height:22em;overflow:auto;
border-left:3px solid var(--kept);padding-left:10px;margin:2px 0 8px;unicode-bidi:plaintext}
.text.out{border-color:var(--removed)}
mark{background:var(--mark);color:inherit;border-radius:2px}
.id{color:var(--soft);overflow-wrap:anywhere}
@media(max-width:640px){.pair{grid-template-columns:1fr}body{padding:16px 12px 40px}}
@media print{body{max-width:none;padding:0;font-size:12px}.text{max-height:none;overflow:visible}
.bar,.tile,mark,.kept,.removed,.exact,.faint{-webkit-print-color-adjust:exact;print-color-adjust:exact}
h2{break-after:avoid}tr{break-inside:avoid}.wide{overflow:visible}}
"""
    + CSS
)


def page(title: str, body: Iterable[str]) -> str:
    """A whole document that needs nothing from outside itself."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # Should anything of the corpus ever pass as markup, it still runs nothing and loads nothing.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{shown(title)}</title><style>{STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def shown(value: Any) -> str:
    """A value as text of the page."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(shown(part) for part in value)
    return escape(visible("" if value is None else str(value)))


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]], *, last_is_sum: bool = False) -> str:
    """A table; columns of numbers stand to the right."""
    body = [list(row) for row in rows]
    numeric = [
        bool(body) and all(isinstance(row[at], int | float) and not isinstance(row[at], bool) for row in body)
        for at in range(len(heads))
    ]
    kinds = [' class="n"' if right else "" for right in numeric]
    head = "".join(f"<th{kind}>{shown(name)}</th>" for name, kind in zip(heads, kinds, strict=True))
    lines = [
        f"<tr{' class=sum' if last_is_sum and at == len(body) - 1 else ''}>"
        + "".join(f"<td{kind}>{shown(value)}</td>" for value, kind in zip(row, kinds, strict=True))
        + "</tr>"
        for at, row in enumerate(body)
    ]
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def facts(pairs: Iterable[tuple[str, Any]]) -> str:
    """Names and values below each other."""
    rows = "".join(f"<tr><th>{shown(name)}</th><td>{shown(value)}</td></tr>" for name, value in pairs)
    return f'<div class="wide"><table><tbody>{rows}</tbody></table></div>'


def figures(*pictures: tuple[str, str]) -> str:
    """Pictures beside each other where there is room, each with its numbers in words."""
    return f'<div class="figures">{"".join(figure(svg, words) for svg, words in pictures)}</div>'


def figure(svg: str, words: str) -> str:
    """A picture with its numbers in words. `svg` is our own."""
    return f"<figure>{svg}<figcaption>{shown(words)}</figcaption></figure>"


def side_by_side(head: str, left: tuple[str, str], right: tuple[str, str], right_css: str = "out") -> str:
    """Two texts, (id, text) each, with the words that only one of them has marked. `head` is markup."""
    one, other = marked_differences(shorten(left[1]), shorten(right[1]))
    return _card(head, _text(left[0], one, ""), _text(right[0], other, right_css))


def keeper_and_removed(head: str, keeper: tuple[str, str], removed: Sequence[tuple[str, str]]) -> str:
    """A text and some that went for it, (words, text) each, marked where they differ from it; an empty text
    stands for the keeper's own. `head` is markup."""
    kept = shorten(keeper[1])
    parts = [
        _text(words, marked_differences(kept, shorten(text))[1] if text else None, "out") for words, text in removed
    ]
    return _card(head, _text(keeper[0], escape(kept), ""), "".join(parts))


def _card(head: str, left: str, right: str) -> str:
    return f'<div class="pair"><div class="head">{head}</div><div>{left}</div><div>{right}</div></div>'


def _text(words: str, markup: str | None, css: str) -> str:
    named = f'<div class="id" dir="auto">{shown(words)}</div>'
    return named if markup is None else f'{named}<div class="text {css}" dir="auto">{markup}</div>'


def marked_differences(one: str, other: str) -> tuple[str, str]:
    """Two texts as markup, with the words that the other lacks marked; long texts are left unmarked."""
    a, b = (re.findall(r"\s+|\w+|[^\w\s]", text) for text in (one, other))
    if max(len(a), len(b)) > 2 * COMPARED_WORDS:
        return escape(one), escape(other)
    left: list[str] = []
    right: list[str] = []
    for kind, a1, a2, b1, b2 in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        for out, words in ((left, "".join(a[a1:a2])), (right, "".join(b[b1:b2]))):
            out.append(escape(words) if kind == "equal" or not words.strip() else f"<mark>{escape(words)}</mark>")
    return "".join(left), "".join(right)
