"""What decides besides the address: resolved names, the calling module, a frame of the call stack.
And a server that shows whether handshake bytes reach the program's readiness."""

from harness.context import PYTHON, SCRIPTS
from harness.registry import case


def web_server(ctx):
    port = ctx.port()
    folder = ctx.folder / "www"
    folder.mkdir()
    (folder / "page").write_text("the page")
    server = ctx.start("http-server", [PYTHON, "-m", "http.server", port, "--bind", "127.0.0.1",
                                       "--directory", folder], ctx.server_config(port))
    ctx.until_listening(port, server)
    return port


def curl(ctx, port, rule, host="127.0.0.1"):
    config = ctx.config("client", outbound=[{"name": "the rule", "port": port, "mode": "strict",
                                             "expect": [ctx.spiffe_id("server")], **rule}])
    return ctx.start("curl", ["curl", "-sS", f"http://{host}:{port}/page"], config)


def allowed(ctx, port, rule, **options):
    assert ctx.succeed(curl(ctx, port, rule, **options)) == b"the page"


def refused(ctx, port, rule, **options):
    client = curl(ctx, port, rule, **options)
    assert ctx.finish(client) == 7, "curl should not have connected"
    ctx.expect_event(pid=client.pid, event="refused", reason="caller-not-matched")


@case("rules/a-rule-on-the-calling-module")
def module(ctx):
    port = web_server(ctx)
    here = {"to": ["127.0.0.1"]}
    allowed(ctx, port, {**here, "caller.module": "libcurl.so*"})
    refused(ctx, port, {**here, "caller.module": "libother.so*"})


@case("rules/a-rule-on-a-stack-frame")
def frame(ctx):
    port = web_server(ctx)
    here = {"to": ["127.0.0.1"]}
    allowed(ctx, port, {**here, "caller.frame": "libcurl.so*!curl_easy_perform"})
    refused(ctx, port, {**here, "caller.frame": "libcurl.so*!no_such_function"})


@case("rules/a-rule-on-a-resolved-name")
def name(ctx):
    port = web_server(ctx)
    allowed(ctx, port, {"to": ["localhost"]}, host="localhost")
    refused(ctx, port, {"to": ["localhost"]}, host="127.0.0.2")


@case("rules/a-silent-client-does-not-stall-a-select-server", plain=True)
def silent(ctx):
    port = ctx.port()
    server = ctx.start("server", [PYTHON, SCRIPTS / "select_server.py", port],
                       ctx.server_config(port))
    ctx.until_listening(port, server)
    client = ctx.start("client", [PYTHON, SCRIPTS / "silent_neighbour.py", port],
                       ctx.client_config(port))
    assert ctx.succeed(client).split() == [b"True", b"True"]


@case("strict/a-user-namespace-of-its-own", plain=True)
def user_namespace(ctx):
    port = ctx.port()
    server = ctx.start("server", [PYTHON, SCRIPTS / "select_server.py", port],
                       ctx.server_config(port))
    ctx.until_listening(port, server)
    client = ctx.start("client", [PYTHON, SCRIPTS / "unshare.py", port], ctx.client_config(port))
    assert ctx.succeed(client).split() == [b"True", b"moved", b"True"]
