"""A Prometheus of our own, from Debian's package: own directory, own port, the rules of the package made quick, no leftovers."""
import json
import os
import re
import shutil
import subprocess
import tempfile
import urllib.parse
import urllib.request

import yaml

from orchestra import SLOW, free_port

RULES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "packaging", "prometheus", "orchestra.rules.yml")
SECONDS = {"s": 1, "m": 60, "h": 3600}


def quicker(rules, factor, least, only_from=0):
    """Every duration of the rules that is only_from seconds or more divided; none becomes shorter than `least` seconds."""
    def shorter(m):
        seconds = int(m[2]) * SECONDS[m[3]]
        return m[1] + "%ds" % (seconds if seconds < only_from else max(least, seconds / factor)) + m[4]
    return re.sub(r"(\[|for: |offset )(\d+)([smh])(\]|\b)", shorter, rules)


class Prometheus:
    """factor: what takes a minute by the rules takes a minute divided by that, where it takes `only_from` seconds or more; None: alerts fire at
    once, ranges are as they are."""

    def __init__(self, targets, factor=None, interval="1s", only_from=0):
        self.dir = tempfile.mkdtemp(prefix="orchestra-prom-")
        self.port = free_port()
        with open(RULES) as f:
            rules = f.read()
        self.write("rules.yml", quicker(rules, factor, 5, only_from) if factor else re.sub(r"for: \d+m", "for: 1s", rules))
        self.write("prometheus.yml", yaml.safe_dump({
            "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval}, "rule_files": ["rules.yml"],
            "scrape_configs": [{"job_name": "orchestra", "static_configs": [{"targets": list(targets)}]}]}))
        self.log = open(os.path.join(self.dir, "log"), "w")
        self.process = subprocess.Popen(
            ["prometheus", f"--config.file={self.dir}/prometheus.yml", f"--storage.tsdb.path={self.dir}/data", f"--web.listen-address=127.0.0.1:{self.port}",
             "--enable-feature=exemplar-storage"], stdout=self.log, stderr=subprocess.STDOUT)

    def write(self, name, text):
        with open(os.path.join(self.dir, name), "w") as f:
            f.write(text)

    def get(self, path):
        """None: it does not answer, or not yet."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/{path}", timeout=10 * SLOW) as r:
                return json.load(r)["data"]
        except OSError:
            assert self.process.poll() is None, open(self.log.name).read()
            return None

    def value(self, query):
        got = self.get("query?query=" + urllib.parse.quote(query))
        return float(got["result"][0]["value"][1]) if got and got["result"] else None

    def firing(self):
        """The names; None: it does not answer."""
        got = self.get("alerts")
        return None if got is None else {a["labels"]["alertname"] for a in got["alerts"] if a["state"] == "firing"}

    def firing_of(self, instance):
        """The names of one daemon."""
        got = self.get("alerts")
        return None if got is None else {a["labels"]["alertname"] for a in got["alerts"] if a["state"] == "firing" and a["labels"]["instance"] == instance}

    def alert(self, name):
        """"pending", "firing", or None; "unknown": it does not answer."""
        got = self.get("alerts")
        return next((a["state"] for a in got["alerts"] if a["labels"]["alertname"] == name), None) if got else "unknown"

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
        shutil.rmtree(self.dir)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.stop()
