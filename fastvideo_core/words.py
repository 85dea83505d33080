"""How texts for people count."""


def counted(number: int, one: str, many: str = "") -> str:
    """As "1 step" and "2 steps". many: where it is not `one` with an s."""
    return f"{number} {one if number == 1 else many or one + 's'}"
