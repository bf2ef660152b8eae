"""The header `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header). Pure."""

from __future__ import annotations

import re
from typing import Final

KEY_PATTERN: Final = r'^("([ !#-\[\]-~]|\\["\\]){1,255}"|[!#-~]([ -~]{0,253}[!-~])?)$(?!\n)'
"""A string as structured headers have it (RFC 8941, section 3.3.3), which the draft asks for, or, as many clients send
it, the bare text.
"""

IN_WORDS: Final = "a key is 1 to 255 printable ASCII characters, in double quotes or without"


def unquoted(value: str) -> str:
    """The key in a header's value that fits KEY_PATTERN: in quotes or not it is the same."""
    return re.sub(r'\\(["\\])', r"\1", value[1:-1]) if value.startswith('"') else value
