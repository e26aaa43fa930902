#!/bin/sh
# The unit tests of a build, as many at once as there are processors. What failed is run once more, alone, and named: as
# tests/it/run.py does it.
#	run.sh BUILD
set -eu
most=3
unit() { make -C "$build" --no-print-directory "$@"; }
build=$1
unit -j"$(nproc)" check && exit
# what they said, and of what hung at least how far it came
told() { for test in $1; do echo "---- $test"; tail -n 60 "$build/tests/unit/$test.log"; done; }
failed=$(grep -l '^:test-result: FAIL' "$build"/tests/unit/*.trs 2>/dev/null | sed 's|.*/||; s|\.trs$||')
told "$failed"
[ -n "$failed" ] && [ "$(echo "$failed" | wc -l)" -le $most ] || exit 1
echo "once more, alone:" $failed
code=0
unit recheck || code=$?
[ $code = 0 ] || told "$failed"
for test in $failed; do
	how='passes alone'
	grep -q '^:test-result: PASS' "$build/tests/unit/$test.trs" || how='fails alone, too'
	echo "UNSTEADY, $how: $test"
done
exit $code
