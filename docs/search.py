"""Search: English words by their stems, Chinese by pairs of neighbouring characters."""

import re

from sphinx.search.en import SearchEnglish

_CHINESE = re.compile(r"[\u4e00-\u9fff]+")


class SearchBoth(SearchEnglish):
    """English, and Chinese terms of two characters and more, in the index and in the query."""

    lang = "en"
    js_splitter_code = """
function splitQuery(query) {
    const words = [];
    for (const part of query.match(/[\\u4e00-\\u9fff]+|[^\\s\\u4e00-\\u9fff]+/gu) || []) {
        if (!/[\\u4e00-\\u9fff]/.test(part)) {
            words.push(...part.split(/[^\\p{Letter}\\p{Number}_]+/gu).filter(term => term));
        } else if (part.length < 2) {
            words.push(part);
        } else {
            for (let i = 0; i + 1 < part.length; i++) words.push(part.slice(i, i + 2));
        }
    }
    return words;
}
"""

    def split(self, input: str) -> list[str]:
        """The words of a text: Chinese in pairs of characters, one alone as it is."""
        found = super().split(_CHINESE.sub(" ", input))
        for part in _CHINESE.findall(input):
            found += [part[i : i + 2] for i in range(max(1, len(part) - 1))]
        return found
