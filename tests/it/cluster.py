"""Debian's PostgreSQL: where it is, who runs it, and a data directory fresh from initdb without waiting for one."""
import glob
import os
import pwd
import shutil
import subprocess
import tempfile
import time

from guard import CACHE, unavailable
from orchestra import SLOW


def binaries():
    """Directory of the newest PostgreSQL server of Debian's packages."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/postgres"), key=lambda p: int(p.split("/")[4]))
    if not found:
        unavailable("needs PostgreSQL: apt-get install postgresql, or ./bootstrap check")
    return os.path.dirname(found[-1])


def server_user():
    """PostgreSQL refuses to run as root: then it is the user that its package made."""
    try:
        return pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    except KeyError:
        unavailable("PostgreSQL does not run as root, and there is no user postgres")


def as_server(user):
    if os.geteuid() != 0:
        return []
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--init-groups"]


def run(command, **kw):
    r = subprocess.run(command, capture_output=True, text=True, timeout=120 * SLOW, stdin=subprocess.DEVNULL, **kw)
    if r.returncode:
        raise RuntimeError(f"{command}: {r.stdout}{r.stderr}")
    return r.stdout


def initdb(directory):
    env = {"PATH": os.environ.get("PATH", "/usr/bin:/bin")}  # LD_PRELOAD and LC_* of a test are no business of it
    run([*as_server(server_user()), os.path.join(binaries(), "initdb"), "-D", directory, "-U", "postgres", "-A", "trust",
         "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions"], env=env, cwd="/")


def template():
    """A cluster fresh from initdb, made once per version and user; makers at the same time do no harm, the first one's stays."""
    user, major = server_user(), binaries().split("/")[4]
    path = os.path.join(CACHE, f"orchestra-pg{major}-template-{user.pw_uid}")
    if not os.path.isdir(path):
        for old in glob.glob(path + ".*"):  # of makers that died
            if time.time() - os.stat(old).st_mtime > 3600:
                shutil.rmtree(old, ignore_errors=True)
        made = tempfile.mkdtemp(prefix=os.path.basename(path) + ".", dir=CACHE)
        os.chown(made, user.pw_uid, user.pw_gid)
        initdb(made)
        try:
            os.rename(made, path)
        except OSError:
            shutil.rmtree(made)
    if os.lstat(path).st_uid != user.pw_uid:
        raise RuntimeError(f"{path} belongs to somebody else; remove it")
    return path
