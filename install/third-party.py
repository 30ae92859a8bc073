#!/usr/bin/env python3
"""Prints the licences of the crates that the released binaries contain: name, version, licence, and the files in
which the crate states it. Each different text is printed once.

`cargo metadata` resolves the crates; test crates and build tools of this workspace are left out.
"""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ["sluiced", "sluice-cni", "sluice-install", "kubectl-sluice"]
TARGETS = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"]
NAMES = ("LICENSE", "LICENCE", "COPYING", "NOTICE", "UNLICENSE", "COPYRIGHT")


def crates(manifest, shipped):
    """The packages that `shipped` contain, by id."""
    command = ["cargo", "metadata", "--locked", "--format-version=1", "--manifest-path", manifest]
    command += [word for target in TARGETS for word in ("--filter-platform", target)]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    todo = [identity for identity, package in packages.items() if package["name"] in shipped]
    found = {}
    while todo:
        identity = todo.pop()
        if identity in found:
            continue
        found[identity] = packages[identity]
        # Neither dev-dependencies nor build-dependencies are in a binary.
        todo += [dep["pkg"] for dep in nodes[identity]["deps"] if any(kind["kind"] is None for kind in dep["dep_kinds"])]
    return {identity: package for identity, package in found.items() if package["source"]}


def main():
    found = crates(str(ROOT / "Cargo.toml"), SHIPPED) | crates(str(ROOT / "ebpf/programs/Cargo.toml"), ["sluice-programs"])
    texts = {}
    print("Crates in Sluice's binaries, and their licences. The texts follow, each once.\n")
    for package in sorted(found.values(), key=lambda one: (one["name"], one["version"])):
        folder = Path(package["manifest_path"]).parent
        files = sorted(path for path in folder.iterdir() if path.name.upper().startswith(NAMES) and path.is_file())
        marks = []
        for path in files:
            text = path.read_text(errors="replace").replace("\r\n", "\n").strip()
            mark = hashlib.sha256(text.encode()).hexdigest()[:12]
            texts[mark] = text
            marks.append(f"{path.name} [{mark}]")
        if not package["license"] and not marks:
            sys.exit(f"third-party: {package['name']} states no licence")
        print(f"{package['name']} {package['version']}: {package['license']} ({', '.join(marks) or 'no file'})")
    for mark, text in sorted(texts.items()):
        print(f"\n{'=' * 40} [{mark}]\n{text}")


main()
