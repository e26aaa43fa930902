#!/bin/sh
# Runs a unit test with the server that its name asks for: test_pg_* finds a PostgreSQL of its own in ORCHESTRA_TEST_PG (unless one
# is named there already), test_pgvector_* one with pgvector in ORCHESTRA_TEST_PGVECTOR. Without them such a test is to exit with 77.
# A test that hangs fails after ten minutes (code 124): the slowest one with the slowest sanitizer needs two.
it=${0%/*}/../it
set -- timeout --foreground --kill-after=20 600 "$@"
case ${5##*/} in
test_pg_*) exec /usr/bin/python3 -B "$it/postgres.py" run -s fsync=off -- "$@" ;;
test_pgvector_*) exec /usr/bin/python3 -B "$it/pglite.py" run -- "$@" ;;
esac
exec "$@"
