"""Doing an act from a page: its form, what it would change where the API can tell that, then the act itself, once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from starlette.responses import Response

from api.dashboard.acts import SOURCES, Act, ActFacts, ActForm, form_of_act, operations_of
from api.dashboard.asking import ApiAnswer, ShownProblem, api_path
from api.dashboard.form_fields import FormField, body_of, shown_value
from api.dashboard.forms import new_key, next_key
from api.dashboard.view import View
from schemas.problems import Rejection


@dataclass(frozen=True, slots=True)
class ActPage:
    """A page of an act: `known` are the parameters of its path that the page is about, `back` where it leads after,
    `title` what it is about."""

    view: View
    act: Act
    known: Mapping[str, str]
    back: str
    title: str

    async def form(self) -> Response:
        """Show the act's form, filled with what holds now, or with what the page's address says."""
        self._check_role()
        fields, form, facts = await self._fields()
        present, zone = self.act.present(facts), self.view.session.tz
        shown = {
            each.name: self.view.query.get(each.name)
            or (shown_value(each, present[each.name], zone) if each.name in present else each.default)
            for each in fields
        }
        return self._page(fields, form, shown, new_key())

    async def done(self, given: Mapping[str, str]) -> ApiAnswer | Response:
        """Do what a form asks for, and give the answer; or a page: with what it would change, or with what is wrong."""
        fields, form, _ = await self._fields()
        key = given.get("idempotency_key", "")[:100]
        shown = {each.name: given.get(each.name, "") for each in fields}
        if not key:
            raise Rejection("invalid_request", "This form has lost its idempotency key: open its page again")
        try:
            body = body_of(fields, given, self.view.session.tz) | dict(self.act.fixed) if form.has_body else None
        except Rejection as rejection:
            wrong = ShownProblem(rejection.status, rejection.code, "Invalid", rejection.detail, rejection.field or "")
            return self._page(fields, form, shown, key, wrong=wrong)
        places = dict(self.known) | {each.name: shown[each.name].strip() for each in fields if each.is_place}
        for each in fields:
            if each.is_place and not places[each.name]:
                wrong = ShownProblem(422, "invalid_request", "Invalid", f"`{each.name}` is missing", each.name)
                return self._page(fields, form, shown, key, wrong=wrong)
        path = api_path(self.act.path, **places)
        if form.has_dry_run and given.get("step") != "do":
            tried = await self._tried(path, form, body)
            return self._page(fields, form, shown, key, wrong=tried.problem, tried=tried)
        if self.act.is_grave and given.get("typed", "").strip() != self.view.project:
            tried = await self._tried(path, form, body)
            return self._page(fields, form, shown, key, wrong=tried.problem, tried=tried, is_untyped=True)
        answer = await self.view.call(self.act.method, path, body, key)
        if answer.problem is not None:
            return self._page(fields, form, shown, next_key(key, answer.problem), wrong=answer.problem)
        return answer

    def led_back(self) -> Response:
        """Lead back to where the act is done from, which says that it was done."""
        joiner = "&" if "?" in self.back else "?"
        return self.view.led_to(f"{self.back}{joiner}done={self.act.name}")

    def answered(self, answer: ApiAnswer) -> Response:
        """Show the answer of an act that was done."""
        return self.view.page(
            "act_done.html", act=self.act, title=self.title, back=self.back, facts=answer_facts(answer.data or {})
        )

    def _check_role(self) -> None:
        if not self.view.may(self.act.operation):
            role = self.view.caller.role
            raise Rejection("missing_role", f"An admin with the role {role!r} may not do this: {self.act.title}")

    async def _tried(self, path: str, form: ActForm, body: Mapping[str, Any] | None) -> ApiAnswer:
        if form.body_dry_run:
            return await self.view.call(self.act.method, path, {**(body or {}), "dry_run": True})
        return await self.view.call(self.act.method, path, body, dry_run=True)

    async def _fields(self) -> tuple[list[FormField], ActForm, ActFacts]:
        route = operations_of(self.view.request.app).get(self.act.operation)
        if route is None:
            raise Rejection("not_found", f"This API can't do this: {self.act.title}")
        form = form_of_act(self.act, route, self.known)
        asked = await asyncio.gather(
            *(self.view.get(api_path(SOURCES[name][0], **self.known), **SOURCES[name][1]) for name in self.act.asks)
        )
        facts = {name: each.data for name, each in zip(self.act.asks, asked, strict=True)}
        choices, suggestions = self.act.choices(facts), self.act.suggestions(facts)
        fields = [
            replace(
                each.narrowed(choices[each.name]) if choices.get(each.name) else each,
                suggestions=tuple(suggestions.get(each.name, ())),
            )
            for each in form.fields
        ]
        return fields, form, facts

    def _page(
        self,
        fields: list[FormField],
        form: ActForm,
        shown: Mapping[str, str],
        key: str,
        *,
        wrong: ShownProblem | None = None,
        tried: ApiAnswer | None = None,
        is_untyped: bool = False,
    ) -> Response:
        beside = next((each.name for each in fields if _is_about(wrong, each)), "")
        is_sure = tried is not None and tried.problem is None
        return self.view.page(
            "act.html",
            status=422 if is_untyped else wrong.status if wrong else 200,
            act=self.act,
            title=self.title,
            back=self.back,
            fields=fields,
            form=form,
            shown=shown,
            key=key,
            problem=wrong if not beside else None,
            wrong_field=beside,
            wrong=wrong,
            tried=tried.data if tried is not None and is_sure else None,
            tried_facts=answer_facts(tried.data) if tried is not None and is_sure else [],
            is_untyped=is_untyped,
            zone=self.view.session.zone,
        )


def answer_facts(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """The facts of an answer as a page lists them: labels and values, those of inner objects with their object's
    name; lists of plain values joined, of others counted."""
    facts: list[tuple[str, Any]] = []
    for name, value in data.items():
        label = f"{prefix}{name.replace('_', ' ')}"
        if isinstance(value, dict):
            facts += answer_facts(value, f"{label}: ")
        elif isinstance(value, list):
            plain = all(not isinstance(each, (dict, list)) for each in value)
            facts.append((label, ", ".join(map(str, value)) if plain else str(len(value))))
        elif isinstance(value, bool):
            facts.append((label, "yes" if value else "no"))
        elif value not in (None, ""):
            facts.append((label, value))
    return [(label[:1].upper() + label[1:], value) for label, value in facts]


def _is_about(problem: ShownProblem | None, each: FormField) -> bool:
    """Whether a problem is about a field: about it by name, or about a part of what it holds."""
    if problem is None or not problem.field:
        return False
    return problem.field == each.name or problem.field.startswith((f"{each.name}.", f"{each.name}["))
