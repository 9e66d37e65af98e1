"""Texts that are difficult to pretokenize and to encode."""

from hypothesis import strategies

PROSE = """The town's clock struck 12 when they'd left; we're told it'll strike 1,234,567 times more.
\tOf 3 men, two weren't there -- "nowhere", as SHE'S said...\r\n\r\n   So it goes (and went).
def f(x):\n    return x ** 2  # 4 spaces\n\n\nÜber naïve Café-Besucher: çà et là, 東京都 12３ кот и пёс, ﷺ ٣٤٥ 🤗👩‍👩‍👧 e\u0301.
"""

NASTY = "aZs'tTrRmvedlLſK' \t\n\r\u00a0\u2003\u3000\u20280123٣½②.,!(-_$`\u0301\u200d🤗東かéßİﬆΩ\x00\x1f\x7f\x85\ufeff"

texts = strategies.one_of(strategies.text(alphabet=NASTY, max_size=40), strategies.text(max_size=40))

TORTURE = (
    "",
    " ",
    "\n",
    "\n\n\n",
    "\r\n\r\n",
    "\t",
    " \n \n  \n",
    "a" + " " * 1000 + "b" + "\n" * 100 + "c",
    "0 1 12 123 1234 12345 1,234,567.89 3.14159265358979 0x1F 1e-10 ٠١٢٣٤٥ १२३४ ４２ ½ ² ③ Ⅷ",
    "Don't can't WE'LL I'D 'tis y'all's O'Brien's ſ's rock'n'roll l’été",
    "Ἐν ἀρχῇ ἦν ὁ Λόγος. В начале было Слово. Ի սկզբանէ էր Բանն.",
    "בְּרֵאשִׁית הָיָה הַדָּבָר — فِي ٱلْبَدْءِ كَانَ ٱلْكَلِمَةُ \u200f(ע\u200eab\u202eברית\u202c)",
    "आदि में वचन था। শুরুতে বাক্য ছিল। ஆதியிலே வார்த்தை இருந்தது. ในปฐมกาลพระวาทะ",
    "太初有道，道與神同在。はじめに言があった。태초에 말씀이 계시니라 태초에",
    "ပထမဦးဆုံး នៅកាលដើមដំបូង ກ່ອນ ᎠᏓᎴᏂᏍᎬ ⵉⵎⵣⵡⴰⵔⵓ 𐌰𐌽𐌰𐍃𐍄𐍉𐌳𐌴𐌹𐌽 𓀀𓂀 ꦄꦢ",
    "👩‍👩‍👧‍👦 👨🏿‍🚀 🏳️‍🌈 🇩🇪🇫🇷 ☝🏽 1️⃣ 🤷‍♂️ ☠️ 🫠",
    "Z̴̡͝a̸̢̛l̵̨͘g̶̛͜o̷̧͝ e\u0301 \u00e9 n\u0303 Å Å ﬁ ﬃ ǆ İi ıI ẞß",
    "\x01\x02\x1b[31mred\x1b[0m\x7f\x85\u00a0\u00ad\u200b\u200c\u200d\u2028\u2029\u2060\ufeff\ufffd\ufffe\U0010ffff\ue000",
    "<|endoftext|><|im_start|>user\nhi<|im_end|><|pad|> <s></s><unk>[INST] <|eot_id|> <|endoftext",
    "if (x<y && y>=z) { return a[i]->b::c(*p, &q) ?: ~(1<<3); } // TODO: ¯\\_(ツ)_/¯ \\u0041 \\n",
    "https://example.org/a_b?c=d&e=%20#f user@host.tld C:\\dir\\file.txt /usr/bin/env",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "ـــــــــ ॐ ॐॐॐॐ ∀x∈ℝ: ⌈x⌉=−⌊−x⌋, α∧¬β=¬(¬α∨β) ⊆ ⟨ψ|φ⟩ ♔♕ ░▒▓█ ─┼─",
)
"""Many scripts, emoji, marks, both directions, controls, spelled special tokens, runs of spaces, line breaks, digits."""
