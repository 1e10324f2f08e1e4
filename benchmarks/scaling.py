"""The throughput by the number of clips at once, as a table and as the chart in the documentation."""

from __future__ import annotations

import statistics
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from benchmarks.recordings import recording
from benchmarks.serving import ROOT, plain_service, service
from benchmarks.target import CPU
from benchmarks.throughput import send_all

if TYPE_CHECKING:
    from benchmarks.target import Target

AT_ONCE: Final = (1, 2, 4, 8, 16, 32)
CLIP_SECONDS: Final = 30
CHART: Final = ROOT / "docs" / "throughput.svg"
_SERVICE: Final = "this service"
_PLAIN: Final = "plain server"


def measure(target: Target, *, rounds: int) -> str:
    """Draw the chart and return a section with the seconds of audio transcribed per second, medians."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        model = target.make_model(folder / "model")
        clips = [
            recording(folder / f"{number}.wav", seconds=CLIP_SECONDS, offset_seconds=4 * number)
            for number in range(max(AT_ONCE))
        ]
        speeds: dict[str, dict[int, list[float]]] = {_SERVICE: {}, _PLAIN: {}}
        for _ in range(rounds):
            for count in AT_ONCE:
                settings = {"WHISPER_MODEL": model, "WHISPER_DEVICE": target.device, "MAX_CONCURRENT_REQUESTS": "32"}
                with service(**settings) as client:
                    speed = count * CLIP_SECONDS / send_all(client, clips[:count])
                    speeds[_SERVICE].setdefault(count, []).append(speed)
                if count <= 8:  # more clips are not faster
                    with plain_service(model, target) as client:
                        speed = count * CLIP_SECONDS / send_all(client, clips[:count])
                        speeds[_PLAIN].setdefault(count, []).append(speed)
    medians = {
        program: {count: statistics.median(values) for count, values in by_count.items()}
        for program, by_count in speeds.items()
    }
    if target is CPU:
        CHART.write_text(chart(medians))
    return _section(target, medians)


def _section(target: Target, medians: dict[str, dict[int, float]]) -> str:
    head = " | ".join(str(count) for count in AT_ONCE)
    rows = [
        f"| {program} | " + " | ".join(f"{speeds[count]:.1f}" if count in speeds else "" for count in AT_ONCE) + " |"
        for program, speeds in medians.items()
    ]
    return "\n".join(
        [
            "## Scaling",
            "",
            f"Seconds of audio transcribed per second, clips of {CLIP_SECONDS} s, {target.description}.",
            "",
            f"| clips at once | {head} |",
            "|---|" + "---|" * len(AT_ONCE),
            *rows,
        ]
    )


def chart(medians: dict[str, dict[int, float]]) -> str:
    """Return an SVG line chart that is readable on light and dark pages."""
    left, top, width, height = 60, 40, 560, 260
    highest = max(value for speeds in medians.values() for value in speeds.values()) * 1.15

    def x(count: int) -> float:
        return left + width * AT_ONCE.index(count) / (len(AT_ONCE) - 1)

    def y(value: float) -> float:
        return top + height * (1 - value / highest)

    parts = [
        f'<text x="{left}" y="22" font-weight="bold">Seconds of audio transcribed per second</text>',
        f'<path d="M{left} {top}V{top + height}H{left + width}" stroke="#888" fill="none"/>',
    ]
    step = max(1, round(highest / 5))
    for value in range(0, int(highest) + 1, step):
        parts.append(f'<path d="M{left} {y(value):.1f}h{width}" stroke="#8884" fill="none"/>')
        parts.append(f'<text x="{left - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value}</text>')
    parts += [f'<text x="{x(n):.1f}" y="{top + height + 20}" text-anchor="middle">{n}</text>' for n in AT_ONCE]
    parts.append(f'<text x="{left + width / 2}" y="{top + height + 42}" text-anchor="middle">clips at once</text>')
    for (program, speeds), colour in zip(medians.items(), ("#2a7de1", "#d9662b"), strict=True):
        points = [(x(count), y(value)) for count, value in speeds.items()]
        line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        parts.append(f'<polyline points="{line}" stroke="{colour}" stroke-width="2.5" fill="none"/>')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="4" fill="{colour}"/>' for a, b in points]
        last = points[-1]
        parts.append(
            f'<text x="{last[0]:.1f}" y="{last[1] - 12:.1f}" fill="{colour}" text-anchor="end">{program}</text>'
        )
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 660 360" font-family="sans-serif" font-size="13" '
        f'fill="#777">\n{body}\n</svg>\n'
    )
