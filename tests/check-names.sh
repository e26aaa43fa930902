#!/bin/sh
# Fails when an object of ours defines a name that a library we link exports: the executable's own
# would silently replace the library's. Usage: tests/check-names.sh BUILD_DIR
set -eu
build=$1
ours=$(mktemp) libs=$(mktemp)
trap 'rm -f "$ours" "$libs"' EXIT
nm -g --defined-only "$build/libcommon.a" "$build/libworkers.a" "$build"/daemon/*.o 2>/dev/null |
	awk 'NF == 3 && $3 != "main" {print $3}' | sort -u >"$ours"
for so in $(ldd "$build/orchestrad" "$build/orchestractl" | awk '$3 ~ /^\// {print $3}' | sort -u); do
	case $so in */libasan*|*/libubsan*|*/libtsan*) continue ;; esac
	nm -D --defined-only "$so" 2>/dev/null | awk '{sub(/@.*/, "", $NF); print $NF}'
done | sort -u >"$libs"
clash=$(comm -12 "$ours" "$libs")
[ -z "$clash" ] || { echo "names that libraries own are defined by us:"; echo "$clash"; exit 1; }
if nm "$build/orchestrad" "$build/orchestractl" | grep -w 'fault_[a-z]*' || grep -q ORC_FAULT_FILE "$build/orchestrad"; then
	echo "the shipped programs have fault points, which belong to tests/orchestrad-faults"; exit 1
fi
if grep -rn --include='*.[ch]' '#include "\.\./' common workers daemon; then
	echo "includes must not climb folders"; exit 1
fi
echo "names: $(wc -l <"$ours") symbols of ours, none owned by a library"
