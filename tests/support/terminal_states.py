"""States that programs leave terminals in, one by one, as bytes that make them; for terminals of 40 columns or more."""

from __future__ import annotations

LINES = b"".join(b"line %d\r\n" % number for number in range(30))

# On these terminals disagree about columns, or some of them lack the feature; models are compared on them all the same.
AMBIGUOUS: dict[str, bytes] = {
    "emoji": "a😀b👩‍💻c🇩🇪d⚠️e".encode(),
    "emoji by grapheme widths": "\x1b[?2027ha😀b👩‍💻c🇩🇪d⚠️e".encode(),
    "symbols that some draw as emoji": "☺ ✓ ➜ ⚡ ★ 🖥 x".encode(),
    "side margins and origin mode": b"\x1b[?69h\x1b[3;20s\x1b[2;5r\x1b[?6h\x1b[2;3Hx",
}

STATES: dict[str, bytes] = {
    "text": b"hello\r\nworld",
    "a pen": b"\x1b[1;3;4:3;58:2::1:2:3;38;5;99;48;2;9;8;7;9mabc",
    "every attribute": b"".join(
        b"\x1b[0;%bmx" % pen
        for pen in (
            b"1",
            b"2",
            b"3",
            b"4",
            b"4:2",
            b"4:3",
            b"4:4",
            b"4:5",
            b"5",
            b"7",
            b"8",
            b"9",
            b"53",
            b"4;58:5:44",
            b"38;5;44;48;5;200",
            b"97;107",
            b"90;100",
            b"38;2;1;2;3",
        )
    ),
    "a wrap to come": b"x" * 40,
    "a wrap to come, by another pen": b"\x1b[31m" + b"x" * 39 + b"\x1b[44my\x1b[0;1m",
    "a wrap to come behind a wide character": ("x" * 38 + "中").encode(),
    "a wrapped line": b"abcdefghij" * 9,
    "a wrapped line of wide characters": ("中" * 55).encode(),
    "wide characters that do not fit at the end": ("x" + "中" * 55).encode(),
    "lines that do not wrap": b"\x1b[?7l" + b"x" * 60,
    "erased in colour": b"\x1b[44m\x1b[2J\x1b[3;5Hhi\x1b[41m\x1b[K\x1b[0m\r\nx\x1b[45m\x1b[5X",
    "gaps": b"a\tb\tc\x1b[3;20Hd\x1b[5;40He",
    "inverse blanks": b"\x1b[7m  \x1b[0m \x1b[7m\x1b[K",
    "links": b"\x1b]8;;http://a/\x1b\\abc\x1b]8;;http://b/\x1b\\de\x1b]8;;\x1b\\f \x1b]8;id=q;http://c/;x\x1b\\open",
    "protected": b'\x1b[1"qabc\x1b[0"qdef\x1b[1"q',
    "line drawing": b"\x1b(0lqqk",
    "a second character set": b"\x1b(B\x1b)0\x0eqqq",
    "a region": b"\x1b[2;5r\x1b[3;4Hx",
    "a region and origin mode": b"\x1b[2;5r\x1b[?6h\x1b[2;3Hx",
    "a saved cursor": b"\x1b[3;4H\x1b[31m\x1b(0\x1b7\x1b[0m\x1b(B\x1b[H",
    "a cursor saved before a wrap": b"\x1b[3;1H" + b"z" * 40 + b"\x1b7\x1b[Habc",
    "a cursor saved in origin mode": b"\x1b[2;4r\x1b[?6h\x1b[2;2H\x1b7\x1b[?6l\x1b[1;1Hx",
    "modes": b"\x1b[?1;5;45;67;1002;1004;1006;2004;2031h\x1b[?25;7;8;1007l\x1b[20h\x1b=",
    "insert mode": b"abc\x1b[4h\x1b[1;1H",
    "any mouse": b"\x1b[?1003h\x1b[?1006h",
    "old mouse": b"\x1b[?9h",
    "meta keys": b"\x1b[?1035l\x1b[?1036l\x1b[?1039h\x1b[?1045h",
    "title and directory": b"\x1b]0;some title \xc3\xa4\x07\x1b]7;file://x/y%20z\x07",
    "colours of the program's own": b"\x1b]4;3;rgb:11/22/33\x07\x1b]10;#aabbcc\x07\x1b]11;#010203\x07"
    b"\x1b]12;#ff0000\x07",
    **{f"cursor shape {number}": b"\x1b[%d q" % number for number in range(7)},
    "a blinking cursor": b"\x1b[?12h",
    "tab stops": b"\x1b[3g\x1b[1;5H\x1bH\x1b[1;20H\x1bH",
    "other keys": b"\x1b[>4;2m",
    "kitty keys, three deep": b"\x1b[>1u\x1b[>5u\x1b[>3u",
    "alternate screen": b"main text\r\n$ \x1b[?1049h\x1b[3;3Hvim\x1b[5;5H",
    "alternate screen, all different there": b"\x1b[32mmain\x1b(0\x1b[>1u\x1b[2;3H\x1b[?1049h\x1b[0m\x1b(B\x1b[>5u"
    b"\x1b[2;5r\x1b[?6h\x1b[3;3Hvim\x1b7\x1b[1;1H\x1b[?25l",
    "alternate screen by 47": b"main\r\nx\x1b[2;9H\x1b7\x1b[4;7H\x1b[?47hALT\x1b[2;2H",
    "alternate screen by 1047": b"main\r\nx\x1b[2;9H\x1b7\x1b[4;7H\x1b[?1047hALT\x1b[2;2H",
    "alternate screen before a history": LINES + b"\x1b[?1049hALT",
    "alternate screen, wraps to come on both": b"m" * 40 + b"\x1b[?1049h\x1b[H" + b"a" * 40,
    "history": LINES + b"end",
    "history with blank and coloured lines": b"a\r\n\r\n\r\nb\r\n\x1b[44m   \x1b[0m\r\n" + b"\r\n" * 30 + b"end",
    "history of wrapped lines": (b"abcdefgh " * 20 + b"\r\n") * 9,
    "history of wrapped lines in colour": (b"\x1b[45m" + b"abcdefgh " * 20 + b"\x1b[0m\r\n") * 9,
    "in the middle of a picture": b"abc\x1b[?2026hdef",
    "a full screen of E": b"\x1b#8",
    "marks": "e\u0301\u0302 ทดสอบ".encode(),
    "cut in a control sequence": b"abc\x1b[1;3",
    "cut in a title": b"abc\x1b]0;tit",
    "cut in a character": b"abc\xe4\xb8",
    "cut in a request": b"\x1bP1$q",
    "cut behind an escape": b"abc\x1b",
    "cut on the alternate screen": b"abc\x1b[?1049hx\x1b[3",
    "controls inside a sequence": b"abc\x1b[3\r\n;4",
}
EVERYTHING_ON = (
    b"\x1b[>1u\x1b[?1049h\x1b[1;4;31;44m\x1b]8;;http://a/\x1b\\\x1b[>5u\x1b[>4;2m\x1b[?1;5;6;45;69;1003;1004;1005;1006;1015;"
    b'1016;2004;2031h\x1b[2;4r\x1b[3;9s\x1b[?7;25l\x1b[4;20h\x1b=\x1b(0\x1b)0\x0e\x1b[5 q\x1b[?12h\x1b[1"q\x1b[?2026h'
    b"\x1b]52;c;unfinished"
)
