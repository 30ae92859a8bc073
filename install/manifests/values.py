"""Writes the table of values in the chart's README from values.yaml.

Each value of values.yaml has a comment in front of it, which is its description. The table stands
between two markers. With --check nothing is written: the program fails if the README differs, if a
value has no comment, or if values.schema.json and values.yaml know different values.
"""

import argparse
import json
import pathlib
import sys

import yaml

CHART = pathlib.Path(__file__).parent / "chart"
BEGIN, END = "<!-- values -->\n", "<!-- end of values -->\n"


def comments(text: str) -> dict[str, str]:
    """The comment directly in front of each key, by the key's dotted path."""
    found: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in text.splitlines():
        stripped = line.lstrip()
        if stripped.startswith("# "):
            comment.append(stripped[2:])
            continue
        key, colon, _ = stripped.partition(":")
        if colon and not stripped.startswith("- "):
            indent = len(line) - len(stripped)
            path = [(depth, name) for depth, name in path if depth < indent] + [(indent, key)]
            if comment:
                found[".".join(name for _, name in path)] = " ".join(comment)
        comment = []
    return found


def rows(values: dict, described: dict[str, str], prefix: str = "") -> list[tuple[str, str, str]]:
    """Path, default and description of each value; a mapping with described parts is its parts."""
    table = []
    for key, value in values.items():
        path = prefix + key
        if isinstance(value, dict) and any(other.startswith(path + ".") for other in described):
            if path in described:
                table.append((path, "", described[path]))
            table += rows(value, described, path + ".")
        elif path in described:
            table.append((path, f"`{json.dumps(value, ensure_ascii=False)}`", described[path]))
        else:
            raise SystemExit(f"values.py: {path} has no comment in values.yaml")
    return table


def escape(text: str) -> str:
    """A bar would end the cell."""
    return text.replace("|", "\\|")


def markdown(table: list[tuple[str, str, str]]) -> str:
    lines = ["| Value | Default | Meaning |", "|---|---|---|"]
    lines += [f"| `{path}` | {default} | {escape(text)} |" for path, default, text in table]
    return "\n".join(lines) + "\n"


def differences(values: dict, schema: dict, prefix: str = "") -> list[str]:
    """Values that only one of values.yaml and values.schema.json knows."""
    known = schema.get("properties")
    if known is None:
        return []
    found = [f"{prefix}{key} is only in values.schema.json" for key in known.keys() - values.keys()]
    for key, value in values.items():
        if key not in known:
            found.append(f"{prefix}{key} is only in values.yaml")
        elif isinstance(value, dict) and value:
            found += differences(value, known[key], f"{prefix}{key}.")
    return found


def strictness(schema: dict, path: str = "") -> list[str]:
    """Objects that let unknown values pass. Only `global` belongs to other charts as well."""
    found = []
    if "properties" in schema and schema.get("additionalProperties") is not False and path != "global":
        found.append(f"{path or 'the top'} allows unknown values in values.schema.json")
    for key, part in schema.get("properties", {}).items():
        found += strictness(part, f"{path}.{key}".lstrip("."))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail on a difference")
    arguments = parser.parse_args()
    text = (CHART / "values.yaml").read_text()
    values = yaml.safe_load(text)
    schema = json.loads((CHART / "values.schema.json").read_text())
    # The values of these are optional, so values.yaml need not name them.
    optional = {"seLinuxOptions", "affinity", "resources", "appArmorProfile"}
    compared = {key: {} if key in optional else value for key, value in values.items()}
    wrong = differences(compared, schema) + strictness(schema)
    if wrong:
        raise SystemExit("values.py: " + "; ".join(sorted(wrong)))
    readme = CHART / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    wanted = before + BEGIN + markdown(rows(values, comments(text))) + END + after
    if readme.read_text() == wanted:
        return
    if arguments.check:
        raise SystemExit("values.py: the chart's README differs from values.yaml: run make manifests")
    readme.write_text(wanted)


if __name__ == "__main__":
    sys.exit(main())
