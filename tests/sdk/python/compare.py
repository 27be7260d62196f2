"""What must be equal between a call through the gateway and the same call without it.

The simulator's answer follows from its seed and the request's bytes, so everything is compared
but what names one answer: its id, its time of creation, and the request's id.
"""

import re

ANSWER_ID = re.compile(r"chatcmpl-[0-9a-f]{32}")
REQUEST_ID = re.compile(r"[0-9a-f]{32}")


def normal(value):
    """A copy of `value`, a document, with the names of one answer replaced."""
    if isinstance(value, list):
        return [normal(item) for item in value]
    if not isinstance(value, dict):
        return value
    copy = {key: normal(item) for key, item in value.items()}
    if isinstance(copy.get("id"), str) and ANSWER_ID.fullmatch(copy["id"]):
        copy["id"] = "chatcmpl-…"
    if isinstance(copy.get("created"), int | float) and copy["created"] > 1_500_000_000:
        copy["created"] = "…"
    return copy


def unnamed(text: str) -> str:
    """A line of a stream with the names of one answer replaced."""
    return re.sub(r'"created":\d+', '"created":0', ANSWER_ID.sub("chatcmpl-…", text))


def dump(answer):
    """An SDK's answer as a normal document, with fields the SDK does not know."""
    return normal(answer.model_dump())


def chunks(stream) -> list:
    """Every chunk of a stream."""
    with stream:
        return [dump(chunk) for chunk in stream]


def seen(call, *args):
    """What a caller sees: what `call` returns, or all that its exception tells."""
    try:
        return call(*args)
    except Exception as error:
        return failure(error)


def failure(error: Exception) -> dict:
    """All that an exception of an SDK tells."""
    told = {
        "class": type(error).__name__,
        "status": getattr(error, "status_code", None),
        "message": str(error),
    }
    for name in ("code", "param", "type"):
        told[name] = getattr(error, name, None)
    told["body"] = normal(getattr(error, "body", None))
    told["message"] = unnamed(told["message"])
    return told


def rate_limits(headers) -> dict:
    """The rate-limit headers; of those that pass with time or use only that they are numbers."""
    found = {}
    for name, value in headers.items():
        if name.lower().startswith("x-ratelimit-"):
            fixed = "-limit-" in name.lower()
            found[name.lower()] = value if fixed else type(float(value)).__name__
    return found
