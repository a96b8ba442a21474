"""Which providers are on, and why: chosen ones, the environment's, none."""

from __future__ import annotations

import json

import pytest

from mccore.config import Choice, MegaContextConfig, RunConfig
from mccore.errors import ConfigError
from mccore.telemetry.activation import activate, options_of

PLAIN, WITH_MC = RunConfig(), RunConfig(megacontext=MegaContextConfig(enabled=True))
SECRET = "hunter2-planted"


def on(config: RunConfig, **environ: str) -> dict[str, str]:
    return {one.choice.name: one.why for one in activate(config, environ).active}


def test_without_a_word_there_is_none() -> None:
    assert on(WITH_MC) == {}
    assert list(activate(WITH_MC, {}).lines()) == ["none"]


@pytest.mark.parametrize(
    "variable",
    ["MC_OTEL_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
     "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"],
)  # fmt: skip
def test_an_endpoint_switches_otel_on_for_runs_with_megacontext(variable: str) -> None:
    assert on(WITH_MC, **{variable: "http://h:4318"}) == {"otel": f"{variable} is set"}
    assert on(WITH_MC, **{variable: " "}) == {}
    assert on(PLAIN, **{variable: "http://h:4318"}) == {}
    (line,) = activate(PLAIN, {variable: "http://h:4318"}).lines()
    assert "--telemetry otel" in line
    assert variable in line
    assert on(WITH_MC, **{variable: "http://h:4318", "OTEL_SDK_DISABLED": "true"}) == {}


def test_a_key_or_a_name_switches_wandb_on_and_dummy_off() -> None:
    for config in (PLAIN, WITH_MC):
        assert on(config, WANDB_API_KEY=SECRET) == {"wandb": "WANDB_API_KEY is set"}
        assert on(config, WANDB_RUN="d12", WANDB_API_KEY=SECRET) == {"wandb": "WANDB_RUN is set"}
    assert on(PLAIN, WANDB_RUN="dummy", WANDB_API_KEY=SECRET) == {}
    assert on(PLAIN, WANDB_MODE="disabled", WANDB_API_KEY=SECRET) == {}
    assert list(activate(PLAIN, {"WANDB_RUN": "dummy"}).lines()) == ["wandb is off: WANDB_RUN is dummy"]


def test_options_of_the_others_switch_them_on() -> None:
    found = activate(PLAIN, {"MCCORE_PROMETHEUS_PORT": "0", "MCCORE_OPENSEARCH_URL": "http://h:9200"})
    by_name = {one.choice.name: one for one in found.active}
    assert by_name["prometheus"].choice.options["port"] == 0
    assert by_name["opensearch"].choice.options["url"] == "http://h:9200"
    assert by_name["prometheus"].why == "MCCORE_PROMETHEUS_PORT is set"


def test_a_list_switches_on_what_it_names() -> None:
    assert set(on(PLAIN, MCCORE_TELEMETRY="prometheus, otel")) == {"prometheus", "otel"}
    assert on(WITH_MC, MCCORE_TELEMETRY="noop", MC_OTEL_ENDPOINT="http://h", MCCORE_PROMETHEUS_PORT="1") == {}
    with pytest.raises(ConfigError, match="no telemetry provider 'prometeus'"):
        activate(PLAIN, {"MCCORE_TELEMETRY": "prometeus"})


def test_what_was_chosen_is_all_and_noop_is_none() -> None:
    everything = {"MC_OTEL_ENDPOINT": "http://h", "WANDB_RUN": "x", "MCCORE_PROMETHEUS_PORT": "0"}
    both = (Choice(name="noop"), Choice(name="prometheus", options={"port": 7}))
    found = activate(WITH_MC.model_copy(update={"telemetry": both}), everything)
    assert [(one.choice.name, one.choice.options, one.why) for one in found.active] == [
        ("prometheus", {"port": 7}, "chosen for this run")
    ]
    nobody = WITH_MC.model_copy(update={"telemetry": both[:1]})
    assert list(activate(nobody, everything).lines()) == ["none: noop is chosen"]


def test_a_credential_switches_nothing_on_and_is_no_option() -> None:
    environ = {"MCCORE_OPENSEARCH_PASSWORD": SECRET, "MCCORE_OPENSEARCH_API_KEY": SECRET}
    assert on(PLAIN, **environ) == {}
    assert options_of("opensearch", environ) == {}
    found = activate(PLAIN, {**environ, "MCCORE_OPENSEARCH_USER": "me"})
    assert SECRET not in json.dumps([choice.model_dump() for choice in found.choices])


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("MCCORE_PROMETHEUS_TOKEN", SECRET, "no option 'token'"),
        ("MCCORE_OPENSEARCH_URL", f"https://me:{SECRET}@h", "without user"),
        ("MCCORE_PROMETHEUS_PASSWORD_VARIABLE", SECRET, "not the secret itself"),
    ],
)
def test_what_cant_be_used_is_refused_by_its_name_without_its_value(variable: str, value: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        activate(PLAIN, {variable: value})
    words = refused.value.render()
    assert said in words
    assert variable in words
    assert SECRET not in words
