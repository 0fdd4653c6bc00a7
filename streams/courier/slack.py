"""Slack: a notice as a message to an incoming webhook."""

from __future__ import annotations

import msgspec

from schemas.accounts import Endpoint
from schemas.notices import Notice
from streams.courier.posts import Outcome, Posts
from streams.courier.words import text_of

# https://api.slack.com/reference/surfaces/formatting#escaping: what is escaped mentions nobody and links nowhere.
_ESCAPED = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"))


class SlackSender:
    """A sender to Slack, and to whoever takes its incoming webhooks, as Mattermost does."""

    def __init__(self, posts: Posts) -> None:
        self._posts = posts

    async def send(self, endpoint: Endpoint, notice: Notice, at_ms: int) -> Outcome:
        """Send a notice; Slack says when. Raises nothing."""
        text = text_of(notice)
        for plain, escaped in _ESCAPED:
            text = text.replace(plain, escaped)
        body = msgspec.json.encode({"text": text})
        return await self._posts.post(endpoint.target, body, {"content-type": "application/json; charset=utf-8"})
