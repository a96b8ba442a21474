"""Files of the hub arrive whole or not at all, whatever goes wrong on the way."""

from __future__ import annotations

import random
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mccore.data.hub.address import HubAddress
from mccore.data.hub.client import HubUnavailable
from mccore.data.hub.download import Patience, part_of
from mccore.data.hub.library import Library
from mccore.data.hub.listing import HubFile, Listing
from mccore.errors import DataError
from tests.support.hub import Fault, StandInHub

ADDRESS = HubAddress("someone/text")
CONTENT = random.Random(0).randbytes(300_000)
QUICK = Patience(first_wait=0.001)


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "hub", patience=QUICK)


def ignore(done: int, total: int) -> None:
    """Nobody watches."""


def offered(hub: StandInHub, library: Library, **files: bytes) -> tuple[Listing, list[HubFile]]:
    """The listing of a data set with these files, and the files in the order of their names."""
    hub.add(ADDRESS.repository, {name.replace("_", "."): content for name, content in files.items()})
    listing = library.listing(ADDRESS)
    return listing, [listing.files[path] for path in sorted(listing.files)]


def content_of(library: Library, listing: Listing, file: HubFile) -> bytes:
    return library.path_of(listing, file).read_bytes()


def test_a_file_is_fetched_once(hub, library, tmp_path):
    listing, (file,) = offered(hub, library, a_bin=CONTENT)
    seen: list[tuple[int, int]] = []
    library.get(listing, [file], lambda done, total: seen.append((done, total)))
    assert content_of(library, listing, file) == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    again = Library(tmp_path / "hub")
    again.get(again.listing(ADDRESS), [file], ignore)
    assert hub.bytes_of("a.bin") == len(CONTENT)
    assert sum("/api/datasets" in line for line in hub.asked) == 2  # the commit and its files, once


def test_files_of_git_and_empty_ones_are_checked_too(hub, library):
    listing, files = offered(hub, library, README_md=b"# text\n", empty_bin=b"")
    library.get(listing, files, ignore)
    assert [content_of(library, listing, file) for file in files] == [b"# text\n", b""]
    assert files[0].sha256 is None


@pytest.mark.parametrize(
    "faults",
    [
        [Fault(cut=0)], [Fault(cut=100_001), Fault(cut=1)], [Fault(status=500)], [Fault(status=429, retry_after="0")],
        [Fault(cut=150_000), Fault(status=503), Fault(no_ranges=True, cut=10), Fault(cut=70_000)], [Fault(corrupt=True)],
        [Fault(cut=150_000, corrupt=True)],
    ],
)  # fmt: skip
def test_what_passes_is_survived(hub, library, faults):
    listing, (file,) = offered(hub, library, a_bin=CONTENT)
    hub.fail("a.bin", *faults)
    library.get(listing, [file], ignore)
    assert content_of(library, listing, file) == CONTENT
    assert not part_of(library.path_of(listing, file)).exists()


def test_a_cut_line_costs_no_byte_twice(hub, library):
    listing, (file,) = offered(hub, library, a_bin=CONTENT)
    hub.fail("a.bin", *[Fault(cut=30_000)] * 7)
    library.get(listing, [file], ignore)
    assert hub.bytes_of("a.bin") == len(CONTENT)
    assert [sent.start for sent in hub.sent] == [30_000 * n for n in range(8)]


@pytest.mark.parametrize(
    ("faults", "error", "message"),
    [
        ([Fault(corrupt=True)] * 2, DataError, "its checksum was another"),
        ([Fault(status=500)] * 6, HubUnavailable, "answers 500"),
        ([Fault(status=429)] * 6, HubUnavailable, "asks to wait"),
        ([Fault(cut=0)] * 6, HubUnavailable, "a.bin"),
        ([Fault(status=404)], DataError, "answers 404"),
        ([Fault(status=403)], DataError, "isn't open to you"),
    ],
)
def test_what_stays_is_told_and_leaves_no_file(hub, library, faults, error, message):
    listing, (file,) = offered(hub, library, a_bin=CONTENT)
    hub.fail("a.bin", *faults)
    with pytest.raises(error, match=message) as caught:
        library.get(listing, [file], ignore)
    assert caught.value.hint
    assert not library.has(listing, file)
    library.get(listing, [file], ignore)  # the cause is gone
    assert content_of(library, listing, file) == CONTENT


def test_a_file_that_changes_on_the_server(hub, library):
    """The commit is asked for, so the server's newer file is never mixed in."""
    listing, (file,) = offered(hub, library, a_bin=CONTENT)
    hub.fail("a.bin", *[Fault(cut=100_000)] + [Fault(status=500)] * 6)
    with pytest.raises(HubUnavailable):
        library.get(listing, [file], ignore)
    newer = CONTENT[::-1]
    hub.add(ADDRESS.repository, {"a.bin": newer})
    library.get(listing, [file], ignore)
    assert content_of(library, listing, file) == CONTENT
    updated = library.listing(ADDRESS, update=True)
    library.get(updated, list(updated.files.values()), ignore)
    assert content_of(library, updated, updated.files["a.bin"]) == newer
    assert updated.commit != listing.commit


def test_commits_share_what_they_have_in_common(hub, library):
    offered(hub, library, a_bin=CONTENT, b_bin=b"one")
    first = library.listing(ADDRESS)
    library.get(first, list(first.files.values()), ignore)
    hub.add(ADDRESS.repository, {"a.bin": CONTENT, "b.bin": b"two"})
    second = library.listing(ADDRESS, update=True)
    library.get(second, list(second.files.values()), ignore)
    assert hub.bytes_of("a.bin") == len(CONTENT)
    assert content_of(library, second, second.files["b.bin"]) == b"two"


def test_several_come_side_by_side(hub, library):
    """Two files that each wait for the other to have begun."""
    listing, files = offered(hub, library, **{f"f{n}_bin": CONTENT[n:] for n in range(4)})
    hub.pace = 0.005
    library.get(listing, files, ignore)
    begun = [sent.path for sent in hub.sent]
    assert sorted(begun) == sorted(file.path for file in files)
    assert [content_of(library, listing, file) for file in files] == [CONTENT[n:] for n in range(4)]


def test_a_full_disk_is_told_before_the_first_byte(hub, library, monkeypatch):
    listing, (file,) = offered(hub, library, a_bin=CONTENT)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": (1 << 28) + 1000})())
    with pytest.raises(DataError, match=r"293.0 KiB are still to come.*has room for 1000 B") as caught:
        library.get(listing, [file], ignore)
    assert "data.shards" in str(caught.value.hint)
    assert hub.sent == []


def test_a_disk_that_fills_up_on_the_way(hub, library):
    listing, (file,) = offered(hub, library, a_bin=CONTENT)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, hard))
    try:
        with pytest.raises(DataError, match=r"can't write .*a\.bin: File too large") as caught:
            library.get(listing, [file], ignore)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "ulimit" in str(caught.value.hint)
    assert not library.has(listing, file)
    library.get(listing, [file], ignore)
    assert content_of(library, listing, file) == CONTENT
    assert hub.sent[-1].start == 65_536


def test_what_is_asked_to_stop_keeps_what_came(hub, library):
    listing, (file,) = offered(hub, library, a_bin=CONTENT)
    hub.pace = 0.05

    def stop(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        library.get(listing, [file], stop)
    kept = part_of(library.path_of(listing, file)).stat().st_size
    assert 0 < kept < len(CONTENT)
    hub.pace = 0
    library.get(listing, [file], ignore)
    assert content_of(library, listing, file) == CONTENT
    assert hub.sent[-1].start == kept


def test_two_at_once_fetch_a_file_once(hub, library):
    listing, (file,) = offered(hub, library, a_bin=CONTENT)
    hub.pace = 0.005
    others = [threading.Thread(target=library.get, args=(listing, [file], ignore)) for _ in range(3)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert content_of(library, listing, file) == CONTENT
    assert hub.bytes_of("a.bin") == len(CONTENT)


# A child for every attempt, killed (SIGKILL) a moment after bytes have come; forks, so that each costs milliseconds.
_KILLED = """
import os, random, signal, sys, time
from pathlib import Path
from mccore.data.hub.address import HubAddress
from mccore.data.hub.library import Library
import httpx2, huggingface_hub.errors, huggingface_hub.utils
from huggingface_hub import get_session, hf_hub_url, set_client_factory
set_client_factory(lambda: httpx2.Client(verify=False))  # reading the certificates takes longer than all else
root, times = Path(sys.argv[1]), int(sys.argv[2])
library = Library(root)
listing = library.listing(HubAddress("someone/text"))
held = lambda: sum(path.stat().st_size for path in root.rglob("*.part"))
rng = random.Random(1)
for attempt in range(times):
    before = held()
    child = os.fork()
    if child == 0:
        library.get(listing, list(listing.files.values()), lambda done, total: None)
        os._exit(1)  # it was to be killed
    while held() <= before and not os.waitpid(child, os.WNOHANG)[0]:
        time.sleep(0.001)
    time.sleep(rng.uniform(0, 0.01))
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
"""


def test_killed_50_times(hub, library):
    contents = [random.Random(n).randbytes(2_000_000) for n in range(3)]
    listing, files = offered(hub, library, **{f"f{n}_bin": content for n, content in enumerate(contents)})
    hub.pace, hub.chunk = 0.005, 2048
    subprocess.run([sys.executable, "-c", _KILLED, str(library.root), "50"], timeout=120, check=True)
    assert not any(library.has(listing, file) for file in files)
    hub.pace, hub.chunk = 0, 1 << 14
    kept = sum(part_of(library.path_of(listing, file)).stat().st_size for file in files)
    library.get(listing, files, ignore)
    assert [content_of(library, listing, file) for file in files] == contents
    assert not list(library.root.rglob("*.part"))
    # Nothing that was kept is asked for again: only what was on the wire when a kill came is lost.
    assert [sent.start for sent in hub.sent[-3:]] != [0, 0, 0]
    assert sum(sent.size for sent in hub.sent[-3:]) == 6_000_000 - kept
    assert len({sent.start for sent in hub.sent}) > 50
