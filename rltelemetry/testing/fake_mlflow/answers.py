"""How MLflow answers: its own JSON, its refusals, and the pages of the web frameworks below it."""

import json
from typing import Any, Final

from rltelemetry.testing.exchange import Answer

__all__ = ["Refused", "internal_error", "invalid", "json_answer", "method_not_allowed", "not_found", "text_answer"]

STATUS_OF: Final = {
    "BAD_REQUEST": 400,
    "FEATURE_DISABLED": 500,
    "INVALID_PARAMETER_VALUE": 400,
    "RESOURCE_ALREADY_EXISTS": 400,
    "RESOURCE_DOES_NOT_EXIST": 404,
    "TEMPORARILY_UNAVAILABLE": 503,
}


class Refused(Exception):  # noqa: N818 - an answer, not an error of the test
    """A request that MLflow itself refuses.

    Args:
        error_code: MLflow's name of the error.
        message: its text.
    """

    def __init__(self, error_code: str, message: str) -> None:
        super().__init__(message)
        self.error_code = error_code
        self.message = message

    @property
    def answer(self) -> Answer:
        """The refusal on the wire."""
        body = {"error_code": self.error_code, "message": self.message, "sqlstate": "KAM00"}
        return json_answer(body, STATUS_OF[self.error_code])


def invalid(message: str) -> Refused:
    """Refuse a value."""
    return Refused("INVALID_PARAMETER_VALUE", message)


def json_answer(body: Any, status: int = 200) -> Answer:
    """Answer with JSON."""
    return Answer(status, {"content-type": "application/json"}, json.dumps(body).encode())


def text_answer(status: int, text: str, **headers: str) -> Answer:
    """Answer with plain text."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, {"content-type": "text/plain; charset=utf-8", **named}, text.encode())


def not_found() -> Answer:
    """Answer for a route that does not exist: no JSON, which tells it from a run that does not exist."""
    return _page(404, "Not Found", "The requested URL was not found on the server.")


def method_not_allowed() -> Answer:
    """Answer for a route that has other methods."""
    return _page(405, "Method Not Allowed", "The method is not allowed for the requested URL.")


def internal_error() -> Answer:
    """Answer for a body that breaks the handler: permanent, although it looks transient."""
    return _page(500, "Internal Server Error", "The server encountered an internal error.")


def _page(status: int, title: str, text: str) -> Answer:
    html = f"<!doctype html>\n<html lang=en>\n<title>{status} {title}</title>\n<h1>{title}</h1>\n<p>{text}</p>\n"
    return Answer(status, {"content-type": "text/html; charset=utf-8"}, html.encode())
