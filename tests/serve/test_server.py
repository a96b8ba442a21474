"""A real server and real clients: OpenAI's own, raw sockets, and a worker that is killed."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest

from mccore.cli import main
from tests.support.served import Server, serving

USER = {"role": "user", "content": "hello"}
SETTINGS: dict[str, Any] = {"model": "mc", "max_tokens": 8, "seed": 1}
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server(served_base: Path) -> Iterator[Server]:
    with serving(served_base) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


# --- OpenAI's client --------------------------------------------------------------------------------------------------


def test_a_conversation_goes_on_with_its_session(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "system", "content": "be brief"}, USER]
    first = client.chat.completions.create(messages=messages, **SETTINGS)
    said = first.choices[0].message.content
    assert said is not None
    assert first.usage is not None
    assert (first.usage.completion_tokens, first.choices[0].finish_reason) == (8, "length")
    messages += [{"role": "assistant", "content": said}, {"role": "user", "content": "more"}]
    second = client.chat.completions.create(messages=messages, **SETTINGS)
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    # All but the new message is in the session: the first prompt, its answer and the mark that ended it.
    assert second.usage.prompt_tokens_details.cached_tokens == first.usage.total_tokens + 1
    assert first.session_id == second.session_id  # type: ignore[attr-defined]
    edited = client.chat.completions.create(messages=[*messages[:3], {"role": "user", "content": "other"}], **SETTINGS)
    assert edited.session_id != first.session_id  # type: ignore[attr-defined]
    assert edited.usage is not None
    assert edited.usage.prompt_tokens_details is not None
    assert edited.usage.prompt_tokens_details.cached_tokens == first.usage.total_tokens + 1


def test_a_stream_says_what_the_whole_answer_says(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(messages=[USER], logprobs=True, top_logprobs=2, **SETTINGS)  # type: ignore[call-overload]
    chunks = list(
        client.chat.completions.create(messages=[USER], stream=True, stream_options={"include_usage": True}, **SETTINGS)  # type: ignore[call-overload]
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].usage.completion_tokens == 8
    told = whole.choices[0].logprobs.content
    assert len(told) == 8
    assert all(each.logprob <= 0 and len(each.top_logprobs) == 2 for each in told)


def test_several_answers_are_drawn_apart(client: openai.OpenAI) -> None:
    done = client.chat.completions.create(messages=[USER], n=3, temperature=1.5, **SETTINGS)  # type: ignore[call-overload]
    assert len({choice.message.content for choice in done.choices}) == 3
    assert done.usage.completion_tokens == 24


def test_stop_texts_end_an_answer(client: openai.OpenAI) -> None:
    whole = client.completions.create(prompt="hello", temperature=0, **SETTINGS).choices[0].text
    stop = whole[3:5]
    done = client.completions.create(prompt="hello", temperature=0, stop=stop, **SETTINGS).choices[0]
    assert (done.text, done.finish_reason) == (whole[: whole.index(stop)], "stop")


def test_texts_go_on(client: openai.OpenAI) -> None:
    done = client.completions.create(prompt=["one", "two"], logprobs=1, temperature=0, **SETTINGS)
    assert [choice.index for choice in done.choices] == [0, 1]
    assert done.choices[0].logprobs is not None
    assert len(done.choices[0].logprobs.tokens or ()) == 8
    parts = list(client.completions.create(prompt="one", temperature=0, stream=True, **SETTINGS))
    assert "".join(part.choices[0].text for part in parts) == done.choices[0].text
    long = client.completions.create(prompt="long " * 2000, **SETTINGS)  # as long as one likes
    assert long.usage is not None
    assert long.usage.prompt_tokens == 10_001


def test_many_ask_at_once(server: Server) -> None:
    async def ask(number: int) -> str:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=120) as client:
            stream = await client.chat.completions.create(
                messages=[{"role": "user", "content": f"number {number % 4}"}], temperature=0, stream=True, **SETTINGS
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def all_of_them() -> list[str]:
        return list(await asyncio.gather(*(ask(number) for number in range(12))))

    said = asyncio.run(all_of_them())
    assert len(set(said)) == 4
    assert said[:4] == said[4:8] == said[8:]


def test_errors_are_those_of_the_client(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="isn't served here"):
        client.chat.completions.create(messages=[USER], model="other")
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(messages=[USER], model="mc", temperature=9)
    with pytest.raises(openai.BadRequestError, match="isn't the user's"):
        client.chat.completions.create(messages=[{"role": "assistant", "content": "x"}], model="mc")
    assert [model.id for model in client.models.list()] == ["mc"]
    assert client.models.retrieve("mc").owned_by == "mccore"


# --- sessions ---------------------------------------------------------------------------------------------------------


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: ")]


def test_a_session_from_its_beginning_to_its_end(server: Server) -> None:
    http = server.http
    made = http.post("/v1/sessions", json={"title": "a talk", "system": "be kind"}).json()
    path = f"/v1/sessions/{made['id']}"
    book = ("A line of a book.\n" * 500).encode()
    file = http.post(f"{path}/files", params={"name": "book.txt"}, content=book)
    assert (file.status_code, file.json()["tokens"] > len(book)) == (201, True)
    with http.stream(
        "POST", f"{path}/messages", json={"content": "hello", "stream": True, "max_tokens": 6, "seed": 2}
    ) as answer:
        events = events_of(answer)
    kinds = [event["event"] for event in events]
    assert (kinds[0], set(kinds[1:-1]), kinds[-1]) == ("read", {"said"}, "done")
    assert events[0]["before"] == file.json()["total"]
    assert events[-1]["new_tokens"] == 6
    cut = http.get(f"{path}/cut").json()
    assert cut["entries"] <= cut["budget"]
    assert cut["runs"][-1][1] == cut["covered"]
    assert "A line of a book" in http.get(f"{path}/text", params={"start": 0, "stop": 40}).json()["text"]
    said = http.get(f"{path}/messages").json()["data"]
    assert [message["role"] for message in said] == ["file", "system", "user", "assistant"]
    assert said[-1]["seen"][-1][1] == events[-1]["tokens"] - 2  # all but the newest token and the mark of the end
    branch = http.post(f"{path}/branch", json={"at": 3}).json()
    again = http.post(f"/v1/sessions/{branch['id']}/messages", json={"max_tokens": 6, "seed": 2}).json()
    assert again["cached_tokens"] == again["prompt_tokens"] == events[0]["tokens"]  # nothing was read again
    assert http.patch(path, json={"title": "another"}).json()["title"] == "another"
    found = http.get("/v1/sessions", params={"q": "another HELLO"}).json()["data"]
    assert [each["id"] for each in found] == [made["id"]]
    assert http.delete(path).json()["deleted"]
    assert http.get(path).status_code == 404
    assert http.get(f"/v1/sessions/{branch['id']}/text", params={"start": 0, "stop": 40}).status_code == 200


@pytest.mark.parametrize("name", ["nope", "..%2f..%2fetc", "%00", "x" * 4000])
def test_no_path_of_a_client_is_opened(server: Server, name: str) -> None:
    assert server.http.get(f"/v1/sessions/{name}/messages").status_code == 404


def test_an_upload_that_is_no_text_or_breaks_off_leaves_nothing(server: Server) -> None:
    http = server.http
    path = f"/v1/sessions/{http.post('/v1/sessions', json={}).json()['id']}"
    http.post(f"{path}/messages", json={"content": "before", "max_tokens": 2})
    tokens = http.get(path).json()["tokens"]
    refused = http.post(f"{path}/files", content=b"text\n" * 90_000 + b"\xff\xfe")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_text")
    after = http.post(f"{path}/messages", json={"content": "after", "max_tokens": 2}).json()
    assert after["cached_tokens"] == tokens


def test_the_same_session_takes_one_message_at_a_time(server: Server) -> None:
    http = server.http
    path = f"/v1/sessions/{http.post('/v1/sessions', json={}).json()['id']}"
    with http.stream("POST", f"{path}/messages", json={"content": "x", "stream": True, "max_tokens": 5000}) as answer:
        lines = answer.iter_lines()
        next(lines)
        assert server.http.post(f"{path}/messages", json={"content": "y"}).status_code == 409
        assert server.http.get(f"{path}/cut").status_code == 200  # it may be looked at meanwhile
        assert server.http.post(f"{path}/stop").json()["stopped"]
        done = [json.loads(line[6:]) for line in lines if line.startswith("data: ")][-1]
    assert (done["event"], done["finish"]) == ("done", "cancelled")


# --- the terminal -----------------------------------------------------------------------------------------------------


def test_a_terminal_talks_to_the_server(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("buy milk")
    monkeypatch.setattr(
        "sys.stdin", io.StringIO(f"hello\n/file {tmp_path}/notes.txt\n/cut\n/nothing\n//really\n/quit\nno\n")
    )
    chat = ["chat", "--server", server.url, "--max-new-tokens", "4", "--seed", "1"]
    assert main([*chat, "--json"]) == 0
    out, err = capfd.readouterr()
    records = [json.loads(line) for line in out.splitlines()]
    assert [record["prompt"] for record in records] == ["hello", "/really"]
    assert records[1]["session_id"] == records[0]["session_id"]
    assert "notes.txt: " in err
    assert "entries show" in err
    assert "there is no command /nothing" in err
    assert main([*chat, "--session", records[0]["session_id"], "-p", "more", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["cached_tokens"] == records[1]["tokens"]
    assert main([*chat, "mc", "-p", "x"]) == 2
    assert main(["chat", "--server", "http://127.0.0.1:1", "-p", "x"]) == 1
    assert "can't reach" in capfd.readouterr().err


# --- faults -----------------------------------------------------------------------------------------------------------


def raw(server: Server, data: bytes) -> bytes:
    """What comes back for some bytes, until the server closes or nothing comes for a while."""
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
        connection.sendall(data)
        answer = b""
        try:
            while piece := connection.recv(2**16):
                answer += piece
                if b"\r\n\r\n" in answer:
                    break
        except (TimeoutError, ConnectionResetError):
            pass
    return answer


def test_requests_that_are_none_are_refused(server: Server) -> None:
    assert b" 400 " in raw(server, b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n").split(b"\r\n")[0]
    assert b" 4" in raw(server, b"GET / HTTP/1.1\r\nX: " + b"y" * 200_000 + b"\r\n\r\n").split(b"\r\n")[0]
    assert b" 403 " in raw(server, b"GET / HTTP/1.0\r\n\r\n").split(b"\r\n")[0]
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 104857600\r\n\r\n"
    assert b" 413 " in raw(server, head).split(b"\r\n")[0]
    assert server.http.put("/v1/models").status_code == 405
    assert server.http.get("/nothing").status_code == 404


def test_a_client_that_goes_ends_its_answer_and_no_other(server: Server) -> None:
    http = server.http
    path = f"/v1/sessions/{http.post('/v1/sessions', json={}).json()['id']}"
    message = {"content": "x", "stream": True, "max_tokens": 20_000}
    with (
        httpx.Client(base_url=server.url, timeout=60) as leaving,
        leaving.stream("POST", f"{path}/messages", json=message) as answer,
    ):
        next(answer.iter_lines())
    while http.get(path).json()["running"]:
        time.sleep(0.02)
    last = http.get(f"{path}/messages").json()["data"][-1]
    assert (last["role"], last["finish"]) == ("assistant", "cancelled")
    assert last["new_tokens"] < 20_000


def test_the_worker_is_killed_and_nothing_acknowledged_is_lost(server: Server) -> None:
    http = server.http
    path = f"/v1/sessions/{http.post('/v1/sessions', json={}).json()['id']}"
    http.post(f"{path}/messages", json={"content": "one", "max_tokens": 4})
    told, last = "", {}
    with http.stream("POST", f"{path}/messages", json={"content": "two", "stream": True, "max_tokens": 5000}) as answer:
        for line in answer.iter_lines():
            event = json.loads(line[6:]) if line.startswith("data: ") else {}
            if event.get("event") == "said":
                told += event["text"]
                if len(told) == 5:
                    os.kill(server.worker, signal.SIGKILL)
            last = event or last
    assert (last["event"], last["error"]["code"]) == ("error", "model_unavailable")
    refused = http.post(f"{path}/messages", json={"content": "three"})
    assert refused.status_code in (200, 503)
    if refused.status_code == 503:
        assert refused.headers["retry-after"]
    server.wait_until_ready()
    said = http.get(f"{path}/messages").json()["data"]
    assert [message["text"] for message in said[:1]] == ["one"]
    assert (said[3]["finish"], said[3]["text"]) == ("interrupted", told)
    after = http.post(f"{path}/messages", json={"content": "four", "max_tokens": 4}).json()
    assert after["cached_tokens"] == said[3]["stop"] or len(said) > 4
    text = http.get(f"{path}/text", params={"start": 0, "stop": 4000}).json()["text"]
    assert text.count("<|user_start|>two<|user_end|>") == 1
    assert http.get("/health").json()["restarts"] >= 1


def test_a_damaged_session_loses_only_itself(server: Server, served_base: Path) -> None:
    http = server.http
    made = http.post("/v1/sessions", json={}).json()["id"]
    http.post(f"/v1/sessions/{made}/messages", json={"content": "one", "max_tokens": 4})
    os.kill(server.worker, signal.SIGKILL)  # so that it isn't in memory
    (state,) = served_base.glob(f"served/*/{made}/1/session.json")
    state.write_text("{")
    while http.get("/health").status_code == 200:
        time.sleep(0.02)
    server.wait_until_ready()
    answer = http.post(f"/v1/sessions/{made}/messages", json={"content": "two"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "session_damaged")
    other = http.post("/v1/sessions", json={}).json()["id"]
    assert http.post(f"/v1/sessions/{other}/messages", json={"content": "x", "max_tokens": 2}).status_code == 200


# --- documents --------------------------------------------------------------------------------------------------------


def test_what_the_server_says_of_itself(server: Server) -> None:
    document = server.http.get("/openapi.json").json()
    assert set(document["paths"]) >= {"/v1/chat/completions", "/v1/sessions/{session}/messages"}
    operations = {each["operationId"] for path in document["paths"].values() for each in path.values()}
    links = document["paths"]["/v1/sessions"]["post"]["responses"]["201"]["links"]
    assert {"show", "post_message", "upload", "branch"} <= set(links) <= operations
    assert "mccore_serve_tokens_total" in server.http.get("/metrics").text
    page = server.http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    for name in re.findall(r'(?:src|href)="(page/[^"]+)"', page.text):
        assert server.http.get(f"/{name}").status_code == 200
    assert not re.search(r'(?:src|href)="https?:', page.text)


def test_the_commands_of_the_docs_work(server: Server, tmp_path: Path) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs" / "serving.md").read_text(), re.MULTILINE | re.DOTALL)
    script = "\n".join(block for block in blocks if "curl" in block)
    assert script.count("curl") >= 4
    (tmp_path / "book.txt").write_text("Some words of a book.\n" * 50)
    script = script.replace("http://127.0.0.1:8000", server.url)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"error"' not in done.stdout


def test_a_stop_saves_all_and_the_next_start_has_it(served_base: Path, tmp_path: Path) -> None:
    token = "a-token-of-some-length"
    with serving(served_base, "--sessions", str(tmp_path), MCCORE_SERVE_TOKEN=token) as server:
        made = server.http.post("/v1/sessions", json={}).json()["id"]
        server.http.post(f"/v1/sessions/{made}/messages", json={"content": "one", "max_tokens": 4})
        assert httpx.get(f"{server.url}/v1/sessions").status_code == 401
        log = server.stop()
        assert token not in log
    assert list(tmp_path.glob(f"*/{made}/1/keys-*.safetensors"))
    with serving(served_base, "--sessions", str(tmp_path), MCCORE_SERVE_TOKEN=token) as server:
        assert [message["text"] for message in server.http.get(f"/v1/sessions/{made}/messages").json()["data"]][:1] == [
            "one"
        ]
        assert (
            server.http.post(f"/v1/sessions/{made}/messages", json={"content": "two", "max_tokens": 2}).json()[
                "cached_tokens"
            ]
            > 5
        )
