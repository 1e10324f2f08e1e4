"""Texts and small files that refer to other files and to addresses, which no decoder may follow."""

from __future__ import annotations

import base64
import struct
from typing import TYPE_CHECKING, Final

from tests.support.canaries import canary_wav

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_DASH: Final = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT3S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period>'
    '<AdaptationSet contentType="audio" mimeType="audio/mp4"><Representation id="1" bandwidth="1000">'
    "<BaseURL>{}</BaseURL></Representation></AdaptationSet></Period></MPD>"
)

#: Each has one or several placeholders for its target.
TEMPLATES: Final = {
    "m3u": "{}\n",
    "extended m3u": "#EXTM3U\n#EXTINF:2,Song\n{}\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n",
    "live hls": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n#EXT-X-MEDIA-SEQUENCE:1\n#EXTINF:10,\n{}\n",
    "encrypted hls": '#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXT-X-KEY:METHOD=AES-128,URI="{0}"\n#EXTINF:10,\n{0}\n'
    "#EXT-X-ENDLIST\n",
    "sample-encrypted hls": '#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXT-X-KEY:METHOD=SAMPLE-AES,URI="{0}",IV=0x1\n'
    "#EXTINF:10,\n{0}\n#EXT-X-ENDLIST\n",
    "hls with a map": '#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXT-X-MAP:URI="{0}"\n#EXTINF:10,\n{0}\n#EXT-X-ENDLIST\n',
    "hls with byte ranges": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n#EXT-X-BYTERANGE:9999@0\n{}\n"
    "#EXT-X-ENDLIST\n",
    "master playlist": '#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",NAME="a",URI="{0}"\n'
    '#EXT-X-STREAM-INF:BANDWIDTH=9,AUDIO="a"\n{0}\n',
    "concat": "ffconcat version 1.0\nfile '{}'\n",
    "concat with options": "ffconcat version 1.0\nfile '{}'\noption safe 0\ninpoint 0\noutpoint 9\nduration 9\n",
    "concat of stream": "ffconcat version 1.0\nstream\nfile {0}\nfile {0}\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\na=control:{}\nm=audio 41234 RTP/AVP 0\n",
    "rtsp redirect": "RTSP/1.0 302 Found\r\nLocation: {}\r\n\r\n",
    "dash": _DASH,
    "smooth streaming": '<SmoothStreamingMedia MajorVersion="2"><StreamIndex Url="{}"/></SmoothStreamingMedia>',
    "imf": '<CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016"><Id>{}</Id></CompositionPlaylist>',
    "pls": "[playlist]\nFile1={}\nTitle1=Song\nLength1=-1\nNumberOfEntries=1\nVersion=2\n",
    "xspf": '<?xml version="1.0"?><playlist version="1" xmlns="http://xspf.org/ns/0/"><trackList><track>'
    "<location>{}</location></track></trackList></playlist>",
    "asx": '<asx version="3.0"><entry><ref href="{}"/></entry></asx>',
    "old asx": "[Reference]\nRef1={}\n",
    "wpl": '<?wpl version="1.0"?><smil><body><seq><media src="{}"/></seq></body></smil>',
    "cue": 'FILE "{}" WAVE\n  TRACK 01 AUDIO\n    INDEX 01 00:00:00\n',
    "real": "{}\n--stop--\n",
    "filter graph": "amovie='{}'[out]",
    "chapters": ";FFMETADATA1\ntitle={0}\n[STREAM]\nurl={0}\n",
    "svg": '<svg xmlns="http://www.w3.org/2000/svg"><image href="{}"/></svg>',
    "xml with an entity": '<!DOCTYPE a [<!ENTITY b SYSTEM "{}">]><MPD>&b;</MPD>',
    "avisynth": 'WavSource("{}")\n',
    "vapoursynth": "import vapoursynth as vs\nvs.core.ffms2.Source('{}').set_output()\n",
    "html": '<html><audio src="{0}"></audio><meta http-equiv="refresh" content="0;url={0}"></html>',
}

#: Content before a text that leaves it valid, or hides it.
PREFIXES: Final = {
    "a BOM": b"\xef\xbb\xbf",
    "blank lines": b"\r\n \n\t\n",
    "a comment": b"# nothing\n",
    "junk": b"\0\xff\0\xffjunk\n",
    "an ID3 tag": b"ID3\x04\0\0\0\0\0\x0aTIT2\0\0\0\0\0\0",
    "an APE tag": b"APETAGEX\xd0\x07\0\0 \0\0\0\0\0\0\0\0\0\0\xa0" + bytes(8),
    "a long line": b"#" + b" " * 5_000 + b"\n",
}

#: Prefixes of an absolute path with which some library opens it.
_PATH_PREFIXES: Final = (
    *("", "file:", "file://", "concat:", "subfile,,start,0,end,0,,:", "crypto:", "cache:", "async:", "concatf:"),
    *("tee:", "lavfi:amovie=", "ipfs://", "hls+file:", "applehttp+file:", "unix:", "../../../../../../../.."),
)
_SCHEMES: Final = (
    "http",
    "https",
    "tcp",
    "udp",
    "rtp",
    "rtsp",
    "rtmp",
    "ftp",
    "gopher",
    "mmsh",
    "srtp",
    "icecast",
    "tls",
)
_DEVICES: Final = ("/proc/self/environ", "/etc/passwd", "/dev/zero", "pipe:0", "fd:1", "-", "/dev/stdin")


#: Placeholders for what is known when the files are written: the folder of canaries and the ports that listen.
FOLDER, TCP, UDP = "@FOLDER@", "@TCP@", "@UDP@"
#: The names of canary files.
CANARIES: Final = ("loud.ts", "loud.wav", "loud.mp3", "secret.txt")


def fill_in(content: bytes, *, folder: Path, tcp: int, udp: int) -> bytes:
    """Replace the placeholders."""
    for name, value in ((FOLDER, folder), (TCP, tcp), (UDP, udp)):
        content = content.replace(name.encode(), str(value).encode())
    return content


def _targets() -> Iterator[str]:
    for name in CANARIES:
        yield name
        yield from (f"{prefix}{FOLDER}/{name}" for prefix in _PATH_PREFIXES)
    for scheme in _SCHEMES:
        yield f"{scheme}://127.0.0.1:{UDP if scheme in {'udp', 'rtp', 'srtp'} else TCP}/a.ts"
    yield f"hls+http://127.0.0.1:{TCP}/a.m3u8"
    yield f"http://localhost:{TCP}/a.ts?@/a.ts"
    yield "data:audio/wav;base64," + base64.b64encode(canary_wav(0.25)).decode()
    yield from _DEVICES


def lists() -> Iterator[tuple[str, bytes]]:
    """Yield every kind of list with two targets, every target in a list, and every prefix before half of the kinds."""
    targets = list(_targets())
    kinds = list(TEMPLATES.items())
    for index, (kind, template) in enumerate(kinds):
        for turn in range(2):
            target = targets[(index + turn * len(targets) // 2) % len(targets)]
            yield f"{kind} to {target[:50]}", template.format(target).encode()
        for turn, (name, prefix) in enumerate(PREFIXES.items()):
            if (index + turn) % 2:
                target = targets[(index * 7 + turn * 5) % len(targets)]
                yield f"{kind} after {name}", prefix + template.format(target).encode()
    following = [template for kind, template in kinds if kind in {"hls", "concat", "dash", "sdp"}]
    for index, target in enumerate(targets):
        yield f"list {index} to {target[:50]}", following[index % len(following)].format(target).encode()


def reference_movies(target: str) -> Iterator[tuple[str, bytes]]:
    """Yield QuickTime reference movies, which only refer to other files."""
    for kind, where in (("url ", target.encode() + b"\0"), ("alis", bytes(150) + target.encode())):
        reference = b"\0\0\0\0" + kind.encode() + struct.pack(">I", len(where)) + where
        rdrf = _box(b"rdrf", reference)
        yield f"reference movie by {kind.strip()}", _box(b"moov", _box(b"rmra", _box(b"rmda", rdrf)))
        yield f"skipped reference movie by {kind.strip()}", _box(b"skip", b"") + _box(b"rmra", _box(b"rmda", rdrf))


def _box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), name) + content
