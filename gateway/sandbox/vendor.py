"""The way of a request through a simulated vendor, which all three share, around their own words.

Not held here: those words (`protocols`), what is a valid request (`strictness`), what becomes of an accepted
one (`renders`), what goes wrong (`faults`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from email.utils import formatdate
from typing import Any

import msgspec

from gateway.sandbox import faults, strictness
from gateway.sandbox.catalogue import Fault, Phase
from gateway.sandbox.distortions import View
from gateway.sandbox.faults import Directives
from gateway.sandbox.renders import Order, Task, World
from gateway.sandbox.strictness import RefusedError
from gateway.sandbox.wire import Answer, Call, Request, Send


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What to answer, and the wrong way to send it, if one was chosen."""

    answer: Answer
    send: Send | None = None
    call: Call = Call(args={})


class Vendor(ABC):
    """One simulated vendor: the way of a request, which all share, around the words, which they do not."""

    link_seconds: float

    def __init__(self, name: str, world: World) -> None:
        self.name, self.world = name, world
        self.sells = strictness.validators(name)

    def exchange(self, request: Request) -> Outcome:
        """Answer one request whose path begins after the vendor's prefix."""
        try:
            phase, name = self._find(request)
            self._check_key(request.headers.get("authorization", ""))
            return self._submit(request, name) if phase == "submit" else self._poll(request, name)
        except RefusedError as refused:
            return Outcome(answer=self._error(refused.kind, {"message": refused.message}))

    def finish(self, struck: list[tuple[Fault, Call]], answer: Answer) -> Outcome:
        """The answer as the faults leave it. Of several wrong ways to send it the last one counts."""
        send, sent_by = None, Call(args={})
        for fault, call in struck:
            if fault.error is not None:
                answer = self._error(fault.error, self._dated(call.args))
            elif fault.bend is not None:
                answer = fault.bend(answer, call)
            elif fault.send is not None:
                send, sent_by = fault.send, call
        return Outcome(answer=answer, send=send, call=sent_by)

    def _dated(self, args: Mapping[str, str | int | float]) -> Mapping[str, str | int | float]:
        """The arguments of an error, a date in place of the seconds that it is `ahead`."""
        if "ahead" not in args:
            return args
        at = self.world.clock.time() + float(args["ahead"])
        return {**args, "retry_after": formatdate(at, usegmt=True)}

    def _check_key(self, header: str) -> None:
        scheme, _, key = header.partition(" ")
        if not key.strip():
            raise RefusedError("no_key", "no Authorization: Bearer header")
        if scheme.lower() != "bearer" or key.strip() != self.world.settings.key:
            raise RefusedError("bad_key", "the key is not accepted")

    def _submit(self, request: Request, slug: str) -> Outcome:
        body = _decoded(request)
        prompt = asked_for(body)
        try:
            wishes = faults.directives(prompt)
        except ValueError as error:
            raise RefusedError("invalid", f"directive: {error}") from None
        previous = self.world.previous_id(self.name)
        armed = [*self.world.armed, *self.world.submit_faults(self.name, prompt, wishes)]
        struck = faults.take(armed, self.name, "submit", self.world.clock.time(), previous)
        if not all(fault.works for fault, _ in struck):
            return self.finish(struck, Answer(status=200, headers=(), body=b""))
        try:
            answer = self._created(self._accept(slug, body, wishes))
        except RefusedError as refused:
            answer = self._error(refused.kind, {"message": refused.message})
        return self.finish(struck, answer)

    def _accept(self, slug: str, body: object, wishes: Directives) -> Task:
        if not isinstance(body, dict):
            raise RefusedError("invalid", "body: not a JSON object")
        slug = slug or str(body.get("model"))
        if slug not in self.sells:
            raise RefusedError("unknown_slug", f"{slug[:100]} is not known")
        strictness.check(self.sells[slug], body)
        return self.world.accept(self.name, self._new_id(), self._order(slug, body), wishes)

    def _poll(self, request: Request, task_id: str) -> Outcome:
        task = self.world.tasks.get((self.name, task_id))
        armed = [*self.world.armed, *(task.faults if task else ())]
        struck = faults.take(armed, self.name, "poll", self.world.clock.time())
        if task is None:
            return self.finish(struck, self._error("not_found", {}))
        view = self.world.view(task)
        for fault, call in struck:
            view = view if fault.retell is None else fault.retell(view, call)
        seconds = self.lifetime if view.link_seconds is None else view.link_seconds
        link = self.world.link(task, seconds, dead=view.link_dead)
        origin = f"{request.scheme}://{request.headers.get('host', '')}"
        links = None if view.videos is None else [origin + link] * view.videos
        return self.finish(struck, self._told(task, view, links))

    @property
    def lifetime(self) -> float:
        """Seconds a result link lives, as the vendor says."""
        chosen = self.world.settings.link_seconds
        return self.link_seconds if chosen is None else chosen

    @abstractmethod
    def _find(self, request: Request) -> tuple[Phase, str]:
        """The phase, and the slug (or nothing, where the body has it) or the task id. Raises RefusedError."""

    @abstractmethod
    def _order(self, slug: str, body: Mapping[str, Any]) -> Order:
        """What a valid body buys, defaults filled in. Raises RefusedError for an unfit image."""

    @abstractmethod
    def _new_id(self) -> str:
        """A task id in the vendor's form."""

    @abstractmethod
    def _created(self, task: Task) -> Answer:
        """The answer to an accepted create."""

    @abstractmethod
    def _told(self, task: Task, view: View, links: list[str] | None) -> Answer:
        """The answer to a poll."""

    @abstractmethod
    def _error(self, kind: str, args: Mapping[str, str | int | float]) -> Answer:
        """The vendor's error body; `args` may say another `status`, `reason`, `message`, or `retry_after`."""


def _decoded(request: Request) -> object:
    """The body, or None where there is none to read; what that means is for later, after faults and key."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return None
    try:
        return msgspec.json.decode(request.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def asked_for(body: object) -> str:
    """All that a body asks to see, its shots included; empty where that has no such form."""
    if not isinstance(body, dict):
        return ""
    shots = body.get("multi_prompt")
    listed = shots if isinstance(shots, list) else []
    texts = [shot.get("prompt") for shot in listed if isinstance(shot, dict)]
    return " / ".join(text for text in [body.get("prompt"), *texts] if isinstance(text, str) and text)
