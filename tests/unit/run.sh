#!/bin/sh
# The unit tests of a build, as many at once as there are processors. What failed is run once more, alone, and named: as
# tests/it/run.py does it.
#	run.sh BUILD [but TEST...]
set -eu
most=3
build=$1
shift
tests=
if [ "${1:-}" = but ]; then
	shift
	for t in "$build"/tests/unit/test_*; do
		[ -f "$t" ] && [ -x "$t" ] && case " $* " in *" ${t##*/test_} "*) ;; *) tests="$tests tests/unit/${t##*/}" ;; esac
	done
	[ -n "$tests" ]
fi
unit() { make -C "$build" --no-print-directory ${tests:+"TESTS=$tests"} "$@"; }
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
