"""The host is never far ahead of the device: a second's work, or two calls."""

import pytest

from aetheria.hardware.jax.run_ahead import RunAhead


class Device:
    """Takes `seconds` for a call, and as many calls as it is given; the clock is its own."""

    def __init__(self, seconds):
        self.seconds, self.now = seconds, 0.0
        self.ends = []

    def dispatch(self):
        self.now += 1e-5
        start = max([self.now, *self.ends[-1:]])
        self.ends.append(start + self.seconds)
        return self.ends[-1]

    def wait(self, end):
        late = end > self.now
        self.now = max(self.now, end)
        return late

    def ahead(self):
        return sum(end > self.now for end in self.ends)


def most_ahead(seconds, num_calls=800, pause_at=None):
    """How many calls the device had before it, after each of the dispatches."""
    device = Device(seconds)
    run_ahead = RunAhead(wait=device.wait, clock=lambda: device.now)
    counts = []
    for number in range(num_calls):
        run_ahead.follow(device.dispatch())
        counts.append(device.ahead())
        if number == pause_at:
            device.now += 30  # an evaluation
    return counts


@pytest.mark.parametrize(
    ("seconds", "calls"), [(5.0, 2), (0.4, 2), (0.25, 4), (0.05, 20), (0.001, 256)]
)
def test_as_many_calls_are_ahead_as_take_a_second(seconds, calls):
    counts = most_ahead(seconds)
    assert max(counts) in (calls - 1, calls)  # a second is 19 or 20 times 0.05, by the clock
    assert min(counts[1:]) >= 1, "the device never waits for the host"


def test_a_pause_after_which_no_call_is_late_changes_nothing():
    counts = most_ahead(0.05, pause_at=100)
    assert max(counts[:100]) in (19, 20) and max(counts[101:]) in (19, 20)


def test_calls_that_come_at_once_by_chance_do_not_open_the_gates():
    device = Device(0.2)
    run_ahead = RunAhead(wait=device.wait, clock=lambda: device.now)
    counts = []
    for number in range(100):
        end = device.dispatch()
        device.ends[-1] += 1e-6 - 0.2 if number % 10 == 9 else 0
        run_ahead.follow(min(end, device.ends[-1]))
        counts.append(device.ahead())
    assert max(counts) <= 7


def test_calls_shorter_than_their_dispatch_are_never_waited_for():
    device = Device(1e-7)
    run_ahead = RunAhead(wait=device.wait, clock=lambda: device.now)
    for _ in range(1000):
        run_ahead.follow(device.dispatch())
    assert device.now == pytest.approx(1000 * 1e-5)
