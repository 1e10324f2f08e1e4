"""Hosts and URLs that transfers must not contact, in every spelling that a parser or resolver accepts."""

from __future__ import annotations

#: Hosts as written in a URL. They are refused without being resolved.
HOSTS = (
    # This machine, IPv4, in the forms of inet_aton: fewer parts, octal, hexadecimal, and combinations.
    *("127.0.0.1", "127.0.0.1.", "127.1", "127.0.1", "127.1.", "2130706433", "2130706433.", "127.127.127.127"),
    *("0177.0.0.1", "0177.1", "017700000001", "00000177.0.0.1", "0x7f.0.0.1", "0x7f.1", "0x7f000001", "0X7F000001"),
    *("0x7f.0x0.0x0.0x1", "0177.0x0.0.1", "127.0x1", "127.0.0.01", "127.000.000.001", "0x0000007f.1", "127.0.0x0.01"),
    *("0", "0.0.0.0", "0.0", "00", "0x0", "0x", "0.1.2.3", "4294967295", "4294967296", "99999999999"),  # noqa: S104  nothing is bound
    # Letters and dots of other scripts, some of which IDNA maps to ASCII (UTS 46; RFC 3490, section 3.1).
    *("127。0。0。1", "127．0．0．1", "127｡0｡0｡1", "127.0.0。1。", "１２７.0.0.1", "①②⑦.⓪.⓪.①", "𝟏𝟐𝟕.𝟎.𝟎.𝟏", "٠.٠.٠.٠"),
    *("%31%32%37.0.0.1", "127%2e0%2e0%2e1", "127.0.0.1%00", "127.0.0.1%20", "%6c%6f%63alhost", "127.0.0.1%2f"),
    *(
        "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ",
        "localhoſt",
        "ｌｏｃａｌｈｏｓｔ",
        "localhost。",
        "a。localhost",
        "loc\u00adalhost",
        "localhost\u200b",
    ),
    # Private, shared, link-local and reserved IPv4; the metadata services of the clouds.
    *("10.0.0.5", "10.1", "0xa000005", "172.16.0.1", "172.31.255.255", "192.168.1.1", "192.168.257", "3232235777"),
    *("169.254.169.254", "0xa9fea9fe", "2852039166", "0251.0376.0251.0376", "169.254.43518", "169.16689662"),
    *("100.100.100.200", "1684300232", "168.63.129.16", "0xa83f8110", "192.0.0.192", "100.64.0.1", "192.0.0.170"),
    *("198.18.0.1", "192.0.2.1", "198.51.100.7", "203.0.113.9", "224.0.0.1", "239.255.255.250", "240.0.0.1"),
    *("255.255.255.255", "192.88.99.1", "192.0.0.8"),
    # IPv6: this machine, private, link-local, site-local, multicast, documentation, with and without zones.
    *("[::1]", "[0:0:0:0:0:0:0:1]", "[0000:0000:0000:0000:0000:0000:0000:0001]", "[::0001]", "[::]", "[::1%25lo]"),
    *("[::1%lo]", "[::1%250]", "[fe80::1]", "[fe80::1%25eth0]", "[fe80::a9fe:a9fe]", "[FE80::A9FE:A9FE%251]"),
    *("[fd00:ec2::254]", "[fd20:ce::254]", "[fc00::1]", "[fec0::1]", "[ff02::1]", "[ff0e::1]", "[2001:db8::1]"),
    *("[100::1]", "[3fff::1]", "[3ffe::1]", "[5f00::1]", "[4000::1]", "[2606:4700::1111%25eth0]"),
    # IPv4 inside IPv6: mapped, compatible, translated, NAT64, 6to4, Teredo, ISATAP.
    *("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:127.0.0.1]", "[::FFFF:169.254.169.254]"),
    *("[::127.0.0.1]", "[::7f00:1]", "[::ffff:0:127.0.0.1]", "[64:ff9b::127.0.0.1]", "[64:ff9b::a9fe:a9fe]"),
    *("[64:ff9b:1::10.0.0.1]", "[2002:7f00:1::]", "[2002:a9fe:a9fe::1]", "[2001:0:808:808::80ff:fffe]"),
    *("[2600::5efe:127.0.0.1]", "[2600::200:5efe:a00:1]", "[::ffff:0x7f.1]", "[::ffff:127.1]", "[v1.7f000001]"),
    # Names that are never public.
    *("localhost", "LOCALHOST", "localhost.", "a.localhost", "printer.local", "metadata.google.internal"),
    *("METADATA.google.INTERNAL.", "router.home.arpa", "facebookcorewwwi.onion", "name.alt"),
    # Public addresses that resolvers read differently, and malformed names.
    *("134744072", "0x8.8.8.8", "8.8.8.8.", "8.8.2056", "010.8.8.8", "1.2.3.4.5", "example.1", "example.0x7f"),
    *(f"{'a' * 64}.example.com", ".".join(["a" * 60] * 5), "a..b", ".example.com", "a b", "", "."),
    *("xn--zzzzzz--", "xn--", "xn--a.example.com", "xn--127-0.0.0.1", "ex\u202eample.com", "-\u0301.example.com"),
)

#: URLs whose host would be allowed, or that seem to have another host. ``{}`` is the port of a listener.
URLS = (
    *("https://@example.com/", "https://:@example.com/", "https://user@example.com/", "https://u:secret@127.0.0.1:{}/"),
    *("https://example.com@127.0.0.1:{}/", "https://127.0.0.1:{}@example.com/", "https://example.com:443@[::1]:{}/"),
    *(
        "https://example.com\\@127.0.0.1:{}/",
        "https://127.0.0.1:{}\\@example.com/",
        "https://127.0.0.1:{}\\.example.com/",
    ),
    *(
        "https:\\\\127.0.0.1:{}\\",
        "https:/\\127.0.0.1:{}/",
        "https://example.com/\\..\\",
        "https://example.com/a\\u005cb",
    ),
    *("https://127.0.0.1:{}\\u0040example.com/", "https:\\/\\/127.0.0.1:{}\\/", "https://example.com/\\u007f"),
    *(
        "https://example.com/a b",
        "https://example.com/\x00",
        "https://exa\tmple.com/",
        "https://example.com/\r\nHost: a",
    ),
    *(
        "https://example.com/\x85x",
        "https://example.com/\u2028x",
        "https://example.com/\u00a0x",
        "https://example.com\u3000x/",
    ),
    *("https://example.com:0/", "https://example.com:65536/", "https://example.com:-1/", "https://example.com:+443/"),
    *("https://example.com:４４３/", "https://example.com:4_43/", "https://example.com:443:{}/", "https://[::1]x:{}/"),
    *("http://127.0.0.1:{}/", "http://localhost:{}/", "http://[::1]:{}/", "http://example.com/", "HTTP://8.8.8.8/"),
    *("ftp://127.0.0.1:{}/", "file:///etc/passwd", "gopher://127.0.0.1:{}/_GET", "unix:/run/docker.sock", "data:,a"),
    *("https:127.0.0.1:{}", "https:/127.0.0.1:{}/", "https:///127.0.0.1:{}/", "//127.0.0.1:{}/", "127.0.0.1:{}/"),
    *("https://[127.0.0.1]:{}/", "https://[::1:{}/", "https://::1:{}/", "https://[]/", "https://exa\ud800mple.com/"),
    f"https://example.com/{'a' * 8192}",
)

#: FakeResolver of a resolver, each with an address that is not public.
ANSWERS = (
    *(["127.0.0.1"], ["::1"], ["0.0.0.0"], ["::"], ["10.0.0.5"], ["192.168.1.1"], ["169.254.169.254"]),  # noqa: S104  nothing is bound
    *(["100.100.100.200"], ["168.63.129.16"], ["192.0.0.192"], ["fd00:ec2::254"], ["fd20:ce::254"]),
    *(["fe80::1%eth0"], ["fe80::a9fe:a9fe"], ["2606:4700::1111%eth0"], ["::ffff:127.0.0.1"], ["::ffff:a9fe:a9fe"]),
    *(["::127.0.0.1"], ["64:ff9b::7f00:1"], ["2002:7f00:1::"], ["2600::5efe:7f00:1"], ["fec0::1"], ["ff02::1"]),
    *(["8.8.8.8", "127.0.0.1"], ["127.0.0.1", "8.8.8.8"], ["2606:4700::1111", "::1"], ["8.8.8.8", "fd00::1"]),
    *(["8.8.8.8", "1.1.1.1", "::ffff:10.0.0.1"], ["8.8.8.8", ""], ["not an address"], ["2130706433"], ["127.1"]),
)
