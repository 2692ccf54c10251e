"""A machine under a live systemd: process 1 of namespaces of its own, with a root folder of its own.

Only /usr is this machine's, read-only; what Inlay installs lies in it as `meson install` lays it. /etc and /var
live as long as the Machine, /run and /tmp as long as it runs, as on any other: `reboot()` tells them apart.
Nothing in it can change this machine: /proc/sys is read-only, its network is a loopback of its own.
"""

import json
import os
import pathlib
import pwd
import shutil
import subprocess
import sys
import tempfile

from support import BUILD, PATIENCE, until

SYSTEMD = "/lib/systemd/systemd"
NAMESPACES = ["--pid", "--fork", "--kill-child", "--mount", "--propagation", "private", "--uts", "--ipc", "--net",
              "--cgroup"]
# Process 1 may do what it must to start services as other users, and nothing to the kernel.
NEVER = "-sys_module,-sys_time,-sys_rawio,-syslog,-wake_alarm,-mac_admin,-mac_override,-sys_boot"
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")

# $1: the root folder; $2: where Inlay is installed, below it and below /; then folders shown read-only.
SETUP = f"""set -e
root=$1 prefix=$2
shift 2
mount --bind "$root" "$root"
mount --rbind -o ro /usr "$root/usr"
mount -o remount,bind,ro "$root/usr"
mount --bind "$root/installed$prefix" "$root$prefix"
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in {' '.join(DEVICES)}; do
  touch "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
for folder in "$@"; do
  mkdir -p "$root$folder"
  mount --bind -o ro "$folder" "$root$folder"
done
hostname machine
ip link set lo up
cd "$root"
mkdir -p outside
pivot_root . outside
umount -l outside
rmdir outside
exec env -i container=inlay-test PATH=/usr/sbin:/usr/bin:/sbin:/bin {SYSTEMD} --show-status=no
"""


def _cgroup2():
    """Where the kernel's one hierarchy of control groups is mounted; None where it is not."""
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 "):
            return pathlib.Path(before.split()[4])
    return None


def _prefix():
    told = subprocess.run(["meson", "introspect", "--buildoptions", str(BUILD)], capture_output=True, check=True)
    return next(option["value"] for option in json.loads(told.stdout) if option["name"] == "prefix")


def unavailable():
    """Why this machine cannot have one; "" when it can."""
    if os.geteuid() != 0:
        return "only root can start a systemd of its own"
    for command in (SYSTEMD, "systemctl", "dbus-daemon", "meson", "unshare", "setpriv", "nsenter"):
        if shutil.which(command) is None:
            return f"{command} is not here"
    if _cgroup2() is None:
        return "no cgroup2 file system is mounted"
    if _prefix() == "/usr":
        return "the build is for /usr, which is this machine's"
    try:
        group = pathlib.Path(tempfile.mkdtemp(prefix="inlay-probe-", dir=_cgroup2()))
        group.rmdir()
    except OSError as error:
        return f"control groups cannot be made: {error}"
    probe = subprocess.run(["unshare", *NAMESPACES, "sh", "-c",
                            "mount -t proc proc /proc && mount -t cgroup2 cgroup2 /sys/fs/cgroup && ip link set lo up"],
                           capture_output=True, text=True)
    return f"namespaces cannot be made: {probe.stderr.strip()}" if probe.returncode != 0 else ""


def skip_unless_available():
    """Ends a test program as skipped, with the reason."""
    if why := unavailable():
        print(f"skipped: {why}")
        sys.exit(77)


class Machine:
    """Runs from the start; `shown` are folders of this machine that are seen in it, read-only."""

    def __init__(self, shown=()):
        # Not below the test's own folder: all above a trusted file must be root's and closed to others.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="inlay-machine-"))
        self.folder.chmod(0o755)
        self.group = None
        self.child = None
        self.prefix = _prefix()
        self.shown = [str(folder) for folder in shown]
        for name in ("usr", "proc", "sys", "dev", "run", "tmp", "root", "home", "var/lib", "var/log", "var/tmp",
                     "var/cache", "var/lib/private"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "root").chmod(0o700)
        (self.folder / "var/tmp").chmod(0o1777)
        (self.folder / "var/lib/private").chmod(0o700)
        (self.folder / "var/run").symlink_to("/run")
        for name in ("bin", "sbin", "lib", "lib64"):
            (self.folder / name).symlink_to(f"usr/{name}")
        # cp keeps links, owners and modes; nothing that this machine has enabled starts in that one.
        subprocess.run(["cp", "-a", "/etc", self.folder], check=True)
        for place in ("system", "user"):
            shutil.rmtree(self.folder / "etc/systemd" / place, ignore_errors=True)
            (self.folder / "etc/systemd" / place).mkdir()
        shutil.rmtree(self.folder / "etc/inlay", ignore_errors=True)
        for name, text in (("machine-id", ""), ("hostname", "machine\n"), ("fstab", "")):
            (self.folder / "etc" / name).unlink(missing_ok=True)
            (self.folder / "etc" / name).write_text(text)
        subprocess.run(["meson", "install", "-C", BUILD, "--no-rebuild", "--quiet", "--destdir",
                        self.folder / "installed"], check=True, capture_output=True)
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def start(self):
        self.group = pathlib.Path(tempfile.mkdtemp(prefix="inlay-machine-", dir=_cgroup2()))
        self.group.chmod(0o755)
        with open(self.folder / "console", "ab") as console:
            self.child = subprocess.Popen(
                ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', self.group, "setpriv", "--pdeathsig", "KILL",
                 "--bounding-set", NEVER, "unshare", *NAMESPACES, "sh", "-c", SETUP, "sh", self.folder, self.prefix,
                 *self.shown],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console)
        children = pathlib.Path(f"/proc/{self.child.pid}/task/{self.child.pid}/children")

        def is_up():
            assert self.child.poll() is None, f"systemd ended: {self.console()}"
            self.leader = children.read_text().strip()
            return self.leader and self.run("systemctl", "is-system-running").stdout.strip() in ("running", "degraded")
        until(is_up, "systemd is up")

    def console(self):
        return (self.folder / "console").read_text(errors="replace")

    def words(self, *command):
        return ["nsenter", "-t", self.leader, "-m", "-u", "-i", "-n", "-p", "-C", "--wd=/", *map(str, command)]

    def run(self, *command, user=None, env=None, **more):
        """As root, or as a user of that machine; in no unit."""
        become = []
        if user is not None:
            become = ["setpriv", "--reuid", user, "--regid", user, "--init-groups"]
            there = self.user(user)
            env = {"HOME": there.pw_dir, "XDG_RUNTIME_DIR": f"/run/user/{there.pw_uid}", **(env or {})}
        become += ["env", "-i", "LANG=C.UTF-8", f"PATH={self.prefix}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                   *(f"{name}={value}" for name, value in (env or {}).items())]
        return subprocess.run(self.words(*become, *command), capture_output=True, text=True, timeout=2 * PATIENCE,
                              **more)

    def do(self, *command, **more):
        done = self.run(*command, **more)
        assert done.returncode == 0, f"{command}: {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    def systemctl(self, *words, user=None):
        return self.do("systemctl", *(["--user"] if user else []), *words, user=user)

    def user(self, name):
        for line in (self.folder / "etc/passwd").read_text().splitlines():
            words = line.split(":")
            if words[0] == name:
                return pwd.struct_passwd((*words[:2], int(words[2]), int(words[3]), *words[4:]))
        raise KeyError(name)

    def add_lingering_user(self, name):
        """One whose own systemd runs, and starts with the machine."""
        self.do("useradd", "--create-home", name)
        self.do("loginctl", "enable-linger", name)
        self.await_systemd_of(name)

    def await_systemd_of(self, name):
        until(lambda: self.run("systemctl", "--user", "is-system-running", user=name).stdout == "running\n",
              f"{name}'s own systemd")

    def path(self, inside):
        """Where a file of /etc, /var, /home or /installed of that machine is, seen from here."""
        return self.folder / str(inside).lstrip("/")

    def write(self, inside, text, owner=None, mode=0o644):
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        self._give(path, owner or "root")

    def make_folder(self, inside, owner="root", mode=0o755):
        self.path(inside).mkdir(parents=True, exist_ok=True)
        self._give(self.path(inside), owner)
        self.path(inside).chmod(mode)

    def _give(self, path, owner):
        there = self.user(owner)
        os.chown(path, there.pw_uid, there.pw_gid)

    def unit(self, name, text):
        """A unit of the administrator's; systemd knows it then."""
        self.write(f"/etc/systemd/system/{name}", text)
        self.systemctl("daemon-reload")

    def installed(self, name):
        """What `meson install` put there, as a path inside: "bin/inlay-agent"."""
        return f"{self.prefix}/{name}"

    def property(self, unit, name, user=None):
        return self.systemctl("show", "-P", name, unit, user=user).strip()

    def await_forgotten(self, unit):
        """Until a unit that systemd-run made, and that has ended, leaves its name to the next one."""
        until(lambda: self.property(unit, "LoadState") == "not-found", f"{unit} is forgotten")

    def main_pid(self, unit, user=None):
        return int(self.property(unit, "MainPID", user))

    def journal(self, unit=None):
        return self.do("journalctl", "--no-pager", "-o", "cat", *(["-u", unit] if unit else []))

    def stop(self):
        """In good order, as for the night."""
        self.run("systemctl", "poweroff")  # may be ended by it before it can say that all is well
        self.child.wait(PATIENCE)
        self._forget_group()

    def reboot(self):
        self.stop()
        self.start()

    def _forget_group(self):
        if self.group is None:
            return
        until(lambda: "populated 0" in (self.group / "cgroup.events").read_text(), "all processes have ended")
        for folder, _, _ in os.walk(self.group, topdown=False):
            os.rmdir(folder)
        self.group = None

    def close(self):
        if self.child is not None and self.child.poll() is None:
            self.child.kill()  # and with it process 1, and with that all others
            self.child.wait()
        self._forget_group()
        shutil.rmtree(self.folder)
