"""Words of a text in any script; a character is a word where a script leaves no spaces between words. Pure.

words("Cork floats.") == ["Cork", "floats."]    words("软木会浮") == ["软", "木", "会", "浮"]
"""

import re
import unicodedata

# Han, kana, Thai, Lao, Burmese and Khmer; a sign that combines with a letter belongs to it.
_UNSPACED = (
    "\u0e01-\u0e30\u0e32\u0e33\u0e40-\u0e46\u0e81-\u0eb0\u0ec0-\u0ec6\u1000-\u102a\u1780-\u17b3"
    "\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f"
)
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")
_EAST_ASIAN = {"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HANGUL", "IDEOGRAPHIC", "FULLWIDTH", "HALFWIDTH"}


def words(text: str) -> list[str]:
    return _WORD.findall(text)


def script(character: str) -> str:
    """ "я" -> "CYRILLIC"; the scripts that Chinese, Japanese and Korean mix are one."""
    name = unicodedata.name(character, "UNKNOWN").partition(" ")[0]
    return "EAST ASIAN" if name in _EAST_ASIAN else name
