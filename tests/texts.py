"""Texts on which tokenizers tend to differ."""

VARIED = (
    "The capital of France is Paris.",
    "a",
    "I'm sure they'll say it's fine, don't you think? We've SEEN it; IT'S so.",
    "3.14159, 1,000,000 and 12345678901 in 2024-11-22",
    "room101 has 42doors",
    "Café naïve résumé Ångström, combining e\u0301",
    "Съешь ещё этих мягких французских булок, да выпей чаю",
    "你好，世界！日本語のテキスト 한국어 텍스트",
    "مرحبا بالعالم שלום",
    "😀👍🏽🇺🇸 ❤️ and 👩‍👩‍👧‍👦",
    "def f(x: int) -> int:\n    return x ** 2  # squared\n\n\nprint(f'{f(3)!r}')",
    "for (int i = 0; i < n; ++i) { sum += a[i] * b[i]; }",
    "<p class=\"x\">&nbsp;</p> {'json': [1, null, true]}",
    "tabs\tand\nnewlines\r\nmixed\n\n\n",
    "trailing spaces   ",
    "many    spaces  between   words",
    "x\u00a0y\u2003z\u200bw",
    "https://example.org/path?query=1&other=%20#fragment",
    "Straße, ſo ﬁne, İstanbul, ΑΒΓ",
    "ALL CAPS and CamelCase and snake_case_names",
)

NUMBERS = ("a  5", "[1,  22,   333]", "\n\n  9 \n 8", "tab\t\t7", "year:  2024", "  2.5  +  3", "½ ² Ⅳ ٣ 一二三")
"""Where it matters whether digits are cut off before words are, or after."""
