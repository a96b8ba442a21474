"""Whether a run can go to W&B's server: decided within seconds, before W&B's own client waits for the network."""

from __future__ import annotations

import os
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any, Literal

from mccore.errors import ConfigError

Mode = Literal["auto", "online", "offline", "off"]
_PROBE_SECONDS = 2.0
_LOCAL: dict[str, Literal["off", "offline"]] = {"disabled": "off", "offline": "offline", "dryrun": "offline"}
_KNOWN_MODES = ("online", "run", "shared", *_LOCAL)


@dataclass(frozen=True)
class Access:
    """How a run is recorded, and why so."""

    mode: Literal["online", "offline", "off"]
    why: str


def choose(mode: Mode, settings: Any) -> Access:
    """What an option, W&B's settings and the network allow. `settings` are W&B's own, of its files and variables."""
    if mode == "auto":
        if os.environ.get("WANDB_RUN", "").strip() == "dummy":
            return Access("off", "WANDB_RUN is dummy")
        if (named := settings.mode) in _LOCAL:
            said_by = "WANDB_MODE" if "WANDB_MODE" in os.environ else "the mode in W&B's settings"
            return Access(_LOCAL[named], f"{said_by} is {named}")
    if mode in ("off", "offline"):
        return Access(mode, "as the option mode says")
    if not has_key(settings):
        return Access("offline", f"there is no key for {settings.base_url}: WANDB_API_KEY isn't set")
    if trouble := unreachable(settings.base_url):
        return Access("offline", f"{settings.base_url} can't be reached: {trouble}")
    return Access("online", f"there is a key for {settings.base_url}, and it answers")


def check_mode_variable() -> None:
    """Raise ConfigError for a WANDB_MODE that W&B doesn't know: its client would say so once the run has begun, at length.

    Its client takes the words as they are, in lower case and without blanks.
    """
    if (named := os.environ.get("WANDB_MODE")) is not None and named not in _KNOWN_MODES:
        raise ConfigError(
            f"WANDB_MODE is {named!r}, which W&B doesn't know",
            hint="set it to online, offline or disabled, or unset it",
        )


def has_key(settings: Any) -> bool:
    """Whether W&B's client would find credentials for its server."""
    from wandb.errors import AuthenticationError
    from wandb.sdk.lib.wbauth import read_netrc_auth

    if settings.api_key or settings.identity_token_file:
        return True
    try:
        return bool(read_netrc_auth(host=settings.base_url))
    except AuthenticationError:  # a key that isn't one
        return False


def unreachable(url: str, seconds: float = _PROBE_SECONDS) -> str:
    """Why nothing answers at an address, empty where something does. Looks names up within the time, too."""
    trouble = [f"no answer within {seconds:.0f} s"]

    def ask() -> None:
        try:
            urllib.request.urlopen(url, timeout=seconds).close()
            trouble[0] = ""
        except urllib.error.HTTPError:
            trouble[0] = ""  # an answer all the same
        except (OSError, ValueError) as error:
            trouble[0] = str(getattr(error, "reason", "") or error)

    asking = threading.Thread(target=ask, name="wandb-probe", daemon=True)
    asking.start()
    asking.join(seconds + 0.5)
    return trouble[0]
