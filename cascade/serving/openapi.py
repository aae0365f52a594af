"""The server's OpenAPI document: /openapi.json, made of the very models that requests are parsed by."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from cascade.serving.protocol import IGNORED, UNSUPPORTED, ChatRequest, CompletionRequest
from cascade.serving.responses import RESPONSES_UNSUPPORTED, ResponsesRequest
from cascade.serving.service import Service

Json = dict[str, Any]
_ERRORS = {
    "400": "Not what it has to be; the error names the field",
    "401": "No valid API key",
    "403": "A host, or a page, that may not ask",
    "404": "No such model",
    "408": "The body did not come in its time",
    "413": "A body that is too large",
    "415": "A body that is not said to be JSON",
    "429": "Too many questions under way; `Retry-After` says when to come back",
    "503": "Starting, stopping, or the last stage failed",
}
_KEYED = ("401", "403")
_ASKING = tuple(_ERRORS)
_NULLABLE_TEXT = {"type": ["string", "null"]}
_ERROR: Json = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "additionalProperties": False,
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": _NULLABLE_TEXT,
                "code": _NULLABLE_TEXT,
            },
        },
        "cascade": {"type": "object"},
    },
}
_MODEL: Json = {
    "type": "object",
    "required": ["id", "object", "created", "owned_by"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "model"},
        "created": {"type": "integer"},
        "owned_by": {"type": "string"},
    },
}
_MODELS: Json = {
    "type": "object",
    "required": ["object", "data"],
    "properties": {
        "object": {"const": "list"},
        "data": {"type": "array", "items": {"$ref": "#/components/schemas/Model"}},
    },
}
_USAGE: Json = {
    "type": "object",
    "required": ["prompt_tokens", "completion_tokens", "total_tokens"],
    "additionalProperties": {"type": "integer", "minimum": 0},
}


_RESPONSE: Json = {
    "type": "object",
    "required": ["id", "object", "created_at", "status", "model", "output", "usage", "cascade"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "response"},
        "created_at": {"type": "integer"},
        "status": {"enum": ["completed", "incomplete"]},
        "model": {"type": "string"},
        "output": {"type": "array", "minItems": 1, "items": {"type": "object"}},
        "usage": {"type": "object", "required": ["input_tokens", "output_tokens", "total_tokens"]},
        "cascade": {"type": "object"},
    },
}


def openapi(service: Service) -> Json:
    """The document of one server: its models' names are in it, and its wish for a key where it has one."""
    names = list(dict.fromkeys((service.cascade.name, *service.cascade.names)))
    _, found = models_json_schema(
        [(ChatRequest, "validation"), (CompletionRequest, "validation"), (ResponsesRequest, "validation")],
        ref_template="#/components/schemas/{model}",
    )
    schemas: Json = found["$defs"]
    for request, unsupported in (
        ("ChatRequest", UNSUPPORTED),
        ("CompletionRequest", UNSUPPORTED),
        ("ResponsesRequest", RESPONSES_UNSUPPORTED),
    ):
        fields = schemas[request]["properties"]
        fields["model"] |= {"enum": names}
        for name in sorted(IGNORED - fields.keys()):
            fields[name] = {"description": "Changes nothing here"}
        for name, allowed in unsupported.items():
            fields.setdefault(name, {"enum": [None, *allowed], "description": "Nothing else is supported"})
    schemas |= {"Error": _ERROR, "Model": _MODEL, "Models": _MODELS}
    schemas["ResponsesReply"] = _RESPONSE
    schemas |= {"ChatReply": _reply("chat.completion"), "CompletionReply": _reply("text_completion")}
    document: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "Confidence Cascade",
            "version": "1",
            "description": "OpenAI's protocol, and what the cascade did in the field `cascade`.",
        },
        "paths": {
            "/": _get("The page", "text/html", open_to_all=True),
            "/healthz": _get("Whether the process runs", "text/plain", open_to_all=True),
            "/readyz": _get("Whether questions are accepted", "text/plain", "503", open_to_all=True),
            "/metrics": _get("Prometheus metrics", "text/plain", *_KEYED),
            "/openapi.json": _get("This document", "application/json", *_KEYED),
            "/v1/cascade": _get("Models, policy and totals", "application/json", *_KEYED),
            "/v1/models": _get("The models", "application/json", *_KEYED, schema="Models"),
            "/v1/models/{name}": _get("One model", "application/json", *_KEYED, "404", schema="Model")
            | {"parameters": [{"name": "name", "in": "path", "required": True, "schema": {"enum": names}}]},
            "/v1/chat/completions": _post("ChatRequest", "ChatReply"),
            "/v1/completions": _post("CompletionRequest", "CompletionReply"),
            "/v1/responses": _post("ResponsesRequest", "ResponsesReply"),
        },
        "components": {"schemas": schemas},
    }
    if service.keyed:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    return document


def _reply(kind: str) -> Json:
    return {
        "type": "object",
        "required": ["id", "object", "created", "model", "choices", "usage", "cascade"],
        "properties": {
            "id": {"type": "string"},
            "object": {"const": kind},
            "created": {"type": "integer"},
            "model": {"type": "string"},
            "choices": {"type": "array", "minItems": 1, "items": {"type": "object"}},
            "usage": _USAGE,
            "cascade": {"type": "object"},
        },
    }


def _get(summary: str, kind: str, *errors: str, schema: str | None = None, open_to_all: bool = False) -> Json:
    said = {} if schema is None else {"schema": {"$ref": f"#/components/schemas/{schema}"}}
    operation: Json = {
        "summary": summary,
        "responses": {"200": {"description": summary, "content": {kind: said}}} | _errors(*errors, "403"),
    }
    return {"get": operation | ({"security": []} if open_to_all else {})}


def _post(request: str, reply: str) -> Json:
    content = {
        "application/json": {"schema": {"$ref": f"#/components/schemas/{reply}"}},
        "text/event-stream": {"schema": {"type": "string"}},
    }
    body = {"application/json": {"schema": {"$ref": f"#/components/schemas/{request}"}}}
    return {
        "post": {
            "summary": "Asks the cascade, or one of its models",
            "requestBody": {"required": True, "content": body},
            "responses": {"200": {"description": "The answer", "content": content}} | _errors(*_ASKING),
        }
    }


def _errors(*statuses: str) -> Json:
    said = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {status: {"description": _ERRORS[status], "content": said} for status in statuses}
