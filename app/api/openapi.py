"""The OpenAPI description where FastAPI can't know: the forms, whose bodies are streamed, and what all routes share."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Any, Final

from fastapi import HTTPException
from fastapi.responses import HTMLResponse, Response

from app.api.schemas import (
    DiarizedTranscription,
    JobAccepted,
    Transcription,
    VerboseTranscription,
    answers,
)
from app.api.submission import NOT_IN_TRANSLATIONS

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import Receive, Scope, Send


_STRING: Final = {"type": "string"}


def _field(kind: str, description: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "description": description, "example": "", **more}


def _list(description: str, items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "description": description, "example": []}


#: In the order in which a newcomer meets them. Examples and defaults stand in the text: ``/docs`` fills what stands in
#: ``example`` into its form, or something made up where there is none, and sends it; generated clients demand or send
#: what stands in ``default``.
_FIELDS: Final = {
    "file": _field(
        "string",
        "The audio, in any common format. Send exactly one of this and `s3_presigned_url`.",
        format="binary",
    ),
    "s3_presigned_url": _field(
        "string",
        "Download the audio from here instead of `file`; `url` and `audio_url` mean the same. Example: "
        "`https://bucket.s3.amazonaws.com/call.mp3?X-Amz-Signature=…`.",
    ),
    "model": _field(
        "string",
        "A served model or an alias, see `GET /v1/models`. Default: the model of the setting WHISPER_MODEL, which "
        "`whisper-1` stands for. Example: `whisper-1`.",
    ),
    "language": _field(
        "string", "ISO-639-1 code of what is spoken, or its English name. Default: detected. Example: `en`."
    ),
    "prompt": _field(
        "string", "Text that leads the way: names, spelling, style. Default: none. Example: `Kubernetes, gRPC, etcd.`"
    ),
    "response_format": _field(
        "string",
        "What the answer looks like. `diarized_json` needs `multichannel=true`. Default: `json`.",
        enum=["json", "text", "srt", "vtt", "verbose_json", "diarized_json"],
    ),
    "timestamp_granularities[]": _list(
        "Times of segments, of words, or of both, in `verbose_json` and in documents. Default: `segment`. Example: "
        "`word`.",
        {"type": "string", "enum": ["segment", "word"]},
    ),
    "temperature": _field(
        "number",
        "0 to 1; 0 falls back to hotter decoding where the text looks wrong. Default: `0`.",
        minimum=0,
        maximum=1,
    ),
    "stream": _field(
        "boolean",
        "Answer with server-sent events, `transcript.text.delta` as windows are finished and `transcript.text.done` at "
        "the end; with `response_format` json, text or diarized_json. Default: `false`.",
    ),
    "include[]": _list(
        "`logprobs` adds each token's log probability to JSON answers. Default: nothing.",
        {"type": "string", "enum": ["logprobs"]},
    ),
    "keywords[]": _list(
        "Words to expect (hotwords); `hotwords` means the same. Default: none. Example: `etcd`.", dict(_STRING)
    ),
    "chunking_strategy": _field(
        "string",
        '`auto`, or a JSON object such as `{"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 400, '
        '"silence_duration_ms": 500}` that tunes the speech detection. Default: `auto`.',
    ),
    "vad_filter": _field("boolean", "Leave out what holds no speech. Default: `true`."),
    "beam_size": _field(
        "integer",
        "1 to 10 beams; more are slower and a little better. Default: the setting WHISPER_BEAM_SIZE, 5.",
        minimum=1,
        maximum=10,
    ),
    "multichannel": _field(
        "boolean",
        "Transcribe each channel alone, with `channel` (from 0) on every segment and word, in the order of time. "
        "Default: `false`.",
    ),
    "condition_on_previous_text": _field(
        "boolean",
        "Have each window of 30 s go on from the text of the one before: a little more consistent, slower, as windows "
        "can't go onto the model together, and errors may repeat. Default: `false`.",
    ),
    "max_line_width": _field(
        "integer", "Characters in a line of srt and vtt. Default: no limit. Example: `42`.", minimum=1, maximum=1000
    ),
    "max_line_count": _field(
        "integer",
        "Lines in a cue of srt and vtt; together with `max_line_width` words flow over segments. Default: no limit. "
        "Example: `2`.",
        minimum=1,
        maximum=100,
    ),
    "highlight_words": _field("boolean", "Underline each word of srt and vtt while it is spoken. Default: `false`."),
    "metadata": _field(
        "string",
        "JSON object of strings, at most 4 KiB, given back with the job and its result. Default: none. Example: "
        '`{"call": "4711"}`.',
    ),
    "stored_output": _field("boolean", "Answer with a job id at once and keep the result here. Default: `false`."),
    "upload_presigned_url": _field(
        "string",
        "Answer with a job id at once and PUT the result there. Sign it for at least an hour. Default: none. Example: "
        "`https://bucket.s3.amazonaws.com/call.json?X-Amz-Signature=…`.",
    ),
    "webhook_url": _field(
        "string",
        "Answer with a job id at once and POST the job there when it has ended, signed with the setting WEBHOOK_SECRET "
        "as Standard Webhooks has it. Default: none. Example: `https://example.com/hooks/transcripts`.",
    ),
    "upload_format": _field(
        "string",
        "What is PUT there. Default: `response_format` where that is text, srt or vtt, else `document`.",
        enum=["document", "json", "text", "srt", "vtt", "verbose_json", "diarized_json"],
    ),
    "upload_headers": _field(
        "string",
        'JSON object of the headers that were signed into the URL. Default: none. Example: `{"x-amz-acl": "private"}`.',
    ),
}

_HEADERS: Final = [
    {
        "name": "Idempotency-Key",
        "in": "header",
        "required": False,
        "description": "A name of yours for this request, such as a UUID, in case you have to send it again: the same "
        "form with the same name gives the first job again, as long as that is kept. Default: none.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    }
]

#: The responses of both forms, for FastAPI.
SPOKEN: Final = answers(
    VerboseTranscription | DiarizedTranscription | Transcription | JobAccepted,  # the most particular first
    *(400, 401, 404, 413, 429, 500, 503, 507),
    description="The transcript, or the job's id where one of `upload_presigned_url`, `webhook_url` and "
    "`stored_output` is given.",
    example={"text": "hello this is a test", "usage": {"type": "duration", "seconds": 6}},
)
SPOKEN[200]["content"] |= {
    "text/plain": {"schema": _STRING},
    "text/event-stream": {"schema": {}},
}


def _operation(form: str) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{form}"}
    return {
        "parameters": _HEADERS,
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}},
    }


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
SPOKEN[200]["links"] = _JOB_LINKS

#: The JSON body of a redelivery, which may be left out.
REDELIVERY: Final = {
    "requestBody": {
        "required": False,
        "content": {
            "application/json": {
                "schema": {
                    "title": "Redelivery",
                    "type": "object",
                    "properties": {
                        "upload_presigned_url": {
                            "type": "string",
                            "description": "A fresh URL. Default: the one that the job was submitted with, if it is "
                            "still kept and has not expired.",
                        },
                        "upload_headers": {
                            "type": "object",
                            "additionalProperties": {"type": "string"},
                            "description": "Headers that were signed into the fresh URL. Default: none.",
                        },
                    },
                },
            }
        },
    }
}
#: What FastAPI is to add to the operations.
TRANSCRIPTION: Final = _operation("TranscriptionForm")
TRANSLATION: Final = _operation("TranslationForm")


def _form(title: str, fields: dict[str, Any]) -> dict[str, Any]:
    return {"title": title, "type": "object", "properties": fields}


_FORMS: Final = {
    "TranscriptionForm": _form("TranscriptionForm", _FIELDS),
    "TranslationForm": _form(
        "TranslationForm",
        {name: value for name, value in _FIELDS.items() if name.removesuffix("[]") not in NOT_IN_TRANSLATIONS},
    ),
}
#: FastAPI's own, which are never answered here: wrong parameters are 400, in the envelope.
_UNUSED: Final = ("HTTPValidationError", "ValidationError")


def complete(app: FastAPI) -> None:
    """Has ``/openapi.json`` describe the forms and the key, and leave out what is never answered."""
    made = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(made())
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]  # FastAPI's way to extend the description


def _completed(description: dict[str, Any]) -> dict[str, Any]:
    components = description["components"]
    for name in _UNUSED:
        components["schemas"].pop(name, None)
    components["schemas"].update(_FORMS)
    components["securitySchemes"] = {
        "ApiKey": {
            "type": "http",
            "scheme": "bearer",
            "description": "One of the keys in API_KEYS; leave it empty where the server has none.",
        }
    }
    for path, operations in description["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            if path.startswith("/v1/"):
                operation["security"] = [{"ApiKey": []}, {}]
    return description


_PIECE_BYTES: Final = 32 * 1024
#: The files of Swagger UI and their types.
_ASSETS: Final = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}
_CONTENTS: Final = {name: files("fastapi_swagger.resources").joinpath(name).read_bytes() for name in _ASSETS}
#: Addresses are relative, so that the page works behind a proxy that adds a prefix. Swagger UI would send every empty
#: field of a form unless a box under it is unticked: without the boxes, empty fields stay out.
_PAGE: Final = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<link rel="icon" href="docs/assets/favicon-32x32.png">
<link rel="stylesheet" href="docs/assets/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/assets/swagger-ui-bundle.js"></script>
<script>
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  tryItOutEnabled: true,
  displayRequestDuration: true,
  validatorUrl: null,
  plugins: [() => ({ wrapComponents: { ParameterIncludeEmpty: () => () => null } })],
});
</script>
</body>
</html>
""")

#: The page takes everything from this server, and runs its own scripts only. Swagger UI writes styles and small
#: pictures into the page.
_POLICY: Final = Template(
    "default-src 'none'; connect-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'sha256-$digest'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class _InPieces(Response):
    """What is in memory for all, of which little is copied for each. Files that worker threads read for hundreds of
    clients leave the heap in pieces: it grew by 11 MB a second, to 600 MB."""

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        content = memoryview(self.body)
        for start in range(0, len(content), _PIECE_BYTES):
            await send({"type": "http.response.body", "body": content[start : start + _PIECE_BYTES], "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _digest_of_script(content: str) -> str:
    """Of the one script that stands in the page, as Content Security Policy has it."""
    script = content.rpartition("<script>")[2].partition("</script>")[0]
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def install_docs(app: FastAPI) -> None:
    """Adds the page. The application is to be made without one of its own."""
    content = _PAGE.substitute(title=escape(f"{app.title}: API"))

    policy = _POLICY.substitute(digest=_digest_of_script(content))

    async def page() -> HTMLResponse:
        return HTMLResponse(content, headers={"Content-Security-Policy": policy})

    async def asset(name: str) -> Response:
        if name not in _ASSETS:
            raise HTTPException(404)
        return _InPieces(_CONTENTS[name], media_type=_ASSETS[name])

    app.add_api_route("/docs/assets/{name}", asset, methods=["GET"], include_in_schema=False)
    app.add_api_route("/docs", page, methods=["GET"], include_in_schema=False)
