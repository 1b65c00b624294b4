"""The licence of a source tree, by the file at its root.

Promises: an SPDX identifier is given only if the text has the signs of exactly one licence.
Does not: advise. Whether code may be trained on is the owner's question.
"""

import re

UNKNOWN = "unknown"
_NAMES = re.compile(r"(licen[cs]e|copying|unlicense)([.-][\w.-]+)?", re.IGNORECASE)
_SIGNS = {
    "MIT": "permission is hereby granted, free of charge, to any person obtaining a copy of this "
    "software and associated documentation files",
    "Apache-2.0": "apache license version 2.0, january 2004",
    "GPL-2.0": "gnu general public license version 2, june 1991",
    "GPL-3.0": "gnu general public license version 3, 29 june 2007",
    "LGPL-2.1": "gnu lesser general public license version 2.1, february 1999",
    "LGPL-3.0": "gnu lesser general public license version 3, 29 june 2007",
    "AGPL-3.0": "gnu affero general public license version 3, 19 november 2007",
    "MPL-2.0": "mozilla public license version 2.0",
    "ISC": "permission to use, copy, modify, and/or distribute this software for any purpose with "
    "or without fee",
    "Unlicense": "this is free and unencumbered software released into the public domain",
    "BSL-1.0": "boost software license - version 1.0",
}
_BSD = "redistribution and use in source and binary forms, with or without modification"


def is_licence(name: str) -> bool:
    """Whether a file at the root is a licence by its name."""
    return bool(_NAMES.fullmatch(name))


def licence_of(name: str, text: str) -> str:
    """The identifier, or "unknown", and the name of the file: "MIT (LICENSE)"."""
    words = " ".join(text.lower().split())
    found = {spdx for spdx, sign in _SIGNS.items() if sign in words}
    if _BSD in words:
        found.add("BSD-3-Clause" if "endorse or promote" in words else "BSD-2-Clause")
    return f"{found.pop() if len(found) == 1 else UNKNOWN} ({name})"
