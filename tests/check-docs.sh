#!/bin/bash
# The documents against the sources. Fails when
#   - a relative link or an anchor in README.md, docs/*.md or etc. leads nowhere
#   - a route of routes.def is missing in docs/api.md or docs/openapi.yaml, or the latter has one too many
#   - a problem type, configuration key or metric is named that does not exist, or a metric or type is not documented
# usage: tests/check-docs.sh [DIRECTORY]   (default: the repository that this file lies in)
# With DIRECTORY the same checks run on another tree; tests/check-docs.sh --self-test breaks a copy in each way.
set -u
cd "$(dirname "$0")/.." || exit 2
here=$PWD

self_test() {
	local bad=0 work
	work=$(mktemp -d)
	tests/check-docs.sh >"$work/out" || { cat "$work/out"; echo "self-test: only a sound tree can be broken"; rm -rf "$work"; return 1; }
	breaks() { # name, sed expression, file
		rm -rf "$work/t" && mkdir "$work/t" && git -C "$here" ls-files -z | (cd "$here" && xargs -0 cp --parents -t "$work/t" 2>/dev/null)
		cp -r "$here/docs" "$here/README.md" "$work/t/"
		sed -i "$2" "$work/t/$3"
		if cmp -s "$here/$3" "$work/t/$3"; then echo "self-test: \"$1\" changed nothing"; bad=1; return; fi
		if "$here/tests/check-docs.sh" "$work/t" >"$work/out" 2>&1; then echo "self-test: \"$1\" was not noticed"; bad=1; fi
	}
	breaks "broken link" 's#(docs/operations.md)#(docs/operation.md)#' README.md
	breaks "broken anchor" 's@#filters@#filtres@' docs/api.md
	breaks "missing route in api.md" 's#/v1/memories:count#/v1/memories:cnt#' docs/api.md
	breaks "missing route in openapi.yaml" 's#^  /v1/namespaces/{name}:#  /v1/namespaces/{nam}:#' docs/openapi.yaml
	breaks "missing method in openapi.yaml" '0,/^    patch:/s//    put:/' docs/openapi.yaml
	breaks "unknown key" 's#journal\.quota#journal.quotas#' docs/operations.md
	breaks "unknown metric" 's#orchestra_pending_entries#orchestra_pending_rows#' docs/operations.md
	breaks "undescribed metric" '/orchestra_pending_entries/d' docs/metrics.md
	breaks "undocumented problem type" 's#`contention`#`contenton`#' docs/api.md
	rm -rf "$work"
	[ $bad = 0 ] && echo "self-test: every break was noticed"
	return $bad
}

if [ "${1:-}" = --self-test ]; then
	self_test
	exit
fi
if [ $# -gt 0 ]; then cd "$1" || exit 2; fi

exec python3 - <<'PY'
import glob, os, re, sys

errors = []


def fail(where, what):
    errors.append("%s: %s" % (where, what))


def read(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


DOCS = ["README.md"] + sorted(glob.glob("docs/*.md"))


def without_code(text):
    return re.sub(r"^```.*?^```", lambda m: "\n" * m.group(0).count("\n"), text, flags=re.S | re.M)


# ---- links and anchors ----

def anchor(heading):
    """As GitHub makes it."""
    heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower().replace("`", "")
    return re.sub(r"[^\w\- ]", "", heading).replace(" ", "-")


def anchors(path):
    seen, out = {}, set()
    for m in re.finditer(r"^#{1,6} +(.*?)\s*#*$", without_code(read(path)), re.M):
        a = anchor(m.group(1))
        out.add(a + ("-%d" % seen[a] if a in seen else ""))
        seen[a] = seen.get(a, 0) + 1
    return out


known = {p: anchors(p) for p in DOCS}
for path in DOCS:
    text = without_code(read(path))
    for n, line in enumerate(text.split("\n"), 1):
        for target in re.findall(r"\]\(([^)\s]+)\)", line):
            if re.match(r"[a-z]+:", target):
                continue
            file, _, name = target.partition("#")
            to = os.path.normpath(os.path.join(os.path.dirname(path), file)) if file else path
            if not os.path.exists(to):
                fail("%s:%d" % (path, n), "link to %s, which does not exist" % target)
            elif name and name not in known.get(to, set()):
                fail("%s:%d" % (path, n), "no heading makes the anchor #%s in %s" % (name, to))

# ---- routes ----

routes = re.findall(r'^ROUTE\((\w+), "([^"]+)"', read("workers/api/routes.def"), re.M)
if not routes:
    fail("workers/api/routes.def", "no route found: has its form changed?")
api = read("docs/api.md")
table = set(re.findall(r"`([A-Z]+) (/[^`\s]*)`", api))
spec, path = set(), None
for line in read("docs/openapi.yaml").split("\n"):
    m = re.match(r"  (/\S*):\s*$", line)
    if m:
        path = m.group(1)
    elif re.match(r"\S", line):
        path = None
    m = re.match(r"    (get|put|post|patch|delete|options|head):\s*$", line)
    if m and path:
        spec.add((m.group(1).upper(), path))
for route in routes:
    if route not in table:
        fail("docs/api.md", "`%s %s` is missing" % route)
    if route not in spec:
        fail("docs/openapi.yaml", "%s %s is missing" % route)
for route in sorted((spec | table) - set(routes)):
    fail("docs", "%s %s is described and does not exist" % route)

# ---- problem types ----

types = set()
for f in glob.glob("workers/api/*.c"):
    types |= set(re.findall(r'problem\([^;"]*?\b\d{3}, "([a-z][a-z-]*)"', read(f)))
    types |= set(re.findall(r'\{\d{3}, "([a-z][a-z-]*)"\}', read(f)))  # what the HTTP core refuses
described = set(re.findall(r"`([a-z]+(?:-[a-z]+)*)`", api[api.index("\n## Errors"):api.index("\n## Limits")]))
for t in sorted(types - described):
    fail("docs/api.md", "problem type `%s` is not in the table of errors" % t)
in_spec = read("docs/openapi.yaml")
for t in sorted(types):
    if not re.search(r"(?<![\w-])%s(?![\w-])" % re.escape(t), in_spec):
        fail("docs/openapi.yaml", "problem type %s is not named" % t)

# ---- configuration keys ----

keys = set(re.findall(r'^CONF\(\w+, "([^"]+)"', read("common/conf.def"), re.M))
sections = {k.split(".")[0] for k in keys if "." in k}
EXTENSIONS = {"c", "h", "def", "md", "py", "conf", "db", "seg", "spare", "tmp", "sock", "ctl", "yaml", "sh", "so", "log"}
pattern = re.compile(r"(?<![\w./*-])(%s)\.([a-z][a-z0-9_]*)(?![\w/(])" % "|".join(sorted(sections)))
for path in DOCS + ["docs/man/orchestrad.8", "docs/man/orchestractl.1", "docs/openapi.yaml"]:
    for n, line in enumerate(read(path).split("\n"), 1):
        for section, name in pattern.findall(line):
            key = "%s.%s" % (section, name)
            if key not in keys and name not in EXTENSIONS:
                fail("%s:%d" % (path, n), "there is no configuration key %s" % key)

# ---- metrics ----

metrics = set(re.findall(r'^(?:FAMILY|HISTOGRAM|STAT)\(\w+, "(orchestra_\w+)"', read("common/stats.def"), re.M))
for path in DOCS:
    for n, line in enumerate(read(path).split("\n"), 1):
        for name in re.findall(r"\borchestra_[a-z0-9_]+[a-z0-9]", line):
            if name not in metrics and re.sub("_(bucket|sum|count)$", "", name) not in metrics:
                fail("%s:%d" % (path, n), "no metric %s is exported" % name)
described = set(re.findall(r"^\| `(orchestra_\w+)`", read("docs/metrics.md"), re.M))
for name in sorted(metrics - described):
    fail("docs/metrics.md", "metric %s is not described: orchestrad --dump-metrics" % name)

for e in errors:
    print(e)
print("check-docs: %d documents, %d routes, %d keys, %d metrics, %d problem types: %s" % (
    len(DOCS), len(routes), len(keys), len(metrics), len(types), "%d errors" % len(errors) if errors else "fine"))
sys.exit(1 if errors else 0)
PY
