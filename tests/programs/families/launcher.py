"""What `inlay run` says to bad input: one line, 125, 126 or 127, and the command is not started;
and what the bare preload does with a configuration it can't read."""

import os
import pathlib
import shutil

from harness import registry
from harness.context import PYTHON
from harness.process import until
from harness.registry import case

STATIC_PROGRAM = "/sbin/ldconfig"  # static-pie in Debian's libc-bin
GOOD = "null"  # the identity the good configuration is for


def refused(ctx, argv, status, *said):
    """argv must end with this status and one line on stderr that has all of `said` in it."""
    process = ctx.start("refused", argv)
    got = ctx.finish(process)
    lines = process.stderr.decode().splitlines()
    assert got == status, f"status {got} instead of {status}"
    assert len(lines) == 1, f"{len(lines)} lines on stderr instead of one"
    assert not process.stdout, "something on stdout"
    for part in said:
        assert part in lines[0], f"{part!r} is not in the line"


def bad_config(name, change, *said, status=125):
    """Registers a case: a good configuration spoilt by `change` keeps the command from starting.

    change(ctx, file, svid) may return the file to use instead. `said` may be functions of (file,
    svid).
    """

    def run(ctx):
        file = ctx.config(GOOD, default="plaintext")
        svid = ctx.issue(GOOD)
        file = change(ctx, file, svid) or file
        started = ctx.folder / "started"
        words = [part(file, svid) if callable(part) else part for part in said]
        refused(ctx, [ctx.inlay_command, "run", "--config", file, "--", "touch", started], status,
                *words)
        assert not started.exists(), "the command was started"

    registry.add(f"launcher/{name}", run)


def path_of(name):
    """The message names this file of the identity."""
    return lambda file, svid: str(svid / name)


def the_file(file, _):
    return str(file)


def add_line(line):
    def change(_, file, __):
        file.write_text(file.read_text() + line + "\n")

    return change


def without_line(start):
    def change(_, file, __):
        lines = file.read_text().splitlines()
        file.write_text("\n".join(line for line in lines if not line.startswith(start)) + "\n")

    return change


def other_key(ctx, _, svid):
    shutil.copyfile(ctx.issue("other") / "key.pem", svid / "key.pem")


def expired(ctx, file, svid):
    """Issues it for a second and waits until `inlay run` no longer takes it."""
    for old in svid.iterdir():
        old.unlink()
    ctx.issue(GOOD, ttl="1s")

    def turned_away():
        process = ctx.start("expiring", ["true"], file)
        return ctx.finish(process) != 0

    until(turned_away, "the SVID's expiry")


def emptied(name):
    def change(_, __, svid):
        (svid / name).write_bytes(b"")

    return change


def garbage(name):
    def change(_, __, svid):
        (svid / name).write_text("-----BEGIN CERTIFICATE-----\nbm90IG9uZQ==\n"
                                 "-----END CERTIFICATE-----\n")

    return change


def removed(name):
    def change(_, __, svid):
        (svid / name).unlink()

    return change


def mode(name, bits):
    def change(_, file, svid):
        ((svid / name) if name else file).chmod(bits)

    return change


def in_writable_folder(ctx, file, _):
    folder = ctx.folder / "open"
    folder.mkdir()
    folder.chmod(0o777)
    shutil.copyfile(file, folder / file.name)
    return folder / file.name


def linked_into_writable_folder(ctx, file, svid):
    """The path given is safe, what it resolves to is not."""
    link = ctx.folder / "link.toml"
    link.symlink_to(in_writable_folder(ctx, file, svid))
    return link


def missing(ctx, *_):
    return ctx.folder / "no-such.toml"


def folder_instead(ctx, *_):
    return ctx.folder


bad_config("config-missing", missing, the_file)
bad_config("config-is-a-folder", folder_instead, the_file)
bad_config("config-malformed", add_line("mode = = 3"), the_file, ":11:")
bad_config("config-empty", lambda _, file, __: file.write_text("") and None, the_file)
bad_config("config-unknown-key", add_line("[log]\nfiel = 'x'"), the_file, ":12:", "fiel")
bad_config("config-unknown-mode", add_line("[[inbound]]\nname = 'x'\nport = 1\nmode = 'strickt'"),
           the_file, ":14:", "strickt")
bad_config("config-bad-spiffe-id", add_line("[[inbound]]\nname = 'x'\nport = 1\nmode = 'strict'\n"
                                            "allow = ['spiffe://Example.org/a/../b']"),
           the_file, ":15:")
bad_config("config-bad-network", add_line("[[outbound]]\nname = 'x'\nto = ['10.0.0.0/33']\nport = 1"
                                          "\nmode = 'deny'"), the_file, ":13:")
bad_config("config-without-inbound-default", without_line("inbound"), the_file, "inbound")
bad_config("config-without-outbound-default", without_line("outbound"), the_file, "outbound")
bad_config("config-writable-by-others", mode(None, 0o666), the_file)
bad_config("config-in-a-folder-others-write", in_writable_folder, "open")
bad_config("config-links-to-a-folder-others-write", linked_into_writable_folder, "open")
bad_config("key-does-not-match", other_key, path_of("key.pem"))
bad_config("key-missing", removed("key.pem"), path_of("key.pem"))
bad_config("key-readable-by-others", mode("key.pem", 0o644), path_of("key.pem"))
bad_config("key-empty", emptied("key.pem"), path_of("key.pem"))
bad_config("svid-expired", expired, path_of("svid.pem"), "expired")
bad_config("svid-missing", removed("svid.pem"), path_of("svid.pem"))
bad_config("svid-malformed", garbage("svid.pem"), path_of("svid.pem"))
bad_config("svid-empty", emptied("svid.pem"), path_of("svid.pem"))
bad_config("bundle-empty", emptied("bundle.pem"), path_of("bundle.pem"))
bad_config("bundle-missing", removed("bundle.pem"), path_of("bundle.pem"))
bad_config("bundle-malformed", garbage("bundle.pem"), path_of("bundle.pem"))


@case("launcher/config-unreadable")
def config_unreadable(ctx):
    """A file its own user may not read; root may only without the capabilities to read any."""
    file = ctx.config(GOOD, default="plaintext")
    file.chmod(0)
    argv = [ctx.inlay_command, "run", "--config", file, "--", "true"]
    if os.geteuid() == 0:
        argv = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *argv]
    refused(ctx, argv, 125, str(file))


@case("launcher/no-config-anywhere")
def no_config_anywhere(ctx):
    if pathlib.Path("/etc/inlay/config.toml").exists():
        return  # this machine has one: nothing to see here
    refused(ctx, [ctx.inlay_command, "run", "--", "true"], 125, "--config")


def command_case(name, argv_of, status, *said):
    def run(ctx):
        file = ctx.config(GOOD, default="plaintext")
        argv, *more = argv_of(ctx)
        refused(ctx, [ctx.inlay_command, "run", "--config", file, "--", argv, *more], status,
                *said)

    registry.add(f"launcher/{name}", run)


def setuid_program(ctx):
    """A program that would run as another user, and so without the preload."""
    if os.geteuid() != 0:
        return ["/usr/bin/passwd", "--status"]
    program = ctx.folder / "setuid-true"
    shutil.copyfile("/bin/true", program)
    os.chown(program, 65534, 65534)
    program.chmod(0o4755)
    return [program]


def not_executable(ctx):
    file = ctx.folder / "text"
    file.write_text("#!/bin/sh\n")
    return [file]


def script_of_a_static_program(ctx):
    file = ctx.folder / "script"
    file.write_text(f"#!{STATIC_PROGRAM}\n")
    file.chmod(0o755)
    return [file]


def missing_interpreter(ctx):
    file = ctx.folder / "script"
    file.write_text("#!/no/such/interpreter\n")
    file.chmod(0o755)
    return [file]


command_case("command-not-found", lambda _: ["no-such-command-anywhere"], 127,
             "no-such-command-anywhere")
command_case("command-path-not-found", lambda _: ["/no/such/command"], 127, "/no/such/command")
command_case("command-not-executable", not_executable, 126, "text")
command_case("command-is-a-folder", lambda ctx: [ctx.folder], 126)
command_case("setuid-program", setuid_program, 126, "set-user-ID")
command_case("static-program", lambda _: [STATIC_PROGRAM, "--version"], 126, "static")
command_case("script-of-a-static-program", script_of_a_static_program, 126, "static")
command_case("script-without-interpreter", missing_interpreter, 127, "/no/such/interpreter")


@case("launcher/static-program-allowed-unprotected")
def allow_unprotected(ctx):
    file = ctx.config(GOOD, default="plaintext")
    process = ctx.start("ldconfig", [ctx.inlay_command, "run", "--config", file,
                                     "--allow-unprotected", "--", STATIC_PROGRAM, "--version"])
    assert b"ldconfig" in ctx.succeed(process)


@case("launcher/unknown-option")
def unknown_option(ctx):
    refused(ctx, [ctx.inlay_command, "run", "--no-such-option", "--", "true"], 125,
            "--no-such-option")


@case("launcher/no-command")
def no_command(ctx):
    refused(ctx, [ctx.inlay_command, "run", "--config", ctx.config(GOOD)], 125)


@case("launcher/options-after-the-command-are-its-own")
def options_of_the_command(ctx):
    process = ctx.start("echo", [ctx.inlay_command, "run", "--config",
                                 ctx.config(GOOD, default="plaintext"), "echo", "--config", "-v"])
    assert ctx.succeed(process) == b"--config -v\n"


# Connects to a listener of its own and has a byte sent back.
CONNECT = """
import errno, socket, threading

def serve():
    try:
        accepted = listening.accept()[0]
        accepted.sendall(accepted.recv(1))
    except OSError:
        pass

listening = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=serve, daemon=True).start()
try:
    with socket.create_connection(listening.getsockname()) as connection:
        connection.sendall(b"x")
        print("answered" if connection.recv(1) else "ended")
except OSError as error:
    print(errno.errorcode[error.errno])
print(socket.socketpair()[0].family.name)
"""


def preload(ctx, config):
    env = {**ctx.env, "LD_PRELOAD": str(ctx.library), "INLAY_CONFIG": str(config)}
    process = ctx.start("preloaded", [PYTHON, "-c", CONNECT], env=env)
    out = ctx.succeed(process).decode().split()
    assert not process.stderr, "inlay printed into the program"
    return out


@case("launcher/preload-policy-unreadable-fails-closed")
def policy_unreadable(ctx):
    """Without the launcher the program runs, but connects to nobody."""
    for file in (ctx.folder / "no-such.toml", ctx.config("bad", default="plaintext")):
        if file.exists():
            file.write_text(file.read_text() + "[no-such-table]\n")
        out = preload(ctx, file)
        assert out == ["EACCES", "AF_UNIX"], out
        ctx.expect_event(event="refused", direction="outbound",
                         reason="policy-unreadable")


@case("launcher/preload-identity-unreadable-fails-closed")
def identity_unreadable(ctx):
    """Rules that need the identity refuse; the plaintext default still serves."""
    open_config = ctx.config("lost", default="plaintext")
    strict_config = ctx.config("lost", outbound=[
        {"name": "all", "to": ["0.0.0.0/0"], "port": "*", "mode": "strict", "expect":
         [ctx.spiffe_id("**")]}], default="plaintext")
    (ctx.issue("lost") / "key.pem").unlink()
    out = preload(ctx, open_config)
    assert out == ["answered", "AF_UNIX"], out
    out = preload(ctx, strict_config)
    assert out[0] in ("EACCES", "ECONNRESET"), out
    ctx.expect_event(event="refused", direction="outbound", reason="identity-unreadable")
