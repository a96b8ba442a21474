import pytest
from mccore_telemetry.shared.secrets import Url, Variable, basic_authentication, read_secret, redact
from pydantic import SecretStr, ValidationError

from mccore.api import Options
from mccore.config import describe_validation

PLANTED = "hunter2/+ planted"


class Keys(Options):
    key_variable: Variable = ""
    endpoint: Url = ""


def test_options_hold_the_name_of_a_variable() -> None:
    assert Keys(key_variable="MY_API_KEY").key_variable == "MY_API_KEY"


@pytest.mark.parametrize(
    "values", [{"key_variable": PLANTED}, {"endpoint": f"http://me:{PLANTED.replace(' ', '')}@127.0.0.1:1"}]
)
def test_a_secret_in_the_wrong_place_is_refused_without_being_shown(values: dict[str, str]) -> None:
    with pytest.raises(ValidationError) as refused:
        Keys.model_validate(values)
    for text in (describe_validation(refused.value), str(refused.value), repr(refused.value)):
        assert "hunter2" not in text
    assert "give" in describe_validation(refused.value)


@pytest.mark.parametrize("address", ["127.0.0.1:4318", "ftp://there", "http://", "http://here:port", "http://[::1"])
def test_an_address_is_whole(address: str) -> None:
    with pytest.raises(ValidationError, match="give the whole address with its scheme"):
        Keys(endpoint=address)


def test_a_secret_shows_as_asterisks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", f" {PLANTED}\n")
    secret = read_secret("MY_API_KEY")
    assert secret is not None
    assert secret.get_secret_value() == PLANTED
    assert "hunter2" not in f"{secret} {secret!r}"
    assert read_secret("NO_SUCH_VARIABLE_HERE") is None
    assert read_secret("") is None


def test_redacted_in_whatever_form_a_library_quotes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", PLANTED)
    secret = read_secret("MY_API_KEY")
    bearer, pair = SecretStr("Bearer hunter2token"), basic_authentication("me", SecretStr("hunter2"))
    assert (
        redact("Bearer hunter2token or hunter2token: bWU6aHVudGVyMg== and me", [bearer, pair])
        == "*** or ***: *** and me"
    )
    said = "401 for hunter2/+ planted at /?key=hunter2/%2B%20planted&k=hunter2%2F%2B+planted"
    assert "hunter2" not in redact(said, [None, secret])
    assert redact(said, [None]) == said
