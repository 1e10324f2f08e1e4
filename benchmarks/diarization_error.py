"""The diarization error rate: errors in seconds, as a share of the speech.

Speech is missed, found where nobody speaks, or another speaker's. The definition is that of NIST's md-eval: time in
which several speak counts once for each, and speakers are matched so that most time agrees. A ``collar`` leaves out
what is within this many seconds of the borders of the reference's turns.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from app.domain.transcript import Turn

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class DiarizationError:
    """Seconds of speech in the reference, and those of each kind of error. They can be added."""

    speech: float = 0.0
    missed: float = 0.0
    false_alarm: float = 0.0
    confused: float = 0.0

    def __add__(self, other: DiarizationError) -> DiarizationError:
        return DiarizationError(
            self.speech + other.speech,
            self.missed + other.missed,
            self.false_alarm + other.false_alarm,
            self.confused + other.confused,
        )

    @property
    def rate(self) -> float:
        """The error rate; 0.1 is 10 %."""
        return (self.missed + self.false_alarm + self.confused) / self.speech if self.speech else 0.0


def diarization_error(
    reference: Sequence[Turn], result: Sequence[Turn], *, duration: float, collar: float = 0.0
) -> DiarizationError:
    """Compare turns with those of a reference, within ``duration`` seconds."""
    intervals = list(_intervals(reference, result, duration, collar))
    together: dict[tuple[str, str], float] = defaultdict(float)
    for seconds, expected, found in intervals:
        for pair in ((speaker, other) for speaker in expected for other in found):
            together[pair] += seconds
    same = _matched(together)
    error = DiarizationError()
    for seconds, expected, found in intervals:
        correct = len({same.get(speaker) for speaker in found} & expected)
        error += DiarizationError(
            seconds * len(expected),
            seconds * max(0, len(expected) - len(found)),
            seconds * max(0, len(found) - len(expected)),
            seconds * (min(len(expected), len(found)) - correct),
        )
    return error


def read_rttm(path: Path) -> dict[str, list[Turn]]:
    """Return the turns of each recording in an RTTM file."""
    turns: dict[str, list[Turn]] = defaultdict(list)
    for line in path.read_text().splitlines():
        fields = line.split()
        if fields and fields[0] == "SPEAKER":
            start, seconds = float(fields[3]), float(fields[4])
            turns[fields[1]].append(Turn(start=start, end=start + seconds, speaker=fields[7]))
    return turns


def _intervals(
    reference: Sequence[Turn], result: Sequence[Turn], duration: float, collar: float
) -> Iterable[tuple[float, set[str], set[str]]]:
    """Yield intervals in which the same people speak: the seconds, the speakers in the reference and in the result."""
    borders = {edge for turn in reference for edge in (turn.start, turn.end)}
    unscored = sorted((edge - collar, edge + collar) for edge in borders) if collar else []
    changes = [(turn.start, 1, side, turn.speaker) for side, turns in enumerate((reference, result)) for turn in turns]
    changes += [(turn.end, -1, side, turn.speaker) for side, turns in enumerate((reference, result)) for turn in turns]
    changes += [(start, 1, 2, "") for start, _ in unscored] + [(end, -1, 2, "") for _, end in unscored]
    changes.append((duration, 0, 2, ""))
    active: tuple[dict[str, int], ...] = (defaultdict(int), defaultdict(int), defaultdict(int))
    last = 0.0
    for time, change, side, speaker in sorted(changes):
        now = min(max(time, 0.0), duration)
        if now > last and not active[2][""]:
            expected, found = ({name for name, count in names.items() if count > 0} for names in active[:2])
            yield now - last, expected, found
        last = max(last, now)
        active[side][speaker] += change


def _matched(together: dict[tuple[str, str], float]) -> dict[str, str]:
    """Return the speaker of the reference for each speaker of the result, so that most seconds agree."""
    expected = sorted({pair[0] for pair in together})
    found = sorted({pair[1] for pair in together})

    @cache
    def best(index: int, used: int) -> tuple[float, tuple[tuple[str, str], ...]]:
        if index == len(found):
            return 0.0, ()
        options = [best(index + 1, used)]
        for number, speaker in enumerate(expected):
            seconds = together.get((speaker, found[index]), 0.0)
            if seconds and not used & (1 << number):
                rest, pairs = best(index + 1, used | (1 << number))
                options.append((rest + seconds, ((found[index], speaker), *pairs)))
        return max(options)

    return dict(best(0, 0)[1])
