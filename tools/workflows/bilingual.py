"""A note in English and, below it, in Chinese: a workflow's file has no place for translations."""

BETWEEN = "\n\n---\n\n"
BELOW = "*中文说明在下方。*"


def bilingual(english: str, chinese: str) -> str:
    """Both begin with a heading and a line about the video; below those of the English one stands where the Chinese is."""
    heading, size, *rest = english.strip().splitlines()
    return "\n".join([heading, size, "", BELOW, *rest]) + BETWEEN + chinese.strip() + "\n"
