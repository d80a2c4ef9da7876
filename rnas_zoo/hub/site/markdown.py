"""A release's card as HTML: Markdown only, nothing in it can act."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Sequence
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)


def render(text: str, files: Collection[str], base: str) -> str:
    """The body of a card as HTML, without front matter and first heading; HTML inside it becomes text.

    Args:
        text: Markdown, as README.md holds it.
        files: paths, relative to the card, that the page can show and link to. Pictures and links of other files, and
            pictures from elsewhere, leave only their words.
        base: where these files are, seen from the page.
    """
    parser = MarkdownIt("commonmark", {"html": False}, renderer_cls=_Renderer).enable("table")
    tokens = _without_title(parser.parse(FRONT_MATTER.sub("", text.replace("\r\n", "\n"), count=1)))
    heading = ""
    for i, token in enumerate(tokens):
        if token.type == "heading_open":
            heading = tokens[i + 1].content
        elif token.type == "table_open":
            token.meta["about"] = heading
        elif token.type == "inline" and token.children:
            token.children = _local(token.children, files, base)
    return parser.renderer.render(tokens, parser.options, {})


class _Renderer(RendererHTML):
    def table_open(self, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
        box = Token("div_open", "div", 1, attrs={"class": "scroll", "role": "region", "tabindex": "0"})
        box.attrSet("aria-label", f"Table: {tokens[index].meta['about']}".removesuffix(": "))
        return self.renderToken([box], 0, options, env) + "<table>\n"

    def table_close(self, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
        return "</table>\n</div>\n"

    def th_open(self, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
        tokens[index].attrSet("scope", "col")
        return self.renderToken(tokens, index, options, env)

    def fence(self, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
        return super().fence(tokens, index, options, env).replace("<pre>", '<pre tabindex="0">', 1)


def _without_title(tokens: list[Token]) -> list[Token]:
    """The page has the title already."""
    if tokens and tokens[0].type == "heading_open" and tokens[0].tag == "h1":
        return tokens[3:]
    return tokens


def _local(tokens: Sequence[Token], files: Collection[str], base: str) -> list[Token]:
    """Links and pictures of known files point to them; of unknown ones the words are left."""
    kept, dropping = [], False
    for token in tokens:
        if token.type == "image":
            path = _known(str(token.attrGet("src")), files)
            if path is None:
                kept.append(Token("text", "", 0, content=token.content))
                continue
            token.attrSet("src", base + quote(path))
            token.attrSet("loading", "lazy")
        elif token.type == "link_open":
            target = urlsplit(str(token.attrGet("href")))
            path = _known(str(token.attrGet("href")), files)
            dropping = path is None and target.scheme not in ("http", "https", "mailto")
            if dropping:
                continue
            if path is not None:
                token.attrSet("href", base + quote(path))
            else:
                token.attrSet("rel", "noopener")
        elif token.type == "link_close" and dropping:
            dropping = False
            continue
        kept.append(token)
    return kept


def _known(address: str, files: Collection[str]) -> str | None:
    parts = urlsplit(address)
    path = posixpath.normpath(unquote(parts.path)) if parts.path else ""
    return path if not (parts.scheme or parts.netloc) and path in files else None
