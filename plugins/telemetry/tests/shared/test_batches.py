from mccore_telemetry.shared.batches import Backlog, Backoff


def test_backlog_drops_the_oldest_and_counts_them() -> None:
    backlog = Backlog[int](3)
    for number in range(5):
        backlog.add(number)
    assert (len(backlog), backlog.take_dropped(), backlog.take_dropped()) == (3, 2, 0)
    assert backlog.take(2) == [2, 3]


def test_what_is_given_back_goes_first() -> None:
    backlog = Backlog[int](4)
    for number in range(4):
        backlog.add(number)
    taken = backlog.take(2)
    backlog.give_back(taken)
    assert backlog.take(10) == [0, 1, 2, 3]


def test_giving_back_into_a_full_backlog_loses_the_oldest() -> None:
    backlog = Backlog[int](2)
    backlog.add(0)
    taken = backlog.take(1)
    backlog.add(1)
    backlog.add(2)
    backlog.give_back(taken)
    assert (backlog.take(10), backlog.take_dropped()) == ([1, 2], 1)


def test_backoff_doubles_up_to_its_longest_pause() -> None:
    now = [0.0]
    backoff = Backoff(1.0, 4.0, clock=lambda: now[0])
    pauses = []
    for _ in range(4):
        backoff.failed()
        began = now[0]
        while not backoff.ready:
            now[0] += 0.5
        pauses.append(now[0] - began)
    assert pauses == [1.0, 2.0, 4.0, 4.0]
    backoff.failed(at_least=60.0)
    now[0] += 59.5
    assert not backoff.ready
    backoff.succeeded()
    assert backoff.ready
