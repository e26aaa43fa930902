#!/bin/sh
# embed-migrations.sh DIRECTORY NAME.up.sql NAME.down.sql…: prints the C source that holds the migrations.
# Names are NNNN_what.up.sql and NNNN_what.down.sql; numbers go up by one from 0001, and each has both files.
set -eu
export LC_ALL=C
top=$1
shift
die() { echo "embed-migrations.sh: $*" >&2; exit 1; }
# Lines of comment stay out: whoever improves one does not make another migration of it.
literal() { awk '/^[ \t]*(--.*)?$/ { next } { gsub(/\\/, "\\\\"); gsub(/"/, "\\\""); printf "\n\t  \"%s\\n\"", $0 }' "$1"; }

echo '/* Made by embed-migrations.sh of the SQL files beside it. */'
echo '#include "schema.h"'
echo 'const struct pg_migration pg_migrations[] = {'
n=0
for up in $(printf '%s\n' "$@" | grep '\.up\.sql$' | sort); do
	n=$((n + 1))
	name=$(basename "$up" .up.sql)
	down=$(dirname "$up")/$name.down.sql
	[ "${name%%_*}" = "$(printf %04d $n)" ] || die "$up: the number $(printf %04d $n) comes here"
	[ -f "$top/$down" ] || die "$top/$down is missing"
	printf '\t{%d, "%s",' "$n" "${name#*_}"
	literal "$top/$up"
	printf ','
	literal "$top/$down"
	echo '},'
done
[ $# -eq $((2 * n)) ] || die "$# files make no pairs"
echo '};'
printf 'const unsigned pg_migrations_n = %d;\n' "$n"
