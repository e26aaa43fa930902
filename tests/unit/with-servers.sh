#!/bin/sh
# Runs a unit test with the server that its name asks for: test_pg_* finds a PostgreSQL of its own in ORCHESTRA_TEST_PG (unless one
# is named there already), test_pgvector_* one with pgvector in ORCHESTRA_TEST_PGVECTOR. Without them such a test is to exit with 77.
# A test that hangs fails after so many seconds (code 124): the slowest needs a quarter of a minute,
# and two minutes with the slowest sanitizer.
it=${0%/*}/../it
set -- timeout --foreground --kill-after=20 "${ORCHESTRA_TEST_HANGS_S:-300}" "$@"
case ${5##*/} in
test_pg_*) exec /usr/bin/python3 -B "$it/postgres.py" run -s fsync=off -- "$@" ;;
test_pgvector_*) exec /usr/bin/python3 -B "$it/pglite.py" run -- "$@" ;;
esac
exec "$@"
