"""Conversations to text, with the model's own chat template, sandboxed by transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from scheduler_svc.text.pretrained import CardError, render
from stepserve.protocol.errors import InvalidRequest

__all__ = ["CardError", "ChatTemplate"]


class ChatTemplate:
    """A chat template and the special tokens it may name.

    Raises CardError where it is not a template.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        self._source = source
        self._special_tokens = dict(special_tokens)
        try:
            render(source, (), self._special_tokens)
        except jinja2.TemplateSyntaxError as error:
            raise CardError(f"chat template, line {error.lineno}: {error.message}") from error
        except Exception as error:
            raise CardError(f"chat template: {type(error).__name__}") from error

    @property
    def source(self) -> str:
        """The template itself: how a model writes what is not plain text is told by it alone."""
        return self._source

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        options: Mapping[str, Any] | None = None,
    ) -> str:
        """Return the prompt, up to where the assistant's answer begins.

        ``messages`` have "role" and "content" and what else the template knows, ``tools`` are
        JSON schemas of functions, ``options`` names that the template reads ("enable_thinking").
        Raises InvalidRequest where the template refuses them or fails on them.
        """
        names = {**(options or {}), **self._special_tokens}
        try:
            return render(self._source, messages, names, tools)
        except Exception as error:
            if type(error) is jinja2.TemplateError:  # what raise_exception raises, and nobody else
                raise InvalidRequest("messages", f"the chat template says: {error}") from error
            # Whatever a template does wrong, it does with these messages; what it says
            # may quote them, so only its kind is told.
            problem = f"the chat template fails on them ({type(error).__name__})"
            raise InvalidRequest("messages", problem) from error
