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


def render(values: dict) -> str:
    with Chart.load(CHART) as chart:
        chart.validate_schema(values)
        rendered = chart.render(values, name="sluice", namespace="kube-system")
    documents = [
        f"---\n# Source: {template}\n{manifest.strip()}\n"
        for template, manifest in sorted(rendered.items())
        if manifest.strip()
    ]
    return "".join(documents)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--values", metavar="FILE", type=pathlib.Path, help="a JSON file")
    parser.add_argument("--json", action="store_true", help="print a list of objects")
    arguments = parser.parse_args()
    values = json.loads(arguments.values.read_text()) if arguments.values else {}
    manifest = render(values)
    if arguments.json:
        manifest = json.dumps(list(yaml.safe_load_all(manifest)), indent=2) + "\n"
    sys.stdout.write(manifest)


if __name__ == "__main__":
    try:
        main()
    except HelmError as error:
        sys.exit(f"render.py: {error}")
