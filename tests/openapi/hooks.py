"""What schemathesis cannot write by itself: a tar archive."""
import io
import tarfile

import schemathesis


@schemathesis.serializer("application/x-tar")
def archive(_context, value):
    """Every other body is an archive with one file of these bytes, the others are the bytes themselves."""
    content = value if isinstance(value, bytes) else str(value).encode()
    if len(content) % 2:
        return content
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        head = tarfile.TarInfo("file")
        head.size = len(content)
        tar.addfile(head, io.BytesIO(content))
    return written.getvalue()
