"""The machine a figure was measured on, and how busy others kept it meanwhile."""

import json
import os
import platform
import resource
import subprocess
import time


def _output(*command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        return "not installed"
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0] if lines else "unknown"


def _processor():
    model, flags = platform.machine(), set()
    with open("/proc/cpuinfo") as cpuinfo:
        for line in cpuinfo:
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                model = value.strip()
            elif key.strip() in ("flags", "Features"):
                flags |= set(value.split())
    return model, flags


def has_aes():
    flags = _processor()[1]
    return "aes" in flags and ("pclmulqdq" in flags or "pmull" in flags)


def _build_options(build):
    try:
        done = subprocess.run(["meson", "introspect", "--buildoptions", build],
                              capture_output=True, text=True, check=True)
        options = {option["name"]: option["value"] for option in json.loads(done.stdout)}
    except (OSError, subprocess.CalledProcessError, ValueError):
        return "unknown"
    return ", ".join("%s=%s" % (name, options.get(name)) for name in
                     ("buildtype", "b_ndebug", "b_sanitize"))


def describe(build):
    model, flags = _processor()
    wanted = ("aes", "pclmulqdq", "vaes", "vpclmulqdq", "avx2", "avx512f", "sha_ni", "pmull",
              "sha2")
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "hypervisor": "yes" if "hypervisor" in flags else "no",
        "aes": "yes" if has_aes() else "no",
        "instructions": " ".join(name for name in wanted if name in flags),
        "kernel": platform.release(),
        "system": _system(),
        "libc": " ".join(platform.libc_ver()),
        "openssl": _output("openssl", "version"),
        "redis": _output("redis-server", "--version"),
        "nginx": _output("nginx", "-v"),
        "stunnel": _stunnel(),
        "haproxy": _output("haproxy", "-v"),
        "build": _build_options(build),
        "load average before": "%.2f" % os.getloadavg()[0],
    }


def _system():
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return "unknown"


def _stunnel():
    try:
        done = subprocess.run(["stunnel", "-version"], capture_output=True, text=True,
                              stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        return "not installed"
    lines = (done.stdout + done.stderr).splitlines()
    return next((line for line in lines if line.startswith("stunnel ")), "unknown")


class Disturbance:
    """Processor time that neither the bench nor what it started used, as part of all there was."""

    def __init__(self):
        self.begin = self._now()

    @staticmethod
    def _now():
        with open("/proc/stat") as stat:
            ticks = [int(field) for field in stat.readline().split()[1:9]]
        user, nice, system, _, _, irq, softirq, steal = ticks
        hertz = os.sysconf("SC_CLK_TCK")
        own = 0.0
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
            usage = resource.getrusage(who)
            own += usage.ru_utime + usage.ru_stime
        busy = (user + nice + system + irq + softirq) / hertz
        return time.monotonic(), busy, own, steal / hertz

    def result(self):
        """Call it when everything that was started has been stopped and waited for."""
        elapsed, busy, own, steal = (now - then for now, then in zip(self._now(), self.begin))
        capacity = elapsed * (os.cpu_count() or 1)
        return {"seconds": round(elapsed, 1),
                "others_percent": round(max(0.0, busy - own) / capacity * 100, 1),
                "steal_percent": round(steal / capacity * 100, 1)}
