"""Invoices in words: what operations, plans and lines are called, and how money and credits are written for people."""

from __future__ import annotations

from datetime import date, datetime

from schemas.http.invoices import InvoiceLine
from streams.core.plans import PLANS

# The details of lines for bought credits: a card has paid for them when they were bought; a contract has their price.
AUTO_RECHARGE = "auto_recharge"
BY_CONTRACT = "by_contract"

_OPERATIONS = {
    "chat.message": "Chat message",
    "page.edit": "Page edit",
    "social_post.text": "Social post",
    "social_post.image": "Social post, image",
    "social_post.video": "Social post, video",
    "content_plan": "Content plan",
    "video.budget": "Video, budget",
    "video.premium": "Video, premium",
    "blog_post": "Blog post",
    "newsletter.subscribe": "Newsletter subscription",
    "contact.submit": "Contact form",
    "webhook.delivery": "Webhook delivery, retried",
}
_CREDITS = {"allowance": "plan allowance", "top_up": "credit bundle", "promotional": "promotional credits"}
_BOUGHT = {"": "Credit bundle", AUTO_RECHARGE: "Credit bundle, auto-recharge", BY_CONTRACT: "Credits by contract"}


def operation_name(operation: str) -> str:
    """The name of an operation or a recurring item for people. One of another price book is its code without the signs:
    `audio.long_form` is "Audio, long form"."""
    known = _OPERATIONS.get(operation)
    words = ", ".join(filter(None, operation.replace("_", " ").split(".")))
    return known or words.capitalize() or operation


def describe(line: InvoiceLine) -> str:
    """The words for an invoice line, for people."""
    where = " (preview)" if line.environment == "preview" else ""
    match line.kind:
        case "subscription":
            return _plan(line)
        case "top_up":
            return f"{_BOUGHT.get(line.detail, line.detail)}{where}"
        case "refund":
            what = "credits by contract" if line.detail == BY_CONTRACT else f"a {_CREDITS.get(line.item, line.item)}"
            return f"Refund of {what}{where}"
        case "transfer":
            other = f"the account {line.detail}" if line.detail else "the project's own invoice"
            return f"Moved from {other}" if line.item == "moved_in" else f"Moved to {other}"
        case "correction":
            return f"{operation_name(line.item)}, {_correction(line.detail)}{where}"
        case "recurring":
            return f"{operation_name(line.item)}, unit-hours of {month_name(line.detail)}"
        case "usage":
            return f"{operation_name(line.item)}{where}"
        case "grant":
            return f"{_CREDITS.get(line.item, line.item).capitalize()} granted{where}"
        case "expiry":
            return f"{_CREDITS.get(line.item, line.item).capitalize()} expired{where}"


def format_usd(cents: int) -> str:
    """Format cents as text: -150000 is "USD -1,500.00"."""
    return f"USD {format_cents(cents)}"


def format_cents(cents: int) -> str:
    """Format cents as dollars without the currency: -150000 is "-1,500.00"."""
    whole, fraction = divmod(abs(cents), 100)
    return f"{'-' if cents < 0 else ''}{whole:,}.{fraction:02d}"


def group_digits(credits: str) -> str:
    """Credits with a comma after each thousand: "-12345.06" is "-12,345.06"."""
    whole, point, fraction = credits.lstrip("-").partition(".")
    return f"{'-' if credits.startswith('-') else ''}{int(whole):,}{point}{fraction}"


def month_name(month: str) -> str:
    """The name of a month: "2026-01" is "January 2026"."""
    return f"{datetime.strptime(month, '%Y-%m'):%B %Y}"


def day_name(day: date) -> str:
    """The name of a day: "1 January 2026"."""
    return f"{day.day} {day:%B %Y}"


def _plan(line: InvoiceLine) -> str:
    # Within a month a plan that gives more is charged the difference; a contract's price is not known here.
    plan = PLANS.get(line.item)
    if plan is not None and plan.price_cents and line.unit_cents != plan.price_cents:
        return f"Upgrade to the {line.item.capitalize()} plan, difference for the month"
    return f"{line.item.capitalize()} plan, monthly fee"


def _correction(detail: str) -> str:
    return {"given_back": "corrected: given back", "charged": "corrected: charged"}.get(detail, detail)
