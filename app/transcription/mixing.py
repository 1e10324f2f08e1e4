"""Conversion of decoded frames to 16 kHz s16, with their channels mixed into one or each kept.

The decoder process loads this module by its path, so it imports nothing of this project.
"""

from __future__ import annotations

import errno
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from av import AudioFrame

#: FFmpeg's own mix knows the layouts of up to 8 speakers (7.1) and leaves out the channels of larger ones. Of frames
#: with more channels, PyAV 18.1 doesn't know how many planes they have, so they can't be measured.
_MAX_NAMED_CHANNELS: Final = 8
#: Two channels without a layout are left and right. More of them are microphones, none of which may be left out.
_MAX_GUESSED_CHANNELS: Final = 2
#: Cancellation is decided for this much sound at once, from this many samples a second of each channel.
_BLOCK_SECONDS: Final = 0.5
_MEASURED_SAMPLES: Final = 500
#: Channels cancel each other out if their mix has less than this share of the power that independent channels would
#: have in it: 13 dB less. Stereo that was widened until its difference is 12 dB louder than its sum is above that.
_CANCELLED: Final = 0.05
#: It matters if that power is more than this share of what the mix had recently. Otherwise it is the room, heard in the
#: pauses of a wide recording.
_NOTABLE: Final = 0.5
#: Later, mostly in noise, they have to have more than this share of it before they are mixed again.
_RESTORED: Final = 0.25
#: Each block has this much of the weight of the one after it: those of some 3 s count.
_FADING: Final = 0.8
#: A channel replaces the one that was taken if it is this many times as powerful.
_LOUDER: Final = 4.0
#: The mean square, relative to full scale, below which there is nothing to lose (-70 dB).
_FLOOR: Final = 1e-7
#: The type code and full scale of each sample format.
_SAMPLE_TYPES: Final = {
    "u8": ("B", 1 << 7),
    "s16": ("h", 1 << 15),
    "s32": ("i", 1 << 31),
    "s64": ("q", 1 << 63),
    "flt": ("f", 1),
    "dbl": ("d", 1),
}


class Resampler(Protocol):
    """Converts frames of one kind. A call with None returns what is left."""

    def resample(self, frame: AudioFrame | None) -> list[AudioFrame]: ...


def resampler_for(frame: AudioFrame, *, layout: str, rate: int) -> Resampler:
    """Return the resampler for frames of this kind, with ``layout`` (``mono`` mixes) and ``rate`` in Hz.

    It returns frames of one second.
    """
    from av import AudioResampler

    channels = frame.layout.nb_channels
    if layout != "mono" or channels == 1:
        return AudioResampler(format="s16", layout=layout, rate=rate, frame_size=rate)
    if channels > _MAX_NAMED_CHANNELS:
        return MeanResampler(frame, rate=rate)
    if channels > _MAX_GUESSED_CHANNELS and frame.layout.name == f"{channels} channels":
        return Mixer(frame, MeanResampler(frame, rate=rate))
    return Mixer(frame, AudioResampler(format="s16", layout="mono", rate=rate, frame_size=rate))


class MeanResampler:
    """Mixes all channels of frames like ``frame`` with the same weight, whatever their layout."""

    def __init__(self, frame: AudioFrame, *, rate: int) -> None:
        from av.filter import Graph

        channels = frame.layout.nb_channels
        mean = "+".join(f"{1 / channels:.9f}*c{channel}" for channel in range(channels))
        self._graph = Graph()
        self._graph.link_nodes(
            self._graph.add(
                "abuffer",
                sample_rate=str(frame.sample_rate),
                sample_fmt=frame.format.name,
                channel_layout=frame.layout.name,
                time_base=f"1/{frame.sample_rate}",
            ),
            self._graph.add("pan", f"mono|c0={mean}"),
            self._graph.add("aformat", sample_rates=str(rate), sample_fmts="s16", channel_layouts="mono"),
            self._graph.add("abuffersink"),
        ).configure()
        self._graph.set_audio_frame_size(rate)

    def resample(self, frame: AudioFrame | None) -> list[AudioFrame]:
        from av.error import FFmpegError

        self._graph.push(frame)
        mixed: list[Any] = []
        while True:
            try:
                mixed.append(self._graph.pull())
            except EOFError:
                return mixed
            except FFmpegError as exc:
                if exc.errno != errno.EAGAIN:
                    raise
                return mixed


class Mixer:
    """Mixes channels, and takes the loudest instead while they cancel each other out.

    That happens if a microphone is wired with reversed polarity. ``frame`` shows the kind of the frames, and
    ``resampler`` mixes them. While a channel is taken, it replaces all others before they are mixed, so what the
    resampler receives is continuous. ``cancelled_seconds`` counts for how long.
    """

    def __init__(self, frame: AudioFrame, resampler: Resampler) -> None:
        from av import AudioFifo

        self.cancelled_seconds = 0.0
        self._resampler = resampler
        self._fifo = AudioFifo()
        self._time_base = Fraction(1, frame.sample_rate)
        self._block_samples = int(frame.sample_rate * _BLOCK_SECONDS)
        self._cancellation = Cancellation()

    def resample(self, frame: AudioFrame | None) -> list[AudioFrame]:
        """Return the mix of the blocks that are complete with this frame, or of what is left."""
        if frame is not None:
            frame.time_base = self._time_base  # the queue refuses another one
            self._fifo.write(frame)
        mixed: list[AudioFrame] = []
        while block := self._fifo.read(self._block_samples, partial=frame is None):
            mixed += self._resampler.resample(self._without_cancellation(block))
        return mixed if frame is not None else mixed + self._resampler.resample(None)

    def _without_cancellation(self, block: AudioFrame) -> AudioFrame:
        channel = self._cancellation.channel_for(block)
        if channel is None:
            return block
        self.cancelled_seconds += block.samples / block.sample_rate
        return only_channel(block, channel)


class Cancellation:
    """Decides for one block after the other which channel replaces the mix.

    It begins in a block in which the channels cancel each other out. The quiet blocks after it, whose noise may not be
    cancelled, hardly count against it, because powers are summed.
    """

    def __init__(self) -> None:
        self._channel: int | None = None
        self._mixed = 0.0
        self._independent = 0.0

    def channel_for(self, block: AudioFrame) -> int | None:
        """Return the channel to take instead of the mix, or None to mix."""
        powers, mixed = measure(block)
        independent = sum(powers) / len(powers) ** 2
        loudest = max(range(len(powers)), key=powers.__getitem__)
        if max(powers) > _FLOOR and mixed < _CANCELLED * independent:
            if self._channel is None and independent > _NOTABLE * (1 - _FADING) * self._mixed:
                self._channel, self._mixed, self._independent = loudest, 0.0, 0.0
            elif self._channel is not None and powers[loudest] > _LOUDER * powers[self._channel]:
                self._channel = loudest
        self._mixed = self._mixed * _FADING + mixed
        self._independent = self._independent * _FADING + independent
        if self._mixed > _RESTORED * self._independent:
            self._channel = None
        return self._channel


def measure(block: AudioFrame) -> tuple[list[float], float]:
    """Return the mean squares of the channels of a block, relative to full scale, and that of their mean."""
    code, full_scale = _SAMPLE_TYPES[block.format.name.removesuffix("p")]
    zero = full_scale if code == "B" else 0
    stride = block.sample_rate // _MEASURED_SAMPLES | 1  # odd, or tones would be in step with it
    channels = [
        [(sample - zero) / full_scale for sample in samples[::stride].tolist()] for samples in _channels(block, code)
    ]
    mean = [sum(samples) / len(channels) for samples in zip(*channels, strict=True)]
    return [_mean_square(samples) for samples in channels], _mean_square(mean)


def only_channel(block: AudioFrame, channel: int) -> AudioFrame:
    """Return a block of the same kind with one of the channels in place of each."""
    from av import AudioFrame

    code, _ = _SAMPLE_TYPES[block.format.name.removesuffix("p")]
    copy = AudioFrame(block.format, block.layout, block.samples)
    copy.sample_rate = block.sample_rate
    copy.time_base = block.time_base
    samples = _channels(block, code)[channel]
    for target in _channels(copy, code):
        target[:] = samples
    return copy


def _channels(block: AudioFrame, code: str) -> list[memoryview]:
    """Return the samples of each channel, which share the memory of the block."""
    count = block.layout.nb_channels
    if block.format.is_planar:
        planes = block.planes[:count]  # PyAV 18.1 counts too many if there are 8
        return [memoryview(plane).cast(code)[: block.samples] for plane in planes]  # type: ignore[call-overload]
    samples = memoryview(block.planes[0]).cast(code)[: block.samples * count]  # type: ignore[call-overload]
    return [samples[channel::count] for channel in range(count)]


def _mean_square(samples: list[float]) -> float:
    return sum(sample * sample for sample in samples) / len(samples) if samples else 0.0
