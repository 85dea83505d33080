"""What can go wrong, by who can mend it. Every message says what was asked, what is wrong and how to fix it."""


class FastVideoError(Exception):
    """Base of every error that the engine raises on purpose."""


class RequestError(FastVideoError):
    """The settings contradict themselves or the model: the person who asked can mend it."""


class ConditioningError(FastVideoError):
    """Prompt, image or latents do not fit the model that shall use them."""


class LoadError(FastVideoError):
    """A file is missing, broken, or holds something else than was asked for."""


class CapacityError(FastVideoError):
    """What was asked does not fit into memory in the way it was asked."""


class NumericsError(FastVideoError):
    """Values that are not finite went in or came out."""


class WorkerError(FastVideoError):
    """A process or a machine that worked for this one is gone, or did what it should not."""


class StoppedError(FastVideoError):
    """It was ended before its end, by somebody who may."""
