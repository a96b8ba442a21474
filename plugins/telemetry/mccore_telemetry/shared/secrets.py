"""Passwords, tokens and keys: options hold the name of the environment variable that has them, never the thing itself.

So `run.json`, `--dry-run`, event files and reports can't hold one. Variables come from the shell or from `.mc_env`. In memory
a secret is pydantic's `SecretStr`, which shows as asterisks, and `redact` keeps it out of what a library says.
"""

from __future__ import annotations

import os
import re
from base64 import b64encode
from collections.abc import Iterable
from typing import Annotated
from urllib.parse import quote, quote_plus, urlsplit

from pydantic import AfterValidator, SecretStr
from pydantic_core import PydanticCustomError

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,99}")
_SCHEME = re.compile(r"(Basic|Bearer|ApiKey|Token) +", re.IGNORECASE)
_ASTERISKS = "***"
_SHORTEST = 3  # shorter ones would blacken ordinary words


def _check_variable(value: str) -> str:
    if value and not _VARIABLE.fullmatch(value):
        # An error of the type `secret` is shown without the value: it may be the key itself, put in the wrong place.
        raise PydanticCustomError(
            "secret", "give the name of an environment variable, such as MY_API_KEY, not the secret itself"
        )
    return value


def _check_url(value: str) -> str:
    if not value:
        return value
    if any(mark in value for mark in "@?#"):  # a password with a slash in it hides from a parser of URLs
        raise PydanticCustomError(
            "secret", "give the address without user, password or query: credentials have options of their own"
        )
    try:
        parts = urlsplit(value)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # no port, or no address in brackets
        whole = False
    if not whole:
        raise PydanticCustomError("address", "give the whole address with its scheme, such as http://localhost:PORT")
    return f"{parts.scheme}://{value.partition('://')[2]}"  # HTTPS is https to whoever looks for it


Variable = Annotated[str, AfterValidator(_check_variable)]
"""An option that holds the name of an environment variable; empty for none."""

Url = Annotated[str, AfterValidator(_check_url)]
"""An option that holds an http or https address without user, password and query; empty for none."""


def read_secret(variable: str) -> SecretStr | None:
    """What a variable holds, None where there is no such variable or it is empty."""
    value = os.environ.get(variable, "").strip() if variable else ""
    return SecretStr(value) if value else None


def redact(text: str, secrets: Iterable[SecretStr | None]) -> str:
    """`text` with asterisks for every secret, also where a library has quoted it for a URL, or a header's without its scheme."""
    forms: set[str] = set()
    for secret in secrets:
        value = secret.get_secret_value() if secret else ""
        for part in {value, _SCHEME.sub("", value)}:
            if len(part) >= _SHORTEST:
                forms |= {part, quote(part), quote(part, safe=""), quote_plus(part)}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, _ASTERISKS)
    return text


def basic_authentication(user: str, password: SecretStr) -> SecretStr:
    """What a header says for a user with a password, for `redact`: it holds the password in a form of its own."""
    return SecretStr(b64encode(f"{user}:{password.get_secret_value()}".encode()).decode())
