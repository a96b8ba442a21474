"""`mccore data`: what of the Hugging Face hub is on this machine."""

from __future__ import annotations

import time

import click

from mccore.data.hub.address import HubAddress, parse_address
from mccore.data.hub.library import Kept, Library, open_library
from mccore.errors import DataError, UsageError
from mccore.host.terminal import StatusLine, echo, echo_json
from mccore.units import duration, size

_JSON = click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")


@click.group()
def data() -> None:
    """Fetch data sets of the Hugging Face hub, list, check and remove them.

    A data set is `climbmix`, `fineweb_edu` or `hf:OWNER/NAME[/CONFIG][@REVISION]`. Its files are kept once for all runs. Runs
    fetch what they need by themselves. HF_TOKEN, HF_ENDPOINT (a mirror) and HF_HUB_OFFLINE are heeded.
    """


@data.command("list")
@_JSON
def list_(as_json: bool) -> None:
    """List the data sets of which something is on this machine."""
    library = open_library()
    kept = library.kept()
    if as_json:
        echo_json([_as_json(each) for each in kept])
        return
    if not kept:
        echo(f"nothing of the hub is in {library.root}")
        return
    for each in kept:
        partial = f", {size(each.partial)} of files that aren't complete" if each.partial else ""
        echo(
            f"{each.address}  {each.complete:,} of {len(each.listing.files):,} files, {size(each.bytes)}{partial}, "
            f"commit {each.listing.commit[:12]}"
        )
    echo(f"in {library.root}")


@data.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--shards", type=click.IntRange(0), default=0, help="Files to train on; 0 takes all.")
@click.option(
    "--update", is_flag=True, help="Ask the hub what the data set holds now; runs that began with it keep theirs."
)
def get(names: tuple[str, ...], shards: int, update: bool) -> None:
    """Fetch data sets. What is there already isn't fetched again, and what was cut short goes on where it stopped."""
    from mccore.data.corpora.remote import HubCorpus

    library = open_library()
    for name in names:
        address = parse_address(name)
        if update:
            library.listing(address, update=True)
        corpus = HubCorpus(name, library, shards=shards)
        with _Line(name) as line:
            corpus.fetch(line)
        echo(f"{name}: {len(corpus.files):,} files, {size(line.total)}, {line.came()}")


@data.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--remove", is_flag=True, help="Take damaged files away, so that they are fetched again.")
def verify(names: tuple[str, ...], remove: bool) -> int:
    """Compare files with the checksums that the hub lists: of NAME..., or of all."""
    library, found = open_library(), 0
    for each in _chosen(library, names):
        with _Line(str(each.address)) as line:
            damaged = list(library.damaged(each.listing, line))
        for file in damaged:
            echo(f"{each.address}: {file.path} is damaged" + (": removed" if remove else ""))
            if remove:
                library.discard(each.listing, file)
        found += len(damaged)
        if not damaged:
            echo(f"{each.address}: {each.complete:,} files, {size(each.bytes)}, as the hub lists them")
    if found and not remove:
        echo("`mccore data verify --remove` takes them away, the next run or `mccore data get` fetches them again")
    return 1 if found and not remove else 0


@data.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--all", "everything", is_flag=True, help="Remove all data sets.")
def rm(names: tuple[str, ...], everything: bool) -> None:
    """Remove data sets from this machine; they can be fetched again."""
    if bool(names) == everything:
        raise UsageError("say what to remove", hint="name data sets, or give --all")
    library = open_library()
    for repository in dict.fromkeys(each.address.repository for each in _chosen(library, names)):
        echo(f"{repository}: {size(library.remove(repository))} freed")


def _chosen(library: Library, names: tuple[str, ...]) -> list[Kept]:
    kept = library.kept()
    if not names:
        return kept
    chosen = []
    for name in names:
        address = parse_address(name)
        found = [each for each in kept if _same(each.address, address)]
        if not found:
            raise DataError(f"nothing of {name} is in {library.root}", hint="`mccore data list` shows what there is")
        chosen += found
    return chosen


def _same(kept: HubAddress, asked: HubAddress) -> bool:
    return (kept.repository, kept.config, kept.revision) == (asked.repository, asked.config, asked.revision)


def _as_json(kept: Kept) -> dict[str, object]:
    return {
        "name": str(kept.address),
        "commit": kept.listing.commit,
        "files": len(kept.listing.files),
        "complete": kept.complete,
        "bytes": kept.bytes,
        "partial_bytes": kept.partial,
    }


class _Line:
    """A line on the terminal that tells how far a data set is, and how fast it comes."""

    def __init__(self, name: str) -> None:
        self._name, self._status = name, StatusLine()
        self._began, self._first = time.monotonic(), -1
        self.done = self.total = 0

    def __enter__(self) -> _Line:
        return self

    def __exit__(self, *error: object) -> None:
        self._status.clear()

    def __call__(self, done: int, total: int) -> None:
        self._first = done if self._first < 0 else self._first
        self.done, self.total = done, total
        seconds = time.monotonic() - self._began
        rate = (done - self._first) / seconds if seconds else 0.0
        left = f", {duration((total - done) / rate)} left" if rate > 0 and done < total else ""
        self._status.show(f"{self._name}: {size(done)} of {size(total)}, {size(rate)}/s{left}")

    def came(self) -> str:
        """What of it came now."""
        new = self.done - max(self._first, 0)
        return f"{size(new)} of them fetched now" if new else "all there already"
