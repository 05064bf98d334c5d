"""Lines of code in the package, the tests and the tools: without blank lines, comments and docstrings.

    python benchmarks/lines.py [CHECKOUT ...]

Two checkouts can be compared if both have lines of one width: `ruff format --line-length 120`.
"""

import argparse
import ast
import io
import tokenize
from pathlib import Path

PARTS = {"package": ("ssl_inv", "evaluation"), "tests": ("tests",), "docs and benchmarks": ("docs", "benchmarks")}
NO_CODE = {"COMMENT", "NL", "NEWLINE", "INDENT", "DEDENT", "ENDMARKER"}


def code_lines(source: str) -> int:
    """How many lines of a file hold code."""
    texts: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            texts |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    found = {
        line
        for token in tokens
        if tokenize.tok_name[token.type] not in NO_CODE
        for line in range(token.start[0], token.end[0] + 1)
    }
    return len(found - texts)


def main() -> None:
    """Print the lines of each checkout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", nargs="*", type=Path, default=[Path(__file__).parents[1]])
    for root in parser.parse_args().checkout:
        for part, folders in PARTS.items():
            # Links within the package lead to folders that are counted where they are.
            files = {path.resolve() for folder in folders for path in (root / folder).rglob("*.py")}
            lines = [code_lines(path.read_text(encoding="utf-8")) for path in files]
            print(f"{root} {part}: {sum(lines):,} lines in {len(files)} files")


if __name__ == "__main__":
    main()
