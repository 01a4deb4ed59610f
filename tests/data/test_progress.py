import io

import pytest
from rich.console import Console

from kdzoo.data import progress


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def work(clock: Clock, seconds: float, pieces: int = 10) -> list[str]:
    passed = []
    for piece in progress.counted("decoding", 10 * pieces, ["x" * 10] * pieces):
        clock.now += seconds / pieces
        passed.append(piece)
    return passed


def test_nothing_is_shown_unless_somebody_asks(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(work(clock, 1000)) == 10
    progress.message("hello")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("seconds", "lines"), [(1.9, 0), (10, 1), (100, 4)])
def test_lines_come_after_two_seconds_and_then_twice_a_minute(
    clock: Clock, seconds: float, lines: int
) -> None:
    out = io.StringIO()
    with progress.shown_by(progress.Terminal(Console(file=out, width=40))):
        work(clock, seconds)
    assert len(out.getvalue().splitlines()) == lines
    assert lines == 0 or out.getvalue().startswith("decoding: ")
    assert lines != 1 or "of 100 images" in out.getvalue()


@pytest.mark.parametrize(("seconds", "shown"), [(1.9, False), (10, True)])
def test_a_terminal_has_a_bar_that_goes_away(clock: Clock, seconds: float, shown: bool) -> None:
    out = io.StringIO()
    display = progress.Terminal(Console(file=out, width=80, force_terminal=True))
    with progress.shown_by(display):
        work(clock, seconds)
    assert ("100/100" in out.getvalue()) == shown
    assert display._bar is None


def test_it_goes_to_standard_error(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.shown_by(progress.Terminal()):
        progress.message("waiting for [another] process, " + "long " * 40)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert "[another]" in captured.err


def test_a_display_ends_with_its_block_and_when_work_fails(clock: Clock) -> None:
    ended = []

    class Display(progress.Display):
        def end(self) -> None:
            ended.append(True)

    def failing():
        yield [1]
        raise ZeroDivisionError

    with progress.shown_by(Display()), pytest.raises(ZeroDivisionError):
        list(progress.counted("decoding", 2, failing()))
    assert ended == [True]
    list(progress.counted("decoding", 1, [[1]]))
    assert ended == [True]
