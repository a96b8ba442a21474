"""Questions shared among ranks: each is somebody's, and nobody's twice."""

from __future__ import annotations

from mccore.eval.ranks import Alone
from mccore.train.world import World


def test_one_process_has_everything() -> None:
    assert list(Alone().own_share([3, 1, 2])) == [3, 1, 2]
    assert Alone().gather(["a", "b"], 2) == ["a", "b"]
    assert World().gather(["a", "b"], 2) == ["a", "b"]
    assert World().from_main({"kept": 1}) == {"kept": 1}


def test_the_shares_of_ranks_are_all_there_is() -> None:
    for size in (1, 2, 3, 7):
        shares = [World(rank=rank, size=size).own_share(range(5)) for rank in range(size)]
        assert sorted(number for share in shares for number in share) == [0, 1, 2, 3, 4]
        # In the order that `gather` puts them together again.
        assert [shares[number % size][number // size] for number in range(5)] == [0, 1, 2, 3, 4]
