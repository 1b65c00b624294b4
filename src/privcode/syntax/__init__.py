"""Which tokens are the structure of code, and the loss that holds them (PrivSA).

The names of the languages are here.
"""

LANGUAGES: tuple[str, ...] = (
    "python",
    "java",
    "javascript",
    "typescript",
    "cpp",
    "csharp",
    "rust",
    "php",
    "go",
    "bash",
    "swift",
)

_ALIASES = {
    **{"py": "python", "python3": "python", "js": "javascript", "jsx": "javascript"},
    **{"node": "javascript", "ts": "typescript", "tsx": "typescript", "c++": "cpp", "cc": "cpp"},
    **{"cxx": "cpp", "hpp": "cpp", "c#": "csharp", "cs": "csharp", "c_sharp": "csharp"},
    **{"rs": "rust", "golang": "go", "sh": "bash", "shell": "bash", "zsh": "bash"},
}


def canonical_language(name: str) -> str | None:
    """The canonical name (one of `LANGUAGES`) for a language's name or alias; None if unknown."""
    name = name.strip().lower()
    name = _ALIASES.get(name, name)
    return name if name in LANGUAGES else None
