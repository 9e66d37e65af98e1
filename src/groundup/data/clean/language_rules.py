"""Rules that depend on the language: stop words, words of scripts without spaces, lengths of words.

The quality filters were published for English. FineWeb-2 (Penedo et al. 2025, arXiv:2506.20920, appendix) has stop words
and limits for each language, measured on Wikipedias; the tables here are short and cover the languages with most text.
The stop words are frequent function words, nearly all of them in the Stopwords ISO collection (MIT licence).
"""

import re
from functools import cache

from groundup.data.clean.language import detect_language
from groundup.data.clean.ngrams import UNSPACED

STOP_WORDS = {
    "af": "die in van en is het dit dat vir wat met nie",
    "ar": "في من على إلى عن أن هذا هذه التي الذي مع كان لا ما أو",
    "bg": "на и в е от за се с да по не са това като",
    "bn": "এবং এই করে হয় থেকে না যে তার জন্য একটি করা কিন্তু",
    "ca": "de la i el que a en un per amb del els les una no és",
    "cs": "a v se na je že to s z i do o k ve jako pro ale",
    "da": "og i at er en det af på til den med for der de som ikke",
    "de": "der die und in den das zu von mit ist nicht ein eine im des dem auf für sich als auch",
    "el": "και το να της του η την ο των με για που από είναι στο",
    "en": "the be to of and that have with",
    "eo": "la de kaj en estas al kun por el ne ke li",
    "es": "de la que el en y a los se del las un por con una no para es su",
    "et": "ja on ei et see oli kui ta ka mis aga ning",
    "eu": "eta da ez bat du zen ere dute hau baina",
    "fa": "و در به از که این است را با برای آن یک تا",
    "fi": "ja on ei että se oli hän mutta joka kun niin myös ovat tai",
    "fr": "de la le et les des en un une du est que dans qui par pour sur ne pas au",
    "gl": "de a o que e do da en un unha os as para con non por",
    "he": "של את על לא הוא זה היא עם כי או כל גם",
    "hi": "के में है की और को से का एक पर यह नहीं",
    "hr": "i u je se na da za od su s a koji što ne",
    "hu": "a az és hogy nem is egy volt de meg ez csak vagy",
    "hy": "և է են որ այս մեջ ու էր",
    "id": "yang dan di dengan untuk dari ini pada dalam itu tidak adalah",
    "it": "di e il la che in un a per è non una del le si da con i della",
    "ja": "の に は を た が で て と し れ さ",
    "ko": "이 그 수 및 등 것 때 더 또는 하는 있는 있다 그리고 위해 대한",
    "la": "et in est non ad cum ut quod qui sed",
    "lt": "ir į iš su kad yra ne bet tai buvo po apie",
    "lv": "un ir no ar par uz kas arī bet lai bija",
    "mr": "आणि आहे या व हा तो आहेत ते होते",
    "ms": "yang dan di dengan untuk dari ini pada dalam itu tidak ialah",
    "nl": "de van het een en in is dat op te met voor zijn niet die er aan",
    "no": "og i er det som en på til av for med at ikke den de å",
    "pl": "w i na z się do nie to jest że o jak ale po za od",
    "pt": "de a o que e do da em um para com não uma os as no se na por",
    "ro": "de și în a la cu o un din pe nu este care să mai",
    "ru": "и в не на что с по как это из к но за от для у а",
    "sk": "a v na sa je že to s z do o ako pre aj ale",
    "sl": "in je v na se za da so ki z pa ne tudi",
    "sv": "och i att det som en på är av för med den till inte om de",
    "sw": "na ya wa kwa ni katika la za kuwa",
    "th": "ที่ และ ใน ของ เป็น มี การ ได้ จาก ให้",
    "tl": "ang ng sa na mga ay at hindi ito para",
    "tr": "ve bir bu da de için ile olarak çok ne daha gibi",
    "uk": "і в на не що з у та до як за це від але",
    "ur": "کے میں کی اور ہے سے کا کو نے پر یہ ایک",
    "vi": "là và của có không được cho một các trong với này đã",
    "zh": "的 是 在 了 不 有 和 我 人 这 中 他 也 上 就 這 為",
}  # fmt: skip
"""Frequent words by ISO 639 code; of languages written without spaces, frequent characters and words."""

LANGUAGE_NAMES = {
    "ar": "Arabic", "bg": "Bulgarian", "bn": "Bengali", "ca": "Catalan", "cs": "Czech", "da": "Danish", "de": "German",
    "el": "Greek", "en": "English", "es": "Spanish", "fa": "Persian", "fi": "Finnish", "fr": "French", "he": "Hebrew",
    "hi": "Hindi", "hu": "Hungarian", "id": "Indonesian", "it": "Italian", "ja": "Japanese", "ko": "Korean",
    "nl": "Dutch", "no": "Norwegian", "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian",
    "sv": "Swedish", "th": "Thai", "tr": "Turkish", "uk": "Ukrainian", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip
"""English names, for messages."""

UNSURE = 0.5
"""Below this probability of the language, the stop words of all languages count."""

CHARACTERS_PER_WORD = {"zh": 2, "wuu": 2, "yue": 2, "ja": 2, "th": 4, "lo": 4, "km": 4, "my": 4, "bo": 4, "dz": 4}
"""Languages written without spaces: mean length of a word (Chinese 1.6, Thai 4.4 in FineWeb-2's statistics)."""

WORD_LENGTH_FACTORS = {
    "ko": 0.6, "vi": 0.7, "he": 0.85, "ar": 0.9, "fa": 0.9, "de": 1.3, "fi": 1.5, "et": 1.3, "hu": 1.3, "tr": 1.3, "eu": 1.3,
    "ka": 1.4, "is": 1.2, "kk": 1.3, "mn": 1.3, "te": 1.5, "kn": 1.6, "ta": 1.8, "ml": 2.2, "kl": 2.5,
}  # fmt: skip
"""Mean word length relative to English."""


@cache
def stop_words(language: str) -> frozenset[str]:
    """Stop words of a language; empty if it has no list."""
    return frozenset(STOP_WORDS.get(language, "").split())


@cache
def _all_stop_words() -> frozenset[str]:
    return frozenset(word for words in STOP_WORDS.values() for word in words.split())


def count_stop_words(text: str, words: list[str]) -> int | None:
    """Distinct stop words of the text's language among its words; None for a language without a list."""
    language, probability = detect_language(text)
    expected = stop_words(language) if probability >= UNSURE else _all_stop_words()
    if not expected:
        return None
    if language in CHARACTERS_PER_WORD:
        return sum(word in text for word in expected)
    return len(expected.intersection(word.lower() for word in words))


def split_words(text: str, language: str | None = None) -> list[str]:
    """Words between spaces. In languages without spaces, pieces of the length of a word, counted from each punctuation.

    `language` is detected by default.

    >>> split_words("今天天气很好，我们去公园散步。")
    ['今天', '天气', '很好，', '我们', '去公', '园散', '步。']
    """
    if text.isascii():
        return text.split()
    length = CHARACTERS_PER_WORD.get(language or detect_language(text)[0])
    return text.split() if length is None else _piece_pattern(length).findall(text)


@cache
def _piece_pattern(length: int) -> re.Pattern[str]:
    """Pieces of `length` characters of a script without spaces, or other characters up to a space or such a script."""
    scripts = UNSPACED.pattern.strip("[]")
    return re.compile(rf"[{scripts}]{{1,{length}}}[^\s\w]*|[^\s{scripts}]+")


def word_length_limits(text: str, shortest: float, longest: float) -> tuple[float, float]:
    """Limits of the mean word length, which are meant for English, in the language of the text."""
    language, _ = detect_language(text)
    if language in CHARACTERS_PER_WORD:
        return 0.0, longest
    factor = WORD_LENGTH_FACTORS.get(language, 1.0)
    return shortest * min(factor, 1.0), longest * max(factor, 1.0)
