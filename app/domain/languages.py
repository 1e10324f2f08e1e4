"""The languages of Whisper, by code and English name, as in OpenAI's ``whisper/tokenizer.py``."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from app.domain.transcript import Script

_TABLE: Final = """
af afrikaans, am amharic, ar arabic, as assamese, az azerbaijani, ba bashkir, be belarusian, bg bulgarian,
bn bengali, bo tibetan, br breton, bs bosnian, ca catalan, cs czech, cy welsh, da danish, de german, el greek,
en english, es spanish, et estonian, eu basque, fa persian, fi finnish, fo faroese, fr french, gl galician,
gu gujarati, ha hausa, haw hawaiian, he hebrew, hi hindi, hr croatian, ht haitian creole, hu hungarian,
hy armenian, id indonesian, is icelandic, it italian, ja japanese, jw javanese, ka georgian, kk kazakh, km khmer,
kn kannada, ko korean, la latin, lb luxembourgish, ln lingala, lo lao, lt lithuanian, lv latvian, mg malagasy,
mi maori, mk macedonian, ml malayalam, mn mongolian, mr marathi, ms malay, mt maltese, my myanmar, ne nepali,
nl dutch, nn nynorsk, no norwegian, oc occitan, pa punjabi, pl polish, ps pashto, pt portuguese, ro romanian,
ru russian, sa sanskrit, sd sindhi, si sinhala, sk slovak, sl slovenian, sn shona, so somali, sq albanian,
sr serbian, su sundanese, sv swedish, sw swahili, ta tamil, te telugu, tg tajik, th thai, tk turkmen, tl tagalog,
tr turkish, tt tatar, uk ukrainian, ur urdu, uz uzbek, vi vietnamese, yi yiddish, yo yoruba, yue cantonese,
zh chinese
"""

#: ``{"en": "english", ...}``
LANGUAGES: Final = MappingProxyType(
    {code: name for code, _, name in (entry.strip().partition(" ") for entry in _TABLE.split(","))}
)

#: Other codes in use, and other names that OpenAI's ``whisper`` command accepts.
_ALIASES: Final = MappingProxyType(
    {
        "jv": "jw",
        "nb": "no",
        "iw": "he",
        "in": "id",
        "fil": "tl",
        "cmn": "zh",
        "ji": "yi",
        "burmese": "my",
        "valencian": "ca",
        "flemish": "nl",
        "haitian": "ht",
        "letzeburgesch": "lb",
        "pushto": "ps",
        "panjabi": "pa",
        "moldavian": "ro",
        "moldovan": "ro",
        "sinhalese": "si",
        "castilian": "es",
        "mandarin": "zh",
    }
)

_CODES: Final = MappingProxyType({name: code for code, name in LANGUAGES.items()})


def language_code(language: str) -> str | None:
    """Return the code for a code, with or without a region, or an English name, in any case; None if unknown."""
    normalized = language.strip().lower()
    if normalized in LANGUAGES:
        return normalized
    if normalized in _CODES:
        return _CODES[normalized]
    primary = normalized.replace("_", "-").partition("-")[0]
    primary = _ALIASES.get(primary, primary)
    return primary if primary in LANGUAGES else None


#: The codes of the languages that are written in either script: Chinese and Cantonese.
CHINESE: Final = frozenset({"zh", "yue"})
#: The scripts that subtags name (ISO 15924), and those of the regions where Chinese is written.
_SCRIPTS: Final = MappingProxyType(
    {
        **dict.fromkeys(("hans", "cn", "sg"), Script.SIMPLIFIED),
        **dict.fromkeys(("hant", "tw", "hk", "mo"), Script.TRADITIONAL),
    }
)


def chinese_script(language: str) -> Script | None:
    """Return the script that the subtags of a language mean, as in ``zh-TW`` and ``zh-Hans-HK``; None without any."""
    subtags = language.strip().lower().replace("_", "-").split("-")[1:]
    return next((_SCRIPTS[subtag] for subtag in subtags if subtag in _SCRIPTS), None)


def language_name(code: str) -> str:
    """Return the full lowercase English name for a code, or the code itself if it is unknown."""
    return LANGUAGES.get(code, code)
