"""The OpenAPI description: the forms, whose bodies FastAPI does not parse, the responses, and the API key.

Responses name their schemas with ``$ref``, and the schemas are generated when ``/openapi.json`` is first read. Given
the same types as ``model``, FastAPI would build 79 pydantic TypeAdapters while the routes are made, 86 % of the CPU
time of ``create_app``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from app.api.forms import UPLOAD_HEADERS, UPLOAD_URL, form_schemas
from app.api.requests import is_limited
from app.api.schemas import (
    DiarizedTranscription,
    ErrorBody,
    JobAccepted,
    Transcription,
    VerboseTranscription,
    json_schemas,
    reference,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fastapi import FastAPI

    from app.api.fields import Field

Responses = dict[int | str, dict[str, Any]]

JOB_EXAMPLE: Final = {
    "job_id": "3fa85f64-5717-4562-b3fc-2c963f66afa6",
    "name": "interview.mp3",
    "status": "processing",
    "progress": "Transcribing audio",
    "progress_percent": 40.0,
    "start_time": 1790000000.0,
    "elapsed_time": 2.5,
    "eta_seconds": 3.8,
    "input_source": "file",
    "audio_duration": 61.4,
    "language": "english",
    "model": "large-v3-turbo",
    "task": "transcribe",
    "timestamp_granularities": ["segment"],
    "result_available": False,
}
PARTIAL_EXAMPLE: Final = {
    "job_id": "3fa85f64-5717-4562-b3fc-2c963f66afa6",
    "start": 1,
    "next": 1,
    "is_final": False,
    "attempt": 1,
    "segments": [],
}
TRANSCRIPT_EXAMPLE: Final = {"text": "hello this is a test", "usage": {"type": "duration", "seconds": 6}}
PLAIN_TEXT: Final = {"text/plain": {"schema": {"type": "string"}}}
EVENT_STREAM: Final[dict[str, Any]] = {"text/event-stream": {"schema": {}}}


def json_body(*bodies: type, example: Any = None) -> dict[str, Any]:
    """Return the ``content`` of a JSON response that is one of ``bodies``."""
    references = [reference(body) for body in bodies]
    media_type: dict[str, Any] = {"schema": references[0] if len(references) == 1 else {"anyOf": references}}
    if example is not None:
        media_type["example"] = example
    return {"application/json": media_type}


def responses(description: str, content: dict[str, Any], *errors: int) -> Responses:
    """Return FastAPI's ``responses``: the success with its content, and the statuses of possible errors."""
    return {200: {"description": description, "content": content}, **failures(*errors)}


def failures(*statuses: int) -> Responses:
    """Return the error responses for FastAPI's ``responses``."""
    return {status: _failure(status) for status in statuses}


def _failure(status: int) -> dict[str, Any]:
    description, kind, message, param, code = _FAILURES[status]
    example = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return {"description": description, "content": json_body(ErrorBody, example=example)}


#: The description of each status, and an example: type, message, param and code.
_FAILURES: Final[dict[int, tuple[str, str, str, str | None, str | None]]] = {
    400: (
        "A field is invalid, contradicts another one or cannot be honoured, or the audio cannot be decoded.",
        "invalid_request_error",
        "`temperature` must be between 0 and 1, got 7.",
        "temperature",
        None,
    ),
    401: (
        "The API key is missing or wrong.",
        "invalid_request_error",
        "The API key is wrong: send the header 'Authorization: Bearer KEY' with one of the keys in API_KEYS.",
        None,
        "invalid_api_key",
    ),
    404: (
        "The job or model does not exist.",
        "invalid_request_error",
        "There is no job '1f0c': it never existed, its retention time is over, or it was submitted with another API "
        "key.",
        None,
        "job_not_found",
    ),
    412: (
        "The transcript was edited meanwhile: it is not the version in `If-Match`.",
        "invalid_request_error",
        "The transcript of job 3fa85f64-5717-4562-b3fc-2c963f66afa6 was edited meanwhile: get "
        "/v1/jobs/3fa85f64-5717-4562-b3fc-2c963f66afa6/transcript, and send the edit again with the ETag of that.",
        None,
        "edit_conflict",
    ),
    413: (
        "The file or the audio is over the limit.",
        "invalid_request_error",
        "The file is too large: MAX_UPLOAD_BYTES allows 2147483648 bytes. Send compressed audio (Opus, MP3), or split "
        "it.",
        "file",
        "too_large",
    ),
    429: (
        "The queue is full: retry after the time in `Retry-After`. Or the quota of the API key is used up.",
        "rate_limit_error",
        "The queue is full: 1000 requests are waiting and MAX_QUEUED_JOBS allows 1000. Try again later.",
        None,
        "queue_full",
    ),
    500: (
        "The server failed. A retry would fail again (`x-should-retry: false`).",
        "server_error",
        "Internal error: see the server's log for its cause.",
        None,
        None,
    ),
    503: (
        "The model is being loaded, the server is shutting down, or the database or object store of a cluster is away. "
        "Retry after the time in `Retry-After`.",
        "server_error",
        "The service is shutting down and takes no new work: try again later.",
        None,
        "draining",
    ),
    507: (
        "The server has no disk space left. Retry after the time in `Retry-After`.",
        "server_error",
        "The server has no disk space left for this request: try again later, or ask its operator to free some.",
        None,
        "disk_full",
    ),
}

#: Operations for a job, from the response that has its id.
_JOB_LINKS: Final = {
    name: {"operationId": operation, "parameters": {"job_id": "$response.body#/job_id"}}
    for name, operation in (
        ("look at it", "get_job"),
        ("follow it", "get_job_events"),
        ("read its transcript", "get_job_result"),
        ("deliver it again", "redeliver_job"),
        ("cancel or forget it", "delete_job"),
    )
}

#: The responses to both forms. The bodies stand in this order because the first that fits counts.
FORM_RESPONSES: Final = responses(
    "The transcript, or the job's id if one of `upload_presigned_url`, `webhook_url` and `stored_output` is given.",
    {
        **json_body(
            VerboseTranscription, DiarizedTranscription, Transcription, JobAccepted, example=TRANSCRIPT_EXAMPLE
        ),
        **PLAIN_TEXT,
        **EVENT_STREAM,
    },
    *(400, 401, 404, 413, 429, 500, 503, 507),
)
FORM_RESPONSES[200]["links"] = _JOB_LINKS

_FORM_HEADERS: Final = [
    {
        "name": "Idempotency-Key",
        "in": "header",
        "required": False,
        "description": "A key of your choice for this request, such as a UUID. A repeated request with the same key "
        "and the same form returns the first job, as long as that is kept. Default: none.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    }
]


def query_operation(fields: Iterable[Field[Any]], form: dict[str, Any]) -> dict[str, Any]:
    """Return what FastAPI has to add to the operation of a route that takes fields in its query, and a form."""
    parameters = [{"name": field.name, "in": "query", "required": False, "schema": field.schema()} for field in fields]
    return {"parameters": parameters, "requestBody": {"required": True, "content": {"multipart/form-data": form}}}


def form_operation(form: str) -> dict[str, Any]:
    """Return what FastAPI has to add to the operation of a route that takes the named form."""
    content = {"multipart/form-data": {"schema": {"$ref": f"#/components/schemas/{form}"}}}
    return {"parameters": _FORM_HEADERS, "requestBody": {"required": True, "content": content}}


def _one_or_more(item: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [item, {"type": "array", "items": item, "maxItems": UPLOAD_URL.maximum}]}


#: What FastAPI has to add to the operation of a redelivery.
REDELIVERY_OPERATION: Final = {
    "requestBody": {
        "required": False,
        "content": {
            "application/json": {
                "schema": {
                    "title": "Redelivery",
                    "type": "object",
                    "properties": {
                        UPLOAD_URL.name: {
                            **_one_or_more({"type": "string"}),
                            "description": "A new URL, or one for each upload of the job, in their order. Default: the "
                            "URLs that the job was submitted with and whose uploads have not arrived, if they are "
                            "still stored and have not expired.",
                        },
                        UPLOAD_HEADERS.name: {
                            **_one_or_more({"type": "object", "additionalProperties": {"type": "string"}}),
                            "description": "Headers that were signed into the new URLs: one object for all, or one for "
                            "each. Default: none.",
                        },
                    },
                },
            }
        },
    }
}

#: What FastAPI has to add to the operation that renames a job.
RENAMING_OPERATION: Final = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "title": "JobChange",
                    "type": "object",
                    "required": ["name"],
                    "properties": {
                        "name": {
                            "anyOf": [{"type": "string"}, {"type": "null"}],
                            "description": "The new name. Null or an empty one removes it.",
                        }
                    },
                },
                "example": {"name": "Interview"},
            }
        },
    }
}

#: What FastAPI has to add to the operation that replaces corrections.
CLIENT_SECRET_OPERATION: Final = {
    "requestBody": {
        "content": {
            "application/json": {
                "schema": {
                    "title": "ClientSecretRequest",
                    "type": "object",
                    "properties": {
                        "expires_after": {
                            "type": "object",
                            "properties": {
                                "anchor": {"type": "string", "enum": ["created_at"]},
                                "seconds": {"type": "integer", "minimum": 10, "maximum": 7200, "default": 600},
                            },
                        },
                        "session": {
                            "type": "object",
                            "description": "The configuration with which sessions begin, as in `session.update`.",
                            "example": {"type": "transcription"},
                        },
                    },
                }
            }
        }
    }
}
CORRECTIONS_OPERATION: Final = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "title": "Corrections",
                    "type": "object",
                    "required": ["segments"],
                    "properties": {
                        "segments": {
                            "type": "array",
                            "description": "All corrected segments.",
                            "items": {
                                "title": "Correction",
                                "type": "object",
                                "required": ["id", "text"],
                                "properties": {
                                    "id": {"type": "integer", "description": "The segment's number."},
                                    "text": {"type": "string", "description": "Its new text, on one line."},
                                },
                            },
                        },
                        "speakers": {
                            "type": "object",
                            "description": "All names of speakers, of 1 to 64 characters, by their labels.",
                            "additionalProperties": {"type": "string"},
                            "example": {"A": "Anna"},
                        },
                    },
                },
            }
        },
    }
}

#: Schemas that FastAPI adds for its own error responses. Here an invalid parameter is a 400 with the usual envelope.
_UNUSED_SCHEMAS: Final = ("HTTPValidationError", "ValidationError")
_SECURITY_SCHEMES: Final = {
    "ApiKey": {
        "type": "http",
        "scheme": "bearer",
        "description": "One of the keys in API_KEYS. Leave it empty if the server has none.",
    }
}


def install(app: FastAPI) -> None:
    """Complete the description of the application, when it is first read."""
    app.openapi = _LazyDescription(app)  # type: ignore[method-assign]  # FastAPI's documented way to extend it


class _LazyDescription:
    """The description of an application, generated once."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._generate = app.openapi

    def __call__(self) -> dict[str, Any]:
        if self._app.openapi_schema is None:
            self._app.openapi_schema = _completed(self._generate())
        return self._app.openapi_schema


def _completed(description: dict[str, Any]) -> dict[str, Any]:
    components = description["components"]
    for name in _UNUSED_SCHEMAS:
        components["schemas"].pop(name, None)
    components["schemas"] |= {**json_schemas(), **form_schemas()}
    components["securitySchemes"] = _SECURITY_SCHEMES
    for path, operations in description["paths"].items():
        for operation in operations.values():
            _complete_operation(operation, needs_key=is_limited(path) and "401" in operation["responses"])
    return description


def _complete_operation(operation: dict[str, Any], *, needs_key: bool) -> None:
    operation["responses"].pop("422", None)
    body = operation["responses"]["200"].get("content", {}).get("application/json", {}).get("schema", {})
    if "anyOf" in body:  # code generators name a union after its title
        body["title"] = f"Response 200 {operation['operationId'].replace('_', ' ').title()}"
    if needs_key:
        operation["security"] = [{"ApiKey": []}, {}]
