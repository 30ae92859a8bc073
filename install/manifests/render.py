"""Prints the chart as one manifest: what `helm template sluice CHART -n kube-system` prints.

Run it with the Python of `setup/manifests.sh`, which has Helm's own engine.
"""

import argparse
import json
import pathlib
import sys

import yaml
from helm_python import Chart, HelmError

CHART = pathlib.Path(__file__).parent / "chart"
NOTES = "NOTES.txt"


def render(values: dict, chart: pathlib.Path, namespace: str, notes: bool) -> str:
    with Chart.load(chart) as loaded:
        loaded.validate_schema(values)
        rendered = loaded.render(values, name="sluice", namespace=namespace)
    if notes:
        return "".join(text for template, text in rendered.items() if template.endswith(NOTES))
    documents = [
        f"---\n# Source: {template}\n{manifest.strip()}\n"
        for template, manifest in sorted(rendered.items())
        if manifest.strip() and not template.endswith(NOTES)
    ]
    return "".join(documents)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--values", metavar="FILE", type=pathlib.Path, help="a JSON file")
    parser.add_argument("--chart", metavar="DIR", type=pathlib.Path, default=CHART)
    parser.add_argument("--namespace", default="kube-system")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print a list of objects")
    output.add_argument("--notes", action="store_true", help="print what Helm says after the installation")
    arguments = parser.parse_args()
    values = json.loads(arguments.values.read_text()) if arguments.values else {}
    manifest = render(values, arguments.chart, arguments.namespace, arguments.notes)
    if arguments.json:
        manifest = json.dumps(list(yaml.safe_load_all(manifest)), indent=2) + "\n"
    sys.stdout.write(manifest)


if __name__ == "__main__":
    try:
        main()
    except HelmError as error:
        sys.exit(f"render.py: {error}")
