"""``/v1/organization/usage/audio_transcriptions``: what was transcribed, by day, in OpenAI's shape."""

from __future__ import annotations

import re
import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request

from app.api.dependencies import ServiceParts
from app.api.fields import ChoiceList, Field, Form, TextList
from app.api.openapi import json_body, responses
from app.api.schemas import UsagePage
from app.domain.errors import InvalidRequest
from app.domain.usage import DAY_SECONDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.api.dependencies import Parts
    from app.domain.usage import Usage, UsageKey

#: The end of the year 9999.
_LAST_SECOND: Final = 253_402_300_799
_PAGE: Final = re.compile("page_([0-9]{1,12})")


class _Grouping(StrEnum):
    """The fields by which usage can be grouped. There are no projects and no users, so the first two change nothing."""

    PROJECT_ID = "project_id"
    USER_ID = "user_id"
    API_KEY_ID = "api_key_id"
    MODEL = "model"


_GROUP_BY: Final = ChoiceList("group_by", choices=tuple(_Grouping), description="Apart for each of these.")
_MODELS: Final = TextList("models", description="Only usage of these models.")
_API_KEY_IDS: Final = TextList("api_key_ids", description="Only usage of these API keys.")
_LISTS: Final[tuple[Field[Any], ...]] = (_GROUP_BY, _MODELS, _API_KEY_IDS)
_WITHOUT_MEANING: Final = ("project_ids", "user_ids")

router = APIRouter(prefix="/v1/organization/usage", tags=["Usage"])


@router.get(
    "/audio_transcriptions",
    operation_id="get_audio_transcriptions_usage",
    summary="Get the usage by day",
    response_model=None,
    responses=responses("The usage of each day.", json_body(UsagePage), 400, 401, 500),
    openapi_extra={
        "parameters": [
            {"name": field.schema_name, "in": "query", "required": False, "schema": field.schema()} for field in _LISTS
        ]
    },
)
async def get_usage(
    request: Request,
    parts: ServiceParts,
    start_time: Annotated[int, Query(ge=0, le=_LAST_SECOND, description="Begin with the day (UTC) of this Unix time.")],
    end_time: Annotated[
        int | None, Query(ge=0, le=_LAST_SECOND, description="End before this Unix time, by default now.")
    ] = None,
    bucket_width: Annotated[Literal["1d"], Query(description="Usage is counted by day.")] = "1d",  # noqa: ARG001  # one value
    limit: Annotated[int, Query(ge=1, le=31, description="The most days to return.")] = 7,
    page: Annotated[str | None, Query(description="The `next_page` of the previous page.")] = None,
) -> dict[str, Any]:
    """Return the seconds of audio and the requests of each day in UTC, with days that have none.

    An API key sees what it has used itself, and a key in METRICS_KEY what all keys have used.
    """
    form = _form(request)
    first_day = (start_time if page is None else _page_start(page)) // DAY_SECONDS
    end_day = -(-(time.time() if end_time is None else end_time) // DAY_SECONDS)
    days = range(first_day, int(end_day))
    results = _results(request, parts, form)
    following = days[limit : limit + 1]
    return {
        "object": "page",
        "data": [_bucket(day, results.get(day, {})) for day in days[:limit]],
        "has_more": bool(following),
        "next_page": f"page_{following[0] * DAY_SECONDS}" if following else None,
    }


def _form(request: Request) -> Form:
    """Return the query as a form, whose lists can be spelled in every way."""
    received: dict[str, list[str]] = {}
    for name, value in request.query_params.multi_items():
        received.setdefault(name, []).append(value)
    form = Form(received)
    for name in _WITHOUT_MEANING:
        if form.requests(name):
            raise InvalidRequest(
                f"`{name}` is not supported, because this server has no projects and no users: leave it out, or use "
                "`api_key_ids`.",
                param=name,
            )
    return form


def _page_start(page: str) -> int:
    match = _PAGE.fullmatch(page)
    if match is None or int(match[1]) > _LAST_SECOND:
        raise InvalidRequest(
            "`page` must be the `next_page` of a response, or absent for the first page.", param="page"
        )
    return int(match[1])


def _results(request: Request, parts: Parts, form: Form) -> Mapping[int, Mapping[tuple[str | None, ...], Usage]]:
    """Return the usage by day and by the fields that it is grouped by."""
    grouping, names = form[_GROUP_BY], parts.limits.key_names
    models, api_key_ids = form[_MODELS], form[_API_KEY_IDS]

    def group(key: UsageKey) -> tuple[str | None, ...]:
        return (
            (names.get(key.owner, key.owner) or None) if _Grouping.API_KEY_ID in grouping else None,
            key.model if _Grouping.MODEL in grouping else None,
        )

    def is_wanted(key: UsageKey) -> bool:
        api_key_id = names.get(key.owner, key.owner)
        return (not models or key.model in models) and (not api_key_ids or api_key_id in api_key_ids)

    owner = _visible_owner(request, parts)
    return parts.jobs.store.usage.by_day(owner=owner, is_wanted=is_wanted, group=group)


def _visible_owner(request: Request, parts: Parts) -> str | None:
    """Return the owner whose usage the request may see, or None for all of them."""
    owner: str = request.state.owner
    return None if any(key.fingerprint == owner for key in parts.metrics.keys) else owner


def _bucket(day: int, results: Mapping[tuple[str | None, ...], Usage]) -> dict[str, Any]:
    return {
        "object": "bucket",
        "start_time": day * DAY_SECONDS,
        "end_time": (day + 1) * DAY_SECONDS,
        "results": [
            {
                "object": "organization.usage.audio_transcriptions.result",
                "seconds": round(usage.seconds),
                "num_model_requests": usage.requests,
                "project_id": None,
                "user_id": None,
                "api_key_id": api_key_id,
                "model": model,
            }
            for (api_key_id, model), usage in sorted(results.items(), key=_order)
        ],
    }


def _order(result: tuple[tuple[str | None, ...], Usage]) -> tuple[str, ...]:
    return tuple(part or "" for part in result[0])
