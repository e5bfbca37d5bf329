"""Standard output and error that outlast their readers: a program goes on when nobody can read it any more."""

import errno
import io
import os
import sys
from typing import TextIO

GONE = (errno.EPIPE, errno.EIO)  # a pipe without a reader; a terminal that is no longer there


class Lasting(io.FileIO):
    """A descriptor that turns to nothing once nobody reads it."""

    def write(self, content) -> int:
        """As FileIO's; what a reader who left would have got is dropped, here and in what shares the descriptor."""
        try:
            return super().write(content)
        except OSError as error:
            if error.errno not in GONE:
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(content)


def lasting(stream: TextIO) -> TextIO:
    """The stream on a Lasting descriptor, writing ? for what its encoding lacks; as it is where it is no plain file."""
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)  # python -u has no buffer
    if type(stream) is not io.TextIOWrapper or type(raw) is not io.FileIO:
        return stream
    stream.flush()
    outlasting = Lasting(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(outlasting) if raw is not buffer else outlasting,
        encoding=stream.encoding,
        errors=stream.errors if stream.errors == "backslashreplace" else "replace",
        line_buffering=stream.line_buffering,
        write_through=raw is buffer,
    )


def outlast_readers() -> None:
    """Let this program's standard output and error be lasting."""
    sys.stdout, sys.stderr = lasting(sys.stdout), lasting(sys.stderr)
