"""Generated parts of hand-written pages: what stands between two marks is replaced, the rest is left alone."""

from pathlib import Path

BEGIN = "<!-- generated from here; `make format` writes it anew -->"
END = "<!-- generated up to here -->"


def with_generated(page: str, generated: str) -> str:
    """``page`` with ``generated`` between its marks. Raises ``ValueError`` for a page without them."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page needs the lines {BEGIN!r} and {END!r}")
    return f"{head}{BEGIN}\n\n{generated.strip()}\n\n{END}{tail}"


def rewrite(path: Path, generated: str) -> None:
    """Replace the generated part of a page on disk."""
    path.write_text(with_generated(path.read_text(encoding="utf-8"), generated), encoding="utf-8")
