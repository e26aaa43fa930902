#!/bin/bash
# The installed daemon on a minimal Debian 12 with nothing but its run-time libraries: as PID 1, as a user without
# rights, on a read-only root where only its state and runtime directories can be written. Run as root:
#   tests/packaging/chroot.sh [BUILD]          (default: build; make -C build install goes into the chroot)
# Downloads about 60 MB once and keeps them in $ORCHESTRA_CHROOT_TAR (default: a file in /var/tmp, named by
# the list of libraries).
# Needs debootstrap, util-linux, curl, systemd (for systemd-sysusers). Leaves nothing behind but that file.
set -eu
cd "$(dirname "$0")/../.."
build=$(realpath "${1:-build}")
libraries=libconfig9,libcurl4,libevent-core-2.1-7,libevent-pthreads-2.1-7,libhiredis0.14,libjansson4,libpq5,libsqlite3-0,libssl3,libstemmer0d,libsystemd0
tar=${ORCHESTRA_CHROOT_TAR:-/var/tmp/orchestra-chroot-bookworm-$(echo "$libraries" | cksum | cut -d' ' -f1).tar}
[ "$(id -u)" = 0 ] || { echo "chroot.sh: run it as root" >&2; exit 2; }
work=$(mktemp -d)
root=$work/root
ns=
step() { echo "-- $*"; }
fail() { echo "FAILED: $*" >&2; [ ! -f "$work/log" ] || tail -30 "$work/log" >&2; exit 1; }
finish() {
	if [ -n "$ns" ]; then # not through unshare --kill-child: the change of uid makes the daemon forget that
		kill -KILL "$(pid_1)" 2>/dev/null || kill -KILL "$ns" 2>/dev/null || true
		wait "$ns" 2>/dev/null || true
	fi
	rm -rf "$work"
}
trap finish EXIT

if [ ! -s "$tar" ]; then
	step "debootstrap (once)"
	mirror=${ORCHESTRA_MIRROR:-http://deb.debian.org/debian}
	debootstrap --variant=minbase --include=$libraries bookworm "$work/new" "$mirror" >"$work/log" 2>&1 || fail "debootstrap from $mirror"
	tar -C "$work/new" --exclude=./var/cache/apt --exclude=./var/lib/apt/lists -cf "$tar.$$" . && mv "$tar.$$" "$tar"
	rm -rf "$work/new"
fi
mkdir "$root" && tar -C "$root" -xf "$tar"

step "install"
make -C "$build" --no-print-directory install DESTDIR="$root" >"$work/log" 2>&1 || fail "make install"
sbin=$(cd "$root" && find usr -name orchestrad -type f) bin=$(cd "$root" && find usr -name orchestractl -type f)
for program in "$sbin" "$bin"; do
	chroot "$root" ldd "/$program" >"$work/log" 2>&1 || fail "ldd $program"
	! grep 'not found' "$work/log" || fail "$program needs a library that the list in this script lacks"
done
systemd-sysusers --root="$root" "$root"/usr/local/lib/sysusers.d/orchestra.conf >"$work/log" 2>&1 || fail "systemd-sysusers"
id=$(chroot "$root" id -u orchestra)
install -d -o "$id" -m 0700 "$root/var/lib/orchestra"
install -d -o "$id" -m 0755 "$root/run/orchestra"
install -d -m 0755 "$root/etc/orchestra"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
conf() { printf 'listen: { tcp = "127.0.0.1:%s"; };\n%s\n' "$port" "$1" >"$root/etc/orchestra/orchestra.conf"; }
conf ''

# What systemd would say to it, in a mount and pid namespace of its own.
as_service="env -i PATH=/usr/bin:/bin STATE_DIRECTORY=/var/lib/orchestra RUNTIME_DIRECTORY=/run/orchestra"
inside='set -e
	mount --bind "$0" "$0"
	mount -t proc proc "$0/proc"
	for d in var/lib/orchestra run/orchestra; do mount --bind "$0/$d" "$0/$d"; done
	mount -o remount,bind,ro "$0"
	exec chroot --userspec=orchestra: --groups= "$0" '"$as_service"' "$@"'
enter=(unshare --mount --pid --fork sh -c "$inside" "$root")
ctl() { chroot --userspec=orchestra: --groups= "$root" $as_service "/$bin" "$@"; }
start() {
	"${enter[@]}" "/$sbin" >"$work/log" 2>"$work/err" &
	ns=$!
	for _ in $(seq 200); do
		if grep -q 'ready after' "$work/log"; then return; fi
		kill -0 $ns 2>/dev/null || fail "the daemon has left: $(cat "$work/err")"
		sleep 0.1
	done
	fail "not ready in 20 s"
}
pid_1() { cat "/proc/$ns/task/$ns/children" | tr -d ' '; }
stop() {
	kill -TERM "$(pid_1)"
	local rc=0
	wait $ns || rc=$?
	ns=
	[ $rc = 0 ] || fail "SIGTERM: exit status $rc"
	grep -q 'stopped' "$work/log" || fail "no last line in the log"
}

step "check and probe"
"${enter[@]}" "/$sbin" --check --probe >"$work/log" 2>&1 || fail "--check --probe"
grep -q '^ok everything' "$work/log" || fail "--check --probe"
touch "$work/marker"
step "start"
start
[ ! -s "$work/err" ] || fail "PID 1 logs to standard output, but there is something on standard error: $(cat "$work/err")"
grep -q "^Uid:.$id.$id.$id.$id" "/proc/$(pid_1)/status" || fail "not the uid of orchestra"
! nsenter -t "$(pid_1)" -m touch "$root/x" 2>/dev/null || fail "the root is not read-only"
step "add, search"
curl -sSf "http://127.0.0.1:$port/v1/memories?wait=store" -d '{"content": "the chroot remembers tea"}' >/dev/null || fail "add"
ctl search tea | grep -q 'the chroot remembers tea' || fail "search"
step "reload: good, bad, good"
conf 'sync: { batch_max = 250; };'
ctl reload | grep -q '500 → 250' || fail "a good reload"
conf 'sync: { batch_max = "soon"; };'
! ctl reload >"$work/out" 2>&1 || fail "a bad reload succeeded"
grep -q 'orchestra.conf:2: sync.batch_max' "$work/out" || fail "a bad reload does not say where: $(cat "$work/out")"
conf ''
ctl reload | grep -q '250 → 500' || fail "a reload after a bad one"
step "a worker dies"
kill -KILL "$(pgrep -P "$(pid_1)" | tail -1)"
for _ in $(seq 100); do grep -q 'is back after' "$work/log" && break; sleep 0.1; done
grep -q 'is back after' "$work/log" || fail "nobody came back"
ctl add 'after the death' | grep -q Stored || fail "add after the death of a worker"
step "upgrade"
pid=$(pid_1)
ctl upgrade | grep -q '^Upgraded from' || fail "upgrade"
[ "$(pid_1)" = "$pid" ] || fail "another process is PID 1 after an upgrade"
ctl add 'after the upgrade' | grep -q Stored || fail "add after an upgrade"
step "drain, start again"
stop
start
[ "$(ctl list | grep -c -e 'remembers tea' -e 'after the death' -e 'after the upgrade')" = 3 ] || fail "something was lost"
stop
[ -z "$(ls "$root/run/orchestra")" ] || fail "left behind: $(ls "$root/run/orchestra")"
written=$(find "$root" -xdev -newer "$work/marker" -not -path "$root/var/lib/orchestra*" -not -path "$root/run/orchestra*" -not -path "$root/etc/orchestra*" -type f)
[ -z "$written" ] || fail "written outside of its directories: $written"
echo "chroot: all well"
