"""The OpenAPI document, generated from the routes and the wire shapes, and the page at /docs made from it.

Not held here: the committed copy (`openapi/reelgate.yaml`; a test compares it with what this makes).
"""

from __future__ import annotations

import html
from typing import Any, Final

import msgspec
from litestar import Litestar
from litestar.routes import HTTPRoute

from gateway.api.key_shapes import KeyBody, TurnBody
from gateway.api.problems import MEDIA_TYPE
from gateway.api.query import parameters_of
from gateway.api.resolving import ResolveBody
from gateway.api.uploads import UploadForm
from gateway.api.webhooks import EndpointBody, ReplayBody, RotateBody
from gateway.api.wire import CreateBody
from gateway.errors import CODES, TASK_ERRORS

# Routes whose body is decoded by hand, so that its problems can name every field.
_BODIES: Final = {
    "/v1/videos": CreateBody, "/v1/videos/plan": CreateBody, "/v1/videos/{video_id}/resolve": ResolveBody,
    "/v1/webhook_endpoints": EndpointBody, "/v1/webhook_endpoints/{endpoint_id}/rotate": RotateBody,
    "/v1/webhook_endpoints/{endpoint_id}/replay": ReplayBody,
    "/v1/keys": KeyBody, "/v1/keys/{key_id}/rotate": TurnBody,
}
# What is taken as a form, too, or only; in the form of a create files may stand where images are named.
_FORMS: Final = {"/v1/videos": CreateBody, "/v1/videos/plan": CreateBody, "/v1/files": UploadForm}
_PUBLIC: Final = ("/livez", "/readyz", "/metrics", "/openapi.json", "/docs", "/v1/version",
                  "/v1/callbacks/{provider}/{token}")
# Headers that are read where they are needed, not by the framework: it takes the first of several.
_IDEMPOTENCY_KEY: Final = {
    "name": "Idempotency-Key", "in": "header", "required": False, "schema": {"type": "string"},
    "description": "<= 255 characters",
}
# No pattern: what does not fit is ignored.
_TRACEPARENT: Final = {
    "name": "traceparent", "in": "header", "required": False, "schema": {"type": "string"},
    "description": "W3C Trace Context: the trace that the video's spans and webhooks join",
}
_TABLE: Final = {"schema": {"type": "string", "description": "The same rows as RFC 4180"}}
_ADVICE: Final = {True: "May succeed later.", False: "Change the request first."}
_REFS: Final = "#/components/schemas/{name}"
_PROBLEM: Final = _REFS.format(name="ProblemDocument")
_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;"
    "color:#1d2330;background:#fff}"
    "h2{margin:2rem 0 .3rem;font-size:1.05rem}code,td:first-child{font-family:ui-monospace,monospace}"
    "b{display:inline-block;min-width:4.5rem;color:#0a5}"
    "table{border-collapse:collapse;width:100%;font-size:.9rem}"
    "td{border-top:1px solid #ddd;padding:.25rem .6rem .25rem 0;vertical-align:top}"
    "@media(prefers-color-scheme:dark){body{background:#14171e;color:#dde}td{border-color:#333}}"
)


def openapi_document(app: Litestar) -> dict[str, Any]:
    """The whole document as plain values."""
    document: dict[str, Any] = msgspec.to_builtins(app.openapi_schema.to_schema())
    shapes = tuple(dict.fromkeys((*_BODIES.values(), *_FORMS.values())))
    _, components = msgspec.json.schema_components(shapes, ref_template=_REFS)
    document.setdefault("components", {}).setdefault("schemas", {}).update(components)
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, shape in _BODIES.items():
        reference = {"$ref": _REFS.format(name=shape.__name__)}
        document["paths"][path]["post"]["requestBody"] = {
            "required": True, "content": {"application/json": {"schema": reference}},
        }
    for path, form in _FORMS.items():
        body = document["paths"][path]["post"].setdefault("requestBody", {"required": True, "content": {}})
        body["content"]["multipart/form-data"] = {"schema": {"$ref": _REFS.format(name=form.__name__)}}
    for route in app.routes:
        for handler in route.route_handlers if isinstance(route, HTTPRoute) else ():
            if (query := handler.opt.get("query")) is not None:
                operation = document["paths"][route.path_format]["get"]
                operation.setdefault("parameters", []).extend(parameters_of(query))
    document["paths"]["/v1/usage"]["get"]["responses"]["200"]["content"]["text/csv"] = _TABLE
    for path in ("/v1/videos", "/v1/videos/{video_id}/rerun"):
        document["paths"][path]["post"].setdefault("parameters", []).extend((_IDEMPOTENCY_KEY, _TRACEPARENT))
    for path, operations in document["paths"].items():
        for operation in operations.values():
            operation["security"] = [] if path in _PUBLIC else [{"key": []}]
            # The framework describes refusals of its own in its own shape; they are answered as ours are.
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    answer["content"] = {MEDIA_TYPE: {"schema": {"$ref": _PROBLEM}}}
    document["paths"] = dict(sorted(document["paths"].items(), key=_place))
    return document


def _place(entry: tuple[str, Any]) -> tuple[bool, bool, str]:
    """The videos first, what is for operators last."""
    path = entry[0]
    return not path.startswith("/v1/videos"), not path.startswith("/v1/"), path


def docs_page(document: dict[str, Any]) -> str:
    """The document for people: one page, no script, nothing loaded from anywhere."""
    parts = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            rows = "".join(_rows(document, operation))
            words = html.escape(f"{operation.get('summary', '')}. {operation.get('description', '')}")
            parts.append(
                f"<h2><b>{method.upper()}</b> <code>{html.escape(path)}</code></h2>"
                f"<p>{words}</p><table>{rows}</table>"
            )
    title = html.escape(f"{document['info']['title']} {document['info']['version']}")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f'<h1>{title}</h1><p>{html.escape(document["info"].get("description", ""))} '
        f'Machine-readable: <a href="openapi.json">openapi.json</a>.</p>{"".join(parts)}'
        f'<h1>Errors</h1><table>{"".join(_codes())}</table></html>'
    )


def _codes() -> list[str]:
    """A line on each code; a problem document's `type` points here."""
    lines: list[tuple[str, str]] = [
        (code, f"{info.status}. {info.title}. {_ADVICE[info.retryable]}")
        for code, info in CODES.items()
    ]
    lines += [(code, f"Ends a video. {meaning}") for code, meaning in TASK_ERRORS.items()]
    return [f'<tr id="{code}"><td>{code}</td><td>{html.escape(text)}</td></tr>' for code, text in lines]


def _rows(document: dict[str, Any], operation: dict[str, Any]) -> list[str]:
    """Parameters, then the body's fields, then the answers."""
    rows = [
        (f"{it['name']} ({it['in']})", it.get("description") or _kind(it.get("schema", {})))
        for it in operation.get("parameters", [])
    ]
    for content in operation.get("requestBody", {}).get("content", {}).values():
        shape = document["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
        rows += [(name, _kind(field)) for name, field in shape.get("properties", {}).items()]
    answers = operation.get("responses", {})
    rows += [(status, answer.get("description", "")) for status, answer in answers.items()]
    return [f"<tr><td>{html.escape(name)}</td><td>{html.escape(text)}</td></tr>" for name, text in rows]


def _kind(field: dict[str, Any]) -> str:
    """A field's type and limits in a few words."""
    told = ("description", "anyOf", "default", "$ref")
    limits = {key: value for key, value in field.items() if key not in told}
    choices = " or ".join(_kind(choice) for choice in field.get("anyOf", []) if choice.get("type") != "null")
    words = ", ".join(f"{key} {value}" for key, value in limits.items())
    return " ".join(part for part in (field.get("description", ""), choices, words) if part)
