#!/usr/bin/env bash
# test-release.sh: builds the release of this commit once more, in another directory, and compares every byte.
source "${BASH_SOURCE[0]%/*}/../setup/lib.sh"

cd "$ROOT"
[[ ! $(git status --porcelain) ]] || die "the work tree has changes: a release is built from a commit"
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git clone --quiet --no-hardlinks . "$copy/sluice"
# The tools are those of the first build; nothing that they built is.
mkdir -p "$copy/sluice/target"
cp -a "$TOOLS" "$copy/sluice/target/tools"
[[ ! -d target/debian ]] || cp -a target/debian "$copy/sluice/target/debian"
make --no-print-directory -C "$copy/sluice" release
diff --recursive --brief target/release-* "$copy/sluice"/target/release-*
echo 'test result: ok. 1 passed; 0 failed; 0 ignored;'
