"""Texts that are hard to cut and to encode."""

from hypothesis import strategies

PROSE = """The town's clock struck 12 when they'd left; we're told it'll strike 1,234,567 times more.
\tOf 3 men, two weren't there -- "nowhere", as SHE'S said...\r\n\r\n   So it goes (and went).
def f(x):\n    return x ** 2  # 4 spaces\n\n\nÜber naïve Café-Besucher: çà et là, 東京都 12３ кот и пёс, ﷺ ٣٤٥ 🤗👩‍👩‍👧 e\u0301.
"""

NASTY = "aZs'tTrRmvedlLſK' \t\n\r\u00a0\u2003\u3000\u20280123٣½②.,!(-_$`\u0301\u200d🤗東かéßİﬆΩ\x00\x1f\x7f\x85\ufeff"

texts = strategies.one_of(
    strategies.text(alphabet=NASTY, max_size=40),
    strategies.text(max_size=40),
)
